/**
 * The memory a connection works in: where bytes arrive before they have a buffer of their own, where reply headers are written,
 * and the arrays sendmsg reads. One allocation per connection, reused by later connections, never moved.
 */
import { allocateMemory, freeMemory, type Memory } from '../sys/libc.js';
import { EXTENDED_REQUEST_LENGTH } from './constants.js';

/**
 * Room before the stage for the head of a message that was cut by the end of the last receive: it is moved there, so that what
 * arrives next, always at STAGE_START, continues it.
 */
export const STAGE_START = 64;
const SMALL_WRITE = EXTENDED_REQUEST_LENGTH + 4096;
/** Bytes that one receive into the stage takes as a rule: a thousand requests, or eight writes of 4 KiB. */
export const RECEIVE_SIZE = 8 * SMALL_WRITE;
/** Bytes that the stage has room for: 32 such writes. Only who sends short ones is received so much of at a time (intake.ts). */
export const STAGE_SIZE = 32 * SMALL_WRITE;
/** Bytes of headers of one batch of replies. */
export const HEADERS_SIZE = 8 * 1024;
/** Pieces of one sendmsg (the system allows 1024; a batch is sent well before). */
export const MAX_IOVECS = 256;

const IOVEC_LENGTH = 16;
const MSGHDR_LENGTH = 56;
const HEADERS_START = STAGE_START + STAGE_SIZE;
const IOVECS_START = HEADERS_START + HEADERS_SIZE;
const MSGHDR_START = IOVECS_START + MAX_IOVECS * IOVEC_LENGTH;
const LENGTH = MSGHDR_START + MSGHDR_LENGTH;

/** Blocks kept for later connections. */
const KEPT = 32;
const spare: WireMemory[] = [];

export class WireMemory {
  readonly #memory: Memory;
  readonly address: number;
  /** Carry and stage; offset 0 is the carry's first byte. */
  readonly stage: Buffer;
  readonly stageView: DataView;
  readonly headers: Buffer;
  readonly headersView: DataView;
  readonly headersAddress: number;
  /** struct iovec as 32-bit words, little-endian: address low, high, length, 0. */
  readonly iovecs: Uint32Array;
  readonly iovecsAddress: number;
  /** struct msghdr as 32-bit words. */
  readonly msghdr: Uint32Array;
  readonly msghdrAddress: number;

  private constructor() {
    // Bytes are received, and headers written, before they are looked at: a client that sends little touches a page or two.
    this.#memory = allocateMemory(LENGTH, IOVECS_START);
    const { address, bytes } = this.#memory;
    const { buffer, byteOffset } = bytes;
    this.address = address;
    this.stage = bytes.subarray(0, HEADERS_START);
    this.stageView = new DataView(buffer, byteOffset, HEADERS_START);
    this.headers = bytes.subarray(HEADERS_START, IOVECS_START);
    this.headersView = new DataView(buffer, byteOffset + HEADERS_START, HEADERS_SIZE);
    this.headersAddress = address + HEADERS_START;
    this.iovecs = new Uint32Array(buffer, byteOffset + IOVECS_START, MAX_IOVECS * 4);
    this.iovecsAddress = address + IOVECS_START;
    this.msghdr = new Uint32Array(buffer, byteOffset + MSGHDR_START, MSGHDR_LENGTH / 4);
    this.msghdrAddress = address + MSGHDR_START;
  }

  /** @throws Error with code ENOMEM */
  static take(): WireMemory {
    return spare.pop() ?? new WireMemory();
  }

  /** Gives it back; nothing may read or write it any more. */
  giveBack(): void {
    if (spare.length < KEPT) spare.push(this);
    else freeMemory(this.#memory);
  }
}
