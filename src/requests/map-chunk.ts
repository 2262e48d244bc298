/** How a resolved map keeps its entries: chunks of typed arrays, and the bytes of names. Used by resolved-map.ts and map-piece.ts. */
import { errnos, SystemError } from '../sys/errno.js';

/** Flags of a map entry. The first four are those stored on disk (ondisk: map formats), LITERAL is of the memory only. */
export const EntryFlag = { WRITABLE: 1, ARCHIP: 2, ZERO: 4, DELETED: 8, LITERAL: 16 } as const;

/** Entries of one lazily loaded chunk, and the most that one MAPFETCH carries. */
export const CHUNK_ENTRIES = 4096;
/** The longest object name the map holds, in bytes (a target in the segment has 256). */
export const MAX_OBJECT_NAME = 255;
/** The most blocks a map may have: 2^32 blocks are 16 PiB at the default block size. */
export const MAX_BLOCKS = 2 ** 32;

/** In Chunk.flags: the entry was stored. */
export const PRESENT = 128;
export const PUBLIC_FLAGS = 31;
/** Bytes of `_<epoch>_<index>`: an underscore and 16 hex digits, twice. */
export const SUFFIX = 34;
export const UNDERSCORE = 0x5f;
/** Bytes an entry takes in memory and in a piece. */
export const ENTRY_BYTES = 13;

const hexDigits = Buffer.from('0123456789abcdef', 'latin1');
const hexValues = new Int8Array(256).fill(-1);
for (let i = 0; i < 16; i++) hexValues[hexDigits[i]] = i;

/** Entries of CHUNK_ENTRIES blocks, or of the fewer that the volume has; what is asked of later ones is undefined, which has no flag. */
export interface Chunk {
  flags: Uint8Array;
  /** Number of the prefix, or offset of the literal (its length in one byte, then its bytes). */
  nameRef: Uint32Array;
  epochHigh: Uint32Array;
  epochLow: Uint32Array;
  literals: Uint8Array;
  literalsUsed: number;
}

const noLiterals = new Uint8Array(0);

/** @param entries at most CHUNK_ENTRIES */
export function newChunk(entries: number): Chunk {
  return {
    flags: new Uint8Array(entries),
    nameRef: new Uint32Array(entries),
    epochHigh: new Uint32Array(entries),
    epochLow: new Uint32Array(entries),
    literals: noLiterals,
    literalsUsed: 0,
  };
}

/** Makes room for more entries: the volume has grown. */
export function growChunk(chunk: Chunk, entries: number): void {
  const { flags, nameRef, epochHigh, epochLow } = newChunk(entries);
  flags.set(chunk.flags);
  nameRef.set(chunk.nameRef);
  epochHigh.set(chunk.epochHigh);
  epochLow.set(chunk.epochLow);
  chunk.flags = flags;
  chunk.nameRef = nameRef;
  chunk.epochHigh = epochHigh;
  chunk.epochLow = epochLow;
}

/** 32 bits of hexadecimal at `at`, or -1 when a byte is not a lower-case hex digit. */
export function parseHex8(bytes: Uint8Array, at: number): number {
  let value = 0;
  for (let i = at; i < at + 8; i++) {
    const digit = hexValues[bytes[i]];
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

/** Writes 32 bits as 8 lower-case hex digits at `at`. */
export function writeHex8(target: Uint8Array, at: number, value: number): void {
  for (let i = at + 7; i >= at; i--) {
    target[i] = hexDigits[value & 15];
    value >>>= 4;
  }
}

/** Whether `a` is the `length` bytes of `bytes` from `start`. */
export function equalBytes(a: Uint8Array, bytes: Uint8Array, start: number, length: number): boolean {
  if (a.length !== length) return false;
  for (let i = 0; i < length; i++) if (a[i] !== bytes[start + i]) return false;
  return true;
}

/** Appends a name to the chunk's literals and returns its offset there. A name that an entry no longer uses stays until the chunk goes. */
export function addLiteral(chunk: Chunk, bytes: Uint8Array, start: number, length: number): number {
  const offset = chunk.literalsUsed;
  const end = offset + 1 + length;
  if (end > chunk.literals.length) {
    const grown = new Uint8Array(Math.max(end, chunk.literals.length * 2, 256));
    grown.set(chunk.literals.subarray(0, offset));
    chunk.literals = grown;
  }
  chunk.literals[offset] = length;
  chunk.literals.set(bytes.subarray(start, start + length), offset + 1);
  chunk.literalsUsed = end;
  return offset;
}

/** @throws SystemError EFBIG when a map cannot have so many blocks */
export function checkedCount(blockCount: number): number {
  if (!Number.isInteger(blockCount) || blockCount < 0 || blockCount > MAX_BLOCKS) {
    throw new SystemError(errnos.EFBIG, `a map cannot have ${blockCount} blocks (at most ${MAX_BLOCKS})`);
  }
  return blockCount;
}
