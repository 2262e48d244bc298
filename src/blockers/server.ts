/**
 * The blocker: serves a driver on a port. Checks a request before it does anything, and answers each with its own errno and a
 * sentence. Data requests, those about locks, and the others run in a lane each: no read waits behind sixteen copies, and no look at
 * the locks, on which all writing depends, behind sixteen flushes. Fencing, which takes long where a store is in trouble, has another.
 */
import type { Logger } from 'pino';
import { Flag, Op, opName } from '../requests/ops.js';
import { errnoOf, errnos, messageOf } from '../sys/errno.js';
import type { DirectRequest, Port, Request } from '../xseg/index.js';
import { RangeTooSmall } from './answer.js';
import { runCold } from './cold.js';
import type { Driver } from './driver.js';
import { adviceFor, checkDeadline, isLate } from './errors.js';
import { FailureLog } from './failure-log.js';
import { Lane } from './lane.js';
import { newsRequest } from './lock-requests.js';
import { NewsRequests } from './news-requests.js';
import { RequestIo } from './request-io.js';

const isHot = (op: number): boolean => op === Op.READ || op === Op.WRITE || op === Op.TRIM || op === Op.WRITE_ZEROES;

/** A flush of one object alone. */
const isOfObject = ({ op, size, targetLength }: Request): boolean => op === Op.FLUSH && size === 0 && targetLength > 0;

/** What is quick and what others wait for: locks, and what tells how the blocker does. */
const brief = new Set<number>([
  Op.PING,
  Op.STATUS,
  Op.ACQUIRE,
  Op.RELEASE,
  Op.LOCKINFO,
  Op.LOCKCHECK,
  Op.LOCKMAIL,
  Op.LOCKS,
  Op.FORGET,
]);

/** Nodes that are fenced at the same time. */
const FENCES = 4;

export interface BlockerOptions {
  /** Bound; the blocker serves on it and closes it in stop. */
  readonly port: Port;
  /** Open; closed in stop. */
  readonly driver: Driver & { status?(): object };
  /** Requests running at the same time, of data, of locks and of the other operations each. */
  readonly nrOps: number;
  readonly log: Logger;
}

export class Blocker {
  readonly #port: Port;
  readonly #driver: Driver & { status?(): object };
  readonly #failures: FailureLog;
  readonly #maxIo: number;
  readonly #pool: RequestIo[] = [];
  readonly #hot: Lane;
  readonly #cold: Lane;
  readonly #brief: Lane;
  readonly #fencing: Lane;
  readonly #news = new NewsRequests();
  /** Requests and failures by operation number. */
  readonly #served = new Float64Array(128);
  readonly #failed = new Float64Array(128);
  #bytesRead = 0;
  #bytesWritten = 0;

  constructor({ port, driver, nrOps, log }: BlockerOptions) {
    this.#port = port;
    this.#driver = driver;
    this.#failures = new FailureLog(log);
    this.#hot = new Lane(Math.max(1, nrOps), (request) => this.#runHot(request));
    this.#cold = new Lane(Math.max(1, nrOps), (request) => {
      if (driver.flushObject && isOfObject(request)) this.#flushObject(request);
      else void this.#runCold(request, this.#cold);
    });
    this.#brief = new Lane(Math.max(1, nrOps), (request) => void this.#runCold(request, this.#brief));
    this.#fencing = new Lane(FENCES, (request) => void this.#runCold(request, this.#fencing));
    this.#maxIo = driver.capabilities.maxIo;
  }

  /** Begins to serve. */
  start(): void {
    this.#port.serve(
      (request) => {
        const { op } = request;
        if (isHot(op)) this.#hot.enter(request);
        else if (brief.has(op)) this.#brief.enter(request);
        else if (op === Op.NEWS) void this.#runNews(request);
        else if (op === Op.FENCE) this.#fencing.enter(request);
        else this.#cold.enter(request);
      },
      this.#driver.direct ? this.#direct : null,
    );
  }

  /** The short way for a role of this process, where the driver knows one. */
  readonly #direct = (request: DirectRequest): boolean => {
    const { op, offset, size, deadline } = request;
    if (!this.#hot.isOpen || size > this.#maxIo || offset + size > Number.MAX_SAFE_INTEGER) return false;
    if ((deadline !== 0 && isLate(deadline)) || !this.#driver.direct?.(request)) return false;
    this.#served[op]++;
    if (op === Op.READ) this.#bytesRead += size;
    else this.#bytesWritten += size;
    return true;
  };

  /** Finishes what runs, leaves what waits to the port's next owner, makes everything durable and closes the driver. */
  async stop(): Promise<void> {
    this.#news.stop();
    await Promise.all([this.#hot.stop(), this.#cold.stop(), this.#brief.stop(), this.#fencing.stop()]);
    this.#port.close();
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
      inFlight: this.#lanes((lane) => lane.running),
      waiting: this.#lanes((lane) => lane.waiting),
      bytesRead: this.#bytesRead,
      bytesWritten: this.#bytesWritten,
      operations,
      store: this.#driver.status?.() ?? {},
    };
  }

  #lanes(count: (lane: Lane) => number): number {
    return count(this.#hot) + count(this.#cold) + count(this.#brief) + count(this.#fencing);
  }

  #runHot(request: Request): void {
    const { op } = request;
    if (!this.#isSound(request)) {
      this.#hot.leave();
      return;
    }
    const io = this.#pool.pop() ?? new RequestIo(this.#finished);
    io.begin(request);
    if (op === Op.READ) this.#driver.read(io);
    else if (op === Op.WRITE) this.#driver.write(io);
    else if (op === Op.TRIM) this.#driver.trim(io);
    else this.#driver.writeZeroes(io);
  }

  /** A flush of one object, which comes before the answer to most flushes of a client: as a hot request, but not among them. */
  #flushObject(request: Request): void {
    const io = this.#pool.pop() ?? new RequestIo(this.#finished);
    io.begin(request);
    this.#driver.flushObject?.(io);
  }

  /** Checks a hot request completely; an unsound one is answered. */
  #isSound(request: Request): boolean {
    const { op, offset, size, dataLength, deadline } = request;
    // Asked here, in the turn in which the driver begins: also of what has waited in the lane.
    if (deadline !== 0 && isLate(deadline)) return this.#refuse(request, errnos.ETIME, adviceFor(errnos.ETIME));
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
      this.#failures.tell(op, errno);
    }
    if (op === Op.FLUSH) this.#cold.leave();
    else this.#hot.leave();
  };

  async #runCold(request: Request, lane: Lane): Promise<void> {
    try {
      await this.#answer(request, () => runCold(this.#driver, request, () => this.status()));
    } finally {
      lane.leave();
    }
  }

  async #runNews(request: Request): Promise<void> {
    await this.#answer(request, () => newsRequest(this.#driver, this.#news, request));
  }

  /** Answers the request with what `run` resolves to, or with why it failed. */
  async #answer(request: Request, run: () => Promise<number>): Promise<void> {
    const { op } = request;
    try {
      // Of a flush the driver says what is too late: what was written becomes durable at any time.
      if (op !== Op.FLUSH) checkDeadline(request.deadline);
      if (request.dataLength > 0 && !request.hasValidData) {
        request.fail(errnos.EFAULT, `${opName(op)}: the data is not in the segment`);
        this.#failed[op & 127]++;
        return;
      }
      request.succeed(await run());
      this.#served[op & 127]++;
    } catch (error) {
      const errno = errnoOf(error);
      this.#failed[op & 127]++;
      this.#failures.tell(op, errno, request.target, error);
      request.fail(errno, `${opName(op)}: ${messageOf(error)}`, error instanceof RangeTooSmall ? error.needed : 0);
    }
  }
}
