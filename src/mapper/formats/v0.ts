/**
 * Map format v0 (Pithos, read and upgraded only, and only when the request says so): nothing but 32-byte hashes, up to the
 * first that is all zeros or the end (ondisk 4.4). No I/O here.
 */
import type { ResolvedMap } from '../../requests/resolved-map.js';
import { errnos, SystemError } from '../../sys/errno.js';
import { blockCount, checkHeader, DEFAULT_BLOCK_SIZE, damaged, type MapHeader, ZERO_NAME } from './header.js';

export const ENTRY_SIZE = 32;

/** Most bytes of a v0 map that are read: 2^32 bytes of it are 512 TiB of volume. */
const MAX_OBJECT = 2 ** 32;

/** Checks the length of the object before it is read. @throws SystemError EIO */
export function checkLength(object: string, length: number): void {
  if (length % ENTRY_SIZE !== 0) {
    throw damaged(object, `${length} bytes are not a list of ${ENTRY_SIZE}-byte hashes (a v0 map was asked for)`);
  }
  if (length > MAX_OBJECT) throw damaged(object, `${length} bytes are too many for a v0 map`);
}

/** Number of entries in `bytes` before the end of the list, and whether that end is among them. */
export function countEntries(bytes: Buffer): { count: number; ended: boolean } {
  for (let at = 0; at + ENTRY_SIZE <= bytes.length; at += ENTRY_SIZE) {
    let zero = true;
    for (let k = at; k < at + ENTRY_SIZE && zero; k++) zero = bytes[k] === 0;
    if (zero) return { count: at / ENTRY_SIZE, ended: true };
  }
  return { count: Math.floor(bytes.length / ENTRY_SIZE), ended: false };
}

/**
 * The header a v0 map does not have.
 * @param v0Size volume size in bytes as the request gives it, or -1
 * @throws SystemError EINVAL when the size does not go with the number of hashes
 */
export function makeHeader(object: string, count: number, v0Size: number): MapHeader {
  let size = count * DEFAULT_BLOCK_SIZE;
  if (v0Size >= 0) {
    if (blockCount(v0Size, DEFAULT_BLOCK_SIZE) !== count) {
      throw new SystemError(
        errnos.EINVAL,
        `v0 map ${object} has ${count} blocks of 4 MiB; a size of ${v0Size} bytes does not go with that`,
      );
    }
    size = v0Size;
  }
  return checkHeader(object, {
    version: 0,
    size,
    blockSize: DEFAULT_BLOCK_SIZE,
    readOnly: true,
    deleted: false,
    epoch: 0,
    lineage: null,
  });
}

/** Decodes the entry at `at` of `bytes` into `map`. */
export function decodeEntry(map: ResolvedMap, i: number, bytes: Buffer, at: number): void {
  const hex = bytes.toString('hex', at, at + ENTRY_SIZE);
  if (hex === ZERO_NAME) map.setZero(i);
  else map.set(i, 0, hex);
}
