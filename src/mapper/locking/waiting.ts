/**
 * Waiting for a lock that another node holds, for a lease: bounded, without holding anything, ended when nobody waits for the lease any
 * more. The holder of a volume that is open shared is asked for it.
 */

import type { LockClient } from '../../requests/lock-client.js';
import { errnos, messageOf, SystemError } from '../../sys/errno.js';
import type { Clock } from '../clock.js';
import type { MapperLog } from '../context.js';
import { LockedElsewhere } from '../locks.js';
import type { LockWait, Volume } from '../volume.js';

/** How often the lock is tried, in ms: of a volume that is open shared, whose holder lets go when asked; of others. */
const TRY_SHARED_MS = 50;
const TRY_MS = 500;
/** The same where the store tells of changes by itself; the first try comes no later than without that. */
const TOLD_SHARED_MS = 300;
const TOLD_MS = 1000;
/** How often the holder is asked, in ms. */
const ASK_MS = 300;

/** Why a request was given up unanswered: the mapper stops. */
export class Stopping extends SystemError {
  constructor() {
    super(errnos.ECANCELED, 'the mapper is stopping');
    this.name = 'Stopping';
  }
}

/** A wait was given up by whoever waited. */
export class Abandoned extends SystemError {
  constructor(volume: string) {
    super(errnos.ECANCELED, `nobody waits for the lock of volume ${volume} any more`);
    this.name = 'Abandoned';
  }
}

export interface LockWaitsOptions {
  readonly client: LockClient;
  /** This node's owner string. */
  readonly owner: string;
  readonly clock: Clock;
  readonly log: MapperLog;
  /** How long a lease waits, in ms. */
  readonly patienceMs: number;
  /** A wait has begun. */
  readonly begun: () => void;
  /** The store tells of changes by itself. */
  readonly isTold: () => boolean;
}

export class LockWaits {
  readonly #options: LockWaitsOptions;
  readonly #running = new Set<LockWait>();
  /** Volumes of which it is in the log that writes fail because of the lock. */
  readonly #told = new Set<string>();
  #stopping = false;

  constructor(options: LockWaitsOptions) {
    this.#options = options;
  }

  get count(): number {
    return this.#running.size;
  }

  /** Ends all waiting, with Stopping: what waits is for the next mapper. */
  stop(): void {
    this.#stopping = true;
    for (const wait of this.#running) wait.wake();
  }

  /** The volume's lock may have changed hands: what waits for it tries at once. */
  changed(volume: Volume): void {
    for (const wait of volume.waits) {
      wait.again = true;
      wait.wake();
    }
  }

  /** What waits for the volume on behalf of the port ends. */
  abandon(volume: Volume, port: number): void {
    for (const wait of volume.waits) {
      if (wait.port !== port) continue;
      wait.abandoned = true;
      wait.wake();
    }
  }

  /**
   * Tries until `attempt` has what it wants.
   * @param attempt returns why it must be tried again, or null
   * @param isGone whether nobody waits any more, other than by abandon
   * @throws Abandoned, Stopping; what attempt returned last when waiting does not help or has lasted long enough
   */
  async during(
    volume: Volume,
    port: number,
    attempt: (wait: LockWait) => Promise<unknown>,
    isGone: () => boolean,
  ): Promise<void> {
    const { clock, patienceMs, begun, isTold } = this.#options;
    const deadline = clock.now() + patienceMs;
    const wait: LockWait = { port, abandoned: false, again: false, wake: () => {} };
    let askAt = Number.NEGATIVE_INFINITY;
    let tries = 0;
    volume.waits.add(wait);
    this.#running.add(wait);
    try {
      for (;;) {
        wait.again = false;
        const busy = await attempt(wait);
        if (busy === null) {
          this.#told.delete(volume.name);
          return;
        }
        if (wait.abandoned) throw new Abandoned(volume.name);
        const left = deadline - clock.now();
        // Only a holder may let go in time; a full or read-only store is the answer now.
        if (left <= 0 || isGone() || !(busy instanceof LockedElsewhere)) {
          this.#tell(volume, busy);
          throw busy;
        }
        const shared = volume.open === 'shared';
        if (shared && busy.holder !== null && clock.now() >= askAt) {
          askAt = clock.now() + ASK_MS;
          this.#ask(volume.name, busy.holder);
        }
        begun();
        const told = isTold() && tries++ > 0;
        const pause = shared ? (told ? TOLD_SHARED_MS : TRY_SHARED_MS) : told ? TOLD_MS : TRY_MS;
        await this.#pause(wait, Math.min(left, pause));
      }
    } finally {
      volume.waits.delete(wait);
      this.#running.delete(wait);
    }
  }

  /** That a write failed because of a lock: once, until the lock is to be had again. */
  #tell(volume: Volume, why: unknown): void {
    if (this.#told.has(volume.name)) return;
    this.#told.add(volume.name);
    this.#options.log.warn(`a write to volume ${volume.name} fails: ${messageOf(why)}`);
  }

  #ask(name: string, holder: string): void {
    const { client, owner } = this.#options;
    client.mail(holder, { kind: 'want', name, from: owner, id: '' }).catch(() => {
      // It may let go all the same; the caller hears that it is locked otherwise.
    });
  }

  async #pause(wait: LockWait, ms: number): Promise<void> {
    if (!this.#stopping && !wait.abandoned && !wait.again) {
      await new Promise<void>((resolve) => {
        const cancel = this.#options.clock.after(ms, resolve);
        wait.wake = () => {
          cancel();
          resolve();
        };
      });
      wait.wake = () => {};
    }
    if (this.#stopping) throw new Stopping();
  }
}
