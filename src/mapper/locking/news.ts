/**
 * News of the store, where it tells of changes by itself: while a lock is held, waited for or being broken, one question is always with
 * blockerm, which answers as soon as there is something to look at. Looking now and then goes on beside it, less often.
 */
import type { LockClient } from '../../requests/lock-client.js';
import type { LockNews } from '../../requests/locks.js';
import { errnoOf, errnos } from '../../sys/errno.js';
import type { Clock } from '../clock.js';

/** How long blockerm may keep a question, in ms. A successor of this mapper may have to wait for its answer. */
const WAIT_MS = 2000;
/** When it is asked again, in ms: after a failure; where the store tells nothing, in case it is another one by then. */
const RETRY_MS = 1000;
const UNABLE_MS = 60_000;
/** Least time between two questions of which the first brought nothing, in ms. */
const GAP_MS = 100;

export interface NewsOptions {
  readonly client: LockClient;
  readonly clock: Clock;
  /** There is something that news may concern. */
  readonly isWanted: () => boolean;
  readonly told: (news: LockNews) => void;
}

export class News {
  readonly #options: NewsOptions;
  #started = false;
  #stopped = false;
  #asking = false;
  #works = false;
  #notBefore = Number.NEGATIVE_INFINITY;
  /** Calls off the question that is planned; null when none is. */
  #cancel: (() => void) | null = null;

  constructor(options: NewsOptions) {
    this.#options = options;
  }

  /** The store tells of changes by itself, as far as its last answer says. */
  get works(): boolean {
    return this.#works;
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

  /** News may be wanted now. */
  wake(): void {
    const { clock, isWanted } = this.#options;
    if (!this.#started || this.#stopped || this.#asking || this.#cancel || !isWanted()) return;
    const left = this.#notBefore - clock.now();
    if (left <= 0) void this.#ask();
    else {
      this.#cancel = clock.after(left, () => {
        this.#cancel = null;
        this.wake();
      });
    }
  }

  async #ask(): Promise<void> {
    const { client, clock, told } = this.#options;
    this.#asking = true;
    const from = clock.now();
    // The first answer, which only says that there will be others, is not waited for.
    const first = !this.#works;
    try {
      const news = await client.news(first ? 0 : WAIT_MS);
      this.#works = true;
      if (news.mail || news.changed.length > 0) {
        if (!this.#stopped) told(news);
      } else if (!first) this.#notBefore = from + GAP_MS;
    } catch (error) {
      this.#works = false;
      this.#notBefore = clock.now() + (errnoOf(error) === errnos.EOPNOTSUPP ? UNABLE_MS : RETRY_MS);
    }
    this.#asking = false;
    this.wake();
  }
}
