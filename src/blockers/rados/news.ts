/** What there is to look at, kept until somebody asks, or told at once to all who wait. */
import type { LockNews } from '../../requests/locks.js';

/** Most locks that are kept: they fit one answer. What is left out is found by looking. */
const MOST = 512;

export class News {
  #changed = new Set<string>();
  #mail = false;
  readonly #waiting = new Set<(news: LockNews) => void>();
  #closed = false;

  /** A lock may have changed hands. */
  changed(target: string): void {
    if (this.#changed.size < MOST) this.#changed.add(target);
    this.#tell();
  }

  /** A letter has come. */
  mail(): void {
    this.#mail = true;
    this.#tell();
  }

  /** Resolves at once when there is something, else when there is, after `ms`, or on close. */
  next(ms: number): Promise<LockNews> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => tell(this.#take()), ms);
      const tell = (news: LockNews): void => {
        clearTimeout(timer);
        this.#waiting.delete(tell);
        resolve(news);
      };
      this.#waiting.add(tell);
      if (this.#closed || this.#mail || this.#changed.size > 0) this.#tell();
    });
  }

  close(): void {
    this.#closed = true;
    this.#tell();
  }

  #take(): LockNews {
    const news = { changed: [...this.#changed], mail: this.#mail };
    this.#changed = new Set();
    this.#mail = false;
    return news;
  }

  /** To all: one of them may belong to a mapper that has died. */
  #tell(): void {
    if (this.#waiting.size === 0) return;
    const news = this.#take();
    for (const tell of [...this.#waiting]) tell(news);
  }
}
