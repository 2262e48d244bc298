/**
 * The partial objects of a store: which copies become one, and what is found partial on the disk. The file of a partial object is marked by
 * an attribute, has a tail (tail.ts), and is locked (flock) by the process that has it: a mark without a lock was left by one that
 * was killed, and whoever opens the object goes on with it.
 */
import fs from 'node:fs';
import { errnos, SystemError } from '../../../sys/errno.js';
import * as libc from '../../../sys/libc.js';
import { isErrno } from '../../errors.js';
import { TimedChanges } from '../changes.js';
import { readFully, sharesNothing } from '../copy.js';
import type { OpenedFile } from '../opener.js';
import { candidatePaths } from '../paths.js';
import { Limiter, poolThreads } from '../pool.js';
import type { FileStatus, FileSystem } from '../system.js';
import { PIECE, type Source } from './filling.js';
import { Partial, type PartialContext } from './partial.js';
import {
  bitmapLength,
  bootOf,
  contentOf,
  decodeMark,
  decodeTail,
  encodeMark,
  encodeTail,
  fileLength,
  hasOddLength,
  LONGEST,
  type Mark,
  type Origin,
  tailOffset,
  UNIT,
} from './tail.js';
import { Units } from './units.js';

/** Most partial objects: what a flush may have to wait for, 256 MiB of the usual size. Beyond them copies are whole, which holds writers back. */
const MOST = 64;
/** A source with less data is copied at once: bytes. */
const LEAST_DATA = 128 * 1024;
/** So long, and so often, a lock that somebody else has is asked for: ms. */
const LOCK_MS = 500;
const LOCK_PAUSE_MS = 3;
/** Objects filled at the same time. */
const FILLED_AT_ONCE = Math.max(2, poolThreads >> 2);

export interface PartialsSettings {
  readonly system: FileSystem;
  /** The store's directory. */
  readonly root: string;
  /** Copies may be partial. What was left partial is completed in any case. */
  readonly makes: boolean;
  /** Bytes of data below which a source is copied at once. */
  readonly leastData?: number;
  readonly most?: number;
}

export class Partials {
  readonly #system: FileSystem;
  readonly #root: string;
  readonly #leastData: number;
  readonly #most: number;
  #makes: boolean;
  /** null: no file of this store can be marked. */
  #context: PartialContext | null = null;
  /** Which start of the machine this is. */
  #boot = '';
  /** The oldest first. */
  readonly #owed = new Set<Partial>();
  #begun = 0;
  #completed = 0;

  constructor(settings: PartialsSettings) {
    this.#system = settings.system;
    this.#root = settings.root;
    this.#makes = settings.makes;
    this.#leastData = settings.leastData ?? LEAST_DATA;
    this.#most = settings.most ?? MOST;
  }

  /** Looks at what the store's file system can do. */
  open(): void {
    const { marks } = this.#system;
    if (!marks?.suits(this.#root)) return;
    try {
      this.#boot = marks.bootId();
    } catch {
      // Without it nobody knows whether what is found was left by a process of this start of the machine.
      return;
    }
    const memory = this.#system.isMemory(this.#root);
    const scratch = libc.allocateMemory(PIECE);
    this.#context = {
      system: this.#system,
      marks,
      changes: new TimedChanges(this.#system, this.#root),
      memory,
      scratch,
      filler: { system: this.#system, memory, scratch, heldBack: 0 },
      filling: new Limiter(FILLED_AT_ONCE),
      ended: (partial, complete) => {
        if (this.#owed.delete(partial) && complete) this.#completed++;
      },
    };
  }

  close(): void {
    if (this.#context) libc.freeMemory(this.#context.scratch);
    this.#context = null;
  }

  status(): object {
    return { owed: this.#owed.size, begun: this.#begun, completed: this.#completed };
  }

  /** Is the open file one of a partial object? */
  isMarked(fd: number): boolean {
    return this.#context?.marks.get(fd) != null;
  }

  /** Is a partial object's file at one of these paths? */
  async isLeft(name: string): Promise<boolean> {
    if (!this.#context) return false;
    for (const file of candidatePaths(this.#root, name)) {
      if ((await this.#context.marks.of(file)) !== null) return true;
      const { size } = await this.#system.stat(file).catch(() => ({ size: 0 }));
      // Opening it looks at what is behind it.
      if (hasOddLength(size)) return true;
    }
    return false;
  }

  /** Bytes of the content of the file at a path with this status. */
  async lengthOf(file: string, { size }: FileStatus): Promise<number> {
    if (!this.#context || size % UNIT === 0) return size;
    const mark = await this.#context.marks.of(file);
    // Completed meanwhile, or just a length.
    if (mark === null) return (await this.#system.stat(file)).size;
    const length = decodeMark(mark)?.length;
    return length !== undefined && size === fileLength(length) ? length : size;
  }

  /**
   * Makes a new, empty file the partial copy of an open source, if that is worth it and possible.
   * @param to nobody else's
   * @param from descriptor of the source; the partial object's own when it becomes one
   * @param size most bytes to copy
   * @param isTimed who asks has a deadline
   * @returns null: the file is empty as before
   * @throws the system's error
   */
  async begin(to: number, from: number, source: string, size: number, isTimed: boolean): Promise<Partial | null> {
    const context = this.#context;
    if (!context || !this.#makes) return null;
    if (this.#owed.size * 2 >= this.#most) this.#completeOldest();
    if (this.#owed.size >= this.#most) return null;
    const stats = await this.#system.fstat(from);
    const length = Math.min(size, stats.size);
    const data = stats.blocks * 512;
    if (length === 0 || length > LONGEST || data < this.#leastData) return null;
    // Where extents can be shared a copy costs next to nothing.
    if (!sharesNothing(stats.dev)) return null;
    const origin = { source, inode: stats.ino, made: stats.birthtimeMs, length, boot: this.#boot };
    const isReserved = await this.#reserve(context, to, length);
    if (isReserved === null || !(await this.#mark(context, to, encodeTail(origin), { length, isTimed }))) {
      await this.#system.ftruncate(to, 0);
      return null;
    }
    const partial = new Partial(context, {
      units: new Units(length, new Uint8Array(bitmapLength(length))),
      source: { fd: from, isDense: data >= stats.size },
      sourceName: source,
      isClean: !isReserved,
      isTimed,
    });
    this.#begun++;
    this.#owed.add(partial);
    return partial;
  }

  /** Space for all of it, so that filling it finds the disk no fuller than copying it does. @returns whether it has; null: there is none */
  async #reserve({ memory }: PartialContext, fd: number, length: number): Promise<boolean | null> {
    await this.#system.ftruncate(fd, fileLength(length));
    if (memory) return false;
    try {
      await this.#system.fallocate(fd, libc.FALLOC_FL_KEEP_SIZE, 0, fileLength(length));
      return true;
    } catch (error) {
      if (isErrno(error, errnos.EOPNOTSUPP, errnos.ENOSYS)) return false;
      if (isErrno(error, errnos.ENOSPC, errnos.EDQUOT)) return null;
      throw error;
    }
  }

  /** False when the file system takes no mark, or nothing more: whatever it is, a whole copy may be possible. @throws EIO */
  async #mark(context: PartialContext, fd: number, tail: Buffer, mark: Mark): Promise<boolean> {
    try {
      context.scratch.bytes.set(tail);
      if (this.#system.pwrite(fd, context.scratch.address, tail.length, tailOffset(mark.length)) !== tail.length)
        return false;
      if (!context.marks.lock(fd)) return false;
      context.marks.set(fd, encodeMark(mark));
      return true;
    } catch (error) {
      if (isErrno(error, errnos.EIO)) throw error;
      if (isErrno(error, errnos.EOPNOTSUPP, errnos.EPERM, errnos.EACCES)) this.#makes = false;
      return false;
    }
  }

  #completeOldest(): void {
    for (const partial of this.#owed) {
      if (partial.isStuck || !partial.isAttached) continue;
      // What goes wrong there, the flush of that object says.
      partial.complete(0).catch(() => {});
      return;
    }
  }

  /**
   * Looks whether a file that was opened is one of a partial object, and takes that over if nobody has it.
   * @returns the file, with what there is to know of it; @throws after closing it: EDEADLK when another process has it; EIO when it is of an
   *   earlier start of the machine, or cannot be understood; the system's error
   */
  async inspect(name: string, file: OpenedFile): Promise<OpenedFile> {
    const context = this.#context;
    if (!context) return file;
    try {
      if (this.isMarked(file.fd)) return await this.#takeOver(context, name, file);
      const { size } = context.marks.status(file.fd);
      if (hasOddLength(size)) await this.#checkPlain(name, file.fd, size);
      return file;
    } catch (error) {
      await this.#system.close(file.fd).catch(() => {});
      throw error;
    }
  }

  async #takeOver(context: PartialContext, name: string, file: OpenedFile): Promise<OpenedFile> {
    const { fd } = file;
    for (const until = this.#system.now() + LOCK_MS; !context.marks.lock(fd); ) {
      // A descriptor of it may be about to be closed.
      if (this.#system.now() < until) {
        await new Promise((resolve) => setTimeout(resolve, LOCK_PAUSE_MS));
        continue;
      }
      throw new SystemError(
        // Not EBUSY, by which those above mean the lock of a volume.
        errnos.EDEADLK,
        `object ${name}: another process has not completed this copy yet: ask again when it has, or has ended`,
      );
    }
    // Once more: who had it may have completed it just before.
    const mark = context.marks.get(fd);
    if (mark === null) return file;
    const known = decodeMark(mark);
    const { size } = await this.#system.fstat(fd);
    if (known !== null && size !== fileLength(known.length)) {
      // It had been completed, but for the mark: that goes when it is completed again.
      const units = new Units(size, new Uint8Array(bitmapLength(size)).fill(0xff));
      const partial = new Partial(context, {
        units,
        source: null,
        sourceName: '',
        isClean: false,
        isTimed: known.isTimed,
      });
      return { ...file, partial };
    }
    const tail = known === null ? null : decodeTail(await this.#readTail(fd, known.length), known.length);
    if (known === null || tail === null || tail.origin.boot !== this.#boot) {
      const why = tail === null ? 'its state cannot be read' : 'the machine was started anew since';
      throw new SystemError(errnos.EIO, `object ${name}: it is a copy that was never completed, and ${why}`);
    }
    const partial = new Partial(context, {
      units: new Units(tail.origin.length, tail.bits),
      source: await this.#openSource(tail.origin),
      sourceName: tail.origin.source,
      // What was written last may be there without being noted.
      isClean: false,
      isTimed: known.isTimed,
    });
    this.#owed.add(partial);
    return { ...file, partial };
  }

  /**
   * A file that was copied without its attributes would read as zeros where it is not complete. Only one of this start of the machine can be
   * noted still; and whatever a client writes does not look like one, since it does not know which start that is.
   * @throws SystemError EIO
   */
  async #checkPlain(name: string, fd: number, size: number): Promise<void> {
    const length = contentOf(size);
    const boot = length === null ? null : bootOf(await this.#readTail(fd, length));
    if (boot === null || boot !== this.#boot) return;
    throw new SystemError(
      errnos.EIO,
      `object ${name}: it is a copy that was never completed, and its file has lost its attributes: copy the store with them (cp -a, rsync -X, tar --xattrs)`,
    );
  }

  async #readTail(fd: number, length: number): Promise<Buffer> {
    return await readFully(this.#system, fd, fileLength(length) - tailOffset(length), tailOffset(length));
  }

  /** null: it is not there, or another file is in its place. */
  async #openSource({ source, inode, made }: Origin): Promise<Source | null> {
    for (const file of candidatePaths(this.#root, source)) {
      let fd: number;
      try {
        fd = await this.#system.open(file, fs.constants.O_RDONLY, 0);
      } catch (error) {
        if (isErrno(error, errnos.ENOENT)) continue;
        throw error;
      }
      const { ino, size, blocks, birthtimeMs } = await this.#system.fstat(fd).catch(async (error) => {
        await this.#system.close(fd).catch(() => {});
        throw error;
      });
      if (ino === inode && birthtimeMs === made) return { fd, isDense: blocks * 512 >= size };
      await this.#system.close(fd).catch(() => {});
    }
    return null;
  }
}
