/**
 * NEWS: requests that wait until the store has something to tell. They are no work, so they take no place of a lane, and the blocker's end
 * does not wait for them but answers them.
 */
import type { LockNews } from '../requests/locks.js';

/** Most that wait: one for each of two mappers, the one that runs and the one that has died. */
const MOST = 2;
/** Longest that one may wait, in ms, whatever is asked for. */
const MOST_MS = 60_000;
/** How often it is looked whether an asker has died, in ms: its successor serves nothing before it has the answer (xseg/settling.ts). */
const GONE_MS = 100;

const NOTHING: LockNews = { changed: [], mail: false };

export class NewsRequests {
  /** Those who wait, the oldest first. */
  readonly #waiting = new Set<(news: LockNews) => void>();
  #stopped = false;

  get waiting(): number {
    return this.#waiting.size;
  }

  /** Resolves to what `next` resolves to, or to nothing as soon as this stops, too many wait, or the asker is gone. */
  wait(ms: number, next: (ms: number) => Promise<LockNews>, isGone: () => boolean = () => false): Promise<LockNews> {
    if (this.#stopped) return Promise.resolve(NOTHING);
    const [oldest] = this.#waiting;
    if (this.#waiting.size >= MOST) oldest(NOTHING);
    return new Promise((resolve, reject) => {
      const watch = setInterval(() => isGone() && answer(NOTHING), GONE_MS).unref();
      const answer = (news: LockNews): void => {
        clearInterval(watch);
        this.#waiting.delete(answer);
        resolve(news);
      };
      this.#waiting.add(answer);
      next(Math.min(Math.max(0, ms), MOST_MS)).then(answer, (error) => {
        clearInterval(watch);
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
