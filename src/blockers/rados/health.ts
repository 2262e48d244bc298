/** How Ceph does for this driver: tells in the log when it does not answer or is full, once, and when that is over. */
import type { Logger } from 'pino';
import { monotonicMs } from '../../sys/clock.js';
import { errnos } from '../../sys/errno.js';

/** An operation that waits for longer is worth a line in the log, ms. */
export const SLOW_MS = 5000;
const TICK_MS = 1000;
/** How often it is told that the pool is full, ms. */
const FULL_MS = 60_000;

/** What waits for Ceph's answer. */
export interface Backlog {
  readonly count: number;
  /** Since when the oldest does, ms of the monotonic clock; 0: nothing waits. */
  readonly oldestSince: number;
}

const inWords = (count: number): string => (count === 1 ? '1 operation waits' : `${count} operations wait`);

export class Health {
  readonly #where: string;
  readonly #log: Logger | null;
  readonly #backlog: () => Backlog;
  #timer: NodeJS.Timeout | null = null;
  /** Since when Ceph does not answer, ms of the monotonic clock; 0: it does. */
  #slowSince = 0;
  #fullTold = Number.NEGATIVE_INFINITY;
  /** When an operation was last refused for want of space, ms since the epoch; null: never. */
  lastFull: number | null = null;
  #isGone = false;

  /** @param where `pool blocks` */
  constructor(where: string, log: Logger | null, backlog: () => Backlog) {
    this.#where = where;
    this.#log = log;
    this.#backlog = backlog;
  }

  start(): void {
    this.#timer = setInterval(() => this.#look(), TICK_MS);
    this.#timer.unref();
  }

  stop(): void {
    if (this.#timer) clearInterval(this.#timer);
    this.#timer = null;
  }

  /** Since when Ceph has not answered something, ms since the epoch; null: it answers. */
  get slowSince(): number | null {
    const { oldestSince } = this.#backlog();
    const waits = oldestSince === 0 ? 0 : monotonicMs() - oldestSince;
    return waits >= SLOW_MS ? Math.round(Date.now() - waits) : null;
  }

  /** What is the matter, as a sentence for `archipelago status`; null: nothing. */
  trouble(reconnecting: boolean): string | null {
    const { count, oldestSince } = this.#backlog();
    const waits = oldestSince === 0 ? 0 : monotonicMs() - oldestSince;
    const waiting = inWords(count);
    if (this.#isGone) return `${this.#where} was deleted`;
    if (reconnecting) return `${this.#where}: Ceph blocklisted this node's client: connecting anew, ${waiting}`;
    if (waits >= SLOW_MS) return `${this.#where}: Ceph has not answered for ${Math.round(waits / 1000)} s: ${waiting}`;
    if (this.lastFull !== null && Date.now() - this.lastFull < FULL_MS) {
      return `${this.#where} is full: the last refusal was ${Math.round((Date.now() - this.lastFull) / 1000)} s ago`;
    }
    return null;
  }

  #look(): void {
    const { count, oldestSince } = this.#backlog();
    const now = monotonicMs();
    const slow = oldestSince !== 0 && now - oldestSince >= SLOW_MS;
    if (slow && this.#slowSince === 0) {
      this.#slowSince = oldestSince;
      this.#log?.warn(
        `${this.#where}: Ceph has not answered for ${SLOW_MS / 1000} s: ${inWords(count)} until it does; see ceph -s`,
      );
    } else if (!slow && this.#slowSince !== 0) {
      const seconds = Math.round((now - this.#slowSince) / 1000);
      this.#slowSince = 0;
      this.#log?.warn(`${this.#where}: Ceph answers again, after ${seconds} s`);
    }
  }

  /** Told of every operation that failed. */
  failed(errno: number): void {
    if (errno === errnos.ENODEV && !this.#isGone) {
      this.#isGone = true;
      this.#log?.error(
        `${this.#where} was deleted: all that is asked of it fails. One that is made anew is used from the blocker's next start on`,
      );
    }
    if (errno !== errnos.ENOSPC && errno !== errnos.EDQUOT) return;
    this.lastFull = Date.now();
    const now = monotonicMs();
    if (now - this.#fullTold < FULL_MS) return;
    this.#fullTold = now;
    this.#log?.error(
      errno === errnos.ENOSPC
        ? `${this.#where} is full: writes fail until there is space; see ceph df, and ceph health detail`
        : `${this.#where}: the pool's quota is used up: writes fail until it is raised (ceph osd pool set-quota) or there is space`,
    );
  }
}
