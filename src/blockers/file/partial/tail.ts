/**
 * What a partial object's file has behind its content: which file the rest comes from, and which units are there (docs/formats.md). Everything is
 * little-endian:
 *
 * | offset | bytes | what |
 * |--:|--:|---|
 * | 0 | 8 | `ARCHPART` |
 * | 8 | 4 | version, 2 |
 * | 12 | 4 | length of the base's name |
 * | 16 | 8 | length of the content |
 * | 24 | 104 | since when units that are 1 are there, ASCII, zeros behind it |
 * | 128 | 384 | the base's name, in the directory of bases |
 * | 512 | - | a byte for each unit: 0 absent, 1 there for as long as the kernel remembers, 2 there for good |
 *
 * A byte for each unit, and not a bit: what is written of one changes nothing of another, and a sector is written by disks as a whole.
 */

/** Bytes of a unit: no file system here keeps less in a page. */
export const UNIT = 4096;
/** Bytes of the longest content that can be partial. */
export const LONGEST = 64 << 20;
/** Bytes of the longest name of a base. */
export const LONGEST_BASE = 384;

/** What is known of a unit. */
export const ABSENT = 0;
export const WRITTEN = 1;
export const DURABLE = 2;

const MAGIC = 'ARCHPART';
const VERSION = 2;
const STAMP = 24;
const STAMP_LENGTH = 104;
const BASE = 128;
/** Where the bytes of the units begin in the tail; what is before them is its head. */
export const HEAD = 512;
/** One byte more than those of before version 1.5 had, which took this for theirs, and read zeros. */
const MARK_LENGTH = 10;

/** The stamp in the head of a tail. */
export const stampOf = (head: Uint8Array): string =>
  Buffer.from(head.buffer, head.byteOffset + STAMP, STAMP_LENGTH)
    .toString('latin1')
    .replace(/\0+$/, '');

/** A tail as it is read. */
export interface Tail {
  /** Name of the file that units come from which are not there, in the directory of bases. */
  readonly base: string;
  /** Bytes of the content. */
  readonly length: number;
  /** Units that are 1 are there as long as this is what tells of the machine's start and the mount; at most 104 ASCII characters. */
  readonly stamp: string;
  /** A byte for each unit. */
  readonly states: Uint8Array;
}

/** Units of a content. @param length bytes */
export const unitsOf = (length: number): number => Math.ceil(length / UNIT);

/** Where the tail begins, in bytes: the content's last unit is not shared. */
export const tailOffset = (length: number): number => unitsOf(length) * UNIT;

/** Bytes of the tail of a content. */
export const tailLength = (length: number): number => HEAD + unitsOf(length);

/** Where the byte of a unit is in the file. */
export const stateOffset = (length: number, unit: number): number => tailOffset(length) + HEAD + unit;

/** Bytes of a partial object's file. */
export const fileLength = (length: number): number => tailOffset(length) + tailLength(length);

/** May a file of this length have a tail? Other files of more than a unit nearly always end with one. */
export const hasOddLength = (size: number): boolean => size % UNIT !== 0 && size > UNIT;

/** Where the tail of a file of this length is, in bytes, if it has one; null: none is so long. */
export function tailOf(size: number): number | null {
  const units = (size - HEAD) / (UNIT + 1);
  return Number.isInteger(units) && units > 0 && units * UNIT <= LONGEST ? units * UNIT : null;
}

/** May a file of this length end with a tail? */
export const mayHaveTail = (size: number): boolean => hasOddLength(size) && tailOf(size) !== null;

/** Can content of this length be partial? Not where the file would not look like one with a tail. */
export const canBePartial = (length: number): boolean =>
  length > 0 && length <= LONGEST && hasOddLength(fileLength(length));

export function encodeTail({ base, length, stamp, states }: Tail): Buffer {
  const out = Buffer.alloc(tailLength(length));
  const name = Buffer.from(base, 'utf8');
  out.write(MAGIC, 0, 'latin1');
  out.writeUInt32LE(VERSION, 8);
  out.writeUInt32LE(name.length, 12);
  out.writeBigUInt64LE(BigInt(length), 16);
  out.write(stamp, STAMP, STAMP_LENGTH, 'latin1');
  name.copy(out, BASE);
  out.set(states, HEAD);
  return out;
}

/** Is this the beginning of a tail, of whatever version? */
export const isTail = (bytes: Buffer): boolean => bytes.toString('latin1', 0, MAGIC.length) === MAGIC;

/** @returns null when these bytes are no tail of content of this length that this version knows */
export function decodeTail(bytes: Buffer, length: number): Tail | null {
  if (bytes.length !== tailLength(length) || !isTail(bytes) || bytes.readUInt32LE(8) !== VERSION) return null;
  const nameLength = bytes.readUInt32LE(12);
  if (nameLength === 0 || nameLength > LONGEST_BASE || bytes.readBigUInt64LE(16) !== BigInt(length)) return null;
  const states = Uint8Array.from(bytes.subarray(HEAD));
  if (states.some((state) => state > DURABLE)) return null;
  return { base: bytes.toString('utf8', BASE, BASE + nameLength), length, stamp: stampOf(bytes), states };
}

/** The mark of a partial object's file: 8 bytes of its content's length, and 2 with the version. */
export function encodeMark(length: number): Buffer {
  const out = Buffer.alloc(MARK_LENGTH);
  out.writeBigUInt64LE(BigInt(length));
  out.writeUInt16LE(VERSION, 8);
  return out;
}

/** @returns bytes of the content; null when it is no mark that this version knows */
export function decodeMark(mark: Buffer): number | null {
  if (mark.length !== MARK_LENGTH || mark.readUInt16LE(8) !== VERSION) return null;
  const length = Number(mark.readBigUInt64LE());
  return length > 0 && length <= LONGEST ? length : null;
}
