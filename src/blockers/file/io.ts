/**
 * Reads, writes, trims and zeroes on open files. What the page cache can do at once is done at once, within the call; what may wait
 * for a disk runs on the thread pool.
 *
 * Reads ask with RWF_NOWAIT: the kernel answers from the page cache or says EAGAIN. Writes to the page cache are copies and are done
 * directly (a hop to the pool costs more than copying 512 KiB), unless they would have to read the page they change, or the kernel
 * has been holding writers back: then the pool does them. Long ones beside which there is something else to do are copied by a thread that takes nothing else
 * (long-writes.ts).
 */
import { errnoOf, errnos } from '../../sys/errno.js';
import * as libc from '../../sys/libc.js';
import type { DirectRequest } from '../../xseg/index.js';
import type { ObjectIo } from '../driver.js';
import { checkDeadline } from '../errors.js';
import type { Handle } from './handle.js';
import { writePieces } from './pieces.js';
import { inTime, NativeError } from './pool.js';
import type { FileSystem } from './system.js';

const { EAGAIN, EINTR, EIO, ENOSYS, EOPNOTSUPP } = errnos;

/** Longer reads and writes than this go to the pool whatever the cache holds: 1 MiB is some 100 µs of copying. */
const DIRECT_LIMIT = 1 << 20;
/** A write that took longer than this was held back by the kernel (dirty page limits, a slow disk's journal)… */
const HELD_BACK_MS = 10;
/** …and then as many writes go to the pool before one tries directly again. */
const HELD_BACK_WRITES = 64;
/**
 * File systems without RWF_NOWAIT (overlay, NFS, FUSE) do not say what is cached. Reads up to this length are tried directly there,
 * since most are cached…
 */
const BLIND_LIMIT = 128 * 1024;
/** …and when one took this long, it was not: as many as this then go to the pool. */
const COLD_MS = 0.5;
const COLD_READS = 64;
/** Reads from this length on are answered with the file itself where the asker can send that: below it costs more than copying. */
const LEND_LEAST = 128 * 1024;
const SMALL = 32 * 1024;
/** Writes from this length on are worth the waking up of another thread, where that one works while this one goes on. */
const LONG_WRITE = 128 * 1024;
const PAGE = 4096;
const ZEROES = 1 << 20;

/** Ends a write that is done: makes it durable first where that is asked for. */
export type FinishedWrite = (handle: Handle, io: ObjectIo) => void;
/** Ends one that failed. @param errno positive */
export type FailedWrite = (io: ObjectIo, errno: number) => void;

const fail: FailedWrite = (io, errno) => io.complete(errno);

export class FileIo {
  readonly #system: FileSystem;
  /** A byte to read to: the calls take addresses, and this one is never in use across turns. */
  readonly #scratch = libc.allocateMemory(1);
  #zeroes: Buffer | null = null;
  /** Everything is in memory: plain calls do not block. */
  readonly #memory: boolean;
  /** The file system answers RWF_NOWAIT, as far as is known. */
  #nowait: boolean;
  #poolReads = 0;
  #poolWrites = 0;
  #writes = 0;
  /** Holes are made within the call: a disk of this machine, not a server. */
  readonly #punchesNow: boolean;

  /** @param root the store's directory: its file system decides how reads are done */
  constructor(system: FileSystem, root: string) {
    this.#system = system;
    this.#memory = system.isMemory(root);
    this.#nowait = !this.#memory;
    this.#punchesNow = system.fallocateNow !== undefined && (system.isLocal?.(root) ?? false);
  }

  /** The driver is closed. */
  dispose(): void {
    libc.freeMemory(this.#scratch);
  }

  read(handle: Handle, io: ObjectIo): void {
    const { length } = io;
    if (handle.partial !== null && !handle.partial.covers(io.offset, length)) {
      handle.partial.read(io);
      return;
    }
    const blind = !this.#nowait && !this.#memory;
    if (length > DIRECT_LIMIT || (blind && (length > BLIND_LIMIT || this.#poolReads > 0))) {
      if (this.#poolReads > 0) this.#poolReads--;
      this.#readOnPool(handle, io, 0);
      return;
    }
    const started = blind ? this.#system.now() : 0;
    let done = 0;
    while (done < length) {
      const n = this.#nowait
        ? this.#system.preadCached(handle.fd, io.address + done, length - done, io.offset + done)
        : this.#system.pread(handle.fd, io.address + done, length - done, io.offset + done);
      if (n > 0) done += n;
      else if (n === 0) break;
      else {
        const errno = this.#system.errno();
        if (errno === EINTR) continue;
        if (this.#nowait && (errno === EOPNOTSUPP || errno === ENOSYS)) this.#nowait = false;
        else if (errno !== EAGAIN) {
          io.complete(errno);
          return;
        }
        this.#readOnPool(handle, io, done);
        return;
      }
    }
    if (blind && this.#system.now() - started > COLD_MS) this.#poolReads = COLD_READS;
    if (done < length) io.bytes.fill(0, done, length);
    io.complete(0);
  }

  #readOnPool(handle: Handle, io: ObjectIo, from: number): void {
    const { bytes, length, offset } = io;
    let done = from;
    handle.retain();
    const next = () => this.#system.read(handle.fd, bytes, done, length - done, offset + done, step);
    const step = (error: Error | null, n: number) => {
      if (!error) {
        done += n;
        if (n > 0 && done < length) {
          next();
          return;
        }
        bytes.fill(0, done, length);
      }
      handle.release();
      io.complete(error ? errnoOf(error) : 0);
    };
    next();
  }

  /** Reads what is in the cache; false: not all of it was, or that cannot be known. */
  readNow({ fd, partial, writable }: Handle, request: DirectRequest): boolean {
    const { offset, size, address } = request;
    if (partial !== null && !partial.covers(offset, size)) return partial.readNow(request);
    if (size > DIRECT_LIMIT || !(this.#nowait || this.#memory)) return false;
    // Of a file that may only be read the system may not tell what is in memory.
    if (size >= LEND_LEAST && writable && request.mayLend) {
      const lent = this.#system.lend?.(fd, offset, size) ?? -1;
      if (lent >= 0) {
        request.lend?.(lent, offset);
        return true;
      }
    }
    for (let done = 0; done < size; ) {
      const n = this.#nowait
        ? this.#system.preadCached(fd, address + done, size - done, offset + done)
        : this.#system.pread(fd, address + done, size - done, offset + done);
      if (n < 0) return false;
      if (n === 0) {
        request.clear(done);
        return true;
      }
      done += n;
    }
    return true;
  }

  /** `finish` ends the operation once the data is written (it sees to fua). */
  write(handle: Handle, io: ObjectIo, finish: FinishedWrite): void {
    if (handle.partial !== null && !handle.partial.covers(io.offset, io.length)) handle.partial.write(this, io, finish);
    else this.writePlain(handle, io, finish, fail);
  }

  /** As write, to the file as it is. */
  writePlain(handle: Handle, io: ObjectIo, finish: FinishedWrite, failed: FailedWrite): void {
    const { length, offset, address, deadline } = io;
    if (!this.#isDirect(handle, offset, length)) {
      if (this.#poolWrites > 0) this.#poolWrites--;
      this.#writeOnPool(handle, io, finish, failed);
      return;
    }
    if (this.#isLong(length)) {
      this.#writeByThread(handle, io, finish, failed);
      return;
    }
    const errno = this.#writeDirectly(handle, offset, length, address, deadline);
    if (errno === 0) finish(handle, io);
    else failed(io, errno);
  }

  /** Writes what the cache takes at once; false: it would have to wait, or failed. */
  writeNow(handle: Handle, request: DirectRequest): boolean {
    const { offset, size, address, deadline, meanwhile } = request;
    if (meanwhile === true && this.#isLong(size)) return false;
    if (handle.partial?.takes(deadline, offset + size) === false) return false;
    const partial = handle.partial === null || handle.partial.covers(offset, size) ? null : handle.partial;
    if (partial?.isReadyFor(request) === false || !this.#isDirect(handle, offset, size)) return false;
    if (this.#writeDirectly(handle, offset, size, address, deadline) !== 0) return false;
    return partial === null || partial.note(offset, size, deadline) === 0;
  }

  /** Is a write no more than a copy to the page cache? */
  #isDirect({ fd }: Handle, offset: number, length: number): boolean {
    if (length >= LONG_WRITE && this.#system.longWrites?.isHeldUp) return false;
    return length <= DIRECT_LIMIT && this.#poolWrites === 0 && !this.#mustRead(fd, offset, length);
  }

  /** @returns 0 or a positive errno */
  #writeDirectly(handle: Handle, offset: number, length: number, address: number, deadline: number): number {
    // Asking the time costs a tenth of a small write: one in sixteen tells as well.
    const timed = length >= SMALL || (++this.#writes & 15) === 0;
    const started = timed ? this.#system.now() : 0;
    const errno = writePieces(this.#system, handle.fd, address, length, offset, deadline);
    if (timed) this.#learn(this.#system.now() - started);
    handle.markWritten();
    return errno;
  }

  /** @param took of a write that waited for nothing but the page cache, in milliseconds */
  #learn(took: number): void {
    if (took > HELD_BACK_MS) this.#poolWrites = HELD_BACK_WRITES;
  }

  /** Is it worth the thread for long writes, and does that one take it? */
  #isLong(length: number): boolean {
    return length >= LONG_WRITE && (this.#system.longWrites?.takes ?? false);
  }

  #writeByThread(handle: Handle, io: ObjectIo, finish: FinishedWrite, failed: FailedWrite): void {
    const { address, length, offset, deadline } = io;
    handle.retain();
    // From now on a trim has something to wait for.
    handle.unwritten = true;
    this.#system.longWrites?.write(handle.fd, address, length, offset, deadline, (errno, took) => {
      this.#learn(took);
      handle.markWritten();
      // The thread is gone: nobody writes it any more.
      const outcome = errno === EINTR ? this.#writeDirectly(handle, offset, length, address, deadline) : errno;
      handle.release();
      if (outcome === 0) finish(handle, io);
      else failed(io, outcome);
    });
  }

  /** Does this write change a part of a page that is not in the cache? */
  #mustRead(fd: number, offset: number, length: number): boolean {
    if (!this.#nowait) return false;
    const end = offset + length;
    if (offset % PAGE === 0 && end % PAGE === 0) return false;
    return this.#isCold(fd, offset) || this.#isCold(fd, end - 1);
  }

  #isCold(fd: number, offset: number): boolean {
    return this.#system.preadCached(fd, this.#scratch.address, 1, offset) === -1;
  }

  #writeOnPool(handle: Handle, io: ObjectIo, finish: FinishedWrite, failed: FailedWrite): void {
    const { bytes, length, offset } = io;
    let done = 0;
    handle.retain();
    const next = (): void => {
      this.#writeInTime(handle.fd, bytes, done, length - done, offset + done, io.deadline).then(
        (n) => step(null, n),
        (error) => step(error as Error, 0),
      );
    };
    const step = (error: Error | null, n: number) => {
      if (!error) {
        done += n;
        if (n > 0 && done < length) {
          next();
          return;
        }
      }
      handle.markWritten();
      handle.release();
      if (error) failed(io, errnoOf(error));
      else if (done < length) failed(io, EIO);
      else finish(handle, io);
    };
    next();
  }

  /** Writes as soon as a thread is free for it. @throws ETIME when that is too late */
  #writeInTime(
    fd: number,
    bytes: Uint8Array,
    start: number,
    count: number,
    offset: number,
    deadline: number,
  ): Promise<number> {
    const work = () =>
      new Promise<number>((resolve, reject) => {
        this.#system.write(fd, bytes, start, count, offset, (error, n) => (error ? reject(error) : resolve(n)));
      });
    return inTime(deadline, work);
  }

  /** Makes the range a hole, up to the file's end; where the file system has none, writes zeros. */
  punch(handle: Handle, offset: number, length: number, deadline = 0): Promise<void> {
    return this.#changing(handle, offset, length, deadline, (length) => this.#punch(handle, offset, length, deadline));
  }

  /** As work, of which a partial object has to know. @param work gets how much of the range there is to change */
  async #changing(
    handle: Handle,
    offset: number,
    length: number,
    deadline: number,
    work: (length: number) => Promise<void>,
  ): Promise<void> {
    const { partial } = handle;
    if (partial === null || partial.covers(offset, length)) {
      await work(length);
      return;
    }
    const inside = Math.min(length, partial.length - offset);
    if (inside > 0) await partial.change(offset, inside, deadline, () => work(inside));
  }

  async #punch(handle: Handle, offset: number, length: number, deadline: number): Promise<void> {
    const mode = libc.FALLOC_FL_PUNCH_HOLE | libc.FALLOC_FL_KEEP_SIZE;
    if (length === 0 || (await this.#fallocate(handle, mode, offset, length, deadline))) return;
    const { size } = await this.#system.fstat(handle.fd);
    await this.#writeZeroes(handle, offset, Math.min(length, size - offset), deadline);
  }

  /** The range becomes allocated zeros; the file may get longer. */
  zeroRange(handle: Handle, offset: number, length: number, deadline = 0): Promise<void> {
    return this.#changing(handle, offset, length, deadline, (length) => this.#zero(handle, offset, length, deadline));
  }

  async #zero(handle: Handle, offset: number, length: number, deadline: number): Promise<void> {
    if (length === 0 || (await this.#fallocate(handle, libc.FALLOC_FL_ZERO_RANGE, offset, length, deadline))) return;
    await this.#writeZeroes(handle, offset, length, deadline);
  }

  /** False when the file system cannot do it. @throws ETIME when no thread was free for it in time */
  async #fallocate(handle: Handle, mode: number, offset: number, length: number, deadline: number): Promise<boolean> {
    handle.retain();
    try {
      for (;;) {
        try {
          if (deadline !== 0 && this.#punchesNow) await this.#fallocateInTime(handle, mode, offset, length, deadline);
          else await this.#fallocateOnPool(handle.fd, mode, offset, length, deadline);
          return true;
        } catch (error) {
          const errno = errnoOf(error);
          if (errno === EOPNOTSUPP || errno === ENOSYS) return false;
          if (errno !== EINTR) throw error;
        }
      }
    } finally {
      handle.markDirty();
      handle.release();
    }
  }

  async #writeZeroes(handle: Handle, offset: number, length: number, deadline: number): Promise<void> {
    this.#zeroes ??= Buffer.alloc(ZEROES);
    const zeroes = this.#zeroes;
    handle.retain();
    try {
      for (let done = 0; done < length; ) {
        // Each piece may wait for a slow disk: what is left is not begun under a lock that may be gone.
        const count = Math.min(ZEROES, length - done);
        done += await this.#writeInTime(handle.fd, zeroes, 0, count, offset + done, deadline);
      }
    } finally {
      handle.markWritten();
      handle.release();
    }
  }

  /**
   * Looks at the time and makes the call in one go: a process that was stopped, or a pool that hung, does nothing late. What of it waits for
   * the disk, which is to write out the range, is done before, on the pool, unless nothing was written since the last sync.
   */
  async #fallocateInTime(
    handle: Handle,
    mode: number,
    offset: number,
    length: number,
    deadline: number,
  ): Promise<void> {
    const { fd } = handle;
    if (!this.#memory && handle.unwritten) await handle.writeOut(offset, length);
    checkDeadline(deadline);
    if (this.#system.fallocateNow?.(fd, mode, offset, length) === -1) {
      throw new NativeError('fallocate', this.#system.errno());
    }
  }

  #fallocateOnPool(fd: number, mode: number, offset: number, length: number, deadline: number): Promise<void> {
    return inTime(deadline, () => this.#system.fallocate(fd, mode, offset, length));
  }
}
