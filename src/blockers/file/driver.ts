/**
 * The file driver: a directory of object files, byte-compatible with the original's (ondisk.md 2). Writes go to the page cache and
 * become durable by flush or per write by fua. Everything that changes which file an object is happens with the object to itself.
 */
import fs, { promises as fsp } from 'node:fs';
import path from 'node:path';
import { errnoOf, errnos, SystemError } from '../../sys/errno.js';
import type { Driver, DriverCapabilities, ListPage, LockHolder, ObjectInfo, ObjectIo } from '../driver.js';
import { fileError, isErrno } from '../errors.js';
import { checkName, missing, nameError } from '../names.js';
import { closeDescriptor, copyContent, syncData, truncate } from './copy.js';
import { all } from './durability.js';
import type { Handle } from './handle.js';
import { Handles } from './handles.js';
import { Hasher } from './hashing.js';
import { FileIo, fstat } from './io.js';
import { listNames } from './listing.js';
import { FileLocks } from './locks.js';
import { openDescriptor } from './opener.js';
import { candidatePaths, hashedPath } from './paths.js';
import { TempFiles } from './temp.js';

/** Files kept open when the settings do not say. */
export const DEFAULT_FDCACHE = 512;
/** The original's default: group and owner may, others not. */
export const DEFAULT_UMASK = 0o007;
/** The largest data buffer of a segment. */
const MAX_IO = 4 << 20;

export interface FileDriverSettings {
  /** Directory of the objects; it must exist. */
  readonly root: string;
  /** Directory of the lock files, flat; null or the same as root: among the objects, hashed. */
  readonly lockDir?: string | null;
  /** Owner string of this driver's locks, `<hostname>_<first port>`. */
  readonly uniqueStr: string;
  /** Files kept open at the same time. */
  readonly fdcache?: number;
  /** The original opened files with O_DIRECT and padded them to 512 bytes. Accepted: such files are read, none are made. */
  readonly direct?: boolean;
  /** Move objects found under old Pithos paths to their new ones. */
  readonly pithosMigrate?: boolean;
  /** Mode bits that new files and directories do not get. */
  readonly umask?: number;
}

type HotOperation = 'read' | 'write' | 'trim' | 'writeZeroes';

export class FileDriver implements Driver {
  readonly capabilities: DriverCapabilities = {
    durableOnAck: false,
    sparse: true,
    serverSideCopy: true,
    nativeLocks: false,
    maxIo: MAX_IO,
  };
  readonly #root: string;
  readonly #lockDirectory: string | null;
  readonly #handles: Handles;
  readonly #locks: FileLocks;
  readonly #hasher: Hasher;
  readonly #temp: TempFiles;
  readonly #lockTemp: TempFiles;
  #io: FileIo | null = null;
  /** Cold operations and hot ones that had to wait: close waits for them. */
  #running = 0;
  #drained: (() => void)[] = [];
  #closing = false;

  /** @throws SystemError EINVAL for an unusable owner string */
  constructor(settings: FileDriverSettings) {
    this.#root = path.resolve(settings.root);
    const lockDirectory = settings.lockDir ? path.resolve(settings.lockDir) : null;
    this.#lockDirectory = lockDirectory === this.#root ? null : lockDirectory;
    this.#handles = new Handles({
      root: this.#root,
      umask: settings.umask ?? DEFAULT_UMASK,
      pithosMigrate: settings.pithosMigrate ?? false,
      limit: settings.fdcache ?? DEFAULT_FDCACHE,
    });
    const { opener, directories } = this.#handles;
    this.#temp = new TempFiles(this.#root, opener);
    this.#lockTemp = this.#lockDirectory === null ? this.#temp : new TempFiles(this.#lockDirectory, opener);
    this.#locks = new FileLocks(
      { owner: settings.uniqueStr, directory: this.#lockDirectory },
      { opener, directories, temp: this.#lockTemp },
    );
    this.#hasher = new Hasher(this.#handles, this.#temp, (name, size) => this.#content(name, size));
  }

  async open(): Promise<void> {
    await checkDirectory(this.#root, 'store');
    if (this.#lockDirectory !== null) await checkDirectory(this.#lockDirectory, 'lock');
    this.#io = new FileIo(this.#root);
    await this.#temp.clean();
    if (this.#lockTemp !== this.#temp) await this.#lockTemp.clean();
  }

  async close(): Promise<void> {
    this.#closing = true;
    while (this.#running > 0) await new Promise<void>((resolve) => this.#drained.push(resolve));
    try {
      await this.#handles.whenIdle();
      await this.#flushAll(null);
    } finally {
      await this.#handles.close();
      this.#io?.dispose();
      this.#io = null;
    }
  }

  /** What is open and owed, for STATUS. */
  status(): object {
    const { openFiles, dirtyFiles, directories, failed } = this.#handles;
    return {
      driver: 'file',
      directory: this.#root,
      openFiles,
      dirtyFiles,
      dirtyDirectories: directories.size,
      failedObjects: failed.size,
    };
  }

  read(io: ObjectIo): void {
    const handle = this.#handles.recall(io.hint);
    if (handle !== null && this.#io !== null) this.#io.read(handle, io);
    else void this.#find(io, 'read');
  }

  write(io: ObjectIo): void {
    const handle = this.#handles.recall(io.hint);
    if (handle?.writable && this.#io !== null) this.#io.write(handle, io, this.#finish);
    else void this.#find(io, 'write');
  }

  trim(io: ObjectIo): void {
    void this.#find(io, 'trim');
  }

  writeZeroes(io: ObjectIo): void {
    void this.#find(io, 'writeZeroes');
  }

  /** The way of everything that the hint does not lead to: by name, opening the file when need be. */
  async #find(io: ObjectIo, operation: HotOperation): Promise<void> {
    const fileIo = this.#io;
    const { name } = io;
    if (fileIo === null || this.#closing) {
      io.complete(errnos.EBADF);
      return;
    }
    const bad = nameError(name);
    if (bad) {
      io.complete(bad.errno);
      return;
    }
    const changes = operation !== 'read';
    const found = this.#handles.lookup(name);
    if (found && (operation === 'read' || operation === 'write') && (found.writable || !changes)) {
      io.hint = found.hint;
      if (changes) fileIo.write(found, io, this.#finish);
      else fileIo.read(found, io);
      return;
    }
    this.#running++;
    let handle: Handle | null = null;
    const creates = operation === 'write' || (operation === 'writeZeroes' && io.noHole);
    try {
      handle = await this.#handles.use(name, creates ? 'create' : changes ? 'write' : 'read');
      io.hint = handle.hint;
      if (operation === 'read') fileIo.read(handle, io);
      else if (operation === 'write') fileIo.write(handle, io, this.#finish);
      else {
        if (operation === 'writeZeroes' && io.noHole) await fileIo.zeroRange(handle, io.offset, io.length);
        else await fileIo.punch(handle, io.offset, io.length);
        this.#finish(handle, io);
      }
    } catch (error) {
      io.hint = 0;
      // What is not there reads as zeros already.
      io.complete(changes && !creates && isErrno(error, errnos.ENOENT) ? 0 : errnoOf(error));
    } finally {
      handle?.release();
      this.#done();
    }
  }

  /** Ends a change: durable first where that is asked for. */
  readonly #finish = (handle: Handle, io: ObjectIo): void => {
    if (io.fua) void this.#finishDurably(handle, io);
    else io.complete(0);
  };

  async #finishDurably(handle: Handle, io: ObjectIo): Promise<void> {
    this.#running++;
    handle.retain();
    try {
      await handle.sync();
      this.#handles.failed.check([handle.name]);
      await this.#handles.directories.sync([handle.path]);
      io.complete(0);
    } catch (error) {
      io.complete(errnoOf(error));
    } finally {
      handle.release();
      this.#done();
    }
  }

  #done(): void {
    if (--this.#running > 0) return;
    const waiting = this.#drained;
    this.#drained = [];
    for (const wake of waiting) wake();
  }

  /** Frames a cold operation: refused on a closed driver, awaited by close, errors in words. */
  async #cold<T>(what: string, work: () => Promise<T>): Promise<T> {
    if (this.#io === null || this.#closing) {
      throw new SystemError(errnos.EBADF, `${what}: the store ${this.#root} is closed`);
    }
    this.#running++;
    try {
      return await work();
    } catch (error) {
      throw fileError(what, error);
    } finally {
      this.#done();
    }
  }

  /** A cold operation that opens files of its own and closes them: when descriptors run out, cached files give way. */
  #brief<T>(what: string, work: () => Promise<T>): Promise<T> {
    return this.#cold(what, async () => {
      const result = await this.#handles.withDescriptor(work);
      this.#handles.descriptorClosed();
      return result;
    });
  }

  flush(names: readonly string[] | null): Promise<void> {
    return this.#cold('cannot flush', () => this.#flushAll(names));
  }

  async #flushAll(names: readonly string[] | null): Promise<void> {
    const { directories } = this.#handles;
    const files = directories.size === 0 ? [] : (names?.flatMap((name) => candidatePaths(this.#root, name)) ?? null);
    await all([this.#handles.sync(names), directories.sync(files)]);
  }

  async reset(name: string, durable: boolean): Promise<void> {
    checkName(name);
    await this.#cold(`cannot reset object ${name}`, () =>
      this.#handles.exclusive(name, async () => {
        const handle = await this.#handles.openOwn(name, 'create');
        await truncate(handle.fd, 0);
        this.#handles.failed.clear(name);
        handle.markDirty();
        if (durable) await this.#makeDurable(handle);
      }),
    );
  }

  async #makeDurable(handle: Handle): Promise<void> {
    await handle.sync();
    await this.#handles.directories.sync([handle.path]);
  }

  async copy(
    source: string,
    target: string,
    size: number,
    options: { durable: boolean; exclusive: boolean },
  ): Promise<void> {
    checkName(source);
    checkName(target);
    await this.#cold(`cannot copy object ${source} to ${target}`, () =>
      this.#handles.exclusive(target, () => this.#copyTo(source, target, size, options)),
    );
  }

  async #copyTo(
    source: string,
    target: string,
    size: number,
    { durable, exclusive }: { durable: boolean; exclusive: boolean },
  ): Promise<void> {
    const handles = this.#handles;
    const exists = (await handles.opener.find(target)) !== null;
    if (exclusive && exists) {
      if ((await handles.opener.find(source)) === null) throw missing(source);
      throw new SystemError(errnos.EEXIST, `object ${target} exists already`);
    }
    // One place in the fd limit for the pair: waiting for a second while holding one could go round in a circle.
    const made = await handles.withDescriptor(() => this.#makeCopy(source, size));
    try {
      // What the target was may be durable: its replacement must be so before it takes the place.
      const synced = durable || exists;
      if (synced) await syncData(made.fd);
      const file = await this.#place(made.path, target, exclusive);
      handles.failed.clear(target);
      handles.directories.mark(path.dirname(file));
      const handle = handles.adopt(target, { fd: made.fd, path: file, writable: true });
      if (!synced) handle.markDirty();
      if (durable) await handles.directories.sync([file]);
    } catch (error) {
      if (handles.isOpen(target, made.fd)) throw error;
      await closeDescriptor(made.fd).finally(() => handles.descriptorClosed());
      await this.#temp.remove(made.path);
      throw error;
    }
  }

  /** A temporary file with the source's content. */
  async #makeCopy(source: string, size: number): Promise<{ fd: number; path: string }> {
    const found = await this.#handles.opener.find(source);
    if (found === null) throw missing(source);
    const from = await openDescriptor(found.path, fs.constants.O_RDONLY);
    try {
      const made = await this.#temp.create();
      try {
        await copyContent(from, made.fd, size);
        return made;
      } catch (error) {
        await closeDescriptor(made.fd);
        await this.#temp.remove(made.path);
        throw error;
      }
    } finally {
      await closeDescriptor(from);
    }
  }

  /** Moves a complete file to the target's place; returns where it is now. @throws EEXIST with exclusive */
  async #place(from: string, target: string, exclusive: boolean): Promise<string> {
    const hashed = hashedPath(this.#root, target);
    if (exclusive) {
      await this.#retryWithDirectories(hashed, () => fsp.link(from, hashed));
      await this.#temp.remove(from);
      return hashed;
    }
    // An object at its old Pithos path stays there: that is the path that counts.
    const file = (await this.#handles.opener.find(target))?.path ?? hashed;
    await this.#retryWithDirectories(file, () => fsp.rename(from, file));
    return file;
  }

  async #retryWithDirectories(file: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!isErrno(error, errnos.ENOENT)) throw error;
      await this.#handles.opener.makeDirectories(file);
      await work();
    }
  }

  async delete(name: string): Promise<void> {
    checkName(name);
    await this.#cold(`cannot delete object ${name}`, () =>
      this.#handles.exclusive(name, async (handle) => {
        let found = false;
        for (const file of candidatePaths(this.#root, name)) {
          try {
            await fsp.unlink(file);
            found = true;
            this.#handles.directories.mark(path.dirname(file));
          } catch (error) {
            if (!isErrno(error, errnos.ENOENT)) throw error;
          }
        }
        if (!found) throw missing(name);
        this.#handles.failed.clear(name);
        handle?.forgetDirty();
        if (handle) this.#handles.drop(handle);
      }),
    );
  }

  async info(name: string): Promise<ObjectInfo> {
    checkName(name);
    return await this.#cold(`cannot stat object ${name}`, async () => {
      const found = await this.#handles.opener.find(name);
      if (found === null) throw missing(name);
      return { size: found.stats.size, allocated: found.stats.blocks * 512 };
    });
  }

  async truncate(name: string, size: number): Promise<void> {
    checkName(name);
    await this.#cold(`cannot truncate object ${name}`, () =>
      this.#handles.exclusive(name, async () => {
        const handle = await this.#handles.openOwn(name, 'write');
        handle.markDirty();
        await truncate(handle.fd, size);
      }),
    );
  }

  async hash(name: string, size: number): Promise<string> {
    checkName(`${name}_hash`);
    return await this.#cold(`cannot hash object ${name}`, () => this.#hasher.hash(name, size));
  }

  /** At most `size` bytes of the object's content. */
  async #content(name: string, size: number): Promise<Buffer> {
    const handle = await this.#handles.use(name, 'read');
    try {
      const length = Math.min(size, (await fstat(handle.fd)).size);
      const bytes = Buffer.allocUnsafeSlow(length);
      let done = 0;
      while (done < length) {
        const n = await new Promise<number>((resolve, reject) => {
          fs.read(handle.fd, bytes, done, length - done, done, (error, count) =>
            error ? reject(error) : resolve(count),
          );
        });
        if (n === 0) break;
        done += n;
      }
      return bytes.subarray(0, done);
    } finally {
      handle.release();
    }
  }

  async list(cursor: string | null, limit: number): Promise<ListPage> {
    return await this.#brief('cannot list', () => listNames(this.#root, cursor, limit));
  }

  async acquire(target: string): Promise<void> {
    await this.#brief(`cannot lock ${target}`, () => this.#locks.acquire(target));
  }

  async release(target: string, force: boolean): Promise<void> {
    await this.#brief(`cannot unlock ${target}`, () => this.#locks.release(target, force));
  }

  async lockHolder(target: string): Promise<LockHolder | null> {
    return await this.#brief(`cannot read the lock of ${target}`, () => this.#locks.holder(target));
  }
}

async function checkDirectory(directory: string, purpose: string): Promise<void> {
  try {
    if (!(await fsp.stat(directory)).isDirectory()) {
      throw new SystemError(errnos.ENOTDIR, `the ${purpose} directory ${directory} is not a directory`);
    }
    await fsp.access(directory, fs.constants.R_OK | fs.constants.X_OK);
  } catch (error) {
    if (isErrno(error, errnos.ENOENT)) {
      throw new SystemError(errnos.ENOENT, `the ${purpose} directory ${directory} does not exist: make it first`);
    }
    throw fileError(`the ${purpose} directory ${directory} cannot be used`, error);
  }
}
