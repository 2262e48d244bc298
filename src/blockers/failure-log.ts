/**
 * Tells the log which requests failed, without filling it: a full store refuses each of thousands of writes a second for the same
 * reason, and a log that fills the disk is the next trouble.
 */
import type { Logger } from 'pino';
import { opName } from '../requests/ops.js';
import { monotonicMs } from '../sys/clock.js';
import { errnoName, errnos, messageOf } from '../sys/errno.js';

/** Failures of one operation with one errno are told once in this time, ms. */
const QUIET_MS = 10_000;

/** Errors that are answers, not trouble: they are not worth a line in the log. */
const expected = new Set<number>([
  errnos.ENOENT,
  errnos.EEXIST,
  errnos.EBUSY,
  errnos.ERANGE,
  errnos.EOPNOTSUPP,
  errnos.EPERM,
  errnos.ETIME,
]);

/** Errors of which the sentence says all: where in the program they were met helps nobody. */
const plain = new Set<number>([errnos.ENOSPC, errnos.EDQUOT]);

export class FailureLog {
  readonly #log: Logger;
  readonly #now: () => number;
  /** By operation and errno: until when nothing is told, and what was not. */
  readonly #kinds = new Map<number, { until: number; more: number }>();

  /** @param now ms of a clock that never goes back */
  constructor(log: Logger, now: () => number = monotonicMs) {
    this.#log = log;
    this.#now = now;
  }

  /**
   * @param target name of the object, where it is known
   * @param error what was thrown, where something was
   */
  tell(op: number, errno: number, target?: string, error?: unknown): void {
    if (expected.has(errno)) return;
    const key = op * 65536 + errno;
    const kind = this.#kinds.get(key);
    const now = this.#now();
    if (kind && now < kind.until) {
      kind.more++;
      return;
    }
    const more = kind?.more ?? 0;
    this.#kinds.set(key, { until: now + QUIET_MS, more: 0 });
    this.#log.error(
      {
        op: opName(op),
        ...(target === undefined ? {} : { target }),
        ...(error === undefined || plain.has(errno) ? { errno: errnoName(errno) } : { err: error }),
        ...(error !== undefined && plain.has(errno) ? { reason: messageOf(error) } : {}),
        ...(more > 0 ? { more } : {}),
      },
      more > 0 ? 'a request failed, as more of its kind did since the last such line' : 'a request failed',
    );
  }
}
