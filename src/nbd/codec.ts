/**
 * Transmission messages to bytes and back. No I/O. The writers and readers take a DataView and an offset so that the hot path
 * works in preallocated memory and makes no object per message. A cookie travels as its two 32-bit halves for the same reason.
 */
import {
  CHUNK_FLAG_DONE,
  CHUNK_HEADER_LENGTH,
  Chunk,
  REQUEST_MAGIC,
  SIMPLE_REPLY_LENGTH,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from './constants.js';

const TWO_32 = 2 ** 32;

/** The fields of one request; reused by its owner. */
export interface RequestHeader {
  flags: number;
  command: number;
  cookieHigh: number;
  cookieLow: number;
  /** Bytes; inexact above 2^53, which is beyond every export anyway. */
  offset: number;
  length: number;
}

/** Fills `into` from the 28 bytes at `at`; false when the magic number is wrong (framing is lost). */
export function readRequest(view: DataView, at: number, into: RequestHeader): boolean {
  if (view.getUint32(at) !== REQUEST_MAGIC) return false;
  into.flags = view.getUint16(at + 4);
  into.command = view.getUint16(at + 6);
  into.cookieHigh = view.getUint32(at + 8);
  into.cookieLow = view.getUint32(at + 12);
  into.offset = view.getUint32(at + 16) * TWO_32 + view.getUint32(at + 20);
  into.length = view.getUint32(at + 24);
  return true;
}

export function writeRequest(view: DataView, at: number, request: RequestHeader): void {
  view.setUint32(at, REQUEST_MAGIC);
  view.setUint16(at + 4, request.flags);
  view.setUint16(at + 6, request.command);
  view.setUint32(at + 8, request.cookieHigh);
  view.setUint32(at + 12, request.cookieLow);
  writeU64(view, at + 16, request.offset);
  view.setUint32(at + 24, request.length);
}

/** Writes 16 bytes; returns the offset after them. @param error a wire error value, 0 for success */
export function writeSimpleReply(
  view: DataView,
  at: number,
  error: number,
  cookieHigh: number,
  cookieLow: number,
): number {
  view.setUint32(at, SIMPLE_REPLY_MAGIC);
  view.setUint32(at + 4, error);
  view.setUint32(at + 8, cookieHigh);
  view.setUint32(at + 12, cookieLow);
  return at + SIMPLE_REPLY_LENGTH;
}

/** Writes 20 bytes; returns the offset after them. @param length bytes of the chunk's payload */
export function writeChunkHeader(
  view: DataView,
  at: number,
  done: boolean,
  type: number,
  cookieHigh: number,
  cookieLow: number,
  length: number,
): number {
  view.setUint32(at, STRUCTURED_REPLY_MAGIC);
  view.setUint16(at + 4, done ? CHUNK_FLAG_DONE : 0);
  view.setUint16(at + 6, type);
  view.setUint32(at + 8, cookieHigh);
  view.setUint32(at + 12, cookieLow);
  view.setUint32(at + 16, length);
  return at + CHUNK_HEADER_LENGTH;
}

/** Header and offset of an OFFSET_DATA chunk, 28 bytes; `length` bytes of data follow. Returns the offset after them. */
export function writeDataChunk(
  view: DataView,
  at: number,
  done: boolean,
  cookieHigh: number,
  cookieLow: number,
  offset: number,
  length: number,
): number {
  const next = writeChunkHeader(view, at, done, Chunk.OFFSET_DATA, cookieHigh, cookieLow, 8 + length);
  writeU64(view, next, offset);
  return next + 8;
}

/** A whole ERROR chunk with its text (at most 4096 bytes), the last of its reply. */
export function encodeErrorChunk(cookieHigh: number, cookieLow: number, error: number, text: Uint8Array): Buffer {
  const out = Buffer.alloc(CHUNK_HEADER_LENGTH + 6 + text.length);
  const view = new DataView(out.buffer, out.byteOffset, out.length);
  const at = writeChunkHeader(view, 0, true, Chunk.ERROR, cookieHigh, cookieLow, 6 + text.length);
  view.setUint32(at, error);
  view.setUint16(at + 4, text.length);
  out.set(text, at + 6);
  return out;
}

/** A whole BLOCK_STATUS chunk: the context's id, then length and flags of each extent. */
export function encodeBlockStatusChunk(
  cookieHigh: number,
  cookieLow: number,
  done: boolean,
  contextId: number,
  extents: readonly { length: number; flags: number }[],
): Buffer {
  const out = Buffer.alloc(CHUNK_HEADER_LENGTH + 4 + 8 * extents.length);
  const view = new DataView(out.buffer, out.byteOffset, out.length);
  let at = writeChunkHeader(view, 0, done, Chunk.BLOCK_STATUS, cookieHigh, cookieLow, 4 + 8 * extents.length);
  view.setUint32(at, contextId);
  at += 4;
  for (const extent of extents) {
    view.setUint32(at, extent.length);
    view.setUint32(at + 4, extent.flags);
    at += 8;
  }
  return out;
}

export function readU64(view: DataView, at: number): number {
  return view.getUint32(at) * TWO_32 + view.getUint32(at + 4);
}

export function writeU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / TWO_32));
  view.setUint32(at + 4, value % TWO_32);
}
