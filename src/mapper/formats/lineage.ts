/**
 * Lineage: when a volume was made and what it descends from. It lies in the header object of a v2 map, behind the 32 bytes of the
 * header and within the same 512, so that one write of one sector stores both. The original reads these bytes and ignores them, and
 * leaves them where they are when it rewrites its 32. No I/O here.
 *
 * Bytes that are no valid lineage are none: never an error. The checksum also covers block size, flags and epoch of the header that
 * the lineage was written with. So it is void once another program has deleted the volume and made one of the same name (whose epoch
 * is higher), and also once another program took a snapshot of it.
 */
import { randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';

/** What a v2 header may carry of a volume's origin. */
export interface Lineage {
  /** 16 random bytes in hex: names this volume, also after it was renamed. */
  readonly id: string;
  /** When it was made, ms since the epoch; null for a volume that is older than its lineage. */
  readonly created: number | null;
  /** The volume a snapshot was taken of, the snapshot a clone was made from; null when there is none, or it has no id. */
  readonly parentId: string | null;
  /** Its name at that time; null when there is none. */
  readonly parentName: string | null;
}

/** `LNGE` */
const SIGNATURE = 0x4c4e4745;
const VERSION = 1;
const ID_BYTES = 16;
/** Offsets, from the end of the header. */
const LENGTH_AT = 6;
const CRC_AT = 8;
const CREATED_AT = 12;
const ID_AT = 20;
const PARENT_ID_AT = 36;
const PARENT_NAME_AT = 52;
/** Of the header, what the checksum covers: block size, flags, epoch. */
const BOUND_AT = 16;
/** The latest time that a Date holds. */
const MAX_TIME = 8.64e15;
const NO_ID = '00'.repeat(ID_BYTES);

/**
 * The lineage of a volume that is made now.
 * @param parent name and lineage of what it is made from
 * @param id 32 hex digits that no other volume has
 */
export function newLineage(
  parent: { name: string; lineage: Lineage | null } | null,
  created = Date.now(),
  id = randomBytes(ID_BYTES).toString('hex'),
): Lineage {
  return {
    id,
    created,
    parentId: parent?.lineage?.id ?? null,
    parentName: parent?.name ?? null,
  };
}

/** The lineage of a volume that exists and has none: from now on it has an id. */
export const lateLineage = (): Lineage => ({ ...newLineage(null), created: null });

/**
 * Writes the lineage behind a header.
 * @param out a whole sector, zero behind the header
 * @param at length of the header, which is written already
 */
export function encodeLineage(lineage: Lineage, out: Buffer, at: number): void {
  out.writeUInt32BE(SIGNATURE, at);
  out.writeUInt16BE(VERSION, at + 4);
  out.writeBigUInt64BE(BigInt(lineage.created ?? 0), at + CREATED_AT);
  out.write(lineage.id, at + ID_AT, 'hex');
  out.write(lineage.parentId ?? NO_ID, at + PARENT_ID_AT, 'hex');
  const name = Buffer.from(lineage.parentName ?? '', 'utf8');
  const length = PARENT_NAME_AT + name.length;
  if (at + length > out.length) throw new RangeError(`a parent's name of ${name.length} bytes`);
  name.copy(out, at + PARENT_NAME_AT);
  out.writeUInt16BE(length, at + LENGTH_AT);
  out.writeUInt32BE(checksum(out, at, length), at + CRC_AT);
}

/** The lineage behind a header of `at` bytes; null when there is no valid one. */
export function decodeLineage(bytes: Buffer, at: number): Lineage | null {
  if (bytes.length < at + PARENT_NAME_AT) return null;
  if (bytes.readUInt32BE(at) !== SIGNATURE || bytes.readUInt16BE(at + 4) !== VERSION) return null;
  const length = bytes.readUInt16BE(at + LENGTH_AT);
  if (length < PARENT_NAME_AT || at + length > bytes.length) return null;
  if (bytes.readUInt32BE(at + CRC_AT) !== checksum(bytes, at, length)) return null;
  const id = (from: number): string => bytes.toString('hex', at + from, at + from + ID_BYTES);
  const parentId = id(PARENT_ID_AT);
  const created = Number(bytes.readBigUInt64BE(at + CREATED_AT));
  return {
    id: id(ID_AT),
    created: created > 0 && created <= MAX_TIME ? created : null,
    parentId: parentId === NO_ID ? null : parentId,
    parentName: bytes.toString('utf8', at + PARENT_NAME_AT, at + length) || null,
  };
}

function checksum(bytes: Buffer, at: number, length: number): number {
  const header = crc32(bytes.subarray(BOUND_AT, at));
  const start = crc32(bytes.subarray(at, at + CRC_AT), header);
  return crc32(bytes.subarray(at + CREATED_AT, at + length), start);
}
