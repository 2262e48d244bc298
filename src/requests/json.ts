/**
 * JSON bodies of requests and replies, and the shapes that more than one part knows. The bytes are the start of the data buffer.
 */
import { errnos, SystemError } from '../sys/errno.js';

/** LIST: a page of names or volumes. */
export interface ListRequest {
  /** From the page before; null for the first. */
  cursor: string | null;
  /** Most entries of the reply; the peer may give fewer. */
  limit: number;
  /** mapper only: list deleted volumes too (their headers stay, to keep the epoch). */
  deleted?: boolean;
  /**
   * mapper only: list just the snapshots of this volume (which must exist), in the order of names. What other nodes did in the last
   * seconds may be missing (docs/xseg-protocol.md says how long).
   */
  snapshotsOf?: string;
  /** mapper only, with `snapshotsOf`: look at no other than this one, as it is stored now; the list has it or is empty. */
  name?: string;
}

/** Reply of a blocker's LIST. The cursor is null at the end. */
export interface NameListReply {
  names: string[];
  cursor: string | null;
}

export interface VolumeListEntry {
  name: string;
  /** Bytes. */
  size: number;
  blockSize: number;
  readOnly: boolean;
  version: number;
  /** Of v2 maps; also of deleted ones, whose names go on with the next epoch. */
  epoch?: number;
  /** Only with `deleted` in the request. */
  deleted?: boolean;
  /** What is wrong with the map, when it cannot be read; size is then 0. */
  error?: string;
  /** When it was made, ms since the epoch; absent when nothing tells. */
  created?: number;
  /**
   * The volume a snapshot was taken of, the snapshot a clone was made from, by the name it had then; absent when there is none or
   * nothing tells.
   */
  parent?: string;
  /**
   * Only with `snapshotsOf`: that it is a snapshot of the volume is most likely and not certain, because its map or the volume's was
   * written by software that keeps no lineage: the names of its objects, or just the recorded name of the volume, tell so.
   */
  guessed?: true;
}

/** Reply of the mapper's LIST. A page can be empty and still have a cursor. */
export interface VolumeListReply {
  volumes: VolumeListEntry[];
  cursor: string | null;
}

/** Request of MAPSTATUS: the extents of which property. On the wire it is encodeMapStatus's, since `size` is that of the range. */
export type MapStatusRequest =
  /** Extent flags: 0 zeros without an object, 1 own object, 2 object shared with a snapshot or from an image. */
  | { what: 'depth' }
  /** Extent flags: see docs/nbd.md, archipelago:object. */
  | { what: 'object' }
  /**
   * Extent flags: 1 where the volume differs from the read-only map `from`, else 0. With `epoch`, as INFO tells it, another map that was
   * made under that name since is not taken for it.
   */
  | { what: 'diff'; from: string; epoch?: number };

/** Request of the mapper's STAT. */
export interface StatRequest {
  /** Ask the blocker for the space of every object: slow. */
  allocated?: boolean;
}

/** Reply of the mapper's STAT. */
export interface VolumeStat {
  name: string;
  size: number;
  blockSize: number;
  version: number;
  epoch: number;
  readOnly: boolean;
  readOnlyReason?: string;
  /**
   * The volume or snapshot it was made from, by the name it had then; where the map does not tell, what its objects' names suggest;
   * null when there is no sign of one.
   */
  parent: string | null;
  /** When it was made, ms since the epoch; null when nothing tells. */
  created: number | null;
  blocks: {
    total: number;
    zero: number;
    /** Own objects: writable in place, deleted with the volume. */
    own: number;
    /** Objects shared with snapshots or clones: copied before a write. */
    shared: number;
    /** Objects not made by a volume (content-addressed images). */
    foreign: number;
    /** Blocks that cannot be read: damaged or missing map data. */
    damaged: number;
  };
  /** Bytes of storage of own and of all other objects; only when asked for. Missing objects are counted, not an error. */
  allocated?: { own: number; other: number; missing: number };
  /** Owner of the volume's lock and when it was taken (ms since the epoch), null when not locked. */
  lock: LockInfo | null;
  /** How the volume is open on this node, by OPEN. */
  open: 'exclusive' | 'shared' | null;
  /** This node keeps the lock because it was asked to by hand. */
  byHand: boolean;
  /**
   * This node lost the lock, at ms since the epoch, to the holder (an owner string; null: nobody held it when that was seen): it refuses
   * everything of the volume until CLOSE or OPEN. Else null.
   */
  lost: { holder: string | null; at: number } | null;
}

/** Reply of the mapper's LOCKINFO: the lock of a name, which need not be a volume's, and what this node has to do with it. */
export interface LockState extends Pick<VolumeStat, 'lock' | 'open' | 'byHand' | 'lost'> {
  /** Since when (ms since the epoch) and why the lock could not be given back that nobody of this node uses; else null. */
  unclosed: { since: number; why: string } | null;
}

/** Reply of a blocker's LOCKINFO, or null: not locked. */
export interface LockInfo {
  owner: string;
  since: number | null;
  /** See LockHolder of blockers/driver.ts. */
  after?: readonly string[];
  /** Likewise. */
  mark?: string;
}

/** The bytes of a JSON body. */
export function encodeJson(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value), 'utf8');
}

/**
 * Parses a JSON body that must be an object or null. @param what names the request in the error
 * @throws SystemError EINVAL
 */
export function decodeJson(bytes: Uint8Array, what: string): Record<string, unknown> | null {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8'));
  } catch (error) {
    throw new SystemError(errnos.EINVAL, `${what}: the data is not JSON`, { cause: error });
  }
  if (value !== null && (typeof value !== 'object' || Array.isArray(value))) {
    throw new SystemError(errnos.EINVAL, `${what}: the data is not a JSON object`);
  }
  return value as Record<string, unknown> | null;
}

/** Checks a LIST request. @throws SystemError EINVAL */
export function parseListRequest(bytes: Uint8Array): ListRequest {
  const value = bytes.length === 0 ? {} : (decodeJson(bytes, 'LIST') ?? {});
  const { cursor = null, limit = 256, deleted = false } = value;
  if (cursor !== null && typeof cursor !== 'string')
    throw new SystemError(errnos.EINVAL, 'LIST: cursor is not a string');
  if (typeof limit !== 'number' || !Number.isInteger(limit) || limit < 1) {
    throw new SystemError(errnos.EINVAL, 'LIST: limit is not a positive integer');
  }
  if (typeof deleted !== 'boolean') throw new SystemError(errnos.EINVAL, 'LIST: deleted is not true or false');
  const { snapshotsOf, name } = value;
  if (snapshotsOf !== undefined && typeof snapshotsOf !== 'string') {
    throw new SystemError(errnos.EINVAL, 'LIST: snapshotsOf is not a string');
  }
  if (name !== undefined && (typeof name !== 'string' || snapshotsOf === undefined)) {
    throw new SystemError(errnos.EINVAL, 'LIST: name is not a string, or without snapshotsOf');
  }
  return {
    cursor,
    limit,
    deleted,
    ...(snapshotsOf === undefined ? {} : { snapshotsOf }),
    ...(name === undefined ? {} : { name }),
  };
}

/** Data of a MAPSTATUS request: the JSON and a NUL, because the buffer goes on to where the answer has room. */
export function encodeMapStatus(request: MapStatusRequest): Buffer {
  return Buffer.concat([encodeJson(request), Buffer.alloc(1)]);
}

/** Decodes the data of a MAPSTATUS request: JSON up to a NUL or the end. @throws SystemError EINVAL */
export function decodeMapStatus(bytes: Uint8Array): MapStatusRequest {
  const end = bytes.indexOf(0);
  const { what, from, epoch } = decodeJson(end < 0 ? bytes : bytes.subarray(0, end), 'MAPSTATUS') ?? {};
  if (what === 'depth' || what === 'object') return { what };
  if (what !== 'diff') throw new SystemError(errnos.EINVAL, 'MAPSTATUS: what is not depth, object or diff');
  if (typeof from !== 'string') throw new SystemError(errnos.EINVAL, 'MAPSTATUS: diff without the name of a snapshot');
  if (epoch === undefined) return { what, from };
  if (typeof epoch !== 'number') throw new SystemError(errnos.EINVAL, 'MAPSTATUS: epoch is not a number');
  return { what, from, epoch };
}
