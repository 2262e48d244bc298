/**
 * The tail of a partial object's open file: what it says is there of the object, as far as it has to be asked, and what this process writes to it.
 * Another process may have written units, or all of it, since it was read.
 */
import { errnos, SystemError } from '../../../sys/errno.js';
import type { Memory } from '../../../sys/libc.js';
import { checkDeadline, isLate } from '../../errors.js';
import { readFully } from '../copy.js';
import type { FileSystem } from '../system.js';
import { settle } from './settle.js';
import {
  DURABLE,
  decodeTail,
  encodeTail,
  HEAD,
  stampOf,
  stateOffset,
  tailLength,
  tailOffset,
  WRITTEN,
} from './tail.js';
import type { Run, Units } from './units.js';

export interface TailContext {
  readonly system: FileSystem;
  /** Everything is in memory: reads do not block. */
  readonly memory: boolean;
  /** Room for a unit, and for a tail, in use within one turn of the event loop only. */
  readonly scratch: Memory;
  /** Since when units that are 1 are there; the same as long as the driver is open, which keeps the file system mounted. */
  readonly stamp: string;
}

/** The file that it is in. */
export interface TailedFile {
  readonly name: string;
  readonly fd: number;
  readonly writable: boolean;
  markWritten(): void;
}

export class FileTail {
  readonly #context: TailContext;
  readonly #units: Units;
  readonly #file: TailedFile;
  /** Called when units turn out to be there, and not for good, that another process wrote. */
  readonly #takeOver: () => void;
  /** Units that are 1 in the file count. */
  #isCurrent: boolean;
  /** Another process may have had the volume's lock since the tail was read as a whole. */
  #mayBeOld = false;
  #forgotten = 0;

  /** @param units what is known of it: kept up to date */
  constructor(
    context: TailContext,
    units: Units,
    file: TailedFile,
    { isCurrent, takeOver }: { isCurrent: boolean; takeOver: () => void },
  ) {
    this.#context = context;
    this.#units = units;
    this.#file = file;
    this.#isCurrent = isCurrent;
    this.#takeOver = takeOver;
  }

  /** May units be made be there by a byte each? Else claim comes first. */
  get isCurrent(): boolean {
    return this.#isCurrent;
  }

  /** The volume's lock may have been another process's. */
  forget(): void {
    this.#mayBeOld = true;
    this.#forgotten++;
  }

  /** Is it known what the file says? Who asks under the volume's lock is the only one who writes; since he got it, the tail was read. */
  #knows(deadline: number): boolean {
    return deadline !== 0 && !this.#mayBeOld && !isLate(deadline);
  }

  /** Of these units is known what the file says. At once. @param deadline of who asks @returns false: that is not in memory, or is wrong */
  refreshNow({ first, end }: Run, deadline: number): boolean {
    if (this.#units.absent === 0 || this.#knows(deadline) || this.#units.hasAll(first, end)) return true;
    // The whole of it, once.
    if (deadline !== 0 && this.#mayBeOld) return false;
    const { scratch } = this.#context;
    const { length } = this.#units;
    if (!this.#isCurrent) {
      if (!this.#pread(scratch.address, HEAD, tailOffset(length))) return false;
      if (!this.#sawHead(scratch.bytes.subarray(0, HEAD))) return true;
    }
    const count = end - first;
    if (!this.#pread(scratch.address, count, stateOffset(length, first))) return false;
    const states = scratch.bytes.subarray(0, count);
    // Whoever reads them again says what is wrong.
    if (states.some((state) => state > DURABLE)) return false;
    this.#units.merge(first, states);
    return true;
  }

  /** By one call. False: not all of it is in memory, or there. */
  #pread(address: number, count: number, offset: number): boolean {
    const { system, memory } = this.#context;
    const { fd } = this.#file;
    const n = memory ? system.pread(fd, address, count, offset) : system.preadCached(fd, address, count, offset);
    return n === count;
  }

  /** As refreshNow, however long it takes. @throws EIO when the tail cannot be understood; the system's error */
  async refresh({ first, end }: Run, deadline: number): Promise<void> {
    if (this.#units.absent === 0 || this.#knows(deadline)) return;
    if (deadline !== 0 && this.#mayBeOld) {
      const forgotten = this.#forgotten;
      const { written } = this.#units;
      await this.refreshAll();
      if (this.#units.written > written && this.#file.writable) this.#takeOver();
      // What is forgotten while it is read is read again.
      if (this.#forgotten === forgotten) this.#mayBeOld = false;
    } else if (!this.#units.hasAll(first, end)) await this.#refreshUnits({ first, end });
  }

  /** @throws as refresh */
  async refreshAll(): Promise<void> {
    await this.#refreshUnits({ first: 0, end: this.#units.count });
  }

  async #refreshUnits({ first, end }: Run): Promise<void> {
    const { length } = this.#units;
    if (!this.#isCurrent && !this.#sawHead(await this.#read(HEAD, tailOffset(length)))) return;
    this.#sawStates(first, await this.#read(end - first, stateOffset(length, first)), end - first);
  }

  #read(count: number, offset: number): Promise<Buffer> {
    return readFully(this.#context.system, this.#file.fd, count, offset);
  }

  /** @returns whether the states of units are worth looking at: somebody has written some since the file was opened here @throws SystemError EIO */
  #sawHead(head: Uint8Array): boolean {
    if (head.length !== HEAD) throw this.#unreadable();
    this.#isCurrent = stampOf(head) === this.#context.stamp;
    return this.#isCurrent;
  }

  /** @throws SystemError EIO: there are fewer, or they are none */
  #sawStates(first: number, states: Uint8Array, expected: number): void {
    if (states.length < expected || states.some((state) => state > DURABLE)) throw this.#unreadable();
    this.#units.merge(first, states);
  }

  #unreadable(): SystemError {
    return new SystemError(errnos.EIO, `object ${this.#file.name}: it cannot be read what is there of it`);
  }

  /**
   * Puts this stamp in. Units that are 1 in the file by an earlier one are not there; from now on those that are 1 are.
   * @throws ETIME: nothing was changed; EIO; the system's error
   */
  async claim(deadline: number): Promise<void> {
    const { stamp } = this.#context;
    const units = this.#units;
    const { length } = units;
    const tail = decodeTail(await this.#read(tailLength(length), tailOffset(length)), length);
    if (tail === null) throw this.#unreadable();
    const isCurrent = tail.stamp === stamp;
    const { written } = units;
    units.merge(0, isCurrent ? tail.states : tail.states.map((state) => (state === DURABLE ? state : 0)));
    if (!isCurrent) {
      const claimed = encodeTail({ ...tail, stamp, states: units.states });
      checkDeadline(deadline);
      this.#file.markWritten();
      // The states first: by the new stamp all that are 1 count. By the old one none did.
      if (tail.states.includes(WRITTEN)) {
        this.#put(claimed.subarray(HEAD), tailOffset(length) + HEAD);
        checkDeadline(deadline);
      }
      this.#put(claimed.subarray(0, HEAD), tailOffset(length));
    }
    if (units.written > written) this.#takeOver();
    this.#isCurrent = true;
  }

  /** @throws the system's error; ENOSPC when not all of it was written */
  #put(bytes: Uint8Array, offset: number): void {
    const { system, scratch } = this.#context;
    const { fd, name } = this.#file;
    scratch.bytes.set(bytes);
    const n = system.pwrite(fd, scratch.address, bytes.length, offset);
    if (n !== bytes.length) throw new SystemError(n < 0 ? system.errno() : errnos.ENOSPC, `object ${name}: its tail`);
  }

  /** Says of units, the content of which is durable, that they are there for good. @returns see settle */
  settle(runs: readonly Run[]): number {
    const errno = settle(this.#context, this.#file.fd, this.#units.length, runs);
    if (errno === 0) for (const run of runs) this.#units.mark(run, DURABLE);
    return errno;
  }

  /** Writes that these units are there, which were absent. @returns 0 or a positive errno */
  write(run: Run): number {
    this.#file.markWritten();
    const errno = this.#fill(WRITTEN, run.end - run.first, stateOffset(this.#units.length, run.first));
    if (errno === 0) this.#units.mark(run, WRITTEN);
    return errno;
  }

  /** Writes so many bytes of one value. @returns 0 or a positive errno */
  #fill(value: number, count: number, offset: number): number {
    const { system, scratch } = this.#context;
    scratch.bytes.fill(value, 0, count);
    for (;;) {
      const n = system.pwrite(this.#file.fd, scratch.address, count, offset);
      if (n === count) return 0;
      if (n >= 0) return errnos.EIO;
      const errno = system.errno();
      if (errno !== errnos.EINTR) return errno;
    }
  }
}
