/**
 * Transmission messages to bytes and back. No I/O. The writers and readers take a DataView and an offset so that the hot path
 * works in preallocated memory and makes no object per message. A cookie travels as its two 32-bit halves for the same reason.
 *
 * Requests and reply chunks have two header styles, compact and extended (NBD_OPT_EXTENDED_HEADERS); payloads differ only for block
 * status.
 */
import {
  CHUNK_FLAG_DONE,
  CHUNK_HEADER_LENGTH,
  Chunk,
  EXTENDED_CHUNK_HEADER_LENGTH,
  EXTENDED_REPLY_MAGIC,
  EXTENDED_REQUEST_MAGIC,
  REQUEST_MAGIC,
  SIMPLE_REPLY_LENGTH,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from './constants.js';
import type { Extent } from './device.js';

const TWO_32 = 2 ** 32;

/** The fields of one request; reused by its owner. */
export interface RequestHeader {
  flags: number;
  command: number;
  cookieHigh: number;
  cookieLow: number;
  /** Bytes; inexact above 2^53, which is beyond every export anyway. */
  offset: number;
  /** Bytes; 32 bits in compact headers, inexact above 2^53 in extended ones. */
  length: number;
}

/** What extended replies repeat of their request. */
export interface ReplyAddress {
  cookieHigh: number;
  cookieLow: number;
  /** The request's offset as it came, exact to the last of its 64 bits. Not used by compact headers. */
  offsetHigh: number;
  offsetLow: number;
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

/** Fills `into` from the 32 bytes at `at`; false when the magic number is wrong (framing is lost). */
export function readExtendedRequest(view: DataView, at: number, into: RequestHeader & ReplyAddress): boolean {
  if (view.getUint32(at) !== EXTENDED_REQUEST_MAGIC) return false;
  into.flags = view.getUint16(at + 4);
  into.command = view.getUint16(at + 6);
  into.cookieHigh = view.getUint32(at + 8);
  into.cookieLow = view.getUint32(at + 12);
  into.offsetHigh = view.getUint32(at + 16);
  into.offsetLow = view.getUint32(at + 20);
  into.offset = into.offsetHigh * TWO_32 + into.offsetLow;
  into.length = readU64(view, at + 24);
  return true;
}

/** Writes the 28 bytes of a compact request. */
export function writeRequest(view: DataView, at: number, request: RequestHeader): void {
  view.setUint32(at, REQUEST_MAGIC);
  writeRequestFields(view, at, request);
  view.setUint32(at + 24, request.length);
}

/** Writes the 32 bytes of an extended request. */
export function writeExtendedRequest(view: DataView, at: number, request: RequestHeader): void {
  view.setUint32(at, EXTENDED_REQUEST_MAGIC);
  writeRequestFields(view, at, request);
  writeU64(view, at + 24, request.length);
}

function writeRequestFields(view: DataView, at: number, request: RequestHeader): void {
  view.setUint16(at + 4, request.flags);
  view.setUint16(at + 6, request.command);
  view.setUint32(at + 8, request.cookieHigh);
  view.setUint32(at + 12, request.cookieLow);
  writeU64(view, at + 16, request.offset);
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

/** Bytes of a chunk's header. */
export const chunkHeaderLength = (extended: boolean): number =>
  extended ? EXTENDED_CHUNK_HEADER_LENGTH : CHUNK_HEADER_LENGTH;

/** Writes a chunk's header, 20 or 32 bytes; returns the offset after them. @param length bytes of the chunk's payload */
export function writeChunkHeader(
  view: DataView,
  at: number,
  extended: boolean,
  done: boolean,
  type: number,
  request: ReplyAddress,
  length: number,
): number {
  if (extended) return writeExtendedChunkHeader(view, at, done, type, request, length);
  view.setUint32(at, STRUCTURED_REPLY_MAGIC);
  view.setUint16(at + 4, done ? CHUNK_FLAG_DONE : 0);
  view.setUint16(at + 6, type);
  view.setUint32(at + 8, request.cookieHigh);
  view.setUint32(at + 12, request.cookieLow);
  view.setUint32(at + 16, length);
  return at + CHUNK_HEADER_LENGTH;
}

function writeExtendedChunkHeader(
  view: DataView,
  at: number,
  done: boolean,
  type: number,
  request: ReplyAddress,
  length: number,
): number {
  view.setUint32(at, EXTENDED_REPLY_MAGIC);
  view.setUint16(at + 4, done ? CHUNK_FLAG_DONE : 0);
  view.setUint16(at + 6, type);
  view.setUint32(at + 8, request.cookieHigh);
  view.setUint32(at + 12, request.cookieLow);
  view.setUint32(at + 16, request.offsetHigh);
  view.setUint32(at + 20, request.offsetLow);
  writeU64(view, at + 24, length);
  return at + EXTENDED_CHUNK_HEADER_LENGTH;
}

/** Header and offset of an OFFSET_DATA chunk; `length` bytes of data follow. Returns the offset after them. */
export function writeDataChunk(
  view: DataView,
  at: number,
  extended: boolean,
  done: boolean,
  request: ReplyAddress,
  offset: number,
  length: number,
): number {
  const next = writeChunkHeader(view, at, extended, done, Chunk.OFFSET_DATA, request, 8 + length);
  writeU64(view, next, offset);
  return next + 8;
}

/** Bytes of an OFFSET_HOLE chunk after its header. */
export const HOLE_PAYLOAD = 12;

/** A whole OFFSET_HOLE chunk: `length` bytes (32 bits, not 0) from `offset` on read as zeros. Returns the offset after it. */
export function writeHoleChunk(
  view: DataView,
  at: number,
  extended: boolean,
  done: boolean,
  request: ReplyAddress,
  offset: number,
  length: number,
): number {
  const next = writeChunkHeader(view, at, extended, done, Chunk.OFFSET_HOLE, request, HOLE_PAYLOAD);
  writeU64(view, next, offset);
  view.setUint32(next + 8, length);
  return next + HOLE_PAYLOAD;
}

/**
 * A whole ERROR chunk with its text (at most 4096 bytes).
 * @param offset where in the export a READ failed, in bytes: then it is an ERROR_OFFSET chunk; null: the request failed as a whole
 */
export function encodeErrorChunk(
  extended: boolean,
  done: boolean,
  request: ReplyAddress,
  error: number,
  text: Uint8Array,
  offset: number | null,
): Buffer {
  const length = 6 + text.length + (offset === null ? 0 : 8);
  const out = Buffer.alloc(chunkHeaderLength(extended) + length);
  const view = new DataView(out.buffer, out.byteOffset, out.length);
  const type = offset === null ? Chunk.ERROR : Chunk.ERROR_OFFSET;
  const at = writeChunkHeader(view, 0, extended, done, type, request, length);
  view.setUint32(at, error);
  view.setUint16(at + 4, text.length);
  out.set(text, at + 6);
  if (offset !== null) writeU64(view, at + 6 + text.length, offset);
  return out;
}

/**
 * A whole block status chunk: the context's id, then length and flags of each extent. BLOCK_STATUS has 32 bits for each (the caller
 * has clamped the lengths, and flags are cut to their lower half); with extended headers it is BLOCK_STATUS_EXT, with a count and
 * 64 bits for each.
 */
export function encodeBlockStatusChunk(
  extended: boolean,
  done: boolean,
  request: ReplyAddress,
  contextId: number,
  extents: readonly Readonly<Extent>[],
): Buffer {
  const length = extended ? 8 + 16 * extents.length : 4 + 8 * extents.length;
  const out = Buffer.allocUnsafe(chunkHeaderLength(extended) + length);
  const view = new DataView(out.buffer, out.byteOffset, out.length);
  const type = extended ? Chunk.BLOCK_STATUS_EXT : Chunk.BLOCK_STATUS;
  let at = writeChunkHeader(view, 0, extended, done, type, request, length);
  view.setUint32(at, contextId);
  at += 4;
  if (!extended) {
    for (const extent of extents) {
      view.setUint32(at, extent.length);
      view.setUint32(at + 4, extent.flags);
      at += 8;
    }
    return out;
  }
  view.setUint32(at, extents.length);
  at += 4;
  for (const extent of extents) {
    writeU64(view, at, extent.length);
    view.setUint32(at + 8, extent.flagsHigh ?? 0);
    view.setUint32(at + 12, extent.flags);
    at += 16;
  }
  return out;
}

/** A 64-bit number; exact up to 2^53. */
export function readU64(view: DataView, at: number): number {
  return view.getUint32(at) * TWO_32 + view.getUint32(at + 4);
}

/** @param value a whole number, at most 2^53 */
export function writeU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / TWO_32));
  view.setUint32(at + 4, value % TWO_32);
}
