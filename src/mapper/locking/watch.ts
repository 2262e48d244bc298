/**
 * While locks are held, looks in the store whether they still are, lets the composers know until when they may go on, and reads the
 * mail. With no lock there is nothing to look at, and nothing is done.
 */
import { messageOf } from '../../sys/errno.js';
import type { Clock } from '../clock.js';
import type { MapperLog } from '../context.js';
import type { Leases } from '../leases.js';
import { VALID_MS, type Volumes } from '../volume.js';
import { type LockChecks, POLL_AGE_MS } from './checks.js';

/** How often the mail is read, in ms: while a lock is held that is given to whoever asks, who then waits for that; else. */
export const MAIL_SHARED_MS = 50;
export const MAIL_MS = 100;
/** How often every held lock is looked at, in ms: its loss must be noticed within a second. */
export const LOOK_MS = 300;
/** More locks than this are not all looked at in the store each time, where it tells of changes by itself (LockService.checkLocks). */
const FEW = 64;
/** For how long after the loss of a lock whoever broke it may still ask about it, in ms. */
const ASKED_MS = 15_000;

export interface LockWatchOptions {
  readonly volumes: Volumes;
  readonly checks: LockChecks;
  readonly leases: Leases;
  readonly clock: Clock;
  readonly log: MapperLog;
  /** The store tells of changes by itself: mail need not be looked for. */
  readonly isTold: () => boolean;
  /** Called with each look at all locks. */
  readonly looking: () => void;
}

export class LockWatch {
  readonly #options: LockWatchOptions;
  #started = false;
  #stopped = false;
  /** Calls off what is planned; null when nothing is. */
  #cancel: (() => void) | null = null;
  #looking = false;
  #lookedAt = Number.NEGATIVE_INFINITY;
  #failing = false;
  /** Locks to look at in a look that comes at once, and that there is one; set while another look goes on. */
  readonly #changed = new Set<string>();
  #atOnce = false;

  constructor(options: LockWatchOptions) {
    this.#options = options;
  }

  start(): void {
    this.#started = true;
    this.wake();
  }

  stop(): void {
    this.#stopped = true;
    this.#cancel?.();
    this.#cancel = null;
  }

  /** There may be something to look at now. */
  wake(): void {
    if (!this.#started || this.#stopped || this.#looking || this.#cancel) return;
    const interval = this.#interval();
    if (interval === null) return;
    this.#cancel = this.#options.clock.after(interval, () => {
      this.#cancel = null;
      void this.#look();
    });
  }

  /** Looks at these locks and at the mail now. */
  now(changed: readonly string[]): void {
    if (!this.#started || this.#stopped) return;
    for (const name of changed) this.#changed.add(name);
    this.#atOnce = true;
    if (this.#looking) return;
    this.#cancel?.();
    this.#cancel = null;
    void this.#look();
  }

  /** There is something that a look may concern. */
  get isNeeded(): boolean {
    return this.#interval() !== null;
  }

  /** When to look next, in ms; null: there is nothing to look at. */
  #interval(): number | null {
    const now = Date.now();
    const told = this.#options.isTold();
    let interval: number | null = null;
    for (const { locked, open, breaking, lost } of this.#options.volumes.all()) {
      if (locked && open === 'shared' && !told) return MAIL_SHARED_MS;
      if (locked || breaking || (lost && now - lost.at < ASKED_MS)) interval = told ? LOOK_MS : MAIL_MS;
    }
    return interval;
  }

  async #look(): Promise<void> {
    const { checks, clock, isTold, leases, log, looking, volumes } = this.#options;
    this.#looking = true;
    const now = clock.now();
    const due = now - this.#lookedAt >= LOOK_MS - MAIL_SHARED_MS / 2;
    const held = volumes.all().filter(({ locked, name }) => locked && (due || this.#changed.has(name)));
    this.#changed.clear();
    this.#atOnce = false;
    if (due) looking();
    const poll = isTold() && held.length > FEW;
    const cancel = clock.after(VALID_MS, () => this.#complain(`no answer for ${VALID_MS / 1000} s`));
    try {
      await checks.look(held, poll);
      if (this.#failing) log.info('the store answers again: locks are looked at');
      this.#failing = false;
      if (due) {
        this.#lookedAt = now;
        leases.renew(
          held.filter(({ locked }) => locked),
          now + VALID_MS - (poll ? POLL_AGE_MS : 0),
        );
      }
    } catch (error) {
      this.#complain(messageOf(error));
    }
    cancel();
    this.#looking = false;
    if (this.#atOnce) this.now([]);
    else this.wake();
  }

  /** Once, until it succeeds again. */
  #complain(why: string): void {
    if (!this.#failing)
      this.#options.log.warn(`the locks cannot be looked at, so nothing is written until they can: ${why}`);
    this.#failing = true;
  }
}
