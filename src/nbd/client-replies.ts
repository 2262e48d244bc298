/**
 * The server's replies from bytes, in all three styles. No I/O: it is fed whatever arrives, cut anywhere, and keeps no more than one
 * header and one small payload; data of reads is copied straight to where the caller wants it.
 */

import type { Pending } from './client-pending.js';
import { cleanText } from './client-text.js';
import { readU64 } from './codec.js';
import {
  CHUNK_FLAG_DONE,
  CHUNK_HEADER_LENGTH,
  Chunk,
  Command,
  EXTENDED_CHUNK_HEADER_LENGTH,
  EXTENDED_REPLY_MAGIC,
  MAX_EXTENTS,
  MAX_STRING,
  SIMPLE_REPLY_LENGTH,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from './constants.js';
import type { Extent } from './device.js';
import { ProtocolError } from './errors.js';
import type { ReplyStyle } from './session.js';

const MAGIC_LENGTH = 4;
const FIRST_ERROR = 0x8000;
const NOTHING = Buffer.alloc(0);
const viewOf = (bytes: Buffer): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);

/** Requests that wait for an answer, by the lower half of their cookie (the upper one is 0). */
export interface PendingRequests {
  get(cookie: number): Pending | undefined;
  /** Called when the last chunk of it was there, before the request is told. */
  delete(cookie: number): unknown;
}

const State = { HEADER: 0, BODY: 1, DATA: 2 } as const;

export class ReplyParser {
  readonly #style: ReplyStyle;
  readonly #requests: PendingRequests;
  readonly #header = Buffer.alloc(EXTENDED_CHUNK_HEADER_LENGTH);
  readonly #headerView = viewOf(this.#header);
  #state: number = State.HEADER;
  /** What is being collected now: header, body, or a part of a read's target; and how much of it is there. */
  #into: Buffer = this.#header;
  #got = 0;
  #wanted = MAGIC_LENGTH;

  // The reply or chunk whose header was read
  #pending: Pending | null = null;
  #cookie = 0;
  #done = false;
  #type = 0;
  #length = 0;

  constructor(style: ReplyStyle, requests: PendingRequests) {
    this.#style = style;
    this.#requests = requests;
  }

  /** No reply has been begun: the connection may end here. */
  get idle(): boolean {
    return this.#state === State.HEADER && this.#got === 0;
  }

  /**
   * Takes all of the bytes and ends the requests that are complete with them.
   * @throws ProtocolError when the server does what the protocol forbids; the parser must not be used again
   */
  push(bytes: Buffer): void {
    let at = 0;
    for (;;) {
      const count = Math.min(bytes.length - at, this.#wanted - this.#got);
      if (count > 0) {
        bytes.copy(this.#into, this.#got, at, at + count);
        at += count;
        this.#got += count;
      }
      if (this.#got < this.#wanted) return;
      if (this.#state === State.HEADER) this.#onHeader();
      else if (this.#state === State.BODY) this.#onBody();
      else this.#next();
    }
  }

  #collect(state: number, into: Buffer, wanted: number): void {
    this.#state = state;
    this.#into = into;
    this.#got = 0;
    this.#wanted = wanted;
  }

  #onHeader(): void {
    const view = this.#headerView;
    const magic = view.getUint32(0);
    if (this.#wanted === MAGIC_LENGTH) {
      this.#wanted = this.#headerLength(magic);
      return;
    }
    this.#cookie = view.getUint32(12);
    const pending = this.#requests.get(this.#cookie);
    if (pending === undefined || view.getUint32(8) !== 0) {
      throw new ProtocolError('the server answered a request that was not made, or was answered before');
    }
    this.#pending = pending;
    if (magic === SIMPLE_REPLY_MAGIC) {
      this.#onSimple(pending, view.getUint32(4));
      return;
    }
    this.#done = (view.getUint16(4) & CHUNK_FLAG_DONE) !== 0;
    this.#type = view.getUint16(6);
    if (magic === EXTENDED_REPLY_MAGIC) {
      if (readU64(view, 16) !== pending.offset) throw pending.violation('the reply names another offset');
      this.#length = readU64(view, 24);
    } else this.#length = view.getUint32(16);
    this.#onChunk(pending);
  }

  /** Only what was agreed on is taken: a reply of another style would be misread. @throws ProtocolError */
  #headerLength(magic: number): number {
    const { structured, extended } = this.#style;
    if (extended && magic === EXTENDED_REPLY_MAGIC) return EXTENDED_CHUNK_HEADER_LENGTH;
    if (!extended && magic === SIMPLE_REPLY_MAGIC) return SIMPLE_REPLY_LENGTH;
    if (!extended && structured && magic === STRUCTURED_REPLY_MAGIC) return CHUNK_HEADER_LENGTH;
    throw new ProtocolError(
      `the server sent 0x${magic.toString(16).padStart(8, '0')} where the magic number of a reply belongs`,
    );
  }

  #onSimple(pending: Pending, error: number): void {
    this.#done = true;
    const { command } = pending;
    if (this.#style.structured && command === Command.READ) {
      throw pending.violation('a simple reply where a structured one was agreed on');
    }
    if (command === Command.BLOCK_STATUS && error === 0) throw pending.violation('a simple reply without extents');
    if (error !== 0) {
      pending.fail(error, '', null);
      this.#next();
    } else if (command === Command.READ && pending.length > 0) {
      this.#collect(State.DATA, pending.place(pending.offset, pending.length), pending.length);
    } else this.#next();
  }

  /** A chunk's header is there: its type and length say what follows. */
  #onChunk(pending: Pending): void {
    const length = this.#length;
    if (!this.#lengthFits()) {
      throw pending.violation(`a chunk of type ${this.#type} cannot be ${length} bytes long`);
    }
    switch (this.#type) {
      case Chunk.NONE:
        if (!this.#done) throw pending.violation('a chunk of type NONE that is not the last');
        this.#next();
        return;
      case Chunk.OFFSET_DATA:
        if (pending.target === null || length - 8 > pending.length) {
          throw pending.violation('data that was not asked for');
        }
        this.#collect(State.BODY, this.#header, 8);
        return;
      case Chunk.OFFSET_HOLE:
        if (pending.target === null) throw pending.violation('a hole that was not asked for');
        break;
      case Chunk.BLOCK_STATUS:
      case Chunk.BLOCK_STATUS_EXT:
        if (pending.command !== Command.BLOCK_STATUS) throw pending.violation('block status that was not asked for');
        break;
    }
    this.#collect(State.BODY, Buffer.allocUnsafe(length), length);
  }

  /** Whether a chunk of this type may be so long; false for types that are not known. */
  #lengthFits(): boolean {
    const length = this.#length;
    switch (this.#type) {
      case Chunk.NONE:
        return length === 0;
      case Chunk.OFFSET_DATA:
        return length > 8;
      case Chunk.OFFSET_HOLE:
        return length === 12;
      case Chunk.BLOCK_STATUS:
        return length >= 12 && length % 8 === 4 && length <= 4 + 8 * MAX_EXTENTS;
      case Chunk.BLOCK_STATUS_EXT:
        return this.#style.extended && length >= 24 && length % 16 === 8 && length <= 8 + 16 * MAX_EXTENTS;
      case Chunk.ERROR_OFFSET:
        return length >= 14 && length <= 14 + MAX_STRING;
      case Chunk.ERROR:
        return length >= 6 && length <= 6 + MAX_STRING;
      default:
        // Errors of a later protocol begin like ERROR does; what else they carry is skipped.
        return this.#type >= FIRST_ERROR && length >= 6 && length <= 64 * 1024;
    }
  }

  /** A chunk's small payload is there, or the offset before data. */
  #onBody(): void {
    const pending = this.#pending as Pending;
    const body = this.#into;
    const view = body === this.#header ? this.#headerView : viewOf(body);
    switch (this.#type) {
      case Chunk.OFFSET_DATA: {
        const bytes = this.#length - 8;
        this.#collect(State.DATA, pending.place(readU64(view, 0), bytes), bytes);
        return;
      }
      case Chunk.OFFSET_HOLE:
        pending.place(readU64(view, 0), view.getUint32(8)).fill(0);
        break;
      case Chunk.BLOCK_STATUS:
        pending.status(view.getUint32(0), compactExtents(view));
        break;
      case Chunk.BLOCK_STATUS_EXT: {
        const count = view.getUint32(4);
        if (count !== 0 && count !== (body.length - 8) / 16) throw pending.violation('a wrong number of extents');
        pending.status(view.getUint32(0), extendedExtents(view));
        break;
      }
      default:
        this.#onError(pending, body, view);
    }
    this.#next();
  }

  #onError(pending: Pending, body: Buffer, view: DataView): void {
    const end = 6 + view.getUint16(4);
    const offset = this.#type === Chunk.ERROR_OFFSET;
    if (end + (offset ? 8 : 0) > body.length) throw pending.violation('an error text longer than its chunk');
    pending.fail(view.getUint32(0), cleanText(body.subarray(6, end)), offset ? readU64(view, end) : null);
  }

  /** The chunk is complete; with it the request when it was the last. */
  #next(): void {
    const pending = this.#pending as Pending;
    this.#pending = null;
    this.#collect(State.HEADER, this.#header, MAGIC_LENGTH);
    if (!this.#done) return;
    this.#requests.delete(this.#cookie);
    try {
      pending.finish();
    } catch (error) {
      pending.reject(error as Error);
      throw error;
    }
  }

  /** Forgets what is half read, and with it the memory of callers. */
  stop(): void {
    this.#pending = null;
    this.#into = NOTHING;
  }
}

function compactExtents(view: DataView): Extent[] {
  const extents: Extent[] = [];
  for (let at = 4; at < view.byteLength; at += 8) {
    extents.push({ length: view.getUint32(at), flags: view.getUint32(at + 4) });
  }
  return extents;
}

function extendedExtents(view: DataView): Extent[] {
  const extents: Extent[] = [];
  for (let at = 8; at < view.byteLength; at += 16) {
    const flagsHigh = view.getUint32(at + 8);
    const extent: Extent = { length: readU64(view, at), flags: view.getUint32(at + 12) };
    if (flagsHigh !== 0) extent.flagsHigh = flagsHigh;
    extents.push(extent);
  }
  return extents;
}
