/**
 * The exclusive lock of a volume in the store, which keeps other nodes out: taken without waiting, released by whoever took it,
 * so that a failed operation leaves nothing locked that it locked itself.
 */
import { createHash } from 'node:crypto';
import type { LockInfo } from '../requests/json.js';
import type { LockClient } from '../requests/lock-client.js';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import type { Clock } from './clock.js';
import type { MapperLog } from './context.js';
import type { LockChecks } from './locking/checks.js';
import { LostLock, refuseLost } from './locking/lost.js';
import type { LockRegistry } from './locking/registry.js';
import { clockTime } from './locking/times.js';
import type { MapStore } from './map-store.js';
import type { Volume, Volumes } from './volume.js';

/** How old a look at the lock may be that was begun for a change of the map, in ms. */
const FRESH_MS = 100;

/** EBUSY, and who has the lock. */
export class LockedElsewhere extends SystemError {
  /** Owner string; null when it is not known. */
  readonly holder: string | null;
  constructor(message: string, holder: string | null, cause?: unknown) {
    super(errnos.EBUSY, message, { cause });
    this.name = 'LockedElsewhere';
    this.holder = holder;
  }
}

export interface LocksOptions {
  /** The maps store, without fences. */
  readonly maps: MapStore;
  readonly client: LockClient;
  /** This node's owner string; empty where it is not known. */
  readonly owner: string;
  readonly checks: LockChecks;
  readonly volumes: Volumes;
  readonly registry: LockRegistry;
  readonly clock: Clock;
  readonly log: MapperLog;
  /** Makes both stores look again at what they keep: another node may have changed the volume. */
  readonly forget: () => Promise<void>;
  /** A lock was taken: it is to be watched from now on. */
  readonly taken: (volume: Volume) => void;
}

export class Locks {
  readonly #options: LocksOptions;
  readonly client: LockClient;

  constructor(options: LocksOptions) {
    this.#options = options;
    this.client = options.client;
  }

  /**
   * Takes the lock of a volume unless this mapper has it. What was cached without it is dropped.
   * @returns whether it was taken now
   * @throws LockedElsewhere with the holder, since when, and what to do; LostLock
   */
  async acquire(volume: Volume): Promise<boolean> {
    refuseLost(volume);
    if (volume.locked && !volume.releasing) return false;
    return volume.locking.exclusive(async () => {
      refuseLost(volume);
      if (volume.locked) return false;
      await this.#take(volume);
      return true;
    });
  }

  async #take(volume: Volume): Promise<void> {
    const { client, clock, forget, taken, volumes } = this.#options;
    const { name } = volume;
    if (volume.breaking) {
      const text = `the lock of volume ${name} was ${volume.breaking.holder}'s and is just being broken`;
      throw new LockedElsewhere(text, volume.breaking.holder);
    }
    if (clock.now() < volume.yieldUntil) {
      // Until it was seen with another: that one has had it then, and is asked for it like any holder.
      if ((await client.holder(name)) === null) {
        throw new LockedElsewhere(`volume ${name} was just handed over to a node that asked for it`, null);
      }
      volume.yieldUntil = Number.NEGATIVE_INFINITY;
    }
    // Before it is taken: what was noted under an earlier tenure must never be taken for this one's.
    volumes.committer.forget(volume);
    const began = clock.now();
    try {
      await client.acquire(name);
    } catch (error) {
      if (errnoOf(error) !== errnos.EBUSY) throw error;
      throw await this.#busy(name, error);
    }
    try {
      await forget();
    } catch (error) {
      await client.release(name, false).catch(() => {});
      throw error;
    }
    volume.locked = true;
    volume.tenure++;
    volume.checkedAt = began;
    volume.takenAt = clock.now();
    volume.map = null;
    taken(volume);
  }

  /** Looks in the store whether the lock is still this node's. @throws LostLock; SystemError when the store cannot be asked */
  verify(volume: Volume): Promise<void> {
    return this.#options.checks.verify(volume);
  }

  /**
   * What tells the lock's present tenure, which is this node's, from those before and after it, whoever's they are: 16 characters; null: the store
   * cannot tell. Volume.marked has it from then on.
   * @throws LostLock; SystemError when the store cannot be asked
   */
  async mark(volume: Volume): Promise<string | null> {
    const { tenure } = volume;
    if (volume.marked?.tenure === tenure) return volume.marked.mark;
    const lock = await this.client.holder(volume.name);
    if (lock?.owner !== this.#options.owner) await this.verify(volume);
    if (volume.tenure !== tenure) throw new LostLock(volume);
    const mark = lock?.mark === undefined ? null : createHash('sha256').update(lock.mark).digest('hex').slice(0, 16);
    volume.marked = { tenure, mark };
    return mark;
  }

  /** Who holds the lock of that name, as it is told to others. */
  async holder(name: string): Promise<LockInfo | null> {
    const lock = await this.client.holder(name);
    if (lock === null) return null;
    const { mark: _, ...told } = lock;
    return told;
  }

  /** Whether that was found so just now. */
  isFresh(volume: Volume): boolean {
    return this.#options.clock.now() - volume.checkedAt < FRESH_MS;
  }

  /** Notes how the volume is now for the next mapper; that it cannot be noted is logged. */
  async note(volume: Volume): Promise<void> {
    await this.#options.registry.note(volume).catch((error) => {
      this.#options.log.warn(
        `volume ${volume.name}: a restart of the mapper will not know of its lock: ${messageOf(error)}`,
      );
    });
  }

  /**
   * Releases the lock if this mapper has it, after what was written of the map is durable: the next holder reads it. That the lock
   * was already taken away is no error: it is gone, as wanted.
   */
  async release(volume: Volume): Promise<void> {
    const { maps, client, volumes } = this.#options;
    if (!volume.locked) return;
    await volumes.committer.commit(volume);
    await maps.flush(volume.touched);
    await volume.locking.exclusive(async () => {
      if (!volume.locked) return;
      if (volume.provisional.size + volume.zeroed.size > 0)
        throw new SystemError(errnos.EBUSY, `volume ${volume.name} is written to`);
      volumes.committer.forget(volume);
      volume.releasing = true;
      // Before the lock goes: a mapper that is killed in between must not leave word of a lock that its successor would miss.
      await this.note(volume);
      try {
        await client.release(volume.name, false);
      } catch (error) {
        if (errnoOf(error) !== errnos.ENOENT && errnoOf(error) !== errnos.EPERM) {
          volume.releasing = false;
          await this.note(volume);
          throw error;
        }
      } finally {
        volume.releasing = false;
      }
      volume.locked = false;
      volume.tenure++;
      volume.written = false;
      volume.writers.clear();
      volume.strangers = false;
      volume.map = null;
    });
    await this.note(volume);
  }

  /** Releases the lock, and nothing keeps the volume open on this node any more. */
  async end(volume: Volume): Promise<void> {
    await this.release(volume);
    volume.open = null;
    volume.byHand = false;
    await this.note(volume);
  }

  /**
   * Works with the lock held. A lock that was not held before is released afterwards, whatever happens; on failure the cached map
   * is dropped, since it may not be what is stored.
   */
  async during<T>(volume: Volume, work: () => Promise<T>): Promise<T> {
    const taken = await this.acquire(volume);
    let result: T;
    try {
      result = await work();
    } catch (error) {
      volume.map = null;
      if (taken) await this.#abandon(volume);
      throw error;
    }
    if (taken) await this.release(volume);
    return result;
  }

  /** Releases after a failure: the caller gets that failure, not what goes wrong here. */
  async #abandon(volume: Volume): Promise<void> {
    await this.#options.maps.flush(volume.touched).catch(() => volume.touched.clear());
    await this.release(volume).catch(() => {});
  }

  async #busy(volume: string, cause: unknown): Promise<LockedElsewhere> {
    try {
      const holder = await this.#options.client.holder(volume);
      if (holder) {
        const since = holder.since === null ? '' : ` since ${clockTime(holder.since)}`;
        const host = holder.owner.replace(/_\d+$/, '');
        const text =
          `volume ${volume} is locked by ${holder.owner}${since}; run vlmc close ${volume} there, or ` +
          `vlmc unlock -f ${volume} here once ${host} is down`;
        return new LockedElsewhere(text, holder.owner, cause);
      }
    } catch {
      // The holder is only for the message; the store's own follows.
    }
    return new LockedElsewhere(`volume ${volume} is locked: ${messageOf(cause)}`, null, cause);
  }
}
