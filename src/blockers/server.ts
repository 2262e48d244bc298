/**
 * The blocker: serves a driver on a port. Checks a request before it does anything, keeps at most nrOps of them running and the
 * others in order of arrival, and answers each with its own errno and a sentence.
 */
import type { Logger } from 'pino';
import { Flag, Op, opName } from '../requests/ops.js';
import { errnoName, errnoOf, errnos, messageOf } from '../sys/errno.js';
import type { Port, Request } from '../xseg/index.js';
import { RangeTooSmall, runCold } from './cold.js';
import type { Driver } from './driver.js';
import { RequestIo } from './request-io.js';

/** Errors that are answers, not trouble: they are not worth a line in the log. */
const expected = new Set<number>([
  errnos.ENOENT,
  errnos.EEXIST,
  errnos.EBUSY,
  errnos.ERANGE,
  errnos.EOPNOTSUPP,
  errnos.EPERM,
]);

export interface BlockerOptions {
  /** Bound; the blocker serves on it and closes it in stop. */
  readonly port: Port;
  /** Open; closed in stop. */
  readonly driver: Driver & { status?(): object };
  /** Requests running at the same time. */
  readonly nrOps: number;
  readonly log: Logger;
}

export class Blocker {
  readonly #port: Port;
  readonly #driver: Driver & { status?(): object };
  readonly #log: Logger;
  readonly #nrOps: number;
  readonly #maxIo: number;
  readonly #pool: RequestIo[] = [];
  #inFlight = 0;
  /** Requests that wait for their turn; a ring would not pay, it is empty nearly always. */
  #waiting: Request[] = [];
  #stopping = false;
  #drained: (() => void)[] = [];
  /** Requests and failures by operation number. */
  readonly #served = new Float64Array(128);
  readonly #failed = new Float64Array(128);
  #bytesRead = 0;
  #bytesWritten = 0;

  constructor({ port, driver, nrOps, log }: BlockerOptions) {
    this.#port = port;
    this.#driver = driver;
    this.#log = log;
    this.#nrOps = Math.max(1, nrOps);
    this.#maxIo = driver.capabilities.maxIo;
  }

  /** Begins to serve. */
  start(): void {
    this.#port.serve((request) => this.#accept(request));
  }

  /** Finishes what runs, leaves what waits to the port's next owner, makes everything durable and closes the driver. */
  async stop(): Promise<void> {
    this.#stopping = true;
    while (this.#inFlight > 0) await new Promise<void>((resolve) => this.#drained.push(resolve));
    this.#port.close();
    this.#waiting = [];
    await this.#driver.close();
  }

  status(): object {
    const operations: Record<string, { served: number; failed: number }> = {};
    for (let op = 0; op < this.#served.length; op++) {
      if (this.#served[op] + this.#failed[op] > 0) {
        operations[opName(op)] = { served: this.#served[op], failed: this.#failed[op] };
      }
    }
    return {
      role: 'blocker',
      inFlight: this.#inFlight,
      waiting: this.#waiting.length,
      bytesRead: this.#bytesRead,
      bytesWritten: this.#bytesWritten,
      operations,
      store: this.#driver.status?.() ?? {},
    };
  }

  #accept(request: Request): void {
    if (this.#inFlight >= this.#nrOps || this.#stopping) this.#waiting.push(request);
    else this.#run(request);
  }

  #run(request: Request): void {
    const { op } = request;
    const hot = op === Op.READ || op === Op.WRITE || op === Op.TRIM || op === Op.WRITE_ZEROES;
    if (!hot) {
      this.#inFlight++;
      void this.#runCold(request);
      return;
    }
    if (!this.#isSound(request)) return;
    this.#inFlight++;
    const io = this.#pool.pop() ?? new RequestIo(this.#finished);
    io.begin(request);
    if (op === Op.READ) this.#driver.read(io);
    else if (op === Op.WRITE) this.#driver.write(io);
    else if (op === Op.TRIM) this.#driver.trim(io);
    else this.#driver.writeZeroes(io);
  }

  /** Checks a hot request completely; an unsound one is answered. */
  #isSound(request: Request): boolean {
    const { op, offset, size, dataLength } = request;
    if (!(offset >= 0 && size >= 0 && offset + size <= Number.MAX_SAFE_INTEGER)) {
      return this.#refuse(request, errnos.EINVAL, `range ${offset}+${size} is not one of an object`);
    }
    if (op === Op.READ || op === Op.WRITE) {
      if (size > this.#maxIo) return this.#refuse(request, errnos.EINVAL, `${size} bytes; the limit is ${this.#maxIo}`);
      if (size > dataLength || (size > 0 && !request.hasValidData)) {
        return this.#refuse(request, errnos.EINVAL, `${size} bytes asked, a buffer of ${dataLength} given`);
      }
    } else if ((request.flags & (Flag.NO_HOLE | Flag.FAST_ZERO)) === (Flag.NO_HOLE | Flag.FAST_ZERO)) {
      return this.#refuse(request, errnos.EOPNOTSUPP, 'allocated zeros may be as slow as writing them');
    }
    return true;
  }

  #refuse(request: Request, errno: number, reason: string): false {
    this.#failed[request.op & 127]++;
    request.fail(errno, `${opName(request.op)} of object ${request.target}: ${reason}`);
    this.#next();
    return false;
  }

  readonly #finished = (io: RequestIo, op: number, errno: number): void => {
    this.#pool.push(io);
    if (errno === 0) {
      this.#served[op]++;
      if (op === Op.READ) this.#bytesRead += io.length;
      else if (op === Op.WRITE) this.#bytesWritten += io.length;
    } else {
      this.#failed[op]++;
      if (!expected.has(errno)) this.#log.error({ op: opName(op), errno: errnoName(errno) }, 'a request failed');
    }
    this.#inFlight--;
    this.#next();
  };

  async #runCold(request: Request): Promise<void> {
    const { op } = request;
    try {
      if (request.dataLength > 0 && !request.hasValidData) {
        request.fail(errnos.EFAULT, `${opName(op)}: the data is not in the segment`);
        this.#failed[op & 127]++;
        return;
      }
      request.succeed(await runCold(this.#driver, request, () => this.status()));
      this.#served[op & 127]++;
    } catch (error) {
      const errno = errnoOf(error);
      this.#failed[op & 127]++;
      if (!expected.has(errno))
        this.#log.error({ op: opName(op), target: request.target, err: error }, 'a request failed');
      request.fail(errno, `${opName(op)}: ${messageOf(error)}`, error instanceof RangeTooSmall ? error.needed : 0);
    } finally {
      this.#inFlight--;
      this.#next();
    }
  }

  /** Starts what waits, once there is room; after the last of a stop, says so. */
  #next(): void {
    if (this.#stopping) {
      if (this.#inFlight > 0) return;
      const drained = this.#drained;
      this.#drained = [];
      for (const wake of drained) wake();
      return;
    }
    if (this.#waiting.length === 0 || this.#starting) return;
    // A driver may complete within its call: without the guard each completion would start the next one a call deeper.
    this.#starting = true;
    let started = 0;
    while (started < this.#waiting.length && this.#inFlight < this.#nrOps) this.#run(this.#waiting[started++]);
    this.#waiting.splice(0, started);
    this.#starting = false;
  }
  #starting = false;
}
