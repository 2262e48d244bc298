/**
 * A bound port: the place from which a peer asks and at which it serves. One process owns it; its request records and data
 * buffers are counted against it in the segment, so that one port cannot starve the others and a dead one can be cleaned up.
 */
import { errnos, SystemError } from '../sys/errno.js';
import type { BufferCache } from './buffers.js';
import type { Request } from './request.js';
import type { Segment } from './segment.js';

/** What a cold request carries; what is left out is 0 or empty. */
export interface CallInit {
  readonly op: number;
  readonly target?: string;
  readonly offset?: number;
  /** Default: the length of `data`, else `capacity`. */
  readonly size?: number;
  readonly flags?: number;
  readonly v0Size?: number;
  /** Copied into the request's buffer. */
  readonly data?: Uint8Array;
  /** Size of the data buffer for the answer, if larger than `data`, in bytes. */
  readonly capacity?: number;
}

export interface CallReply {
  /** What the server said it serviced: bytes, or the length of its JSON. */
  readonly serviced: number;
  /** A copy of the whole data buffer. */
  readonly data: Buffer;
}

export interface CallOptions {
  /**
   * false (default): fail with ECONNREFUSED when no living peer owns the port, and with ECONNRESET when it dies meanwhile.
   * true: wait for a successor, as daemons do while a role is restarted.
   */
  readonly wait?: boolean;
}

/** How often a call looks whether its server is alive. */
const LIVENESS_MS = 250;
/** How long a cold call waits for a request record or buffer before it gives up. */
const SHORTAGE_PATIENCE_MS = 10_000;

export class Port {
  readonly number: number;
  readonly segment: Segment;
  readonly name: string;
  readonly #buffers: BufferCache;
  readonly #requests: number[] = [];
  #handler: ((request: Request) => void) | null = null;
  #closed = false;

  /** Made by Segment.bind. */
  constructor(segment: Segment, number: number, name: string, buffers: BufferCache) {
    this.segment = segment;
    this.number = number;
    this.name = name;
    this.#buffers = buffers;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /**
   * Serves requests that come to this port. The handler must answer each request once, now or later. What is already in the queue
   * is delivered in the next turn.
   */
  serve(handler: (request: Request) => void): void {
    this.#handler = handler;
    this.segment.wake(this);
  }

  /** A cleared request record, or null when the port holds as many as it may or the table is empty. */
  getRequest(): Request | null {
    let index = this.#requests.pop();
    if (index === undefined) {
      if (!this.segment.takeRequests(this.number, this.#requests)) return null;
      index = this.#requests.pop() as number;
    }
    const request = this.segment.request(index);
    request.reset();
    return request;
  }

  /** Gives a record back: after its reply, or when it was never submitted. Its data stays allocated. */
  putRequest(request: Request): void {
    request.onReply = null;
    request.context = null;
    this.#requests.push(request.index);
    if (this.#requests.length > 256) this.segment.returnRequests(this.number, this.#requests.splice(128));
  }

  /** Allocates a data buffer of at least `length` bytes: its segment offset, or -1 when there is none now. */
  allocate(length: number): number {
    return this.#buffers.allocate(length);
  }

  /** Frees what allocate gave. */
  free(offset: number): void {
    this.#buffers.free(offset);
    this.segment.notifyAvailable();
  }

  /** Usable length of an allocated buffer in bytes. */
  bufferLength(offset: number): number {
    return this.#buffers.length(offset);
  }

  /**
   * Sends a request to a port; its onReply is called with the answer, in a later step of this process.
   * @throws SystemError ENXIO no such port; EAGAIN the queue is full: try again after a reply
   */
  submit(request: Request, dst: number): void {
    this.segment.submit(this, request, dst);
  }

  /** Forwards this port's accepted request's handler errors and unknown operations; called by the segment. */
  accept(request: Request): void {
    const handler = this.#handler;
    if (!handler) {
      request.fail(errnos.EOPNOTSUPP, `port ${this.number} (${this.name}) serves no requests`);
      return;
    }
    handler(request);
  }

  get serving(): boolean {
    return this.#handler !== null;
  }

  /**
   * Sends a request and waits for its answer: the cold path, with copies.
   * @throws SystemError with the server's errno and message, or the transport's (ECONNREFUSED, ECONNRESET, ENOMEM, …)
   */
  async call(dst: number, init: CallInit, options: CallOptions = {}): Promise<CallReply> {
    const wait = options.wait ?? false;
    if (!wait) this.segment.requireAlive(dst);
    const request = await this.#shortage(() => this.getRequest(), 'request records');
    const capacity = Math.max(init.capacity ?? 0, init.data?.length ?? 0);
    let buffer = 0;
    try {
      if (capacity > 0) {
        buffer = await this.#shortage(() => {
          const offset = this.allocate(capacity);
          return offset < 0 ? null : offset;
        }, `data buffers of ${capacity} bytes`);
        request.setData(buffer, capacity);
        const data = request.data;
        if (init.data) data.set(init.data);
        data.fill(0, init.data?.length ?? 0);
      }
      request.op = init.op;
      request.target = init.target ?? '';
      request.offset = init.offset ?? 0;
      request.size = init.size ?? init.data?.length ?? init.capacity ?? 0;
      request.flags = init.flags ?? 0;
      request.v0Size = init.v0Size ?? -1;
    } catch (error) {
      if (buffer > 0) this.free(buffer);
      this.putRequest(request);
      throw error;
    }
    return this.#exchange(request, dst, buffer, wait);
  }

  #exchange(request: Request, dst: number, buffer: number, wait: boolean): Promise<CallReply> {
    return new Promise((resolve, reject) => {
      let watch: NodeJS.Timeout | undefined;
      const finish = (): void => {
        clearInterval(watch);
        this.segment.unref();
        if (buffer > 0) this.free(buffer);
        this.putRequest(request);
      };
      request.onReply = (): void => {
        const data = buffer > 0 ? Buffer.from(request.data) : Buffer.alloc(0);
        const { served, serviced, errno, message, op } = request;
        finish();
        if (served) resolve({ serviced, data });
        else reject(new ReplyError(errno, message || `request ${op} to port ${dst} failed`, serviced));
      };
      this.segment.ref();
      try {
        this.submit(request, dst);
      } catch (error) {
        finish();
        reject(error);
        return;
      }
      if (wait) return;
      watch = setInterval(() => {
        if (this.segment.portOwner(dst)?.alive) return;
        clearInterval(watch);
        this.segment.unref();
        // The record and its buffer are still known to the dead peer's queue: they come back with its recovery.
        this.segment.abandon(request);
        reject(new SystemError(errnos.ECONNRESET, `the peer on port ${dst} went away during the request`));
      }, LIVENESS_MS);
    });
  }

  async #shortage<T>(take: () => T | null, what: string): Promise<T> {
    const deadline = Date.now() + SHORTAGE_PATIENCE_MS;
    for (;;) {
      const taken = take();
      if (taken !== null) return taken;
      if (Date.now() > deadline) {
        throw new SystemError(errnos.ENOMEM, `the segment has no ${what} left; raise SEGMENT_SIZE in [XSEG]`);
      }
      await new Promise<void>((resolve) => this.segment.whenAvailable(resolve));
    }
  }

  /** Releases the port with everything it holds. Requests still in its queue wait for the next owner. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#handler = null;
    this.#buffers.drain();
    this.segment.returnRequests(this.number, this.#requests.splice(0));
    this.segment.unbind(this);
  }
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
