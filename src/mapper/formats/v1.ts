/**
 * Map format v1 (read and upgraded only): 12 bytes of little-endian header, then 33 bytes a block, all in one object
 * (ondisk 4.3). No I/O here.
 */
import { EntryFlag, type ResolvedMap } from '../../requests/resolved-map.js';
import { blockCount, checkHeader, DEFAULT_BLOCK_SIZE, exact, fits, type MapHeader, ZERO_NAME } from './header.js';

export const HEADER_SIZE = 12;
export const ENTRY_SIZE = 33;

/** Whether the bytes start like a v1 map. */
export const startsLikeV1 = (bytes: Buffer): boolean => bytes.length >= HEADER_SIZE && bytes.readUInt32LE(0) === 1;

/** Whether an object that starts like a v1 map has the length such a map has. @param length of the object, in bytes */
export function isV1(bytes: Buffer, length: number): boolean {
  if (!startsLikeV1(bytes)) return false;
  const size = bytes.readBigUInt64LE(4);
  if (size > BigInt(Number.MAX_SAFE_INTEGER)) return false;
  return fits(length, HEADER_SIZE + ENTRY_SIZE * blockCount(Number(size), DEFAULT_BLOCK_SIZE));
}

/** @throws SystemError EIO */
export function decodeHeader(object: string, bytes: Buffer): MapHeader {
  return checkHeader(object, {
    version: 1,
    size: exact(object, bytes.readBigUInt64LE(4), 'a volume size of'),
    blockSize: DEFAULT_BLOCK_SIZE,
    readOnly: false,
    deleted: false,
    epoch: 0,
    lineage: null,
  });
}

/** Byte offset of block i's entry. */
export const entryOffset = (i: number): number => HEADER_SIZE + i * ENTRY_SIZE;

/** Decodes the entry at `at` of `bytes` into `map`. Every 33 bytes are a valid entry. */
export function decodeEntry(map: ResolvedMap, i: number, bytes: Buffer, at: number): void {
  const hex = bytes.toString('hex', at + 1, at + ENTRY_SIZE);
  if (bytes[at] !== 0) map.set(i, EntryFlag.WRITABLE | EntryFlag.ARCHIP, `archip_${hex}`);
  else if (hex === ZERO_NAME) map.setZero(i);
  else map.set(i, 0, hex);
}
