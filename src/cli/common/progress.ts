/** Progress of long work: one line on stderr that is written over, on a terminal only. */
import type { Io } from './io.js';

/** Most often that the line is written, in ms: a terminal over ssh must not become the slow part. */
const INTERVAL_MS = 100;
/** Work shorter than this shows nothing. */
const PATIENCE_MS = 1000;
/** From when on the rate of work is shown: before, it says nothing. */
const RATE_AFTER_MS = 1000;

export class Progress {
  readonly #io: Io;
  readonly #enabled: boolean;
  #last = 0;
  #shown = false;
  #timer: NodeJS.Timeout | null = null;
  /** What is counted now, since when, and from where. */
  #counted = { what: '', since: 0, from: 0 };

  constructor(io: Io) {
    this.#io = io;
    this.#enabled = io.stderr.isTTY === true;
  }

  /** Says how far `what` is, and how fast it goes. @param total 0 = not known */
  update(what: string, done: number, total = 0): void {
    if (!this.#enabled) return;
    const now = Date.now();
    if (what !== this.#counted.what || done < this.#counted.from) this.#counted = { what, since: now, from: done };
    if (now - this.#last < INTERVAL_MS) return;
    this.#last = now;
    const share = total > 0 ? ` of ${total} (${Math.floor((done / total) * 100)}%)` : '';
    const elapsed = now - this.#counted.since;
    const rate = Math.round(((done - this.#counted.from) / elapsed) * 1000);
    this.#show(`${what}: ${done}${share}${elapsed >= RATE_AFTER_MS && rate > 0 ? `, ${rate}/s` : ''}`);
  }

  /** Shows how long `work` takes when it takes long: for work whose inside is another peer's. */
  async during<T>(what: string, work: Promise<T>): Promise<T> {
    if (!this.#enabled) return work;
    const start = Date.now();
    this.#timer = setInterval(() => this.#show(`${what} … ${Math.round((Date.now() - start) / 1000)} s`), PATIENCE_MS);
    try {
      return await work;
    } finally {
      this.clear();
    }
  }

  /** Removes the line, so that other output starts at the left edge. */
  clear(): void {
    if (this.#timer) clearInterval(this.#timer);
    this.#timer = null;
    if (this.#shown) this.#io.stderr.write('\r\x1b[K');
    this.#shown = false;
  }

  #show(line: string): void {
    this.#io.stderr.write(`\r\x1b[K${line}`);
    this.#shown = true;
  }
}
