/**
 * The locks of an owner: taken, held, looked at, given up, broken.
 *
 * A lock belongs to the owner string in it. That of another client instance with this owner string is a predecessor's, which has ended,
 * or which Ceph refuses since another node fenced it: it is taken over wherever it is met. But not from one that took it from this
 * process: that is its successor, or another node with this one's name.
 */
import type { Pool } from '../../rados/types.js';
import type { LockCheck, LockPage } from '../../requests/locks.js';
import { monotonicMs } from '../../sys/clock.js';
import { errnos, SystemError } from '../../sys/errno.js';
import type { LockHolder } from '../driver.js';
import { checkLockTarget, lockedError, notLockedError, notOwnerError } from '../names.js';
import { lockerName } from './cls-lock.js';
import {
  breakLocker,
  giveUpLock,
  type Held,
  lockObject,
  readLock,
  readStored,
  replaceLock,
  type Self,
  takeLock,
} from './lock-object.js';
import { addLock, changeClients, isFull, listTargets, nodeOf, removeLock, withClient } from './registry.js';
import type { LockWatches } from './watching.js';

/** How often a lock may change between reading and changing it before this counts as held by somebody. */
const RACES = 64;
/** A look at a lock that is not older, in ms, answers a poll. */
const FRESH_MS = 500;
/** How long those who watch a lock may take to confirm that they heard of it, in ms. Nobody waits for that but close. */
const NOTIFY_MS = 1000;
/** Looks at the same time. */
const ABREAST = 64;

/** The driver's connection, as far as locks need it. */
export interface Attempts {
  attempt<T>(work: (pool: Pool) => Promise<T>): Promise<T>;
}

export interface HoldingOptions {
  readonly owner: string;
  readonly connection: Attempts;
  readonly watches: LockWatches;
  /** The client in use now. */
  readonly self: () => Self;
  /** Whether this owner would hear of it if another node broke a lock. */
  readonly wouldHear: () => boolean;
  /** The lock was taken from this owner. */
  readonly broke: (target: string, owner: string) => void;
  readonly tookOver: (target: string, from: string) => void;
}

const toHolder = ({ owner, since, after = [] }: LockHolder): LockHolder =>
  after.length === 0 ? { owner, since } : { owner, since, after };

export class Holding {
  readonly #options: HoldingOptions;
  readonly #owner: string;
  /** When a lock was last seen to be this client's, ms of the monotonic clock. */
  readonly #seen = new Map<string, number>();
  /** Goes up with everything that is heard: what was seen before counts no more. */
  #heard = 0;
  readonly #notifying = new Set<Promise<void>>();
  /** The client instances that this process has been. */
  readonly #instances = new Set<bigint>();
  /** Locks that this process has had, and has not given up. */
  readonly #had = new Set<string>();
  /** Locks that this process has broken, and has not given up. */
  readonly #broken = new Set<string>();
  /** The last change that was asked for, by target: they are done one after the other. */
  readonly #changing = new Map<string, Promise<unknown>>();

  constructor(options: HoldingOptions) {
    this.#options = options;
    this.#owner = options.owner;
  }

  /** The lock, or all, may have changed hands. */
  heard(target?: string): void {
    this.#heard++;
    if (target === undefined) this.#seen.clear();
    else this.#seen.delete(target);
  }

  /** Resolves when nothing runs any more that nobody waits for. */
  async settled(): Promise<void> {
    await Promise.all(this.#notifying);
  }

  /** @throws SystemError EBUSY naming the holder */
  async acquire(target: string): Promise<void> {
    checkLockTarget(target);
    await this.#changingAlone(target, async (pool, self) => {
      const held = await readLock(pool, target, self);
      if (held && !this.#isOurs(target, held)) {
        this.#options.watches.refused(target);
        throw lockedError(target, held.owner, held.since);
      }
      // A process before this one broke it and ended: from whom it took it may still write, until that is gone on with.
      if (held?.after?.length && !this.#broken.has(target)) throw unfinished(target, held.after);
      if (held?.isOurs) {
        this.#had.add(target);
        return true;
      }
      // Before it is taken: after a crash it must be found.
      await unlessFull(addLock(pool, this.#owner, target));
      if (!(held ? await this.#takeOver(pool, target, self) : await takeLock(pool, target, self))) return null;
      this.#had.add(target);
      this.#options.watches.hold(target);
      return true;
    });
  }

  /** @throws SystemError ENOENT when it is not locked, EPERM when another has it and force is false */
  async release(target: string, force: boolean): Promise<void> {
    checkLockTarget(target);
    this.heard(target);
    await this.#changingAlone(target, async (pool, self) => {
      this.#options.watches.drop(target);
      const held = await readLock(pool, target, self);
      if (!held) this.#had.delete(target);
      if (!held || (!force && !this.#isOurs(target, held))) {
        this.#broken.delete(target);
        await removeLock(pool, this.#owner, target);
        throw held ? notOwnerError(target, held.owner) : notLockedError(target);
      }
      if (held.isOurs) {
        if (!(await giveUpLock(pool, target))) return null;
      } else {
        // Those, and nobody who comes after them.
        const broken = await Promise.all(held.lockers.map((locker) => breakLocker(pool, target, locker)));
        if (!broken.includes(true)) return null;
        if (!this.#isOurs(target, held)) this.#options.broke(target, held.owner);
      }
      this.#notify(pool, target);
      await removeLock(pool, this.#owner, target);
      this.#had.delete(target);
      this.#broken.delete(target);
      return true;
    });
  }

  /** Takes the lock whoever has it. Resolves to who had it; null: nobody. */
  async break(target: string): Promise<LockHolder | null> {
    checkLockTarget(target);
    const { holder } = await this.#changingAlone(target, async (pool, self) => {
      const stored = await readStored(pool, target, self);
      const held = stored?.held ?? null;
      if (held?.isOurs) return { holder: toHolder(held) };
      await unlessFull(addLock(pool, this.#owner, target));
      if (!stored || !held) {
        if (!(await takeLock(pool, target, self))) return null;
      } else {
        if (held.owner !== this.#owner) await unlessFull(noteHolder(pool, held));
        if (!(await replaceLock(pool, target, stored, self))) return null;
      }
      this.heard(target);
      this.#had.add(target);
      this.#broken.add(target);
      this.#options.watches.hold(target);
      this.#notify(pool, target);
      if (held && held.owner !== this.#owner) this.#options.broke(target, held.owner);
      return { holder: held && toHolder(held) };
    });
    return holder;
  }

  async holder(target: string): Promise<LockHolder | null> {
    checkLockTarget(target);
    const held = await this.#options.connection.attempt((pool) => readLock(pool, target, this.#options.self()));
    return held && toHolder(held);
  }

  /** Which of these locks are not this owner's. @param poll see LockService.checkLocks */
  async check(targets: readonly string[], poll: boolean): Promise<LockCheck['lost']> {
    const since = monotonicMs() - FRESH_MS;
    const known = poll && this.#options.wouldHear();
    const asked = known
      ? targets.filter((target) => (this.#seen.get(target) ?? Number.NEGATIVE_INFINITY) < since)
      : targets;
    if (asked.length === 0) return [];
    const found = await abreast(asked, async (target) => {
      checkLockTarget(target);
      const holder = await this.#racing(target, (pool, self) => this.#look(pool, target, self));
      return holder === 'ours' ? [] : [{ name: target, holder: holder === 'nobody' ? null : toHolder(holder) }];
    });
    return found.flat();
  }

  /** A page of this owner's locks. A page can be empty and still have a cursor. */
  async list(cursor: string | null, limit: number): Promise<LockPage> {
    return await this.#options.connection.attempt(async (pool) => {
      const self = this.#options.self();
      const { targets, more } = await listTargets(pool, this.#owner, cursor ?? '', limit);
      const found = await abreast(targets, async (name) => {
        const held = await readLock(pool, name, self);
        return held && this.#isOurs(name, held) ? [{ name, ...toHolder(held) }] : [];
      });
      return { locks: found.flat(), cursor: more ? (targets.at(-1) ?? null) : null };
    });
  }

  /** This client has it, or a predecessor. */
  #isOurs(target: string, held: Held): boolean {
    if (held.isOurs) return true;
    return held.owner === this.#owner && (this.#instances.has(held.instance) || !this.#had.has(target));
  }

  /** As #racing, after what was asked before about this lock: what is noted beside it must be of the last. */
  async #changingAlone<T extends object | string | boolean>(
    target: string,
    step: (pool: Pool, self: Self) => Promise<T | null>,
  ): Promise<T> {
    const before = this.#changing.get(target);
    const change = (before ?? Promise.resolve()).catch(() => undefined).then(() => this.#racing(target, step));
    this.#changing.set(target, change);
    try {
      return await change;
    } finally {
      if (this.#changing.get(target) === change) this.#changing.delete(target);
    }
  }

  /** Runs `step` until it has a result: null means that the lock changed in between. @throws SystemError EBUSY */
  #racing<T extends object | string | boolean>(
    target: string,
    step: (pool: Pool, self: Self) => Promise<T | null>,
  ): Promise<T> {
    return this.#options.connection.attempt(async (pool) => {
      const self = this.#options.self();
      this.#instances.add(self.instance);
      for (let race = 0; race < RACES; race++) {
        const result = await step(pool, self);
        if (result !== null) return result;
      }
      throw new SystemError(errnos.EBUSY, `${target} is being locked and unlocked by others just now`);
    });
  }

  async #look(pool: Pool, target: string, self: Self): Promise<Held | 'ours' | 'nobody' | null> {
    const began = monotonicMs();
    const heard = this.#heard;
    const held = await readLock(pool, target, self);
    if (held && !held.isOurs && this.#isOurs(target, held)) {
      if (!(await this.#takeOver(pool, target, self))) return null;
    } else if (!held?.isOurs) {
      this.#seen.delete(target);
      this.#options.watches.drop(target);
      return held ?? 'nobody';
    }
    this.#had.add(target);
    // Again, where the watch has broken.
    this.#options.watches.hold(target);
    if (heard === this.#heard) this.#seen.set(target, began);
    return 'ours';
  }

  /** Makes a predecessor's lock this client's. Resolves to false when it is not a predecessor's any more. */
  async #takeOver(pool: Pool, target: string, self: Self): Promise<boolean> {
    const stored = await readStored(pool, target, self);
    if (!stored?.held || stored.held.isOurs || !this.#isOurs(target, stored.held)) return false;
    if (!(await replaceLock(pool, target, stored, self))) return false;
    this.#options.tookOver(target, lockerName(stored.held.lockers[0]));
    return true;
  }

  /** Wakes who waits for the lock, and who held it. */
  #notify(pool: Pool, target: string): void {
    const notifying = pool
      .notify(lockObject(target), Buffer.alloc(0), NOTIFY_MS)
      .catch(() => undefined)
      .finally(() => this.#notifying.delete(notifying));
    this.#notifying.add(notifying);
  }
}

/** What is noted helps later; where there is no space for it, a lock can be taken all the same, or nobody could remove a volume. */
async function unlessFull(noting: Promise<void>): Promise<void> {
  try {
    await noting;
  } catch (error) {
    if (!isFull(error)) throw error;
  }
}

/** Puts the client that has the lock on the list of its node, where fencing finds it: it may be one that keeps no list. */
async function noteHolder(pool: Pool, { owner, lockers }: Held): Promise<void> {
  const found = lockers.filter(({ address }) => address !== '');
  if (found.length === 0) return;
  await changeClients(pool, nodeOf(owner), (clients) => {
    const missing = found.filter(({ address }) => clients.every((client) => client.address !== address));
    return missing.reduce<ReturnType<typeof withClient>>(
      (all, locker) =>
        withClient(all, { owner, address: locker.address, instance: lockerName(locker), since: Date.now() }),
      clients,
    );
  });
}

/** Results in the order of the items; a bounded number at a time. */
async function abreast<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results = new Array<R>(items.length);
  let next = 0;
  const one = async (): Promise<void> => {
    while (next < items.length) {
      const i = next++;
      results[i] = await work(items[i]);
    }
  };
  await Promise.all(Array.from({ length: Math.min(ABREAST, items.length) }, one));
  return results;
}

function unfinished(target: string, after: readonly string[]): SystemError {
  return new SystemError(
    errnos.EBUSY,
    `${target} was taken from ${after.join(', ')} by force by this node, which was not finished; the mapper goes on with it, and ` +
      `\`vlmc unlock ${target}\` ends it by hand`,
  );
}
