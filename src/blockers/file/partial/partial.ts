/**
 * An object that is a copy of another as far as anybody can read, and whose file gets what is not there of it later: with its next sync, or
 * unit by unit as it is written to. A unit (4 KiB) is there from the moment on when its bit in the file's tail says so; until then whatever
 * the file has in its place counts for nothing, and is read from the source. So a process may be killed at any point: the bits, the
 * content before them and the mark are in the kernel.
 *
 * What makes units be there goes one at a time for each object (the queue); reads, and writes to what is there, do not wait. An object
 * never becomes partial again.
 *
 * Each change of the file has the deadline of who asked for it, and the time is looked at right before each, in the same turn: a lock under
 * which it was asked for may have been taken away meanwhile (docs/consistency.md). What is late ends with ETIME and leaves the object
 * partial, which is right as it is. So nothing that nobody asked for is done to what was made under a lock (isTimed).
 */
import { errnoOf, errnos, messageOf, SystemError } from '../../../sys/errno.js';
import type { Memory } from '../../../sys/libc.js';
import type { ObjectIo } from '../../driver.js';
import { adviceFor, checkDeadline, isLate } from '../../errors.js';
import type { TimedChanges } from '../changes.js';
import type { Handle } from '../handle.js';
import type { FailedWrite, FileIo, FinishedWrite } from '../io.js';
import type { Limiter } from '../pool.js';
import type { FileMarks, FileSystem } from '../system.js';
import { type Filler, Filling, type Source } from './filling.js';
import { bitOffset, fileLength, UNIT } from './tail.js';
import type { Units } from './units.js';

/** Units filled by one turn in the queue: a write waits for no more. */
const PIECE = 256;
/** Longer reads go to the thread pool at once, as those of other files do. */
const DIRECT_LIMIT = 1 << 20;
/** So long one that could not be completed is not tried unasked. */
const FAILING_MS = 1000;

/** What the partial objects of a store share. */
export interface PartialContext {
  readonly system: FileSystem;
  readonly marks: FileMarks;
  readonly changes: TimedChanges;
  /** Everything is in memory: reads do not block. */
  readonly memory: boolean;
  /** Room for a unit and a tail, in use within one turn of the event loop only. */
  readonly scratch: Memory;
  readonly filler: Filler;
  /** Objects that are filled at the same time. */
  readonly filling: Limiter;
  /** It is not partial any more: complete, or given up. */
  ended(partial: Partial, complete: boolean): void;
}

export class Partial {
  readonly #context: PartialContext;
  readonly units: Units;
  /** Where the rest is; null: the source is not there any more. */
  readonly #source: Source | null;
  readonly #sourceName: string;
  /** It was made under a lock: changed only by who has a deadline. */
  #isTimed: boolean;
  /** Nothing but zeros is in the file where a unit is not there. */
  #isClean: boolean;
  #handle: Handle | null = null;
  #busy = false;
  readonly #waiting: (() => void)[] = [];
  /** The queue's next is being begun. */
  #isStarting = false;
  #completing: Promise<void> | null = null;
  /** Of those who wait for that, the latest deadline; 0: none. */
  #until = 0;
  /** Reads that may use the source's descriptor across turns. */
  #readers = 0;
  #over = false;
  /** When completing it failed last, by FileSystem.now. */
  #failedAt = Number.NEGATIVE_INFINITY;
  #sourceClosed = false;

  /** @param isClean the file has zeros, and no space of its own, where units are not there */
  constructor(
    context: PartialContext,
    origin: { units: Units; source: Source | null; sourceName: string; isClean: boolean; isTimed: boolean },
  ) {
    this.#context = context;
    this.units = origin.units;
    this.#source = origin.source;
    this.#sourceName = origin.sourceName;
    this.#isClean = origin.isClean;
    this.#isTimed = origin.isTimed;
  }

  get isTimed(): boolean {
    return this.#isTimed;
  }

  /** Bytes of the object. */
  get length(): number {
    return this.units.length;
  }

  /** The open file that it is of; called once. */
  attach(handle: Handle): void {
    this.#handle = handle;
  }

  get #file(): Handle {
    if (this.#handle === null) throw new Error('a partial object has no file yet');
    return this.#handle;
  }

  /** Can this range be read and written as in any other file? */
  covers(offset: number, length: number): boolean {
    return this.units.covers(offset, length);
  }

  read(io: ObjectIo): void {
    const { system, memory } = this.#context;
    const { offset, length, address } = io;
    const most = Math.max(0, Math.min(length, this.length - offset));
    for (let done = 0; done < most; ) {
      const { fd, end } = this.#at(offset + done);
      if (fd === null) {
        io.complete(errnos.EIO, this.#missing().message);
        return;
      }
      const count = Math.min(most, end - offset) - done;
      const n =
        length > DIRECT_LIMIT
          ? -1
          : memory
            ? system.pread(fd, address + done, count, offset + done)
            : system.preadCached(fd, address + done, count, offset + done);
      if (n <= 0) {
        // Whatever it is: a thread of the pool can wait, and says what is wrong.
        void this.#readLater(io, done, most);
        return;
      }
      done += n;
    }
    if (most < length) io.bytes.fill(0, most, length);
    io.complete(0);
  }

  async #readLater(io: ObjectIo, from: number, most: number): Promise<void> {
    const { system } = this.#context;
    const { bytes, offset, length } = io;
    const handle = this.#file;
    handle.retain();
    this.#readers++;
    let failure: unknown = null;
    try {
      for (let done = from; done < most; ) {
        const at = offset + done;
        const { fd, end } = this.#at(at);
        if (fd === null) throw this.#missing();
        const count = Math.min(most, end - offset) - done;
        const n = await new Promise<number>((resolve, reject) => {
          system.read(fd, bytes, done, count, at, (error, n) => (error ? reject(error) : resolve(n)));
        });
        if (n === 0)
          throw new SystemError(errnos.EIO, `object ${handle.name}: what it is to be filled from ends at ${at}`);
        done += n;
      }
      bytes.fill(0, most, length);
    } catch (error) {
      failure = error;
    }
    this.#readers--;
    this.#closeSource();
    handle.release();
    if (failure === null) io.complete(0);
    else io.complete(errnoOf(failure), failure instanceof SystemError ? failure.message : undefined);
  }

  /** Where byte `at` is read, and the end of what is read there; null: nowhere. */
  #at(at: number): { fd: number | null; end: number } {
    const fd = this.units.has(Math.floor(at / UNIT)) ? this.#file.fd : (this.#source?.fd ?? null);
    return { fd, end: this.units.runEnd(at) };
  }

  #missing(): SystemError {
    return new SystemError(
      errnos.EIO,
      `object ${this.#file.name}: object ${this.#sourceName}, of which it is a copy that was never completed, is missing`,
    );
  }

  /** As FileIo.write of a range that is not covered. */
  write(fileIo: FileIo, io: ObjectIo, finish: FinishedWrite): void {
    const handle = this.#file;
    handle.retain();
    if (io.deadline !== 0) this.#isTimed = true;
    if (io.offset + io.length > this.length) void this.#writePast(fileIo, io, finish);
    else this.#enqueue(() => this.#beginWrite(fileIo, io, finish));
  }

  /** Behind the content is the tail: no writes there before it has gone. */
  async #writePast(fileIo: FileIo, io: ObjectIo, finish: FinishedWrite): Promise<void> {
    const handle = this.#file;
    try {
      await this.complete(io.deadline);
    } catch (error) {
      io.complete(errnoOf(error), messageOf(error));
      handle.release();
      return;
    }
    fileIo.write(handle, io, finish);
    handle.release();
  }

  /** Has the queue and a reference to the file, and lets both go. */
  #beginWrite(fileIo: FileIo, io: ObjectIo, finish: FinishedWrite): void {
    const handle = this.#file;
    const { offset, length } = io;
    const end = offset + length;
    if (this.#over || this.covers(offset, length)) {
      try {
        fileIo.write(handle, io, finish);
      } finally {
        this.#endWrite();
      }
      return;
    }
    for (const unit of this.units.cut(offset, end)) {
      if (this.#fillNow(unit, io.deadline)) continue;
      void this.#writeLater(fileIo, io, finish);
      return;
    }
    this.#store(fileIo, io, finish);
  }

  /** Fills what is cut, waiting for the disk, and writes. */
  async #writeLater(fileIo: FileIo, io: ObjectIo, finish: FinishedWrite): Promise<void> {
    try {
      const { offset, length, deadline } = io;
      for (const unit of this.units.cut(offset, offset + length)) await this.#fill(unit, unit + 1, () => deadline);
    } catch (error) {
      try {
        io.complete(errnoOf(error), error instanceof SystemError ? error.message : undefined);
      } finally {
        this.#endWrite();
      }
      return;
    }
    this.#store(fileIo, io, finish);
  }

  #store(fileIo: FileIo, io: ObjectIo, finish: FinishedWrite): void {
    const first = Math.floor(io.offset / UNIT);
    const end = Math.ceil((io.offset + io.length) / UNIT);
    const stored: FinishedWrite = (handle, written) => {
      const errno = this.#note(first, end, written.deadline);
      if (errno !== 0) {
        failed(written, errno);
        return;
      }
      try {
        finish(handle, written);
      } finally {
        this.#endWrite();
      }
    };
    const failed: FailedWrite = (refused, errno) => {
      this.#isClean = false;
      try {
        refused.complete(errno);
      } finally {
        this.#endWrite();
      }
    };
    fileIo.writePlain(this.#file, io, stored, failed);
  }

  #endWrite(): void {
    this.#leave();
    this.#file.release();
  }

  /** Fills one unit with what is in memory; false: it has to be waited for, or went wrong. */
  #fillNow(unit: number, deadline: number): boolean {
    const { system, scratch, memory } = this.#context;
    if (this.#source === null) return false;
    const { fd } = this.#source;
    const length = this.units.lengthOf(unit);
    const at = unit * UNIT;
    const n = memory
      ? system.pread(fd, scratch.address, length, at)
      : system.preadCached(fd, scratch.address, length, at);
    if (n !== length || isLate(deadline)) return false;
    this.#file.markWritten();
    if (system.pwrite(this.#file.fd, scratch.address, length, at) !== length) {
      this.#isClean = false;
      return false;
    }
    return this.#note(unit, unit + 1, deadline) === 0;
  }

  /** Fills units that are not there. @throws ETIME; the system's error; EIO when the source is missing or too short */
  async #fill(first: number, end: number, deadline: () => number): Promise<void> {
    if (this.#source === null) throw this.#missing();
    const clean = this.#isClean;
    // Until it is over, what is there is neither.
    this.#isClean = false;
    this.#file.markWritten();
    try {
      const filling = new Filling(this.#context.filler, this.#source, this.#file, deadline);
      await filling.run(first * UNIT, Math.min(end * UNIT, this.length), clean);
    } catch (error) {
      // EIO of a flush says that something is lost. Here nothing is: it may be read the next time.
      if (errnoOf(error) !== errnos.EIO) throw error;
      const why = `its source ${this.#sourceName} cannot be read: ${messageOf(error)}`;
      throw new SystemError(errnos.ENODATA, `object ${this.#file.name}: ${why}`, { cause: error });
    }
    this.#isClean = clean;
    const errno = this.#note(first, end, deadline());
    if (errno === errnos.ETIME) throw new SystemError(errno, adviceFor(errno));
    if (errno !== 0) throw new SystemError(errno, `object ${this.#file.name}: it cannot be noted what is there of it`);
  }

  /** These units are there from now on, also for a process after this one. @returns 0 or a positive errno */
  #note(first: number, end: number, deadline: number): number {
    const { system, scratch } = this.#context;
    if (isLate(deadline)) return errnos.ETIME;
    const bytes = this.units.with(first, end);
    scratch.bytes.set(bytes);
    for (;;) {
      const n = system.pwrite(this.#file.fd, scratch.address, bytes.length, bitOffset(this.length, first));
      if (n === bytes.length) break;
      if (n >= 0) return errnos.EIO;
      const errno = system.errno();
      if (errno !== errnos.EINTR) return errno;
    }
    this.units.add(first, end);
    return 0;
  }

  /**
   * Makes it an object like any other. Callers share one run; the file is to be synced with its attributes then.
   * @param deadline see ObjectIo.deadline; callers at the same time have the latest of theirs
   * @throws ETIME, the system's error: it stays partial, and loses nothing; EIO when the source cannot be read
   */
  async complete(deadline: number): Promise<void> {
    while (!this.#over) {
      try {
        await this.#completeUntil(deadline);
        return;
      } catch (error) {
        // It may have ended by the deadline of who began it, just before this one came.
        if (!(error instanceof SystemError) || error.errno !== errnos.ETIME || isLate(deadline)) throw error;
      }
    }
  }

  #completeUntil(deadline: number): Promise<void> {
    const isRunning = this.#completing !== null;
    this.#until =
      deadline === 0 || (isRunning && this.#until === 0) ? 0 : Math.max(deadline, isRunning ? this.#until : 0);
    this.#completing ??= this.#complete()
      .catch((error: unknown) => {
        this.#failedAt = this.#context.system.now();
        throw error;
      })
      .finally(() => {
        this.#completing = null;
      });
    return this.#completing;
  }

  /** Nobody may complete it unasked now, or it was in vain a moment ago. */
  get isStuck(): boolean {
    return this.#isTimed || this.#context.system.now() - this.#failedAt < FAILING_MS;
  }

  get isAttached(): boolean {
    return this.#handle !== null;
  }

  /**
   * A process that knows nothing of partial objects may have made this file another object: whatever comes now would be written into that.
   * @throws SystemError EIO
   */
  async #checkOwn(): Promise<void> {
    const handle = this.#file;
    const { size } = await this.#context.system.fstat(handle.fd);
    // Before the tail goes, and right after, when the mark is what is left to take away.
    if (size === fileLength(this.length) || (size === this.length && this.units.missing === 0)) return;
    throw new SystemError(
      errnos.EIO,
      `object ${handle.name}: somebody else has changed this copy before it was completed`,
    );
  }

  async #complete(): Promise<void> {
    const handle = this.#file;
    handle.retain();
    try {
      await this.#context.filling.run(async () => {
        for (let next = 0; !this.#over; ) {
          await this.#enter();
          try {
            await this.#checkOwn();
            const missing = this.units.nextMissing(next, PIECE);
            if (missing === null) await this.#end();
            else {
              await this.#fill(missing.first, missing.end, () => this.#until);
              next = missing.end;
            }
          } finally {
            this.#leave();
          }
        }
      });
    } finally {
      handle.release();
    }
  }

  /** Everything is there: the tail and the mark go. Whoever finds the mark at a file without its tail knows that. */
  async #end(): Promise<void> {
    const { changes, marks } = this.#context;
    const handle = this.#file;
    await changes.ftruncate(handle.fd, this.length, this.#until);
    checkDeadline(this.#until);
    marks.remove(handle.fd);
    this.#over = true;
    handle.completed();
    this.#closeSource();
    this.#context.ended(this, true);
  }

  /** Nobody uses the file any more. */
  dispose(): void {
    if (this.#over) return;
    this.#over = true;
    this.#closeSource();
    this.#context.ended(this, false);
  }

  #closeSource(): void {
    if (!this.#over || this.#readers > 0 || this.#sourceClosed || this.#source === null) return;
    this.#sourceClosed = true;
    this.#context.system.close(this.#source.fd).catch(() => {});
  }

  /** Waits for its turn in the queue. */
  #enter(): Promise<void> {
    return new Promise<void>((resolve) => this.#enqueue(resolve));
  }

  /** Begins work when it has its turn; the work ends with #leave, in the same turn of the event loop or later. */
  #enqueue(work: () => void): void {
    this.#waiting.push(work);
    this.#startNext();
  }

  #leave(): void {
    this.#busy = false;
    this.#startNext();
  }

  /** A loop, since what begins may end at once: each would begin the next within itself. */
  #startNext(): void {
    if (this.#isStarting) return;
    this.#isStarting = true;
    try {
      while (!this.#busy && this.#waiting.length > 0) {
        this.#busy = true;
        this.#waiting.shift()?.();
      }
    } finally {
      this.#isStarting = false;
      // Only after an exception: what waits is not to wait for somebody who never comes.
      if (!this.#busy && this.#waiting.length > 0) setImmediate(() => this.#startNext());
    }
  }
}
