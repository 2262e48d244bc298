/**
 * NEWS: requests that wait until the store has something to tell. They are no work, so they take no place of a lane, and the blocker's end
 * does not wait for them but answers them.
 */
import type { LockNews } from '../requests/locks.js';

/** Most that wait: one for each of two mappers, the one that runs and the one that has died. */
const MOST = 2;
/** Longest that one may wait, in ms, whatever is asked for. */
const MOST_MS = 60_000;

const NOTHING: LockNews = { changed: [], mail: false };

export class NewsRequests {
  /** Those who wait, the oldest first. */
  readonly #waiting = new Set<(news: LockNews) => void>();
  #stopped = false;

  get waiting(): number {
    return this.#waiting.size;
  }

  /** Resolves to what `next` resolves to, or to nothing as soon as this stops or too many wait. */
  wait(ms: number, next: (ms: number) => Promise<LockNews>): Promise<LockNews> {
    if (this.#stopped) return Promise.resolve(NOTHING);
    const [oldest] = this.#waiting;
    if (this.#waiting.size >= MOST) oldest(NOTHING);
    return new Promise((resolve, reject) => {
      const answer = (news: LockNews): void => {
        this.#waiting.delete(answer);
        resolve(news);
      };
      this.#waiting.add(answer);
      next(Math.min(Math.max(0, ms), MOST_MS)).then(answer, (error) => {
        this.#waiting.delete(answer);
        reject(error);
      });
    });
  }

  stop(): void {
    this.#stopped = true;
    for (const answer of [...this.#waiting]) answer(NOTHING);
  }
}
