/**
 * What a partial object's file has behind its content: where the rest comes from, and which units are there (docs/formats.md). It goes when
 * the object is complete. Everything is little-endian:
 *
 * | offset | bytes | what |
 * |--:|--:|---|
 * | 0 | 8 | `ARCHPART` |
 * | 8 | 4 | version, 1 |
 * | 12 | 4 | length of the source's name |
 * | 16 | 8 | length of the content |
 * | 24 | 8 | number of the source's inode |
 * | 32 | 8 | when that was made, ms since 1970 as a double: numbers of inodes are given again |
 * | 40 | 64 | which start of the machine, ASCII, zeros behind it |
 * | 104 | 255 | the source's name |
 * | 512 | - | a bit for each unit, the lowest of each byte first; 1: it is there |
 */

/** Bytes of a unit: no file system here keeps less in a page. */
export const UNIT = 4096;
/** Bytes of the longest content that can be partial. */
export const LONGEST = 64 << 20;

const MAGIC = 'ARCHPART';
const VERSION = 1;
const MADE = 32;
const BOOT = 40;
const BOOT_LENGTH = 64;
const NAME = 104;
const LONGEST_NAME = 255;
const BITS = 512;

export interface Origin {
  /** The object that units come from which are not there. */
  readonly source: string;
  /** Its file's inode: a file of that name that was made since is another one. */
  readonly inode: number;
  /** When that file was made, ms since 1970. */
  readonly made: number;
  /** Bytes of the content. */
  readonly length: number;
  /** Which start of the machine: files that an earlier one left partial are nobody's. */
  readonly boot: string;
}

/** Units of a content. @param length bytes */
export const unitsOf = (length: number): number => Math.ceil(length / UNIT);

/** Where the tail begins, in bytes: the content's last unit is not shared. */
export const tailOffset = (length: number): number => unitsOf(length) * UNIT;

/** Where the bit of a unit is in the file: offset of its byte. */
export const bitOffset = (length: number, unit: number): number => tailOffset(length) + BITS + (unit >> 3);

export const bitmapLength = (length: number): number => (unitsOf(length) + 7) >> 3;

/** Bytes of a partial object's file. */
export const fileLength = (length: number): number => tailOffset(length) + BITS + bitmapLength(length);

/** May a file of this length have a tail? Other files of more than a unit nearly always end with one. */
export const hasOddLength = (size: number): boolean => size % UNIT !== 0 && size > UNIT;

/** Bytes of the content of a file of this length, if it has a tail and the content is whole units; null: none is so long. */
export function contentOf(size: number): number | null {
  const length = Math.floor((size - BITS) / UNIT) * UNIT;
  return length > 0 && length <= LONGEST && fileLength(length) === size ? length : null;
}

/** Which start of the machine a tail is of, whatever the length of its content; null: it is none. */
export function bootOf(tail: Buffer): string | null {
  if (tail.toString('latin1', 0, MAGIC.length) !== MAGIC || tail.readUInt32LE(8) !== VERSION) return null;
  return tail.toString('latin1', BOOT, BOOT + BOOT_LENGTH).replace(/\0+$/, '');
}

/** The tail of a file of which nothing is there. */
export function encodeTail(origin: Origin): Buffer {
  const out = Buffer.alloc(BITS + bitmapLength(origin.length));
  const name = Buffer.from(origin.source, 'utf8');
  out.write(MAGIC, 0, 'latin1');
  out.writeUInt32LE(VERSION, 8);
  out.writeUInt32LE(name.length, 12);
  out.writeBigUInt64LE(BigInt(origin.length), 16);
  out.writeBigUInt64LE(BigInt(origin.inode), 24);
  out.writeDoubleLE(origin.made, MADE);
  out.write(origin.boot, BOOT, BOOT_LENGTH, 'latin1');
  name.copy(out, NAME);
  return out;
}

/** @returns null when these bytes are no tail of content of this length that this version knows */
export function decodeTail(bytes: Buffer, length: number): { origin: Origin; bits: Uint8Array } | null {
  if (bytes.length !== BITS + bitmapLength(length)) return null;
  if (bytes.toString('latin1', 0, 8) !== MAGIC || bytes.readUInt32LE(8) !== VERSION) return null;
  const nameLength = bytes.readUInt32LE(12);
  if (nameLength > LONGEST_NAME || bytes.readBigUInt64LE(16) !== BigInt(length)) return null;
  const boot = bytes.toString('latin1', BOOT, BOOT + BOOT_LENGTH).replace(/\0+$/, '');
  const source = bytes.toString('utf8', NAME, NAME + nameLength);
  const inode = Number(bytes.readBigUInt64LE(24));
  const made = bytes.readDoubleLE(MADE);
  return { origin: { source, inode, made, length, boot }, bits: Uint8Array.from(bytes.subarray(BITS)) };
}

/** What the mark of a partial object's file says: 8 bytes of length, and a byte that is 1 when isTimed. */
export interface Mark {
  /** Bytes of the content. */
  readonly length: number;
  /** It was made under a lock: whoever completes it has a deadline. */
  readonly isTimed: boolean;
}

export function encodeMark({ length, isTimed }: Mark): Buffer {
  const out = Buffer.alloc(9);
  out.writeBigUInt64LE(BigInt(length));
  out.writeUInt8(isTimed ? 1 : 0, 8);
  return out;
}

/** @returns null when it is no such mark */
export function decodeMark(mark: Buffer): Mark | null {
  if (mark.length !== 9) return null;
  const length = Number(mark.readBigUInt64LE());
  return length > 0 && length <= LONGEST ? { length, isTimed: mark[8] !== 0 } : null;
}
