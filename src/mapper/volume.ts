/**
 * What the mapper keeps of a volume that is in use: its gates, whether this node holds its lock, the cached map, who leases it.
 * A volume is kept while somebody works on it, it is locked, leased, open, or its lock was lost; without lock or lease nothing is cached.
 */
import type { MapHeader } from './formats/header.js';
import { Gate, RangeLocks } from './gate.js';
import type { OpenOptions } from './map-store.js';
import type { NotedBlock, NotedMap, NotedVolume } from './provisional/noted.js';
import type { StoredMap } from './stored-map.js';

/** How long a lock is good for after a check that found it this node's began, in ms: the longest that nothing is heard of a loss. */
export const VALID_MS = 3000;

/** That and how the lock was lost. */
export interface LostMark {
  /** Who held it then; null when nobody did. */
  readonly holder: string | null;
  /** ms since the epoch. */
  readonly at: number;
}

/** This node broke another's lock and waits until nothing of that one can reach the store. */
export interface Break {
  /** Ties the answer to the question. */
  readonly id: string;
  readonly holder: string;
  /** Whom that one had taken it from, and was not sure of. */
  readonly after: readonly string[];
  /** Until when it is waited for an answer, ms of the monotonic clock. */
  until: number;
}

/** A lease that waits for the lock. */
export interface LockWait {
  /** Who asked for it. */
  readonly port: number;
  abandoned: boolean;
  /** The lock may have changed hands since the last try. */
  again: boolean;
  /** Ends its pause. */
  wake: () => void;
}

/**
 * Who was told that the disk did not take what a block had: somebody who flushed, and may be gone with an endpoint that was killed; or somebody who
 * asked for the volume's close or its lock's release, and was refused.
 */
export type Told = 'nobody' | 'flush' | 'close';

/** A block of which the object is made and noted, and the stored entry not written yet (provisional/commits.ts). */
export interface ProvisionalBlock {
  readonly block: number;
  /** In its object's name. */
  readonly epoch: number;
  /** The object was there: this mapper made it, or looked. */
  isProven: boolean;
  /** Why the disk did not take its object; null when nothing is known of that. */
  spoiled: unknown;
  /** Who was told so. */
  told: Told;
  /** What the disk said of a batch with this block in it, of which nothing told yet which of its objects was meant. */
  suspicion?: unknown;
}

/** A block that is zero, of which the stored entry says otherwise (provisional/zeroes.ts). */
export interface ZeroedBlock {
  readonly block: number;
  /** Its own object, which goes when the stored entry says so; null: none is known. */
  readonly dropped: string | null;
  /** The stored entry may name another own object: it was not looked at by this mapper. */
  readonly isAdopted: boolean;
}

/** A block of which was acknowledged what the disk did not take. */
export interface OwedBlock {
  /** In the name of the object that was for it; 0: not known. */
  readonly epoch: number;
  /** Who was told so by this mapper. */
  told: Told;
}

/** Who keeps provisional blocks. */
export interface Committer {
  /** Whether first writes to the volume may be provisional now. */
  accepts(volume: Volume): boolean;
  /**
   * Of which mount the file system of the objects is now; null: that is not known.
   * @param before what it was when what asks for it began; null: it begins now
   * @throws SystemError EIO when it begins while the file system is not mounted that was
   */
  mount(before: string | null): string | null;
  /**
   * Blocks have objects that no stored entry names. Noted when it returns; false: it cannot be, and they are not provisional.
   * @param mount as it was before these were made
   */
  add(volume: Volume, header: MapHeader, blocks: readonly NotedBlock[], mount: string | null): boolean;
  /** Whether so many blocks more may be zero in memory and in the note alone now. */
  acceptsZeroes(volume: Volume, count: number): boolean;
  /** These blocks, which are neither provisional nor owed, are zero. Noted when it returns; false: it cannot be, and they are as before. */
  addZeroes(volume: Volume, header: MapHeader, blocks: readonly ZeroedBlock[]): boolean;
  /** Resolves when the stored entries of all blocks [first, end) that are zero say so. @throws SystemError, LostLock */
  settleZeroes(volume: Volume, first: number, end: number): Promise<void>;
  /** Blocks that an earlier mapper noted are provisional, if the map turns out to be the one that they were noted of (confirm). */
  adopt(volume: Volume, noted: NotedVolume): void;
  /**
   * Makes sure that what was adopted is of this map, and that the lock is still this node's; forgets it otherwise.
   * @param header null: there is no map
   * @throws SystemError when the lock cannot be looked at, LostLock
   */
  confirm(volume: Volume, header: MapHeader | null): Promise<void>;
  /** The map is about to have the epoch and the id of this header. @throws Error when that cannot be noted: then it must not */
  become(volume: Volume, header: MapHeader): void;
  /** Blocks [first, end) are neither provisional nor zeroed any more: their entries were written otherwise. @throws Error: then they are still */
  drop(volume: Volume, first: number, end: number): void;
  /** Nothing of the volume is provisional any more, whatever becomes of it. @throws Error when that cannot be noted */
  forget(volume: Volume): void;
  /** Resolves when all that is provisional now is in the stored map, which is not flushed. @throws SystemError, LostLock */
  commit(volume: Volume): Promise<void>;
  /** Who wrote to the volume hears of an error that says what the disk did not take so far. */
  tell(volume: Volume): void;
  /** Somebody who wrote to it is gone, and did not hear of it. */
  untell(volume: Volume): void;
  /**
   * commit, for who works alone on a volume that is to be closed: what the disk did not take is given up, and logged, when somebody was told of
   * all of it.
   * @param isAsked somebody asks for it, and is told by the error: the next one gives up
   * @param isHeard who was told by a flush has heard of it; when not, only an earlier one that somebody asked for has told
   * @throws SpoiledError when there is something that nobody was told of
   */
  conclude(volume: Volume, isAsked: boolean, isHeard?: boolean): Promise<void>;
  /** Resolves when no commit that was begun sends anything any more, however it ended. */
  ended(volume: Volume): Promise<void>;
}

const noCommitter: Committer = {
  accepts: () => false,
  mount: () => null,
  add: () => false,
  acceptsZeroes: () => false,
  addZeroes: () => false,
  settleZeroes: () => Promise.resolve(),
  adopt: () => {},
  confirm: () => Promise.resolve(),
  become: () => {},
  drop: () => {},
  forget: () => {},
  commit: () => Promise.resolve(),
  tell: () => {},
  untell: () => {},
  conclude: () => Promise.resolve(),
  ended: () => Promise.resolve(),
};

/** Its last client is gone, and its lock could not be given back. */
export interface Unclosed {
  /** Since when, ms since the epoch. */
  readonly since: number;
  /** The error of the last try. */
  readonly why: string;
}

export class Volume {
  readonly name: string;
  /** Shared: granting leases. Exclusive: an operation that changes the map, from before it revokes leases to its end. */
  readonly intent = new Gate();
  /** Shared: reads, copy-up, zeroing, flush. Exclusive: the work of an operation that changes the map. */
  readonly gate = new Gate();
  /** One at a time: taking the lock, granting and revoking. */
  readonly leasing = new Gate();
  /** Copy-up and zeroing of overlapping blocks wait for each other. */
  readonly blocks = new RangeLocks();
  /** One epoch bump at a time. */
  readonly bumping = new Gate();
  /** One at a time: taking, releasing and breaking the lock in the store. */
  readonly locking = new Gate();
  /** This mapper holds the volume's lock in the store, as far as it knows. */
  locked = false;
  /** Changes whenever the lock is taken, given up or lost: what is told of an earlier tenure counts for nothing. */
  tenure = 0;
  /** What tells the lock's present tenure from others, once it was asked for (Locks.mark). */
  marked: { readonly tenure: number; readonly mark: string | null } | null = null;
  /** The lock is just being released: that the store no longer has it is no loss. */
  releasing = false;
  /** When the last check began that found the lock this node's, ms of the monotonic clock. */
  checkedAt = Number.NEGATIVE_INFINITY;
  /** When it was taken, likewise. */
  takenAt = Number.NEGATIVE_INFINITY;
  /** OPEN was asked for. exclusive: the lock is kept when the last client goes, until CLOSE; shared: it goes to whoever wants it. */
  open: 'exclusive' | 'shared' | null = null;
  /** The lock was taken by hand: kept until CLOSE or RELEASE. */
  byHand = false;
  /** null: it is in use, or was closed. */
  unclosed: Unclosed | null = null;
  /** The lock was lost: everything fails until CLOSE or OPEN. */
  lost: LostMark | null = null;
  /** How often it was lost: what was begun before a loss never goes on. */
  losses = 0;
  /** Resolves when nothing that was begun before the last loss is under way any more. */
  drained: Promise<void> = Promise.resolve();
  breaking: Break | null = null;
  /** Until when another node that asked for the lock is let go first, if it is not seen to have it before; ms of the monotonic clock. */
  yieldUntil = Number.NEGATIVE_INFINITY;
  handingOver = false;
  readonly waits = new Set<LockWait>();
  /** The map, good as long as the volume is locked or the map is immutable. */
  map: StoredMap | null = null;
  /** Ports that lease the map. */
  readonly leases = new Map<number, 'exclusive' | 'shared'>();
  /** Ports being asked to give their lease back, and by how many: they may finish what they have begun. */
  readonly revoking = new Map<number, number>();
  /** Ports that gave back what leases they had of an earlier mapper. */
  readonly asked = new Set<number>();
  /** Objects of the maps store that were written and not flushed. */
  readonly touched = new Set<string>();
  /** Blocks of which the map in memory tells more than the stored one. */
  readonly provisional = new Map<number, ProvisionalBlock>();
  /** Blocks that are zero, of which the stored map says otherwise. None of them is provisional. */
  readonly zeroed = new Map<number, ZeroedBlock>();
  /** Blocks of which was acknowledged what the disk did not take, and of which the stored entries count all the same: each flush fails. */
  readonly owed = new Map<number, OwedBlock>();
  /** Of which map these three were noted by an earlier mapper; null: by this one, or that was looked at. */
  adopted: NotedMap | null = null;
  /** Data may have been written since the volume was locked. */
  written = false;
  /** Ports that may have written since then. */
  readonly writers = new Set<number>();
  /** Others may have written, too: composers of an earlier mapper. */
  strangers = false;
  /** Changes with every change that a lease must not outlive. */
  generation = 0;
  users = 0;

  constructor(name: string) {
    this.name = name;
  }

  /** The cached map, if it is what a request with these options means. */
  cached(options: OpenOptions): StoredMap | null {
    const { map } = this;
    if (map === null || map.header.version !== 0) return map;
    return options.assumeV0 && options.v0Size === map.v0Size ? map : null;
  }

  /** The lock stays when the last client goes. */
  get kept(): boolean {
    return this.byHand || this.open === 'exclusive';
  }

  /** Until when the lock counts as held without being looked at again, ms of the monotonic clock. */
  get validUntil(): number {
    return this.checkedAt + VALID_MS;
  }

  get idle(): boolean {
    const known = this.locked || this.open !== null || this.lost !== null || this.breaking !== null;
    const isCommitted = this.provisional.size + this.zeroed.size + this.owed.size === 0;
    return this.users === 0 && !known && this.leases.size === 0 && this.touched.size === 0 && isCommitted;
  }
}

/** All volumes in use. */
export class Volumes {
  readonly #volumes = new Map<string, Volume>();
  committer: Committer = noCommitter;
  #generation = Date.now();

  /** Works on a volume; it is kept for at least that long. */
  async use<T>(name: string, work: (volume: Volume) => Promise<T>): Promise<T> {
    let volume = this.#volumes.get(name);
    if (!volume) {
      volume = new Volume(name);
      volume.generation = this.#generation++;
      this.#volumes.set(name, volume);
    }
    volume.users++;
    try {
      return await work(volume);
    } finally {
      volume.users--;
      if (volume.leases.size === 0 && !volume.locked) volume.map = null;
      if (volume.idle && this.#volumes.get(name) === volume) this.#volumes.delete(name);
    }
  }

  /** A number no volume had as its generation. */
  newGeneration(): number {
    return this.#generation++;
  }

  /** The volume, if anything is known of it. */
  get(name: string): Volume | undefined {
    return this.#volumes.get(name);
  }

  /** The volumes in use now. */
  all(): Volume[] {
    return [...this.#volumes.values()];
  }
}
