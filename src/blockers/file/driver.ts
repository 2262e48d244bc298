/**
 * The file driver: a directory of object files, byte-compatible with the original's (ondisk.md 2). Writes go to the page cache and
 * become durable by flush or per write by fua. Everything that changes which file an object is happens with the object to itself.
 */
import fs from 'node:fs';
import path from 'node:path';
import type { LockCheck, LockMail, LockPage } from '../../requests/locks.js';
import { Op } from '../../requests/ops.js';
import { errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';
import type { DirectRequest } from '../../xseg/index.js';
import type { Driver, DriverCapabilities, ListPage, LockHolder, ObjectInfo, ObjectIo } from '../driver.js';
import { checkDeadline, fileError, isErrno } from '../errors.js';
import { checkName, missing, nameError } from '../names.js';
import { Beginnings } from './beginnings.js';
import { readFully } from './copy.js';
import { Copying } from './copying.js';
import { all, Predecessor } from './durability.js';
import type { Handle } from './handle.js';
import { Handles } from './handles.js';
import { Hasher } from './hashing.js';
import { SyncsInPlace } from './in-place.js';
import { FileIo } from './io.js';
import { kernel } from './kernel.js';
import { ListedStore, listNames } from './listing.js';
import { FileLocks } from './locks.js';
import { Mailbox } from './mail.js';
import type { MakesPartials, Partials } from './partial/partials.js';
import { candidatePaths } from './paths.js';
import type { FileSystem } from './system.js';
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
  /** Files beyond fdcache that may be open while they are dirty; default: a quarter of the process's limit, at most 8000. */
  readonly dirtyFiles?: number;
  /** The original opened files with O_DIRECT and padded them to 512 bytes. Accepted: such files are read, none are made. */
  readonly direct?: boolean;
  /** Move objects found under old Pithos paths to their new ones. */
  readonly pithosMigrate?: boolean;
  /** Mode bits that new files and directories do not get. */
  readonly umask?: number;
  /** Copies that are made under a lock may be partial (partial/). Default: no. */
  readonly partialCopies?: MakesPartials;
  /** Bytes of data in a source below which its copy is never partial; default: 128 KiB. */
  readonly partialLeast?: number;
  /** What does the system calls; default: the kernel. */
  readonly system?: FileSystem;
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
  readonly #system: FileSystem;
  readonly #root: string;
  readonly #listed: ListedStore;
  readonly #beginnings: Beginnings;
  readonly #lockDirectory: string | null;
  readonly #handles: Handles;
  readonly #partials: Partials;
  readonly #locks: FileLocks;
  readonly #mailbox: Mailbox;
  readonly #copying: Copying;
  readonly #hasher: Hasher;
  readonly #temp: TempFiles;
  readonly #lockTemp: TempFiles;
  readonly #predecessor: Predecessor;
  #syncsInPlace: SyncsInPlace | null = null;
  #io: FileIo | null = null;
  /** Let go of the file systems of its directories. */
  readonly #held: (() => void)[] = [];
  /**
   * On a server's file system every write is durable before it is acknowledged (as the original did everywhere). Else this machine's
   * cache would send it some time later: when the lock may have been taken away, and another node written the same place.
   */
  #writeThrough = false;
  /** Cold operations and hot ones that had to wait: close waits for them. */
  #running = 0;
  #drained: (() => void)[] = [];

  /** @throws SystemError EINVAL for an unusable owner string */
  constructor(settings: FileDriverSettings) {
    const system = settings.system ?? kernel;
    this.#system = system;
    this.#root = path.resolve(settings.root);
    this.#listed = new ListedStore(system, this.#root);
    const lockDirectory = settings.lockDir ? path.resolve(settings.lockDir) : null;
    this.#lockDirectory = lockDirectory === this.#root ? null : lockDirectory;
    this.#handles = new Handles({
      system,
      partials: {
        root: this.#root,
        makes: settings.partialCopies ?? false,
        leastData: settings.partialLeast,
      },
      root: this.#root,
      umask: settings.umask ?? DEFAULT_UMASK,
      pithosMigrate: settings.pithosMigrate ?? false,
      limit: settings.fdcache ?? DEFAULT_FDCACHE,
      dirtyFiles: settings.dirtyFiles,
    });
    this.#partials = this.#handles.partials;
    this.#beginnings = new Beginnings(system, this.#root, this.#listed.pace, (file) => this.#partials.isMarkedAt(file));
    this.#predecessor = new Predecessor(
      this.#root,
      system,
      (work) => this.#handles.retrying(work),
      () => this.#partials.settleLeft(),
    );
    const { opener, directories } = this.#handles;
    this.#temp = new TempFiles(this.#root, opener);
    this.#lockTemp = this.#lockDirectory === null ? this.#temp : new TempFiles(this.#lockDirectory, opener);
    this.#locks = new FileLocks(
      { owner: settings.uniqueStr, directory: this.#lockDirectory },
      { opener, directories, temp: this.#lockTemp },
    );
    this.#mailbox = new Mailbox(this.#lockDirectory ?? this.#root, settings.uniqueStr, opener);
    this.#copying = new Copying(this.#handles, this.#temp);
    this.#hasher = new Hasher(this.#handles, this.#temp, (...what) => this.#content(...what));
  }

  async open(): Promise<void> {
    await checkDirectory(this.#system, this.#root, 'store');
    if (this.#lockDirectory !== null) await checkDirectory(this.#system, this.#lockDirectory, 'lock');
    // Whoever unmounts an idle store is told that it is busy: on the directory below objects that are missing would be zeros.
    for (const directory of new Set([this.#root, this.#lockDirectory ?? this.#root])) {
      const letGo = this.#system.hold?.(directory);
      if (letGo) this.#held.push(letGo);
    }
    try {
      await this.#start();
    } catch (error) {
      this.#io = null;
      this.#letGo();
      throw error;
    }
  }

  async #start(): Promise<void> {
    this.#writeThrough = this.#system.holdsWrites?.(this.#root) ?? false;
    await this.#partials.open(this.#temp);
    this.#io = new FileIo(this.#system, this.#root);
    this.#syncsInPlace = new SyncsInPlace(this.#system, this.#root);
    await this.#temp.clean();
    await this.#mailbox.open();
    if (this.#lockTemp !== this.#temp) await this.#lockTemp.clean();
  }

  #letGo(): void {
    for (const letGo of this.#held.splice(0)) letGo();
  }

  async close(): Promise<void> {
    const io = this.#io;
    // From here on nothing new begins; what runs keeps what it needs.
    this.#io = null;
    while (this.#running > 0) await new Promise<void>((resolve) => this.#drained.push(resolve));
    try {
      await this.#handles.whenIdle();
      await this.#flushAll(null);
    } finally {
      await this.#handles.close();
      await this.#partials.close();
      io?.dispose();
      this.#letGo();
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
      partialCopies: this.#partials.status(),
    };
  }

  read(io: ObjectIo): void {
    if (io.uncached) {
      void this.#find(io, 'read');
      return;
    }
    const handle = this.#handles.recall(io);
    if (handle !== null && this.#io !== null) this.#io.read(handle, io);
    else void this.#find(io, 'read');
  }

  write(io: ObjectIo): void {
    const handle = this.#handles.recall(io);
    if (handle?.writable && this.#io !== null && takes(handle, io)) this.#io.write(handle, io, this.#finish);
    else void this.#find(io, 'write');
  }

  /** Whatever read and write look at before they touch the file is to be looked at here, too. */
  direct(request: DirectRequest): boolean {
    const io = this.#io;
    if (io === null) return false;
    const handle = this.#handles.recall(request) ?? this.#openNow(request);
    if (handle === null) return false;
    if (request.op === Op.READ) return io.readNow(handle, request);
    // Writes that are to be durable before their answer have to wait.
    return request.op === Op.WRITE && handle.writable && !this.#writeThrough && io.writeNow(handle, request);
  }

  /** The file of a target that its hint does not lead to, where finding and opening it waits for nothing; with a hint for the next time. */
  #openNow(request: DirectRequest): Handle | null {
    const name = request.targetName?.() ?? null;
    const handle = name === null || nameError(name) ? null : this.#handles.openNow(name);
    if (handle !== null) request.hint = handle.hint;
    return handle;
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
    if (fileIo === null) {
      io.complete(errnos.EBADF);
      return;
    }
    const bad = nameError(name);
    if (bad) {
      io.complete(bad.errno);
      return;
    }
    const changes = operation !== 'read';
    const isPlain = operation === 'read' || operation === 'write';
    const found = io.uncached || !isPlain ? null : this.#handles.openNow(name);
    if (found && (!changes || (found.writable && takes(found, io)))) {
      io.hint = found.hint;
      if (changes) fileIo.write(found, io, this.#finish);
      else fileIo.read(found, io);
      return;
    }
    this.#running++;
    let handle: Handle | null = null;
    const creates = operation === 'write' || (operation === 'writeZeroes' && io.noHole);
    try {
      if (io.uncached && operation === 'read' && !this.#handles.isKept(name) && (await this.#beginnings.read(io))) {
        io.complete(0);
        return;
      }
      if (io.uncached && !changes) handle = await this.#handles.openApart(name);
      else handle = await this.#handles.use(name, creates ? 'create' : changes ? 'write' : 'read', io.deadline);
      if (changes && !takes(handle, io)) {
        handle.release();
        handle = null;
        await this.#complete(name, io.deadline);
        handle = await this.#handles.use(name, 'write', io.deadline);
      }
      checkDeadline(io.deadline);
      io.hint = handle.hint;
      if (operation === 'read') fileIo.read(handle, io);
      else if (operation === 'write') fileIo.write(handle, io, this.#finish);
      else {
        if (operation === 'writeZeroes' && io.noHole) await fileIo.zeroRange(handle, io.offset, io.length, io.deadline);
        else await fileIo.punch(handle, io.offset, io.length, io.deadline);
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

  /** The object is not partial any more. */
  #complete(name: string, deadline: number): Promise<void> {
    return this.#handles.exclusive(name, () => this.#copying.complete(name, deadline));
  }

  /** Ends a change: durable first where that is asked for. */
  readonly #finish = (handle: Handle, io: ObjectIo): void => {
    if (io.fua || this.#writeThrough) void this.#finishDurably(handle, io);
    else io.complete(0);
  };

  async #finishDurably(handle: Handle, io: ObjectIo): Promise<void> {
    this.#running++;
    handle.retain();
    try {
      await this.#makeDurable(handle);
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
    if (this.#io === null) {
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
    return this.#cold('cannot flush', async () => {
      await all([this.#predecessor.sync(), this.#flushAll(names)]);
      // What of others' could not be settled.
      this.#handles.failed.check(names);
    });
  }

  flushObject(io: ObjectIo): void {
    const handle = this.#io === null ? null : this.#handles.recall(io);
    if (handle === null || !this.#isAllThatIsOwed(handle)) {
      this.flush([io.name]).then(
        () => io.complete(0),
        (error: unknown) => io.complete(errnoOf(error), messageOf(error)),
      );
      return;
    }
    if (!handle.needsSync) {
      io.complete(0);
      return;
    }
    const inPlace = io.alone === true && this.#running === 0 ? this.#syncsInPlace : null;
    if (inPlace?.allowed && handle.canSyncNow) {
      syncInPlace(inPlace, handle, io);
      this.#handles.shrink();
      return;
    }
    const started = this.#system.now();
    // Of a partial object it may be several: that does not tell how quick the disk's syncs are.
    const isSync = handle.partial === null;
    this.#running++;
    this.#syncAlone(handle).then(
      () => {
        if (isSync) inPlace?.learn(started);
        this.#handles.shrink();
        io.complete(0);
        this.#done();
      },
      (error: unknown) => {
        io.complete(errnoOf(error), messageOf(error));
        this.#done();
      },
    );
  }

  /** Is the object durable when the file's content is? Nothing is owed of what leads to it, and nothing of it has failed. */
  #isAllThatIsOwed({ name, path: file }: Handle): boolean {
    const { directories, failed } = this.#handles;
    return !this.#predecessor.needsSync && !directories.owes(file) && !failed.has(name);
  }

  async #flushAll(names: readonly string[] | null): Promise<void> {
    const { directories } = this.#handles;
    const files = directories.size === 0 ? [] : (names?.flatMap((name) => candidatePaths(this.#root, name)) ?? null);
    await all([this.#handles.sync(names), directories.sync(files)]);
  }

  forget(): void {
    this.#handles.forget();
    if (this.#partials.exist) this.#predecessor.suspect();
  }

  async reset(name: string, durable: boolean, deadline = 0): Promise<void> {
    checkName(name);
    const isForLater = !durable && !this.#writeThrough;
    await this.#cold(`cannot reset object ${name}`, async () => {
      const made = isForLater ? this.#handles.createNow(name, deadline) : null;
      if (made !== null) this.#begin(made);
      else await this.#handles.exclusive(name, () => this.#resetAlone(name, isForLater, deadline));
    });
  }

  async #resetAlone(name: string, isForLater: boolean, deadline: number): Promise<void> {
    const { handle, isNew } = await this.#handles.openToReset(name, deadline);
    if (!isNew) await this.#handles.opener.changes.ftruncate(handle.fd, 0, deadline);
    this.#begin(handle);
    if (!isForLater) await this.#makeDurable(handle);
  }

  /** The object's content begins anew: what failed of it before does not matter any more. */
  #begin(handle: Handle): void {
    this.#handles.failed.clear(handle.name);
    handle.markDirty();
  }

  async #makeDurable(handle: Handle): Promise<void> {
    if (this.#isAllThatIsOwed(handle)) return await this.#syncAlone(handle);
    // At the same time: on a journaling file system one commit then serves them all.
    await all([this.#predecessor.sync(), handle.sync(), this.#handles.directories.sync([handle.path])]);
    this.#handles.failed.check([handle.name]);
  }

  /** A sync that ran already and failed has taken with it what this one was to cover: the kernel does not tell twice. */
  async #syncAlone(handle: Handle): Promise<void> {
    await handle.sync();
    this.#handles.failed.check([handle.name]);
  }

  async copy(
    source: string,
    target: string,
    size: number,
    { durable, ...more }: { durable: boolean; exclusive: boolean; deadline?: number },
  ): Promise<void> {
    checkName(source);
    checkName(target);
    const options = { ...more, durable: durable || this.#writeThrough };
    await this.#cold(`cannot copy object ${source} to ${target}`, () =>
      this.#handles.exclusive(target, () =>
        // What leads to the target may be a predecessor's.
        all([options.durable && this.#predecessor.sync(), this.#copying.copy(source, target, size, options)]),
      ),
    );
  }

  async delete(name: string, deadline = 0): Promise<void> {
    checkName(name);
    await this.#cold(`cannot delete object ${name}`, () =>
      this.#handles.exclusive(name, async (handle) => {
        let found = false;
        for (const file of candidatePaths(this.#root, name)) {
          try {
            const base = await this.#partials.baseAt(file);
            // Begun is begun: the object's other path goes too.
            await this.#unlink(file, found ? 0 : deadline, handle !== null);
            found = true;
            this.#handles.directories.mark(path.dirname(file));
            await this.#partials.gone(name, base);
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

  /** @param isOpen the object's file is open here already */
  async #unlink(file: string, deadline: number, isOpen: boolean): Promise<void> {
    const { changes } = this.#handles.opener;
    if (isOpen || !changes.isImmediate(deadline)) return changes.unlink(file, deadline);
    // To free its blocks takes milliseconds: the last close does that, on a thread.
    let fd: number;
    try {
      fd = await this.#handles.withDescriptor(() => this.#system.open(file, fs.constants.O_RDONLY, 0));
    } catch (error) {
      if (isErrno(error, errnos.ENOENT)) throw error;
      // Whoever may not read it may delete it all the same.
      return changes.unlink(file, deadline);
    }
    try {
      await changes.unlink(file, deadline);
    } finally {
      await this.#system.close(fd).finally(() => this.#handles.descriptorClosed());
    }
  }

  async info(name: string): Promise<ObjectInfo> {
    checkName(name);
    return await this.#cold(`cannot stat object ${name}`, async () => {
      const found = await this.#handles.opener.find(name);
      if (found === null) throw missing(name);
      const { blocks, mtimeMs } = found.stats;
      const size = await this.#partials.lengthOf(found.path, found.stats);
      return { size, allocated: blocks * 512, modified: Math.max(0, Math.floor(mtimeMs)) };
    });
  }

  async truncate(name: string, size: number, deadline = 0): Promise<void> {
    checkName(name);
    await this.#cold(`cannot truncate object ${name}`, () =>
      this.#handles.exclusive(name, async () => {
        await this.#copying.complete(name, deadline);
        const handle = await this.#handles.openOwn(name, 'write');
        try {
          await this.#handles.opener.changes.ftruncate(handle.fd, size, deadline);
        } finally {
          handle.markDirty();
        }
      }),
    );
  }

  async hash(name: string, size: number): Promise<string> {
    checkName(`${name}_hash`);
    return await this.#cold(`cannot hash object ${name}`, async () => {
      await this.#predecessor.sync();
      return await this.#hasher.hash(name, size);
    });
  }

  /** At most `size` bytes of the object's content. */
  async #content(name: string, size: number): Promise<Buffer> {
    const handle = await this.#handles.use(name, 'read');
    try {
      const { partial } = handle;
      if (partial === null) {
        const length = Math.min(size, (await this.#system.fstat(handle.fd)).size);
        return await readFully(this.#system, handle.fd, length);
      }
      const bytes = Buffer.alloc(Math.min(size, partial.length));
      await partial.readTo(bytes, 0);
      return bytes;
    } finally {
      handle.release();
    }
  }

  async list(cursor: string | null, limit: number): Promise<ListPage> {
    return await this.#brief('cannot list', () => listNames(this.#listed, cursor, limit));
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

  async breakLock(target: string): Promise<LockHolder | null> {
    return await this.#brief(`cannot break the lock of ${target}`, () => this.#locks.break(target));
  }

  async checkLocks(names: readonly string[]): Promise<LockCheck> {
    return await this.#brief('cannot look at the locks', async () => {
      const lost = await this.#locks.check(names);
      return { lost, mail: await this.#mailbox.receive() };
    });
  }

  async sendMail(to: string, mail: LockMail): Promise<void> {
    await this.#brief(`cannot leave mail for ${to}`, () => this.#mailbox.send(to, mail));
  }

  async listLocks(cursor: string | null, limit: number): Promise<LockPage> {
    return await this.#brief('cannot list the locks', () => this.#locks.list(cursor, limit));
  }
}

/** Can the object be changed so as it is (Partial.takes)? */
function takes({ partial }: Handle, { deadline, offset, length }: ObjectIo): boolean {
  return partial === null || partial.takes(deadline, offset + length);
}

function syncInPlace(syncs: SyncsInPlace, handle: Handle, io: ObjectIo): void {
  try {
    syncs.sync(handle);
  } catch (error) {
    io.complete(errnoOf(error), messageOf(error));
    return;
  }
  io.complete(0);
}

async function checkDirectory(system: FileSystem, directory: string, purpose: string): Promise<void> {
  try {
    if (!(await system.stat(directory)).isDirectory()) {
      throw new SystemError(errnos.ENOTDIR, `the ${purpose} directory ${directory} is not a directory`);
    }
    await system.access(directory, fs.constants.R_OK | fs.constants.X_OK);
  } catch (error) {
    if (isErrno(error, errnos.ENOENT)) {
      throw new SystemError(errnos.ENOENT, `the ${purpose} directory ${directory} does not exist: make it first`);
    }
    throw fileError(`the ${purpose} directory ${directory} cannot be used`, error);
  }
}
