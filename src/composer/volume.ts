/**
 * What the composer knows of one volume: its lease, its resolved map, what runs on it, what waits, and which objects were written
 * since the last flush. State only: leases.ts changes the lease, transfer.ts and zeroing.ts run operations.
 *
 *   none ──acquire──► held ──revoke, or it ran out──► draining ──nothing in flight──► none
 */
import type { LeaseReply } from '../requests/lease.js';
import type { LockSeal } from '../requests/lock-look.js';
import type { ResolvedMap } from '../requests/resolved-map.js';
import { monotonicMs } from '../sys/clock.js';
import { errnos } from '../sys/errno.js';
import type { Request } from '../xseg/index.js';
import { Hints } from './hints.js';
import type { Operation } from './operation.js';

/** How a volume is asked for: its name, and whether a headerless map is to be taken for v0. */
export interface VolumeKey {
  readonly name: string;
  readonly assumeV0: boolean;
  /** Bytes; -1 = not given. */
  readonly v0Size: number;
}

export const plainKey = (name: string): VolumeKey => ({ name, assumeV0: false, v0Size: -1 });

export const keyText = (key: VolumeKey): string => (key.assumeV0 ? `${key.name}\0${key.v0Size}` : key.name);

/**
 * Whether anything of a volume may be sent to the store. EXPIRED: its lease ran out, operations go back and wait for another one. LOST: its
 * lock is another node's, operations fail.
 */
export const Halt = { NONE: 0, EXPIRED: 1, LOST: 2 } as const;
export type Halt = (typeof Halt)[keyof typeof Halt];

/** Who waits until nothing of a volume is in flight and its lease is dropped. */
export interface Drain {
  /** What was written must be durable before; false when it is, or need not be. */
  flush: boolean;
  /** Why it could not be made durable, or null. */
  error: unknown;
  readonly done: (error: unknown) => void;
}

export interface ZeroRange {
  /** Blocks first .. end-1. */
  readonly first: number;
  readonly end: number;
  readonly waiters: Operation[];
}

export class Volume {
  readonly key: VolumeKey;
  /** The name's bytes. */
  readonly nameBytes: Uint8Array;
  /** Number by which askers find it again without its name (Request.hint). */
  readonly handle: number;
  /** Asked for as a map without header, but it has one: the volume asked for by name alone stands for this one. */
  hasHeader = false;
  state: 'none' | 'held' | 'draining' = 'none';
  lease: LeaseReply | null = null;
  /** null under a lease of kind none: the map is asked for every request. */
  map: ResolvedMap | null = null;
  blockSize = 0;
  size = 0;
  /** Exclusive lease: until when it is good, ms of the monotonic clock; every request to the store carries it. 0: no end is known. */
  until = 0;
  /** When the lease was granted, by the same clock. */
  grantedAt = 0;
  halt: Halt = Halt.NONE;
  /** The volume's lock was lost, in a sentence for whoever asks: until it is closed or opened again. */
  lost: string | null = null;
  /** The lock was lost and the mapper has granted a new lease: the next flush tells once that what was written before may be gone. */
  lossUntold: string | null = null;

  /** Operations that use the lease. */
  inFlight = 0;
  /** Requests that wait for a lease, or for the end of a drain. */
  readonly waiting: Request[] = [];
  acquiring = false;
  /** Revokes that came: a lease that was on its way meanwhile may be older than the revoke and is not used. */
  revocations = 0;
  /** Writes that wait until another node lets go of the lock, while reads go on. */
  readonly waitingForLock: Request[] = [];
  acquiringLock = false;
  /** The mapper was told that nobody waits for the lock any more. */
  abandoned = false;
  /** When a lease of kind none was last tried to be bettered, ms. */
  triedAt = 0;
  drains: Drain[] = [];
  /** Nothing is in flight, and what was written is being made durable for a drain. */
  drainFlushing = false;

  /** Blocks whose entry is being changed, and who waits for that. */
  readonly changing = new Map<number, Operation[]>();
  /** Chunks of the map being fetched, and who waits for them. */
  readonly fetching = new Map<number, Operation[]>();

  /** Writes in flight by barrier generation (zeroing.ts): two generations take turns. */
  readonly writes: [number, number] = [0, 0];
  generation = 0;
  onWritesDone: (() => void) | null = null;
  /** Ranges of whole blocks that become ZERO: no write starts in them until they are. MAPZERO calls run one after the other. */
  readonly zeroRanges: ZeroRange[] = [];
  zeroing: Promise<void> = Promise.resolve();

  /** Blocks written under the current lease since the last flush, and names of objects written under earlier ones. */
  readonly dirtyBlocks = new Set<number>();
  readonly dirtyNames = new Set<string>();
  /** The map was changed since the mapper last flushed it, or may have been by an earlier process. */
  mapDirty = true;
  /** Something was written or changed by this process. */
  changed = false;
  /** Somebody who asked for its close was told that the disk did not take what was written. */
  closeRefused = false;
  /** Something was written or changed since the lock was last found to be still this node's. */
  written = false;
  /** The lock as it was when the mapper last said, under the lease of now, that it is this node's; null: it has not, or nobody can look. */
  seal: LockSeal | null = null;

  /** Goes up with every change of an entry: a hint learnt before a change may be another object's. */
  mapVersion = 0;
  readonly #hints = new Hints();

  constructor(key: VolumeKey, handle: number) {
    this.key = key;
    this.nameBytes = Buffer.from(key.name, 'utf8');
    this.handle = handle;
  }

  hint(block: number): number {
    return this.#hints.get(block);
  }

  setHint(block: number, hint: number): void {
    this.#hints.set(block, hint);
  }

  /** Entries of these blocks changed: what was learnt about their objects is void, and so is what answers in flight will tell. */
  entriesChanged(first: number, end: number): void {
    this.mapVersion++;
    this.#hints.forget(first, end);
  }

  /** The zeroing range that has any of these blocks, if there is one. */
  zeroRange(first: number, last: number): ZeroRange | undefined {
    if (this.zeroRanges.length === 0) return undefined;
    return this.zeroRanges.find((range) => first < range.end && last >= range.first);
  }

  get idle(): boolean {
    return (
      this.inFlight === 0 &&
      this.waiting.length === 0 &&
      this.waitingForLock.length === 0 &&
      !this.acquiring &&
      !this.acquiringLock
    );
  }

  /** The lease has run out by this process's clock. For what is answered without asking the store, which would notice. */
  get isOver(): boolean {
    return this.until !== 0 && monotonicMs() > this.until;
  }

  /** Was anything written or changed that no flush has covered? */
  get owesFlush(): boolean {
    return this.written || this.dirtyBlocks.size > 0 || this.dirtyNames.size > 0;
  }

  /** Ends an operation of a halted volume: nothing more of it is sent. */
  stop(operation: Operation): void {
    if (this.halt === Halt.LOST) operation.failed(errnos.EIO, this.lost ?? '');
    else operation.expire(operation.position);
  }

  /** What was written to blocks first .. end-1 is known by its objects' names from now on: their entries will be forgotten. */
  keepDirty(first: number, end: number): void {
    for (const block of this.dirtyBlocks) {
      if (block < first || block >= end) continue;
      this.dirtyBlocks.delete(block);
      const name = this.map?.has(block) ? this.map.objectName(block) : '';
      if (name !== '') this.dirtyNames.add(name);
    }
  }

  /** Drops the lease with all that was known by it. What was written stays known by name. */
  drop(): void {
    this.keepDirty(0, Number.POSITIVE_INFINITY);
    this.mapVersion++;
    this.#hints.clear();
    this.state = 'none';
    this.lease = null;
    this.seal = null;
    this.map = null;
    this.until = 0;
    if (this.halt === Halt.LOST) this.forgetWritten();
    this.halt = Halt.NONE;
  }

  /** What was written is no flush's business any more: the lock was lost. */
  forgetWritten(): void {
    this.dirtyBlocks.clear();
    this.dirtyNames.clear();
    this.written = false;
    this.changed = false;
  }

  /** The volume was closed or opened: what became of its lock before is history. */
  forgetLoss(): void {
    this.lost = null;
    this.lossUntold = null;
  }
}
