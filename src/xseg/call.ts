/** A cold request with its answer as a promise: buffers are copied, a dead server is noticed. */
import { monotonicMs } from '../sys/clock.js';
import { errnoOf, errnos, SystemError } from '../sys/errno.js';
import type { Port } from './port.js';
import type { Request } from './request.js';

/** What a cold request carries; what is left out is 0 or empty. */
export interface CallInit {
  readonly op: number;
  readonly target?: string;
  readonly offset?: number;
  /** Default: the length of `data`, else `capacity`. */
  readonly size?: number;
  readonly flags?: number;
  readonly v0Size?: number;
  /** See Request.deadline; default 0. */
  readonly deadline?: number;
  /** See Request.note; default empty. */
  readonly note?: string;
  /** Copied into the request's buffer. */
  readonly data?: Uint8Array;
  /** Size of the data buffer for the answer, if larger than `data`, in bytes. */
  readonly capacity?: number;
  /**
   * The answer is the first `serviced` bytes of the buffer: only these are copied, and what is behind `data` is not cleared. For buffers that have
   * room for the longest answer when nearly all are short.
   */
  readonly brief?: boolean;
  /** The answer has no data: none is copied. */
  readonly silent?: boolean;
  /** Memory of the caller's that the answer is copied to, if it fits: new memory costs more than what is copied to it. */
  readonly into?: Buffer;
}

export interface CallReply {
  /** What the server said it serviced: bytes, or the length of its JSON. */
  readonly serviced: number;
  /** A copy of the whole data buffer, or of what was serviced (CallInit.brief), perhaps in CallInit.into; empty for a silent one. */
  readonly data: Buffer;
}

export interface CallOptions {
  /**
   * false (default): fail with ECONNREFUSED when no living peer owns the port, and with ECONNRESET when it dies meanwhile.
   * true: wait for a successor, as daemons do while a role is restarted.
   */
  readonly wait?: boolean;
  /**
   * Without `wait`: is a successor, who finishes what was begun, still hoped for when the peer died meanwhile? Asked a few times a second,
   * with the milliseconds since it was seen alive. Default: no.
   */
  readonly hopes?: (awayMs: number) => boolean;
  /** Milliseconds after which the call fails with ETIMEDOUT. The server may have done the work, or do it yet. */
  readonly timeout?: number;
}

/** A server's refusal: errno, its message, and what it said it serviced (ERANGE: the length that is needed). */
export class ReplyError extends SystemError {
  readonly serviced: number;
  constructor(errno: number, message: string, serviced: number) {
    super(errno, message);
    this.name = 'ReplyError';
    this.serviced = serviced;
  }
}

const NOTHING = Buffer.alloc(0);
/** How often a call looks whether its server is alive. */
const LIVENESS_MS = 250;
/** How long a cold call waits for a request record or buffer before it gives up. */
const SHORTAGE_PATIENCE_MS = 10_000;

/** The calls of one port. */
export class Calls {
  readonly #port: Port;
  /** What ends each running call when the port closes. */
  readonly #running = new Set<(error: SystemError) => void>();

  constructor(port: Port) {
    this.#port = port;
  }

  /** Port.call. */
  async call(dst: number, init: CallInit, options: CallOptions): Promise<CallReply> {
    const port = this.#port;
    if (!options.wait) port.segment.requireAlive(dst);
    if (port.isSettling) await port.settled();
    const request = await this.#shortage(() => port.getRequest(), 'request records');
    const capacity = Math.max(init.capacity ?? 0, init.data?.length ?? 0);
    let buffer = 0;
    try {
      if (capacity > 0) {
        buffer = await this.#shortage(() => {
          const offset = port.allocate(capacity);
          return offset < 0 ? null : offset;
        }, `data buffers of ${capacity} bytes`);
        request.setData(buffer, capacity);
        fillData(request, init);
        if (init.data && init.capacity !== undefined) request.wantResend();
      }
      request.op = init.op;
      request.target = init.target ?? '';
      request.offset = init.offset ?? 0;
      request.size = init.size ?? init.data?.length ?? init.capacity ?? 0;
      request.flags = init.flags ?? 0;
      request.v0Size = init.v0Size ?? -1;
      request.deadline = init.deadline ?? 0;
      if (init.note) request.note = init.note;
    } catch (error) {
      this.#release(request, buffer);
      throw error;
    }
    return this.#exchange(request, dst, buffer, init, options);
  }

  /** Ends all calls: their port closes. */
  close(error: SystemError): void {
    for (const end of [...this.#running]) end(error);
  }

  #release(request: Request, buffer: number): void {
    if (buffer > 0) this.#port.free(buffer);
    this.#port.putRequest(request);
  }

  #exchange(request: Request, dst: number, buffer: number, init: CallInit, options: CallOptions): Promise<CallReply> {
    const { segment } = this.#port;
    return new Promise((resolve, reject) => {
      let watch: NodeJS.Timeout | undefined;
      let timeout: NodeJS.Timeout | undefined;
      /** Not submitted: the server's queue is full. */
      let waiting = false;
      const settle = (): void => {
        clearInterval(watch);
        clearTimeout(timeout);
        this.#running.delete(giveUp);
        segment.unref();
      };
      const giveUp = (error: SystemError): void => {
        settle();
        // Withdrawn, or still being worked on: then record and buffer come back with the answer.
        if (waiting || segment.withdraw(request)) this.#release(request, buffer);
        else request.onReply = (): void => this.#release(request, buffer);
        waiting = false;
        reject(error);
      };
      request.onReply = (): void => {
        if (request.mustResend) {
          // The server died, perhaps while it wrote its answer over what it was asked.
          fillData(request, init);
          request.wantResend();
          submit(Date.now() + SHORTAGE_PATIENCE_MS);
          return;
        }
        settle();
        const { served, serviced, errno, message, op } = request;
        const data = buffer > 0 && !init.silent ? copyData(request, init, serviced) : NOTHING;
        this.#release(request, buffer);
        if (served) resolve({ serviced, data });
        else reject(new ReplyError(errno, message || `request ${op} to port ${dst} failed`, serviced));
      };
      const submit = (deadline: number): void => {
        try {
          this.#port.submit(request, dst);
          waiting = false;
        } catch (error) {
          waiting = true;
          const full = errnoOf(error) === errnos.EAGAIN && Date.now() < deadline;
          if (full) segment.whenAvailable(() => waiting && submit(deadline));
          else giveUp(error as SystemError);
        }
      };
      segment.ref();
      this.#running.add(giveUp);
      if (options.timeout !== undefined) {
        const limit = `the peer on port ${dst} did not answer request ${request.op} within ${options.timeout} ms`;
        timeout = setTimeout(() => giveUp(new SystemError(errnos.ETIMEDOUT, limit)), options.timeout);
      }
      if (!options.wait) {
        let served = monotonicMs();
        watch = setInterval(() => {
          const now = monotonicMs();
          if (segment.isServed(dst)) served = now;
          if (served === now || options.hopes?.(now - served)) return;
          giveUp(new SystemError(errnos.ECONNRESET, `the peer on port ${dst} went away during the request`));
        }, LIVENESS_MS);
      }
      submit(Date.now() + SHORTAGE_PATIENCE_MS);
    });
  }

  async #shortage<T>(take: () => T | null, what: string): Promise<T> {
    const deadline = Date.now() + SHORTAGE_PATIENCE_MS;
    for (;;) {
      this.#port.requireOpen();
      const taken = take();
      if (taken !== null) return taken;
      if (Date.now() > deadline) {
        throw new SystemError(errnos.ENOMEM, `the segment has no ${what} left; raise SEGMENT_SIZE in [XSEG]`);
      }
      await new Promise<void>((resolve) => this.#port.segment.whenAvailable(resolve));
    }
  }
}

/** Puts the body into the request's buffer and clears the rest of it. */
function fillData(request: Request, { data: body, brief }: CallInit): void {
  const data = request.data;
  if (body) data.set(body);
  if (!brief) data.fill(0, body?.length ?? 0);
}

function copyData(request: Request, { brief, into }: CallInit, serviced: number): Buffer {
  const { data } = request;
  const answer = brief ? data.subarray(0, Math.max(0, serviced)) : data;
  if (!into || into.length < answer.length) return Buffer.from(answer);
  into.set(answer);
  return into.subarray(0, answer.length);
}
