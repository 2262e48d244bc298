/**
 * Looking in the store whether locks are still this node's. What a check finds is noted at once: how long a lock is good for, or that
 * it was lost; mail that comes with it is passed on.
 */
import type { LockClient } from '../../requests/lock-client.js';
import type { LockMail } from '../../requests/locks.js';
import type { Clock } from '../clock.js';
import type { Volume } from '../volume.js';
import { LostLock } from './lost.js';

/** How old the answer to a poll may be (LockService.checkLocks), in ms. */
export const POLL_AGE_MS = 500;

export interface CheckResults {
  /** The lock is not this node's. Called within the check; must not wait. */
  lost(volume: Volume, holder: string | null): void;
  mail(mail: LockMail): void;
}

interface Batch {
  readonly volumes: Set<Volume>;
  readonly done: Promise<void>;
}

export class LockChecks {
  readonly #locks: LockClient;
  readonly #clock: Clock;
  readonly #results: CheckResults;
  #running: Promise<void> = Promise.resolve();
  #next: Batch | null = null;
  /** When the last check began that the store answered, ms of the monotonic clock. */
  answeredAt = Number.NEGATIVE_INFINITY;

  constructor(locks: LockClient, clock: Clock, results: CheckResults) {
    this.#locks = locks;
    this.#clock = clock;
    this.#results = results;
  }

  /**
   * Looks at the lock now; callers at the same time share a look, which never began before their call.
   * @throws LostLock; SystemError when the store cannot be asked: then nothing is known
   */
  async verify(volume: Volume): Promise<void> {
    const { losses } = volume;
    this.#next ??= this.#begin();
    this.#next.volumes.add(volume);
    await this.#next.done;
    if (volume.lost || volume.losses !== losses) throw new LostLock(volume);
  }

  /** Whether the lock in the store is this node's, of a volume that this mapper does not hold. */
  async isOurs(name: string): Promise<boolean> {
    const { lost, mail } = await this.#locks.check([name]);
    for (const each of mail) this.#results.mail(each);
    return lost.length === 0;
  }

  #begin(): Batch {
    const volumes = new Set<Volume>();
    const done = this.#running.then(() => {
      this.#next = null;
      return this.look([...volumes]);
    });
    this.#running = done.catch(() => {});
    return { volumes, done };
  }

  /**
   * Looks at these locks, those of them that are held, and reads the mail.
   * @param poll what the store said within the last POLL_AGE_MS will do, where it tells of changes by itself
   * @throws SystemError when the store cannot be asked
   */
  async look(volumes: readonly Volume[], poll = false): Promise<void> {
    const asked = volumes.filter((volume) => volume.locked && !volume.releasing);
    const tenures = asked.map((volume) => volume.tenure);
    const began = this.#clock.now();
    const names = asked.map((volume) => volume.name);
    const { lost, mail } = await this.#locks.check(names, poll);
    const knownAt = poll ? began - POLL_AGE_MS : began;
    this.answeredAt = Math.max(this.answeredAt, began);
    const holders = new Map(lost.map(({ name, holder }) => [name, holder?.owner ?? null]));
    for (const [i, volume] of asked.entries()) {
      // What is just being given up may be found gone before that is answered.
      if (volume.tenure !== tenures[i] || volume.releasing) continue;
      const holder = holders.get(volume.name);
      if (holder !== undefined) this.#results.lost(volume, holder);
      else volume.checkedAt = Math.max(volume.checkedAt, knownAt);
    }
    for (const each of mail) this.#results.mail(each);
  }
}
