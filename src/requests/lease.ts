/**
 * LEASE: the composer asks the mapper for the right to use a volume's resolved map without asking for every request.
 * The target is the volume; request and reply are JSON in the data buffer.
 */

/** Reads and writes of the request: `write` asks for the exclusive lease, and waits for the volume's lock if it must. */
export interface LeaseRequest {
  write: boolean;
}

/**
 * exclusive: this mapper holds the volume's lock, the map is good until REVOKE. shared: the map never changes (snapshot, image, v0,
 * v1), no lock is held. none: another node holds the lock; ask MAPR for every request and keep nothing.
 */
export type LeaseGrant = 'exclusive' | 'shared' | 'none';

export interface LeaseReply {
  granted: LeaseGrant;
  /** Volume size in bytes, and block size in bytes. */
  size: number;
  blockSize: number;
  epoch: number;
  /** Writes fail with EROFS; the reason is a sentence for the user where it is not simply a snapshot. */
  readOnly: boolean;
  readOnlyReason?: string;
  /** Format of the stored map: 0, 1 or 2. */
  version: number;
  /** Changes with every change that a holder of an older lease must not miss (size, snapshot, rename …). */
  generation: number;
  /**
   * granted exclusive: until when it may be used without hearing of the mapper again (RENEW), ms of the monotonic clock. Whoever uses it
   * puts this into its requests (Request.deadline), so that none is begun later.
   */
  until?: number;
  /** granted none: who holds the lock, for messages. */
  holder?: string;
}
