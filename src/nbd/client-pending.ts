/**
 * One request of a client until its last reply chunk: collects the answer and checks that it is one to this request. Anything else is
 * the server's breach of the protocol and ends the connection.
 */
import { Command, commandName, WireError } from './constants.js';
import type { Extent } from './device.js';
import { NbdError, ProtocolError } from './errors.js';

/** A request's content chunks may come in any order; more gaps than this between them no honest server leaves. */
const MAX_GAPS = 64 * 1024;

const knownErrors = new Set<number>(Object.values(WireError));

export interface PendingOptions {
  readonly command: number;
  /** Byte of the export. */
  readonly offset: number;
  /** Bytes the request is about. */
  readonly length: number;
  /** READ: where the data goes; its length is the request's. */
  readonly target?: Buffer;
  /** What is sent with the request. */
  readonly payload?: Uint8Array;
  /** BLOCK_STATUS: names of the meta contexts that must be answered, by id. */
  readonly contexts?: ReadonlyMap<number, string>;
  readonly reqOne?: boolean;
  readonly df?: boolean;
}

export class Pending {
  readonly command: number;
  readonly offset: number;
  readonly length: number;
  readonly target: Buffer | null;
  readonly extents = new Map<string, Extent[]>();
  readonly #options: PendingOptions;
  /** Bytes of memory it takes on its way: what limits count. */
  readonly cost: number;
  /** What the server has against it; the first word counts. */
  error: NbdError | null = null;
  /** Bytes of the target that have their content. */
  #received = 0;
  #contentChunks = 0;
  /** End of the furthest content so far, and what was left out before it: from, to (exclusive), ascending, relative to the target. */
  #high = 0;
  #gaps: [number, number][] = [];

  constructor(
    options: PendingOptions,
    readonly resolve: (pending: Pending) => void,
    readonly reject: (error: Error) => void,
  ) {
    this.#options = options;
    this.command = options.command;
    this.offset = options.offset;
    this.length = options.length;
    this.target = options.target ?? null;
    this.cost = (options.target?.length ?? 0) + (options.payload?.length ?? 0);
  }

  /** For messages, e.g. `READ of 512 bytes at 0`. */
  get what(): string {
    const name = commandName(this.command);
    if (this.command === Command.FLUSH) return name;
    if (this.command === Command.RESIZE) return `${name} to ${this.offset} bytes`;
    return `${name} of ${this.length} bytes at ${this.offset}`;
  }

  violation(why: string): ProtocolError {
    return new ProtocolError(`the server broke the protocol: ${this.what}: ${why}`);
  }

  /**
   * Content of a READ that is about to come: where in the target it belongs.
   * @param offset byte of the export @param bytes at least 1
   * @throws ProtocolError when it is none of what was asked for, or comes twice
   */
  place(offset: number, bytes: number): Buffer {
    if (this.target === null) throw this.violation('data was sent to something that is no READ');
    if (bytes === 0) throw this.violation('a chunk without content');
    const start = offset - this.offset;
    const end = start + bytes;
    if (!(start >= 0 && end <= this.length)) throw this.violation('data outside of what was asked for');
    if (this.#options.df && this.#contentChunks > 0) throw this.violation('more than one chunk where DF forbids it');
    this.#contentChunks++;
    this.#cover(start, end);
    this.#received += bytes;
    return this.target.subarray(start, end);
  }

  /** Notes that [start, end) came. @throws ProtocolError when a part of it did already */
  #cover(start: number, end: number): void {
    if (start >= this.#high) {
      if (start > this.#high) {
        if (this.#gaps.length >= MAX_GAPS) throw this.violation('the data is in more pieces than can be kept track of');
        this.#gaps.push([this.#high, start]);
      }
      this.#high = end;
      return;
    }
    let low = 0;
    for (let high = this.#gaps.length; low < high; ) {
      const middle = (low + high) >> 1;
      if (this.#gaps[middle][1] <= start) low = middle + 1;
      else high = middle;
    }
    const gap = this.#gaps[low];
    if (gap === undefined || start < gap[0] || end > gap[1]) throw this.violation('the same data was sent twice');
    const left: [number, number][] = [];
    if (gap[0] < start) left.push([gap[0], start]);
    if (end < gap[1]) left.push([end, gap[1]]);
    if (this.#gaps.length - 1 + left.length > MAX_GAPS) {
      throw this.violation('the data is in more pieces than can be kept track of');
    }
    this.#gaps.splice(low, 1, ...left);
  }

  /** A chunk of block status. @throws ProtocolError */
  status(contextId: number, extents: Extent[]): void {
    const name = this.#options.contexts?.get(contextId);
    if (name === undefined) throw this.violation(`block status of context ${contextId}, which was not asked for`);
    if (this.extents.has(name)) throw this.violation(`block status of ${name} was sent twice`);
    let sum = 0;
    for (const extent of extents) {
      if (extent.length === 0) throw this.violation('an extent of no bytes');
      if (sum >= this.length) throw this.violation('an extent that begins after what was asked for');
      sum += extent.length;
    }
    if (this.#options.reqOne && (extents.length !== 1 || sum > this.length)) {
      throw this.violation('more than the one extent that was asked for');
    }
    this.extents.set(name, extents);
  }

  /** An error, from a chunk or a simple reply. @param at byte of the export, null when not told @throws ProtocolError */
  fail(wire: number, text: string, at: number | null): void {
    if (wire === 0) throw this.violation('an error chunk without an error');
    if (at !== null && !(at >= this.offset && at < this.offset + Math.max(this.length, 1))) {
      throw this.violation(`an error at ${at}, outside of what was asked for`);
    }
    // A number that the protocol does not have is to be taken for EINVAL.
    const errno = knownErrors.has(wire) ? wire : WireError.EINVAL;
    const words = text === '' && errno !== wire ? `error ${wire}` : text;
    this.error ??= new NbdError(errno, this.what, { wire, text: words, offset: at });
  }

  /** The last chunk was there: ends the request. @throws ProtocolError when a success lacks a part of the answer */
  finish(): void {
    if (this.error !== null) {
      this.reject(this.error);
      return;
    }
    if (this.target !== null && this.#received !== this.length) {
      throw this.violation(`only ${this.#received} bytes were sent`);
    }
    const { contexts } = this.#options;
    if (contexts !== undefined && this.extents.size !== contexts.size) {
      throw this.violation(`block status of ${this.extents.size} contexts instead of ${contexts.size}`);
    }
    this.resolve(this);
  }
}
