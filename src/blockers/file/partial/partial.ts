/**
 * An object that is a copy of another as far as anybody can read, and whose file has only what was written since. A unit (4 KiB) is there from the
 * moment on when its byte in the file's tail says so; until then whatever the file has in its place counts for nothing, and is read from the
 * base. So a process may be killed at any point: the bytes, and the content before them, are in the kernel.
 *
 * The disk may get them in another order. So a byte is 1 first, which counts as long as the kernel remembers what was written before it (the stamp:
 * this start of the machine, this mount), and 2 after a sync of the content, which counts for good and is synced itself before a flush is answered.
 *
 * One process changes a partial object: who has the volume's lock, by changes with a deadline (docs/consistency.md), which is looked at right before
 * each, in the same turn. Others read, and ask the tail for what they do not know to be there. What makes units be there goes one at a time for each
 * object (turns.ts); reads, and writes to what is there, do not wait.
 */
import { errnoOf, errnos, SystemError } from '../../../sys/errno.js';
import type { DirectRequest } from '../../../xseg/index.js';
import type { ObjectIo } from '../../driver.js';
import { adviceFor, isLate } from '../../errors.js';
import type { Handle } from '../handle.js';
import type { FailedWrite, FileIo, FinishedWrite } from '../io.js';
import type { FileMarks } from '../system.js';
import { type Base, BaseFile } from './base-file.js';
import type { Bases } from './bases.js';
import { FileTail, type TailContext } from './file-tail.js';
import type { Ledger } from './ledger.js';
import { UNIT } from './tail.js';
import { Turns } from './turns.js';
import type { Run, Units } from './units.js';

/** Longer reads go to the thread pool at once, as those of other files do. */
const DIRECT_LIMIT = 1 << 20;

/** What the partial objects of a store share. */
export interface PartialContext extends TailContext {
  readonly marks: FileMarks;
  readonly bases: Bases;
  readonly ledger: Ledger;
  /** @param isPatient where there is no descriptor, others are closed for it, which may take a sync */
  openBase(base: string, isPatient: boolean): Promise<Base>;
  completed(): void;
}

export class Partial {
  readonly #context: PartialContext;
  readonly units: Units;
  /** Name of the base. */
  readonly base: string;
  readonly #baseFile: BaseFile;
  /** Were units that are 1 in the file there when it was opened? */
  readonly #isCurrent: boolean;
  /** The name of the base may not be durable. */
  owesBase: boolean;
  #open: { readonly handle: Handle; readonly tail: FileTail } | null = null;
  /** A sync has begun since it was said of all units that they are there for good. */
  #isSettled = false;
  /** What makes units be there. */
  readonly #turns = new Turns();

  /**
   * @param origin.open the base's file, this object's own from now on, if it is open
   * @param origin.isNew made just now
   */
  constructor(
    context: PartialContext,
    origin: { units: Units; base: string; open: Base | null; isCurrent: boolean; isNew: boolean },
  ) {
    this.#context = context;
    this.units = origin.units;
    this.base = origin.base;
    const { system } = context;
    this.#baseFile = new BaseFile(
      origin.open,
      (isPatient) => context.openBase(origin.base, isPatient),
      (fd) => system.close(fd),
    );
    this.#isCurrent = origin.isCurrent;
    this.owesBase = origin.isNew || origin.units.written > 0;
  }

  /** Bytes of the object. */
  get length(): number {
    return this.units.length;
  }

  /** Is this descriptor its base's, which it closes itself? */
  has(fd: number): boolean {
    return this.#baseFile.now?.fd === fd;
  }

  /** The open file that it is of; called once. */
  attach(handle: Handle): void {
    const takeOver = (): void => this.takeOver();
    const tail = new FileTail(this.#context, this.units, handle, { isCurrent: this.#isCurrent, takeOver });
    this.#open = { handle, tail };
  }

  get #needOpen(): { readonly handle: Handle; readonly tail: FileTail } {
    if (this.#open === null) throw new Error('a partial object has no file yet');
    return this.#open;
  }

  get #file(): Handle {
    return this.#needOpen.handle;
  }

  get #tail(): FileTail {
    return this.#needOpen.tail;
  }

  /** The volume's lock may have been another process's. */
  forget(): void {
    this.#tail.forget();
  }

  /** Can this range be read and written as in any other file? */
  covers(offset: number, length: number): boolean {
    return this.units.covers(offset, length);
  }

  /**
   * May it be changed so, as it is? Else it is to be completed before (Copying.complete): behind its content is the tail, and who has no deadline
   * may not be alone.
   * @param end bytes
   */
  takes(deadline: number, end: number): boolean {
    return (deadline !== 0 || this.isComplete) && end <= this.length;
  }

  // Reading.

  read(io: ObjectIo): void {
    const { address, offset, length, bytes } = io;
    const clear = (from: number, to: number): void => void bytes.fill(0, from, to);
    if (length <= DIRECT_LIMIT && this.#readNow(address, offset, length, io.deadline, clear)) io.complete(0);
    else void this.#readLater(io);
  }

  /** As FileIo.readNow. */
  readNow({ address, offset, size, deadline }: DirectRequest): boolean {
    return size <= DIRECT_LIMIT && offset + size <= this.length && this.#readNow(address, offset, size, deadline, null);
  }

  /** Fills memory with what is cached. @param clear makes a part of it zeros @returns false: something has to be waited for, or is wrong */
  #readNow(
    address: number,
    offset: number,
    length: number,
    deadline: number,
    clear: ((from: number, to: number) => void) | null,
  ): boolean {
    const most = Math.max(0, Math.min(length, this.length - offset));
    if (most > 0 && !this.#tail.refreshNow(this.units.touched(offset, offset + most), deadline)) return false;
    for (let done = 0; done < most; ) {
      const at = offset + done;
      const count = Math.min(this.units.runEnd(at), offset + most) - at;
      if (this.units.has(Math.floor(at / UNIT))) {
        if (!this.#pread(this.#file.fd, address + done, count, at)) return false;
      } else {
        const base = this.#baseFile.now;
        if (base === null) return false;
        const inBase = Math.min(Math.max(base.size - at, 0), count);
        if (inBase < count && clear === null) return false;
        if (inBase > 0 && !this.#pread(base.fd, address + done, inBase, at)) return false;
        clear?.(done + inBase, done + count);
      }
      done += count;
    }
    if (most < length) {
      if (clear === null) return false;
      clear(most, length);
    }
    return true;
  }

  /** False: not all of it was in memory. */
  #pread(fd: number, address: number, count: number, offset: number): boolean {
    const { system, memory } = this.#context;
    for (let done = 0; done < count; ) {
      const n = memory
        ? system.pread(fd, address + done, count - done, offset + done)
        : system.preadCached(fd, address + done, count - done, offset + done);
      if (n <= 0) return false;
      done += n;
    }
    return true;
  }

  async #readLater(io: ObjectIo): Promise<void> {
    try {
      await this.readTo(io.bytes.subarray(0, io.length), io.offset, io.deadline);
    } catch (error) {
      io.complete(errnoOf(error), error instanceof SystemError ? error.message : undefined);
      return;
    }
    io.complete(0);
  }

  /** Fills memory with the content from `offset` on, and zeros behind it. @param deadline of who asks: see #knows @throws the system's error */
  async readTo(bytes: Uint8Array, offset: number, deadline = 0): Promise<void> {
    const handle = this.#file;
    handle.retain();
    try {
      const most = Math.max(0, Math.min(bytes.length, this.length - offset));
      if (most > 0) await this.#tail.refresh(this.units.touched(offset, offset + most), deadline);
      for (let done = 0; done < most; ) {
        const at = offset + done;
        const count = Math.min(this.units.runEnd(at), offset + most) - at;
        const part = bytes.subarray(done, done + count);
        if (this.units.has(Math.floor(at / UNIT))) await this.#readFrom(handle.fd, part, at);
        // What was written meanwhile, so that nobody needed the base any more, is read there.
        else if (!(await this.#readBase(part, at))) continue;
        done += count;
      }
      bytes.fill(0, most);
    } finally {
      handle.release();
    }
  }

  /** @returns false: it is not needed any more */
  async #readBase(bytes: Uint8Array, offset: number): Promise<boolean> {
    return await this.#baseFile.use(
      async ({ fd, size }) => {
        const inBase = Math.min(Math.max(size - offset, 0), bytes.length);
        await this.#readFrom(fd, bytes.subarray(0, inBase), offset);
        bytes.fill(0, inBase);
        return true;
      },
      async (error) => {
        await this.#checkComplete(error);
        return false;
      },
    );
  }

  /** Fills memory. @throws the system's error; EIO when the file ends before */
  async #readFrom(fd: number, bytes: Uint8Array, offset: number): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const n = await this.#readSome(fd, bytes, done, offset + done);
      if (n === 0) throw new SystemError(errnos.EIO, `object ${this.#file.name}: its file ends at ${offset + done}`);
      done += n;
    }
  }

  #readSome(fd: number, bytes: Uint8Array, start: number, offset: number): Promise<number> {
    return new Promise<number>((resolve, reject) => {
      this.#context.system.read(fd, bytes, start, bytes.length - start, offset, (error, n) =>
        error ? reject(error) : resolve(n),
      );
    });
  }

  /** The base cannot be opened: maybe since nobody needs it any more. @throws that error, if somebody does */
  async #checkComplete(error: unknown): Promise<void> {
    await this.#tail.refreshAll();
    if (this.units.absent > 0) throw error;
  }

  // Changing. All of it with a deadline (takes).

  /** As FileIo.write of a range that is not covered. */
  write(fileIo: FileIo, io: ObjectIo, finish: FinishedWrite): void {
    this.#file.retain();
    this.#turns.enter(() => this.#beginWrite(fileIo, io, finish));
  }

  #beginWrite(fileIo: FileIo, io: ObjectIo, finish: FinishedWrite): void {
    const { offset, length, deadline } = io;
    const end = offset + length;
    let isReady = this.#tail.isCurrent && this.#tail.refreshNow(this.units.touched(offset, end), deadline);
    for (const unit of isReady ? this.units.cut(offset, end) : []) isReady = isReady && this.#fillNow(unit, deadline);
    if (isReady) this.#store(fileIo, io, finish);
    else void this.#writeLater(fileIo, io, finish);
  }

  async #writeLater(fileIo: FileIo, io: ObjectIo, finish: FinishedWrite): Promise<void> {
    try {
      await this.#prepare(io.offset, io.length, io.deadline);
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
    const failed: FailedWrite = (refused, errno) => {
      try {
        refused.complete(errno);
      } finally {
        this.#endWrite();
      }
    };
    const stored: FinishedWrite = (handle, written) => {
      const errno = this.note(written.offset, written.length, written.deadline);
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
    fileIo.writePlain(this.#file, io, stored, failed);
  }

  #endWrite(): void {
    this.#turns.leave();
    this.#file.release();
  }

  /** May these bytes be written to the file now, and noted in the same turn, with nothing else to be done before? */
  isReadyFor({ offset, size, deadline }: Pick<DirectRequest, 'offset' | 'size' | 'deadline'>): boolean {
    const end = offset + size;
    return (
      this.#turns.isIdle &&
      this.#tail.isCurrent &&
      this.takes(deadline, end) &&
      this.#tail.refreshNow(this.units.touched(offset, end), deadline) &&
      this.units.cut(offset, end).length === 0
    );
  }

  /**
   * Changes a range of the content in another way than by writing it.
   * @param length bytes, at least one, within the content
   * @param work makes the change in the file; until it is over nothing else makes units be there
   * @throws ETIME, the system's error, that of the work
   */
  async change(offset: number, length: number, deadline: number, work: () => Promise<void>): Promise<void> {
    const handle = this.#file;
    handle.retain();
    await new Promise<void>((resolve) => this.#turns.enter(resolve));
    try {
      await this.#prepare(offset, length, deadline);
      await work();
      const errno = this.note(offset, length, deadline);
      if (errno === errnos.ETIME) throw new SystemError(errno, adviceFor(errno));
      if (errno !== 0) throw new SystemError(errno, `object ${handle.name}: it cannot be noted what is there of it`);
    } finally {
      this.#endWrite();
    }
  }

  /** Has all that a change of this range needs there. */
  async #prepare(offset: number, length: number, deadline: number): Promise<void> {
    if (!this.#tail.isCurrent) await this.#tail.claim(deadline);
    await this.#tail.refresh(this.units.touched(offset, offset + length), deadline);
    for (const unit of this.units.cut(offset, offset + length)) await this.#fill(unit, deadline);
  }

  /** Fills one unit with what is in memory; false: it has to be waited for, or went wrong. */
  #fillNow(unit: number, deadline: number): boolean {
    const base = this.#baseFile.now;
    const { scratch } = this.#context;
    const at = unit * UNIT;
    const length = this.units.lengthOf(unit);
    if (base === null || base.size < at + length) return false;
    if (!this.#pread(base.fd, scratch.address, length, at)) return false;
    return this.#putUnit(unit, deadline) === 0;
  }

  async #fill(unit: number, deadline: number): Promise<void> {
    const bytes = new Uint8Array(this.units.lengthOf(unit));
    if (!(await this.#readBase(bytes, unit * UNIT))) return;
    this.#context.scratch.bytes.set(bytes);
    const errno = this.#putUnit(unit, deadline);
    if (errno === errnos.ETIME) throw new SystemError(errno, adviceFor(errno));
    if (errno !== 0) throw new SystemError(errno, `object ${this.#file.name}: a part of it cannot be copied`);
  }

  /** Writes a unit from scratch, and notes it. @returns 0 or a positive errno */
  #putUnit(unit: number, deadline: number): number {
    const { system, scratch } = this.#context;
    const length = this.units.lengthOf(unit);
    if (isLate(deadline)) return errnos.ETIME;
    this.#file.markWritten();
    const n = system.pwrite(this.#file.fd, scratch.address, length, unit * UNIT);
    if (n !== length) return n < 0 ? system.errno() : errnos.ENOSPC;
    return this.note(unit * UNIT, length, deadline);
  }

  /** What this range touches is there from now on, also for a process after this one. @returns 0 or a positive errno */
  note(offset: number, length: number, deadline: number): number {
    for (const run of this.units.absentIn(this.units.touched(offset, offset + length))) {
      if (isLate(deadline)) return errnos.ETIME;
      const errno =
        this.#context.ledger.add(this.#file.name) || (isLate(deadline) ? errnos.ETIME : this.#tail.write(run));
      if (errno !== 0) return errno;
    }
    return 0;
  }

  // Making it durable.

  /**
   * The base's name is durable, and so is that the file has it: a file system without a journal may have a directory's entries on the disk, and not how many a file has.
   * @throws the system's error
   */
  async syncBase(): Promise<void> {
    const { bases, system } = this.#context;
    await bases.sync();
    await this.#baseFile.use(
      ({ fd }) => system.fsync(fd),
      (error) => this.#checkComplete(error),
      false,
    );
  }

  /** What a sync that begins now is of: the units that it makes be there for good. */
  toSettle(): Run[] {
    return this.units.writtenRuns();
  }

  /** The content of these units is durable; so are they with the next sync, which begins in the same turn. @returns see settle.ts */
  settle(runs: readonly Run[]): number {
    const errno = this.#tail.settle(runs);
    // The sync that begins now is of all that is said, by whomever.
    if (errno === 0 && this.isComplete) this.#isSettled = true;
    return errno;
  }

  /** A sync of its file failed. */
  failed(): void {
    this.#context.ledger.failed(this.#file.name);
  }

  /** What was settled is durable. */
  async settled(): Promise<void> {
    const { bases, completed, ledger } = this.#context;
    if (this.units.written > 0) return;
    ledger.remove(this.#file.name);
    if (!this.#isSettled) return;
    completed();
    this.#baseFile.done();
    await bases.remove(this.base);
  }

  /** A process left units that are there, and not for good: they are in this one's ledger from now on. Should that fail, they are in that one's still. */
  takeOver(): void {
    this.#context.bases.suspect();
    this.#context.ledger.add(this.#file.name);
    this.owesBase = true;
    this.#file.markDirty();
  }

  /** All of it is there for good: what it is a copy of is needed by nobody. */
  get isComplete(): boolean {
    return this.units.absent === 0 && this.units.written === 0;
  }

  /** Nobody uses the file any more. */
  dispose(): void {
    this.#baseFile.done();
  }
}
