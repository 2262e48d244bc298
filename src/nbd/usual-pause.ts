/**
 * How long a client usually takes from an answer to its next request: about the median of its pauses of late. None of them is kept: each
 * moves the estimate a little, by the same factor whatever its length, so that one pause among many that is a hundred times as long as the
 * others counts no more than any.
 */

/** Some ten pauses halve or double it. */
const STEP = 1.06;
/** Before anything is known: of clients that had to be woken up. */
const FIRST_MS = 0.06;
const LEAST_MS = 0.002;
/** Who takes longer than so many times the usual, and this, is not expected any moment. */
const TIMES = 3;
const GRACE_MS = 0.01;

export class UsualPause {
  readonly #mostMs: number;
  #ms = FIRST_MS;

  /** @param mostMs longer ones are all the same, in milliseconds */
  constructor(mostMs: number) {
    this.#mostMs = mostMs;
  }

  /** @param pause milliseconds */
  learn(pause: number): void {
    this.#ms = pause > this.#ms ? Math.min(this.#ms * STEP, this.#mostMs) : Math.max(this.#ms / STEP, LEAST_MS);
  }

  /** Milliseconds for which the next request is worth waiting for. */
  get patience(): number {
    return Math.min(this.#mostMs, TIMES * this.#ms + GRACE_MS);
  }
}
