/**
 * Puts a part of the source's content into a partial object's file. What is a hole in the source is one there.
 *
 * Without a deadline the kernel copies, on a thread of the pool. With one the threads only read: this thread looks at the time and writes to the
 * page cache in one turn, so that a process that was stopped in between does nothing late (as TimedChanges).
 */
import { errnos, SystemError } from '../../../sys/errno.js';
import type { Memory } from '../../../sys/libc.js';
import * as libc from '../../../sys/libc.js';
import { checkDeadline, isErrno } from '../../errors.js';
import { copyByHand, copyRange, readFully, seek, writeFully } from '../copy.js';
import type { Handle } from '../handle.js';
import { inTime, NativeError } from '../pool.js';
import type { FileSystem } from '../system.js';
import { UNIT } from './tail.js';

/** Bytes of one write by this thread: no larger, for the sake of small writes that follow (io.ts, WRITE_PIECE). */
export const PIECE = 64 << 10;
/** Bytes that are read at once, and written in one turn: some 50 µs. */
const READ = 4 * PIECE;
/** A write that took longer than this was held back by the kernel… */
const HELD_BACK_MS = 10;
/** …and then as many go to the pool. */
const HELD_BACK_WRITES = 64;

/** The file that units come from. */
export interface Source {
  readonly fd: number;
  /** It has no holes worth looking for. */
  readonly isDense: boolean;
}

/** What all that is filled in a store shares. */
export interface Filler {
  readonly system: FileSystem;
  /** Everything is in memory: no write waits for a disk. */
  readonly memory: boolean;
  /** PIECE bytes, in use within one turn of the event loop only. */
  readonly scratch: Memory;
  /** So many writes go to the pool, since the kernel has been holding writers back. */
  heldBack: number;
}

export class Filling {
  readonly #filler: Filler;
  readonly #system: FileSystem;
  readonly #source: Source;
  readonly #file: Handle;
  readonly #deadline: () => number;

  /** @param deadline see ObjectIo.deadline; asked before each change */
  constructor(filler: Filler, source: Source, file: Handle, deadline: () => number) {
    this.#filler = filler;
    this.#system = filler.system;
    this.#source = source;
    this.#file = file;
    this.#deadline = deadline;
  }

  /**
   * Copies [begin, end) of the source, whatever was there.
   * @param isClean holes of the source are known to be holes there
   * @throws ETIME; the system's error, EIO when the source ends before
   */
  async run(begin: number, end: number, isClean: boolean): Promise<void> {
    const { fd, isDense } = this.#source;
    if (isDense) {
      await this.#copy(begin, end);
      return;
    }
    const { size } = await this.#system.fstat(fd);
    if (size < end) throw endedEarly(size, end);
    for (let at = begin; at < end; ) {
      const data = Math.min((await seek(this.#system, fd, at, libc.SEEK_DATA)) ?? end, end);
      if (data > at && !isClean) await this.#clear(at, data - at);
      if (data >= end) return;
      const next = Math.min((await seek(this.#system, fd, data, libc.SEEK_HOLE)) ?? end, end);
      await this.#copy(data, next);
      at = next;
    }
  }

  async #copy(begin: number, end: number): Promise<void> {
    const system = this.#system;
    const { fd } = this.#source;
    if (this.#deadline() === 0) {
      const at = await copyRange(system, fd, this.#file.fd, begin, end);
      if (at < end) await copyByHand(system, fd, this.#file.fd, at, end);
      return;
    }
    for (let at = begin; at < end; ) {
      const bytes = await readFully(system, fd, Math.min(READ, end - at), at);
      if (bytes.length === 0) throw endedEarly(at, end);
      await this.#write(bytes, at);
      at += bytes.length;
    }
  }

  async #write(bytes: Buffer, offset: number): Promise<void> {
    const filler = this.#filler;
    for (let done = 0; done < bytes.length; ) {
      const piece = bytes.subarray(done, done + PIECE);
      if (filler.heldBack > 0) {
        filler.heldBack--;
        await inTime(this.#deadline(), () => writeFully(this.#system, this.#file.fd, piece, offset + done));
        done += piece.length;
      } else done += this.#writeNow(piece, offset + done);
    }
  }

  /** @returns how much of it */
  #writeNow(piece: Buffer, offset: number): number {
    const { system, memory, scratch } = this.#filler;
    scratch.bytes.set(piece);
    const started = memory ? 0 : system.now();
    checkDeadline(this.#deadline());
    const n = system.pwrite(this.#file.fd, scratch.address, piece.length, offset);
    if (n === 0) throw new NativeError('pwrite', errnos.EIO);
    if (n < 0) {
      const errno = system.errno();
      if (errno !== errnos.EINTR) throw new NativeError('pwrite', errno);
      return 0;
    }
    if (!memory && system.now() - started > HELD_BACK_MS) this.#filler.heldBack = HELD_BACK_WRITES;
    return n;
  }

  /** Makes a range a hole; where the file system has none, zeros. */
  async #clear(offset: number, length: number): Promise<void> {
    try {
      // To the end of its last unit: a part of a block would stay allocated.
      await this.#punch(offset, Math.ceil((offset + length) / UNIT) * UNIT - offset);
    } catch (error) {
      if (!isErrno(error, errnos.EOPNOTSUPP, errnos.ENOSYS)) throw error;
      const zeroes = Buffer.alloc(Math.min(READ, length));
      for (let done = 0; done < length; done += zeroes.length) {
        const bytes = zeroes.subarray(0, Math.min(zeroes.length, length - done));
        if (this.#deadline() === 0) await writeFully(this.#system, this.#file.fd, bytes, offset + done);
        else await this.#write(bytes, offset + done);
      }
    }
  }

  async #punch(offset: number, length: number): Promise<void> {
    const system = this.#system;
    const { fd } = this.#file;
    const mode = libc.FALLOC_FL_PUNCH_HOLE | libc.FALLOC_FL_KEEP_SIZE;
    const deadline = this.#deadline();
    if (deadline === 0 || system.fallocateNow === undefined) {
      await inTime(deadline, () => system.fallocate(fd, mode, offset, length));
      return;
    }
    // What of it would wait for the disk.
    if (!this.#filler.memory) await this.#file.writeOut(offset, length);
    for (;;) {
      checkDeadline(this.#deadline());
      if (system.fallocateNow(fd, mode, offset, length) !== -1) return;
      const errno = system.errno();
      if (errno !== errnos.EINTR) throw new NativeError('fallocate', errno);
    }
  }
}

const endedEarly = (size: number, end: number): SystemError =>
  new SystemError(errnos.EIO, `the source ended at byte ${size} of ${end} while it was copied`);
