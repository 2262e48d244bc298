/**
 * Pieces of a resolved map as MAPFETCH carries them (little endian):
 *
 *   32 bytes  magic, u32 count, u64 first block, u32 prefixes, u32 bytes of prefixes, u32 bytes of literals, 4 spare
 *   prefixes  each its length in one byte, then its bytes
 *   entries   13 bytes each: flags, u32 number of the prefix or offset among the literals, u64 epoch
 *   literals  each its length in one byte, then its bytes
 */
import { errnos, SystemError } from '../sys/errno.js';
import {
  CHUNK_ENTRIES,
  type Chunk,
  ENTRY_BYTES,
  EntryFlag,
  MAX_BLOCKS,
  MAX_OBJECT_NAME,
  PRESENT,
  PUBLIC_FLAGS,
  SUFFIX,
} from './map-chunk.js';

const MAGIC = 0x31434d52; // "RMC1"
const HEADER = 32;

const invalid = (what: string): SystemError => new SystemError(errnos.EINVAL, `resolved map piece is damaged: ${what}`);

/**
 * Packs as many of `most` entries of a chunk as are known and fit.
 * @param first block of the first, of which the chunk is
 * @param limit most bytes of the piece
 * @throws SystemError ERANGE when not even one fits
 */
export function encodePiece(
  chunk: Chunk,
  prefixNames: readonly Buffer[],
  first: number,
  most: number,
  limit: number,
): Buffer {
  const base = first % CHUNK_ENTRIES;
  const numbers = new Map<number, number>();
  let prefixBytes = 0;
  let literalBytes = 0;
  let n = 0;
  for (; n < most; n++) {
    const flags = chunk.flags[base + n];
    if ((flags & PRESENT) === 0) break;
    let morePrefix = 0;
    let moreLiteral = 0;
    const ref = chunk.nameRef[base + n];
    if (flags & EntryFlag.LITERAL) moreLiteral = 1 + chunk.literals[ref];
    else if ((flags & EntryFlag.ZERO) === 0 && !numbers.has(ref)) morePrefix = 1 + prefixNames[ref].length;
    if (HEADER + prefixBytes + morePrefix + (n + 1) * ENTRY_BYTES + literalBytes + moreLiteral > limit) break;
    if (morePrefix > 0) numbers.set(ref, numbers.size);
    prefixBytes += morePrefix;
    literalBytes += moreLiteral;
  }
  if (n === 0) throw new SystemError(errnos.ERANGE, `a buffer of ${limit} bytes has no room for one map entry`);

  const out = Buffer.alloc(HEADER + prefixBytes + n * ENTRY_BYTES + literalBytes);
  out.writeUInt32LE(MAGIC, 0);
  out.writeUInt32LE(n, 4);
  out.writeBigUInt64LE(BigInt(first), 8);
  out.writeUInt32LE(numbers.size, 16);
  out.writeUInt32LE(prefixBytes, 20);
  out.writeUInt32LE(literalBytes, 24);
  let at = HEADER;
  for (const ref of numbers.keys()) {
    const prefix = prefixNames[ref];
    out[at] = prefix.length;
    prefix.copy(out, at + 1);
    at += 1 + prefix.length;
  }
  const literalsAt = at + n * ENTRY_BYTES;
  let literal = 0;
  for (let k = 0; k < n; k++, at += ENTRY_BYTES) {
    const flags = chunk.flags[base + k];
    const ref = chunk.nameRef[base + k];
    out[at] = flags & PUBLIC_FLAGS;
    if (flags & EntryFlag.LITERAL) {
      const length = 1 + chunk.literals[ref];
      out.writeUInt32LE(literal, at + 1);
      out.set(chunk.literals.subarray(ref, ref + length), literalsAt + literal);
      literal += length;
    } else if ((flags & EntryFlag.ZERO) === 0) {
      out.writeUInt32LE(numbers.get(ref)!, at + 1);
      out.writeUInt32LE(chunk.epochLow[base + k], at + 5);
      out.writeUInt32LE(chunk.epochHigh[base + k], at + 9);
    }
  }
  return out;
}

/** The blocks a serialised piece covers. @throws SystemError EINVAL when it is not such a piece */
export function pieceRange(piece: Uint8Array): { first: number; count: number } {
  const bytes = Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength);
  if (bytes.length < HEADER || bytes.readUInt32LE(0) !== MAGIC) throw invalid('it does not start like one');
  const count = bytes.readUInt32LE(4);
  const first = Number(bytes.readBigUInt64LE(8));
  if (count < 1 || first >= MAX_BLOCKS) throw invalid('its range');
  if (Math.floor(first / CHUNK_ENTRIES) !== Math.floor((first + count - 1) / CHUNK_ENTRIES)) throw invalid('its range');
  return { first, count };
}

/** What a piece holds, and where in its bytes. */
export interface CheckedPiece {
  first: number;
  count: number;
  prefixes: { start: number; length: number }[];
  entriesAt: number;
  literalsAt: number;
}

/** Checks a piece completely. @throws SystemError EINVAL when it is damaged or reaches past the volume's blocks */
export function checkPiece(bytes: Buffer, blockCount: number): CheckedPiece {
  const { first, count } = pieceRange(bytes);
  if (first + count > blockCount) throw invalid(`blocks ${first}..${first + count - 1} of ${blockCount}`);
  const prefixCount = bytes.readUInt32LE(16);
  const prefixBytes = bytes.readUInt32LE(20);
  const literalBytes = bytes.readUInt32LE(24);
  if (HEADER + prefixBytes + count * ENTRY_BYTES + literalBytes !== bytes.length) throw invalid('its length is wrong');
  const prefixes: { start: number; length: number }[] = [];
  let at = HEADER;
  const entriesAt = HEADER + prefixBytes;
  while (at < entriesAt) {
    const length = bytes[at];
    const fits = length > 0 && length + SUFFIX <= MAX_OBJECT_NAME && at + 1 + length <= entriesAt;
    if (!fits) throw invalid('a name prefix');
    prefixes.push({ start: at + 1, length });
    at += 1 + length;
  }
  if (prefixes.length !== prefixCount) throw invalid('its name prefixes');
  const literalsAt = entriesAt + count * ENTRY_BYTES;
  for (let k = 0, e = entriesAt; k < count; k++, e += ENTRY_BYTES) {
    const flags = bytes[e];
    const ref = bytes.readUInt32LE(e + 1);
    if (flags & ~PUBLIC_FLAGS) throw invalid(`flags ${flags} of block ${first + k}`);
    if (flags & EntryFlag.ZERO) continue;
    if (flags & EntryFlag.LITERAL) {
      const start = literalsAt + ref;
      if (start >= bytes.length || bytes[start] === 0 || start + 1 + bytes[start] > bytes.length) {
        throw invalid(`the name of block ${first + k}`);
      }
    } else if (ref >= prefixCount) throw invalid(`the name of block ${first + k}`);
  }
  return { first, count, prefixes, entriesAt, literalsAt };
}
