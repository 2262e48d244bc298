/** A token bucket: so many units a second, and what was saved up while less was asked for. Time comes from outside; no timers here. */

/** What a request must find of a bucket to begin; it may cost more, and the next ones wait until that is paid. */
const LEAST = 1;
/** What sums of fractions may lack of it: no timer is set for that. */
const ROUNDING = 1e-6;
/** Without a burst a bucket holds what comes in within this time, in seconds: a request that is a little late loses nothing. */
const SLACK = 0.1;

export class Bucket {
  /** Units a second. */
  readonly rate: number;
  /** Units it holds at most. */
  readonly capacity: number;
  /** It counts bytes; else requests. */
  readonly ofBytes: boolean;
  /** Below zero: what was taken ahead. */
  #level: number;
  /** When #level was true, in ms. */
  #at: number;

  /**
   * A full bucket.
   * @param now ms
   */
  constructor(ofBytes: boolean, rate: number, now: number, capacity = rate * SLACK) {
    this.ofBytes = ofBytes;
    this.rate = rate;
    this.capacity = Math.max(LEAST, capacity);
    this.#level = this.capacity;
    this.#at = now;
  }

  isLike({ ofBytes, rate, capacity }: Bucket): boolean {
    return ofBytes === this.ofBytes && rate === this.rate && capacity === this.capacity;
  }

  /** Lets in what has come since, and says how long it takes until a request may begin, in ms; 0: it may now. */
  wait(now: number): number {
    if (now > this.#at) {
      this.#level = Math.min(this.capacity, this.#level + ((now - this.#at) * this.rate) / 1000);
      this.#at = now;
    }
    return this.#level >= LEAST - ROUNDING ? 0 : ((LEAST - this.#level) * 1000) / this.rate;
  }

  /** A request begins. After wait() said 0, or where it is not to be held back. */
  take(bytes: number): void {
    this.#level -= this.ofBytes ? bytes : 1;
  }

  /** It has all it can hold: one made anew would be the same. */
  isFull(now: number): boolean {
    this.wait(now);
    return this.#level === this.capacity;
  }
}
