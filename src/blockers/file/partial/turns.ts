/** Work that is done one after the other, and may begin and end within one turn of the event loop. */
export class Turns {
  #busy = false;
  readonly #waiting: (() => void)[] = [];
  /** The next is being begun. */
  #isStarting = false;

  /** Nothing is under way, and nothing waits. */
  get isIdle(): boolean {
    return !this.#busy && this.#waiting.length === 0;
  }

  /** Begins work when it has its turn; the work ends with leave, in the same turn of the event loop or later. */
  enter(work: () => void): void {
    this.#waiting.push(work);
    this.#startNext();
  }

  leave(): void {
    this.#busy = false;
    this.#startNext();
  }

  /** A loop, since what begins may end at once: each would begin the next within itself. */
  #startNext(): void {
    if (this.#isStarting) return;
    this.#isStarting = true;
    try {
      while (!this.#busy && this.#waiting.length > 0) {
        this.#busy = true;
        this.#waiting.shift()?.();
      }
    } finally {
      this.#isStarting = false;
      // Only after an exception: what waits is not to wait for somebody who never comes.
      if (!this.#busy && this.#waiting.length > 0) setImmediate(() => this.#startNext());
    }
  }
}
