/**
 * Map format v2: a header of 32 bytes in the object `<volume>`, with lineage behind it (lineage.ts), and entries of 128 bytes in map-data objects
 * `<volume>_<id %016x>` of block size / 128 entries each (ondisk 4.1, 4.2). Header fields are big endian, lengths in entries are
 * little endian. No I/O here.
 */
import { EntryFlag, type ResolvedMap } from '../../requests/resolved-map.js';
import { errnos, SystemError } from '../../sys/errno.js';
import { checkHeader, damaged, exact, HEADER_READ, type MapHeader, ZERO_NAME_BYTES } from './header.js';
import { decodeLineage, encodeLineage } from './lineage.js';

export const HEADER_SIZE = 32;
export const ENTRY_SIZE = 128;
/** The longest object name an entry holds, in bytes. */
export const MAX_ENTRY_NAME = 123;
/** Entries of one read or write: 512 KiB, as the original's. */
export const RUN_ENTRIES = 4096;

const SIGNATURE = 0x414d462e; // "AMF."
const READONLY = 1;
const DELETED = 2;
const STORED_FLAGS = EntryFlag.WRITABLE | EntryFlag.ARCHIP | EntryFlag.ZERO | EntryFlag.DELETED;
const NAME_AT = 5;
const SLASH = 0x2f;

/** Whether the bytes start with the v2 signature. */
export const isV2 = (bytes: Buffer): boolean => bytes.length >= 4 && bytes.readUInt32BE(0) === SIGNATURE;

/** A whole sector: the header, then its lineage, then zeros, so that nothing older is left behind it. A deleted volume has no lineage. */
export function encodeHeader(header: MapHeader): Buffer {
  const out = Buffer.alloc(HEADER_READ);
  out.writeUInt32BE(SIGNATURE, 0);
  out.writeUInt32BE(2, 4);
  out.writeBigUInt64BE(BigInt(header.size), 8);
  out.writeUInt32BE(header.blockSize, 16);
  out.writeUInt32BE((header.readOnly ? READONLY : 0) | (header.deleted ? DELETED : 0), 20);
  out.writeBigUInt64BE(BigInt(header.epoch), 24);
  if (header.lineage && !header.deleted) encodeLineage(header.lineage, out, HEADER_SIZE);
  return out;
}

/**
 * Decodes a header, and the lineage behind it if there is one; anything else after its 32 bytes is ignored.
 * @param object name of the object, for errors
 * @throws SystemError EOPNOTSUPP (another version), EIO (damaged)
 */
export function decodeHeader(object: string, bytes: Buffer): MapHeader {
  if (bytes.length < HEADER_SIZE) throw damaged(object, `${bytes.length} bytes, a header has ${HEADER_SIZE}`);
  const version = bytes.readUInt32BE(4);
  if (version !== 2) {
    throw new SystemError(errnos.EOPNOTSUPP, `map object ${object} has format version ${version}; only 2 is known`);
  }
  const flags = bytes.readUInt32BE(20);
  if (flags & ~(READONLY | DELETED)) throw damaged(object, `header flags 0x${flags.toString(16)}`);
  const deleted = (flags & DELETED) !== 0;
  return checkHeader(object, {
    version: 2,
    size: exact(object, bytes.readBigUInt64BE(8), 'a volume size of'),
    blockSize: bytes.readUInt32BE(16),
    readOnly: (flags & READONLY) !== 0,
    deleted,
    epoch: exact(object, bytes.readBigUInt64BE(24), 'an epoch of'),
    lineage: deleted ? null : decodeLineage(bytes, HEADER_SIZE),
  });
}

/** Entries per map-data object. */
export const entriesPerObject = (blockSize: number): number => blockSize / ENTRY_SIZE;

/** Name of a map-data object. @param stored name of the header object */
export const mapDataName = (stored: string, id: number): string => `${stored}_${id.toString(16).padStart(16, '0')}`;

/** A run of entries that lie in one map-data object. */
export interface EntryRun {
  object: string;
  /** Byte offset in the object. */
  offset: number;
  first: number;
  count: number;
}

/** Cuts blocks [first, first + count) into runs that do not cross map-data objects and have at most `most` entries. */
export function* entryRuns(
  stored: string,
  blockSize: number,
  first: number,
  count: number,
  most: number,
): Generator<EntryRun> {
  const per = entriesPerObject(blockSize);
  for (let i = first; i < first + count; ) {
    const within = i % per;
    const n = Math.min(per - within, first + count - i, most);
    yield { object: mapDataName(stored, Math.floor(i / per)), offset: within * ENTRY_SIZE, first: i, count: n };
    i += n;
  }
}

/**
 * Decodes the entry at `at` of `bytes` into `map`.
 * @returns null, or what is wrong with it; the entry of `map` is then left as it was
 */
export function decodeEntry(map: ResolvedMap, i: number, bytes: Buffer, at: number): string | null {
  const flags = bytes[at];
  const length = bytes.readUInt32LE(at + 1);
  if (flags & ~STORED_FLAGS) return `flags 0x${flags.toString(16)}`;
  if (length === 0) return flags === 0 ? 'it is empty' : 'the object name is empty';
  if (length > MAX_ENTRY_NAME) return `an object name of ${length} bytes`;
  const name = at + NAME_AT;
  if (flags & EntryFlag.ZERO || isZeroName(bytes, name, length)) {
    map.setZero(i, flags);
    return null;
  }
  for (let k = name; k < name + length; k++) {
    if (bytes[k] === 0 || bytes[k] === SLASH) return 'the object name has a NUL or a slash';
  }
  map.setBytes(i, flags, bytes, name, length);
  return null;
}

function isZeroName(bytes: Buffer, start: number, length: number): boolean {
  return length === ZERO_NAME_BYTES.length && ZERO_NAME_BYTES.compare(bytes, start, start + length) === 0;
}

/**
 * Encodes one entry of `map` at `at` of `out`, which must be zero there.
 * @param keep flags that stay; a ZERO entry is always written as just that
 * @param add flags to add
 * @throws SystemError ENAMETOOLONG
 */
export function encodeEntry(map: ResolvedMap, i: number, out: Buffer, at: number, keep = 15, add = 0): void {
  const flags = map.flags(i);
  if (flags & EntryFlag.ZERO) {
    encodeZeroEntry(out, at);
    return;
  }
  const length = map.nameLength(i);
  if (length > MAX_ENTRY_NAME) {
    throw new SystemError(
      errnos.ENAMETOOLONG,
      `object name ${map.objectName(i)} is longer than the ${MAX_ENTRY_NAME} bytes of a map entry`,
    );
  }
  out[at] = (flags & keep & STORED_FLAGS) | add;
  out.writeUInt32LE(length, at + 1);
  map.writeName(i, out, at + NAME_AT);
}

/** Encodes a zero entry at `at` of `out`, which must be zero there. */
export function encodeZeroEntry(out: Buffer, at: number): void {
  out[at] = EntryFlag.ZERO;
  out.writeUInt32LE(ZERO_NAME_BYTES.length, at + 1);
  ZERO_NAME_BYTES.copy(out, at + NAME_AT);
}

/** @throws SystemError ENAMETOOLONG when no entry has room for this name */
export function checkEntryName(name: string): void {
  if (Buffer.byteLength(name, 'utf8') <= MAX_ENTRY_NAME) return;
  throw new SystemError(
    errnos.ENAMETOOLONG,
    `object name ${name} is longer than the ${MAX_ENTRY_NAME} bytes of a map entry`,
  );
}

/** Encodes an entry with a given name at `at` of `out`, which must be zero there. @throws SystemError ENAMETOOLONG */
export function encodeNamedEntry(out: Buffer, at: number, flags: number, name: string): void {
  checkEntryName(name);
  const length = Buffer.byteLength(name, 'utf8');
  out[at] = flags;
  out.writeUInt32LE(length, at + 1);
  out.write(name, at + NAME_AT, MAX_ENTRY_NAME, 'utf8');
}
