/**
 * A bound port: the place from which a peer asks and at which it serves. One process owns it; its request records and data
 * buffers are counted against it in the segment, so that one port cannot starve the others and a dead one can be cleaned up.
 */
import { errnos, SystemError } from '../sys/errno.js';
import type { BufferCache } from './buffers.js';
import { type CallInit, type CallOptions, type CallReply, Calls } from './call.js';
import type { DirectServer } from './direct.js';
import { R, RequestState } from './layout.js';
import type { Request } from './request.js';
import type { Segment } from './segment.js';

/** Records that a port keeps at hand, and what is left of them when it gives some back. */
const KEEP_RECORDS = 256;
const KEEP_RECORDS_SHARE = 1 / 16;

export class Port {
  readonly number: number;
  readonly segment: Segment;
  readonly name: string;
  readonly #buffers: BufferCache;
  readonly #calls: Calls;
  /** Records at hand, by index. */
  readonly #spare: number[] = [];
  readonly #keep: number;
  readonly #u32: Uint32Array;
  #handler: ((request: Request) => void) | null = null;
  #direct: DirectServer | null = null;
  #closed = false;

  /** Made by Segment.bind. */
  constructor(segment: Segment, number: number, name: string, buffers: BufferCache) {
    this.segment = segment;
    this.number = number;
    this.name = name;
    this.#buffers = buffers;
    this.#calls = new Calls(this);
    this.#u32 = segment.memory.u32;
    this.#keep = Math.min(KEEP_RECORDS, segment.geometry.requests * KEEP_RECORDS_SHARE);
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** @throws SystemError ECANCELED when the port is closed */
  requireOpen(): void {
    if (this.#closed) throw new SystemError(errnos.ECANCELED, `port ${this.number} (${this.name}) is closed`);
  }

  /**
   * Serves requests that come to this port. The handler must answer each request once, now or later. What is already in the queue
   * is delivered first, in the next step; after a predecessor's death not before `settled`.
   * @param direct serves askers of this process without a request, where it can
   */
  serve(handler: (request: Request) => void, direct: DirectServer | null = null): void {
    this.requireOpen();
    this.#handler = handler;
    this.#direct = direct;
    this.segment.startServing(this);
  }

  /**
   * Resolves when nothing is under way any more that this port's last, dead owner had sent to living peers. serve and call wait for
   * it by themselves; who submits writes on its own account waits here first, else an old write may land on top of a new one.
   */
  settled(): Promise<void> {
    return this.segment.settled(this);
  }

  /** Does the port wait for its predecessor's requests? */
  get isSettling(): boolean {
    return this.segment.isSettling(this);
  }

  /** A cleared request record, or null when the port holds as many as it may, the table is empty, or the port is closed. */
  getRequest(): Request | null {
    let index = this.#spare.pop();
    if (index === undefined) {
      if (this.#closed || !this.segment.takeRequests(this.number, this.#spare)) return null;
      index = this.#spare.pop() as number;
    }
    const request = this.segment.request(index);
    request.reset();
    request.spare = false;
    return request;
  }

  /**
   * Gives a record back: after its reply, or when it was never submitted. Its data stays allocated.
   * @throws SystemError EINVAL when it is in flight or was given back before
   */
  putRequest(request: Request): void {
    if (this.#closed) return;
    const u32 = this.#u32;
    const { word } = request;
    if (request.spare || u32[word + R.STATE] !== RequestState.HELD || u32[word + R.SRC] !== this.number) {
      throw new SystemError(errnos.EINVAL, `request ${request.index} is in flight, or was given back before`);
    }
    request.onReply = null;
    request.context = null;
    request.spare = true;
    this.#spare.push(request.index);
    if (this.#spare.length > this.#keep) {
      this.segment.returnRequests(this.number, this.#spare.splice(this.#keep >> 1));
    }
    this.segment.notifyAvailable();
  }

  /** Allocates a data buffer of at least `length` bytes: its segment offset, or -1 when there is none now. */
  allocate(length: number): number {
    return this.#closed ? -1 : this.#buffers.allocate(length);
  }

  /** Frees what allocate gave. @throws SystemError EINVAL when that is not a buffer of this port, or freed already */
  free(offset: number): void {
    // With the port all its buffers went.
    if (this.#closed) return;
    this.#buffers.free(offset);
    this.segment.notifyAvailable();
  }

  /** Usable length of an allocated buffer in bytes. */
  bufferLength(offset: number): number {
    return this.#buffers.length(offset);
  }

  /**
   * Sends a request to a port; its onReply is called with the answer, in a later step of this process.
   * @throws SystemError ENXIO no such port; EAGAIN the queue is full: try again after a reply; ECANCELED the port is closed;
   * EINVAL the request is in flight already
   */
  submit(request: Request, dst: number): void {
    this.segment.submit(this, request, dst);
  }

  /** Hands a request to the handler; called by the segment. */
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

  /** What serve was given for askers of this process. */
  get direct(): DirectServer | null {
    return this.#direct;
  }

  /** The short way to a port that this process serves; null: there is none, or not now. */
  directTo(dst: number): DirectServer | null {
    return this.segment.directTo(dst);
  }

  /**
   * Sends a request and waits for its answer: the cold path, with copies.
   * @throws SystemError with the server's errno and message, or the transport's (ECONNREFUSED, ECONNRESET, ETIMEDOUT, ENOMEM,
   * ECANCELED when the port is closed meanwhile, …)
   */
  call(dst: number, init: CallInit, options: CallOptions = {}): Promise<CallReply> {
    return this.#calls.call(dst, init, options);
  }

  /** Gives spare records and buffers back to the segment, for others. */
  giveBackSpare(): void {
    this.#buffers.drain();
    this.segment.returnRequests(this.number, this.#spare.splice(0));
  }

  /**
   * Releases the port with everything it holds. Requests still in its queue, and those that it accepted and did not answer, wait for
   * the next owner. Running calls fail with ECANCELED; other requests in flight get no onReply.
   */
  close(): void {
    if (this.#closed) return;
    this.#calls.close(new SystemError(errnos.ECANCELED, `port ${this.number} (${this.name}) was closed`));
    this.#closed = true;
    this.#handler = null;
    this.#direct = null;
    this.#spare.length = 0;
    this.segment.unbind(this);
  }
}
