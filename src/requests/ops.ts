/**
 * The operations peers ask of each other: numbers, flags, states. The first block keeps the original's names and numbers
 * (libxseg protocol); everything that is new starts at 64. Which peer serves an operation and what target, offset, size and
 * data mean there is the table in docs/xseg-protocol.md.
 */

export const Op = {
  PING: 0,
  READ: 1,
  WRITE: 2,
  SYNC: 3,
  TRUNCATE: 4,
  DELETE: 5,
  ACQUIRE: 6,
  RELEASE: 7,
  COPY: 8,
  CLONE: 9,
  COMMIT: 10,
  INFO: 11,
  MAPR: 12,
  MAPW: 13,
  OPEN: 14,
  CLOSE: 15,
  SNAPSHOT: 16,
  HASH: 17,
  CREATE: 18,
  RENAME: 19,
  FLUSH: 20,
  UPDATE: 21,

  /** Volume or object range reads as zeros afterwards; space may be given back. */
  TRIM: 64,
  /** Volume or object range reads as zeros afterwards; with NO_HOLE the space stays allocated. */
  WRITE_ZEROES: 65,
  /** Extents of a volume range: which blocks are zero. Reply: packed extents (requests/extents.ts). */
  BLOCK_STATUS: 66,
  /** blocker: make the target object exist and be empty (a first write to a zero block comes after this). */
  RESET: 67,
  /** blocker: names of objects; mapper: volumes. Reply: JSON page with a cursor (requests/json.ts). */
  LIST: 68,
  /** mapper: everything `vlmc info` shows, as JSON. */
  STAT: 69,
  /** composer to mapper: lease on a volume's resolved map (requests/lease.ts). */
  LEASE: 70,
  /** mapper to composer: drain the volume, drop its resolved map, reply when nothing is in flight. */
  REVOKE: 71,
  /** composer to mapper: resolved entries of a range of blocks (requests/resolved-map.ts). */
  MAPFETCH: 72,
  /** composer to mapper: these whole blocks become ZERO entries; own objects they named are deleted. */
  MAPZERO: 73,
  /** blocker: who holds the lock of the target, as JSON. */
  LOCKINFO: 74,
  /** endpoint: make the volume an export / end that / list them; data and reply are JSON. */
  MAP: 75,
  UNMAP: 76,
  SHOWMAPPED: 77,
  /** every peer: its state as JSON (role, version, counters). */
  STATUS: 78,
  /**
   * mapper: what the map tells of a range of a volume: how deep its data lies, which objects hold it, where it differs from a
   * snapshot. Request data: JSON (requests/json.ts MapStatusRequest); reply: packed extents, as of BLOCK_STATUS.
   */
  MAPSTATUS: 79,
  /** mapper to blockerm: which of these locks are not this owner's any more, and what other nodes say (requests/lock-client.ts). */
  LOCKCHECK: 80,
  /** blockerm: leaves a message (data: LockMail as JSON) for the owner of locks that the target names. */
  LOCKMAIL: 81,
  /** blockerm: the locks that this owner holds, page by page. */
  LOCKS: 82,
  /** blocker: what it keeps of the store (open files) is looked at again before its next use: another node may have changed it. */
  FORGET: 83,
  /** mapper to composer: the exclusive leases are good until `offset`, ms of the monotonic clock. */
  RENEW: 84,
  /**
   * Nobody waits for these requests any more. endpoint to composer: data is the indices of its requests, 32 bits each; composer to
   * mapper: what waits for the lock of the target on behalf of the asker. What waits ends with ECANCELED; what runs goes on.
   */
  ABANDON: 85,
  /**
   * mapper to blockerm: answered with LockNews as soon as there is something to look at, at the latest after `offset` ms. EOPNOTSUPP where
   * the store tells nothing by itself.
   */
  NEWS: 86,
  /**
   * mapper to blockers: the store takes nothing more from the clients of the node whose owner string the target is. The answer is Fenced;
   * EOPNOTSUPP where the store cannot refuse anybody.
   */
  FENCE: 87,
  /** endpoint: the limits of a volume (or of all that have some), and changes of them; data and reply are JSON. */
  LIMIT: 88,
  /** mapper to endpoint: how many connections have the volume of the target open, in `serviced` of the answer. */
  CLIENTS: 89,
  /** composer to mapper: these blocks, anywhere in the volume, become writable as by MAPW. Data: their numbers; reply: MAPW's, a whole block each. */
  MAPOWN: 90,
} as const;
export type Op = (typeof Op)[keyof typeof Op];

/** Request flags. The first five are the original's. */
export const Flag = {
  /** ACQUIRE, map changes: do not wait for a lock. */
  NOSYNC: 1,
  FLUSH: 2,
  /** The data is durable before the reply. */
  FUA: 4,
  FORCE: 8,
  /** The map has no header: read it as a v0 (Pithos) map. */
  ASSUMEV0: 16,
  /** WRITE_ZEROES: keep the space allocated. */
  NO_HOLE: 32,
  /** WRITE_ZEROES: fail with EOPNOTSUPP unless it is faster than writing. */
  FAST_ZERO: 64,
  /** COPY, CREATE: fail with EEXIST when the target exists. */
  EXCL: 128,
  /** CLOSE: the asker's last client is gone; a volume that OPEN asked for stays open. EBUSY when another endpoint has clients of it. */
  IMPLICIT: 256,
  /** READ: the asker takes a hole for an answer: when all of the range reads as zeros, HOLE is set in the reply and no byte is written. */
  MAY_BE_HOLE: 512,
  /** In the reply of a READ with MAY_BE_HOLE: all zeros, the data buffer was not filled. */
  HOLE: 1024,
  /** READ: another node may have changed the object: nothing that is kept of it counts. LOCKCHECK: the store is asked, whatever it told before. */
  UNCACHED: 2048,
  /** OPEN: other nodes have it open too; the lock goes to whoever of them writes. */
  SHARED: 4096,
  /**
   * REVOKE: the volume's lock was lost: what has not been sent to the store must not be, and all that waits fails. With FLUSH (without
   * LOST): what was written is durable before the answer.
   */
  LOST: 8192,
  /** FLUSH to the mapper: the asker has changed the volume, so the lock must still be this node's. */
  WRITTEN: 16384,
  /** WRITE, TRIM, WRITE_ZEROES to the composer: while another of the asker's waits for the volume's lock, this one may come back PARKED. */
  MAY_PARK: 32768,
  /** In the reply, with EAGAIN: nothing was done; the asker sends it again when the one that waits is answered. */
  PARKED: 65536,
  /**
   * CLOSE with IMPLICIT: since the last change that a client of the asker was told to be done, a FLUSH was answered with EIO to one that was there:
   * what the disk did not take, and such an answer was about, may be given up. CLOSE without it: one that somebody asked for before was refused with that.
   */
  HEARD: 524288,
  /** FLUSH: no other request of any client is known of. FLUSH of one object: as far as the asker knows. The server may wait in place. */
  ALONE: 262144,
} as const;

/** v0_size of a request that gives none (the original's 2^64-1). */
export const NO_V0_SIZE = -1;

const names = new Map<number, string>(Object.entries(Op).map(([name, value]) => [value, name]));

/** The operation's name for messages and logs, e.g. `SNAPSHOT`. */
export function opName(op: number): string {
  return names.get(op) ?? `op ${op}`;
}
