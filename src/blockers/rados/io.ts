/**
 * The hot operations on a pool: reads and writes go straight from and to the request's memory, without a promise or an object made for
 * each. Trim and zeroes are rare beside them.
 */

import type { Pool, WriteStep } from '../../rados/types.js';
import { errnoOf, errnos, SystemError } from '../../sys/errno.js';
import type { ObjectIo } from '../driver.js';
import { adviceFor, isErrno, isLate } from '../errors.js';
import { nameError } from '../names.js';
import type { Connection, Waiter } from './connection.js';

/** What is written over and over for zeros that stay allocated. */
const ZEROS = Buffer.alloc(4096);
const ONE_ZERO = ZEROS.subarray(0, 1);
const CREATE: WriteStep = { do: 'create', exclusive: false };
const ASSERT_EXISTS: WriteStep = { do: 'assertExists' };
/** An empty write makes the object exist, and does not lengthen it as Ceph's own would. */
const TOUCH: readonly WriteStep[] = [CREATE];

/** One read or write in flight: used over and over. */
class Transfer implements Waiter {
  readonly #connection: Connection;
  readonly #ended: (transfer: Transfer, errno: number) => void;
  #io: ObjectIo | null = null;
  #name = '';
  #writes = false;
  #pool: Pool | null = null;

  constructor(connection: Connection, ended: (transfer: Transfer, errno: number) => void) {
    this.#connection = connection;
    this.#ended = ended;
  }

  begin(io: ObjectIo, name: string, writes: boolean): void {
    this.#io = io;
    this.#name = name;
    this.#writes = writes;
    this.#start(io);
  }

  resume(): void {
    const io = this.#io as ObjectIo;
    // It has waited, and must not begin later than it may.
    if (isLate(io.deadline)) this.#complete(errnos.ETIME);
    else this.#start(io);
  }

  #start(io: ObjectIo): void {
    const connection = this.#connection;
    if (!connection.ready) connection.wait(this);
    else if (!this.#writes) {
      this.#pool = connection.pool;
      this.#pool.read(this.#name, io.address, io.length, io.offset, this.#done);
    } else if (connection.isStale(io.deadline)) connection.expire(this);
    else {
      this.#pool = connection.pool;
      if (io.length > 0) this.#pool.write(this.#name, io.address, io.length, io.offset, this.#done, io.deadline);
      else this.#pool.begin(this.#name, TOUCH, this.#done, io.deadline);
    }
  }

  readonly #done = (result: number): void => {
    const io = this.#io as ObjectIo;
    if (result < 0) {
      if (this.#connection.isRefusal(-result, this.#pool as Pool)) this.resume();
      else this.#complete(-result);
      return;
    }
    if (!this.#writes && result < io.length) io.bytes.fill(0, result, io.length);
    this.#complete(0);
  };

  get deadline(): number {
    return this.#io?.deadline ?? 0;
  }

  refuse(errno: number): void {
    this.#complete(errno);
  }

  #complete(errno: number): void {
    const io = this.#io as ObjectIo;
    this.#io = null;
    this.#pool = null;
    // Given back first: the end of an operation often begins the next one.
    this.#ended(this, errno);
    io.complete(errno);
  }
}

export class RadosIo {
  readonly #connection: Connection;
  readonly #idle: Transfer[] = [];
  /** Told of every failure. */
  readonly #failed: (errno: number) => void;

  constructor(connection: Connection, failed: (errno: number) => void) {
    this.#connection = connection;
    this.#failed = failed;
  }

  readonly #ended = (transfer: Transfer, errno: number): void => {
    this.#idle.push(transfer);
    if (errno !== 0) this.#failed(errno);
  };

  #transfer(io: ObjectIo, writes: boolean): void {
    const { name } = io;
    const bad = nameError(name);
    if (bad) {
      io.complete(bad.errno);
      return;
    }
    const transfer = this.#idle.pop() ?? new Transfer(this.#connection, this.#ended);
    transfer.begin(io, name, writes);
  }

  read(io: ObjectIo): void {
    this.#transfer(io, false);
  }

  write(io: ObjectIo): void {
    this.#transfer(io, true);
  }

  trim(io: ObjectIo): void {
    void this.#finish(io, () => this.#zero(io));
  }

  writeZeroes(io: ObjectIo): void {
    if (!io.noHole) this.trim(io);
    else void this.#finish(io, () => this.#fill(io));
  }

  async #finish(io: ObjectIo, work: () => Promise<unknown>): Promise<void> {
    const bad = nameError(io.name);
    let errno = bad?.errno ?? 0;
    if (!bad) {
      try {
        await work();
      } catch (error) {
        errno = errnoOf(error);
        this.#failed(errno);
      }
    }
    io.complete(errno);
  }

  /**
   * Ceph shortens an object whose end is zeroed. Its length is to stay: so the end is looked up, and one zero byte written there. That is
   * right beside writes that lengthen the object meanwhile, as cutting it to its former length would not be.
   */
  async #zero(io: ObjectIo): Promise<void> {
    const { name, offset, length, deadline } = io;
    try {
      await this.#connection.attempt(async (pool) => {
        const { size } = await pool.stat(name);
        if (length === 0 || offset >= size) return;
        const steps: WriteStep[] = [ASSERT_EXISTS, { do: 'zero', offset, length: Math.min(length, size - offset) }];
        if (offset + length >= size) steps.push({ do: 'write', data: ONE_ZERO, offset: size - 1 });
        await this.#change(pool, name, steps, deadline);
      });
    } catch (error) {
      // What is not there reads as zeros already.
      if (!isErrno(error, errnos.ENOENT)) throw error;
    }
  }

  /** Zeros that take space. */
  async #fill(io: ObjectIo): Promise<void> {
    const { name, offset, length, deadline } = io;
    const whole = length - (length % ZEROS.length);
    const steps: WriteStep[] = [CREATE];
    if (whole > 0) steps.push({ do: 'writeSame', data: ZEROS, offset, length: whole });
    if (whole < length) steps.push({ do: 'write', data: ZEROS.subarray(0, length - whole), offset: offset + whole });
    await this.#connection.attempt((pool) => this.#change(pool, name, steps, deadline));
  }

  /** @throws SystemError ETIME, not before the deadline */
  #change(pool: Pool, name: string, steps: readonly WriteStep[], deadline: number): Promise<void> {
    const connection = this.#connection;
    if (connection.mayChange(deadline)) return pool.operate(name, steps, deadline);
    return new Promise((resolve, reject) => {
      const refuse = (errno: number): void => reject(new SystemError(errno, adviceFor(errno)));
      connection.expire({ deadline, resume: resolve, refuse });
    });
  }
}
