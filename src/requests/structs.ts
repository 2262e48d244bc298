/**
 * The fixed structs in the data of CLONE, SNAPSHOT, RENAME, COPY, HASH, CREATE, INFO, MAPR and MAPW: the original's C layouts
 * (little endian, natural alignment), so that its clients and ours agree byte for byte. No I/O here.
 */
import { errnos, SystemError } from '../sys/errno.js';

/** Bytes of a name field; names are at most MAX_TARGET long. */
const NAME_FIELD = 256;
/** Bytes of a block's number in MAPOWN. */
const BLOCK_NUMBER_SIZE = 8;
export const NAME_STRUCT_SIZE = NAME_FIELD + 4;
export const CLONE_STRUCT_SIZE = 272;
/** Bytes of one segment in a MAPR or MAPW reply, and of the count before them. */
export const MAP_SEGMENT_SIZE = 280;
export const MAP_REPLY_HEADER = 8;
/** Flag of a segment without object: it reads as zeros. */
export const MAP_SEGMENT_ZERO = 2;
const CREATE_HEADER = 12;
const CREATE_ENTRY = 264;
/** Flag of X_CREATE: the whole map (header) or the object (entry) is read-only. */
export const CREATE_READONLY = 1;

const short = (what: string, need: number, have: number): SystemError =>
  new SystemError(errnos.EINVAL, `${what}: ${have} bytes of data, ${need} are needed`);

function view(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function putName(out: Buffer, at: number, lengthAt: number, name: string): void {
  const length = Buffer.byteLength(name, 'utf8');
  if (length > NAME_FIELD)
    throw new SystemError(errnos.ENAMETOOLONG, `name ${name} is longer than ${NAME_FIELD} bytes`);
  out.write(name, at, NAME_FIELD, 'utf8');
  out.writeUInt32LE(length, lengthAt);
}

function getName(bytes: Buffer, at: number, length: number, what: string): string {
  if (length > NAME_FIELD) throw new SystemError(errnos.EINVAL, `${what}: a name of ${length} bytes`);
  const name = bytes.toString('utf8', at, at + length);
  if (name.includes('\0')) throw new SystemError(errnos.EINVAL, `${what}: a name with a NUL byte`);
  return name;
}

function safe(value: bigint, what: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new SystemError(errnos.EFBIG, `${what}: ${value} is out of range`);
  return Number(value);
}

/** Data of SNAPSHOT (snapshot name), RENAME (new name), COPY (source name), and reply of HASH. */
export function encodeName(name: string): Buffer {
  const out = Buffer.alloc(NAME_STRUCT_SIZE);
  putName(out, 0, NAME_FIELD, name);
  return out;
}

/** @param what the operation, for errors. @throws SystemError EINVAL */
export function decodeName(data: Uint8Array, what: string): string {
  const bytes = view(data);
  if (bytes.length < NAME_STRUCT_SIZE) throw short(what, NAME_STRUCT_SIZE, bytes.length);
  return getName(bytes, 0, bytes.readUInt32LE(NAME_FIELD), what);
}

/** Data of CLONE: parent name ('' = a blank volume) and size in bytes (0 = the parent's). */
export interface CloneData {
  parent: string;
  size: number;
}

export function encodeClone(clone: CloneData): Buffer {
  const out = Buffer.alloc(CLONE_STRUCT_SIZE);
  putName(out, 0, NAME_FIELD, clone.parent);
  out.writeBigUInt64LE(BigInt(clone.size), 264);
  return out;
}

/** @throws SystemError EINVAL, EFBIG (size past 2^53) */
export function decodeClone(data: Uint8Array): CloneData {
  const bytes = view(data);
  if (bytes.length < CLONE_STRUCT_SIZE) throw short('CLONE', CLONE_STRUCT_SIZE, bytes.length);
  return {
    parent: getName(bytes, 0, bytes.readUInt32LE(NAME_FIELD), 'CLONE'),
    size: safe(bytes.readBigUInt64LE(264), 'CLONE: size'),
  };
}

/**
 * Reply of INFO: size in bytes; a blocker adds the space used where the buffer has room for 16 bytes, and when the object was changed
 * last (ms since the epoch), if the store tells, where it has room for 24.
 */
export interface InfoReply {
  size: number;
  allocated?: number;
  modified?: number;
}

export function encodeInfo(info: InfoReply): Buffer {
  const { size, allocated, modified } = info;
  const out = Buffer.alloc(allocated === undefined ? 8 : modified === undefined ? 16 : 24);
  out.writeBigUInt64LE(BigInt(size), 0);
  if (allocated !== undefined) out.writeBigUInt64LE(BigInt(allocated), 8);
  if (allocated !== undefined && modified !== undefined) out.writeBigUInt64LE(BigInt(modified), 16);
  return out;
}

/** @throws SystemError EINVAL */
export function decodeInfo(data: Uint8Array): InfoReply {
  const bytes = view(data);
  if (bytes.length < 8) throw short('INFO reply', 8, bytes.length);
  const size = safe(bytes.readBigUInt64LE(0), 'INFO reply: size');
  if (bytes.length < 16) return { size };
  const allocated = safe(bytes.readBigUInt64LE(8), 'INFO reply: allocated');
  if (bytes.length < 24) return { size, allocated };
  return { size, allocated, modified: safe(bytes.readBigUInt64LE(16), 'INFO reply: modified') };
}

/** What the mapper's INFO tells where the buffer has room for it; the original's clients look at the size alone. */
export interface VolumeInfo {
  /** Bytes. */
  size: number;
  blockSize: number;
  readOnly: boolean;
  /** Format of the stored map: 0, 1 or 2. */
  version: number;
  epoch: number;
  /** When it was made, ms since the epoch; null when nothing tells, or the asker's buffer had no room for it. */
  created: number | null;
  /** The volume a snapshot was taken of, the snapshot a clone was made from; null like created. */
  parent: string | null;
  /** 32 hex digits that no other volume has; null when its map keeps no lineage, or like created. */
  id: string | null;
}
/** Without and with `created`, `parent` and `id`. */
export const VOLUME_INFO_SIZE = 32;
export const VOLUME_INFO_FULL_SIZE = 320;
const ID_AT = 304;
const NO_ID = '00'.repeat(VOLUME_INFO_FULL_SIZE - ID_AT);

/**
 * u64 size, u32 block size, u32 flags (1 = read-only), u32 version, 4 spare, u64 epoch; then u64 created (0 = null), u32 length of the
 * parent's name (0 = null), 4 spare, the name; from 304 on 16 bytes of id (0 = null); little endian. 320 bytes; the first 32 are a reply of
 * their own.
 */
export function encodeVolumeInfo(info: VolumeInfo): Buffer {
  const out = Buffer.alloc(VOLUME_INFO_FULL_SIZE);
  out.writeBigUInt64LE(BigInt(info.size), 0);
  out.writeUInt32LE(info.blockSize, 8);
  out.writeUInt32LE(info.readOnly ? 1 : 0, 12);
  out.writeUInt32LE(info.version, 16);
  out.writeBigUInt64LE(BigInt(info.epoch), 24);
  out.writeBigUInt64LE(BigInt(info.created ?? 0), 32);
  if (info.parent !== null) putName(out, 48, 40, info.parent);
  if (info.id !== null) out.write(info.id, ID_AT, 'hex');
  return out;
}

/** @throws SystemError EINVAL */
export function decodeVolumeInfo(data: Uint8Array): VolumeInfo {
  const bytes = view(data);
  if (bytes.length < VOLUME_INFO_SIZE) throw short('INFO reply', VOLUME_INFO_SIZE, bytes.length);
  const full = bytes.length >= VOLUME_INFO_FULL_SIZE;
  const id = full ? bytes.toString('hex', ID_AT, VOLUME_INFO_FULL_SIZE) : NO_ID;
  return {
    size: safe(bytes.readBigUInt64LE(0), 'INFO reply: size'),
    blockSize: bytes.readUInt32LE(8),
    readOnly: (bytes.readUInt32LE(12) & 1) !== 0,
    version: bytes.readUInt32LE(16),
    epoch: safe(bytes.readBigUInt64LE(24), 'INFO reply: epoch'),
    created: full ? safe(bytes.readBigUInt64LE(32), 'INFO reply: created') || null : null,
    parent: full ? getName(bytes, 48, bytes.readUInt32LE(40), 'INFO reply') || null : null,
    id: id === NO_ID ? null : id,
  };
}

/** One piece of a MAPR or MAPW reply: `size` bytes at `offset` of an object, or of zeros (target ''). */
export interface MapSegment {
  target: string;
  zero: boolean;
  offset: number;
  size: number;
}

/** Bytes of a reply with `count` segments. */
export const mapReplySize = (count: number): number => MAP_REPLY_HEADER + count * MAP_SEGMENT_SIZE;

export function encodeMapReply(segments: readonly MapSegment[]): Buffer {
  const out = Buffer.alloc(mapReplySize(segments.length));
  out.writeUInt32LE(segments.length, 0);
  let at = MAP_REPLY_HEADER;
  for (const segment of segments) {
    const length = out.write(segment.target, at, NAME_FIELD, 'utf8');
    out.writeUInt32LE(segment.zero ? MAP_SEGMENT_ZERO : 0, at + NAME_FIELD);
    out.writeUInt32LE(length, at + NAME_FIELD + 4);
    out.writeBigUInt64LE(BigInt(segment.offset), at + NAME_FIELD + 8);
    out.writeBigUInt64LE(BigInt(segment.size), at + NAME_FIELD + 16);
    at += MAP_SEGMENT_SIZE;
  }
  return out;
}

/** @throws SystemError EINVAL when lengths do not fit together */
export function decodeMapReply(data: Uint8Array): MapSegment[] {
  const bytes = view(data);
  if (bytes.length < MAP_REPLY_HEADER) throw short('MAPR reply', MAP_REPLY_HEADER, bytes.length);
  const count = bytes.readUInt32LE(0);
  if (bytes.length < mapReplySize(count)) throw short('MAPR reply', mapReplySize(count), bytes.length);
  const segments: MapSegment[] = [];
  for (let i = 0, at = MAP_REPLY_HEADER; i < count; i++, at += MAP_SEGMENT_SIZE) {
    const length = bytes.readUInt32LE(at + NAME_FIELD + 4);
    if (length > NAME_FIELD) throw new SystemError(errnos.EINVAL, `MAPR reply: a name of ${length} bytes`);
    segments.push({
      target: bytes.toString('utf8', at, at + length),
      zero: (bytes.readUInt32LE(at + NAME_FIELD) & MAP_SEGMENT_ZERO) !== 0,
      offset: safe(bytes.readBigUInt64LE(at + NAME_FIELD + 8), 'MAPR reply: offset'),
      size: safe(bytes.readBigUInt64LE(at + NAME_FIELD + 16), 'MAPR reply: size'),
    });
  }
  return segments;
}

/** Data of MAPOWN: numbers of blocks, u64 each. */
export function encodeBlocks(blocks: readonly number[]): Buffer {
  const out = Buffer.alloc(blocks.length * BLOCK_NUMBER_SIZE);
  for (const [i, block] of blocks.entries()) out.writeBigUInt64LE(BigInt(block), i * BLOCK_NUMBER_SIZE);
  return out;
}

/** @throws SystemError EINVAL when it is cut short */
export function decodeBlocks(data: Uint8Array): number[] {
  const bytes = view(data);
  const count = Math.ceil(bytes.length / BLOCK_NUMBER_SIZE);
  if (bytes.length < count * BLOCK_NUMBER_SIZE) throw short('MAPOWN', count * BLOCK_NUMBER_SIZE, bytes.length);
  return Array.from({ length: count }, (_, i) => safe(bytes.readBigUInt64LE(i * BLOCK_NUMBER_SIZE), 'MAPOWN: block'));
}

/** Data of CREATE (the original's X_CREATE): a map of given objects. */
export interface CreateData {
  /** Bytes; 0 means 4 MiB. */
  blockSize: number;
  readOnly: boolean;
  objects: { name: string; readOnly: boolean }[];
}

export function encodeCreate(create: CreateData): Buffer {
  const out = Buffer.alloc(CREATE_HEADER + create.objects.length * CREATE_ENTRY);
  out.writeUInt32LE(create.objects.length, 0);
  out.writeUInt32LE(create.blockSize, 4);
  out.writeUInt32LE(create.readOnly ? CREATE_READONLY : 0, 8);
  let at = CREATE_HEADER;
  for (const object of create.objects) {
    putName(out, at, at + NAME_FIELD, object.name);
    out.writeUInt32LE(object.readOnly ? CREATE_READONLY : 0, at + NAME_FIELD + 4);
    at += CREATE_ENTRY;
  }
  return out;
}

/** @throws SystemError EINVAL */
export function decodeCreate(data: Uint8Array): CreateData {
  const bytes = view(data);
  if (bytes.length < CREATE_HEADER) throw short('CREATE', CREATE_HEADER, bytes.length);
  const count = bytes.readUInt32LE(0);
  const need = CREATE_HEADER + count * CREATE_ENTRY;
  if (bytes.length < need) throw short('CREATE', need, bytes.length);
  const objects: CreateData['objects'] = [];
  for (let i = 0, at = CREATE_HEADER; i < count; i++, at += CREATE_ENTRY) {
    objects.push({
      name: getName(bytes, at, bytes.readUInt32LE(at + NAME_FIELD), 'CREATE'),
      readOnly: (bytes.readUInt32LE(at + NAME_FIELD + 4) & CREATE_READONLY) !== 0,
    });
  }
  return { blockSize: bytes.readUInt32LE(4), readOnly: (bytes.readUInt32LE(8) & CREATE_READONLY) !== 0, objects };
}
