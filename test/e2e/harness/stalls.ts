/**
 * How long this process was kept from running: a timer that should come every 20 ms, and how much later it came. A machine that stands still for a
 * moment, or has too much to do, delays the nodes that a test measures likewise, and that is no fault of theirs.
 */
const TICK_MS = 20;

export class Stalls {
  readonly #timer: NodeJS.Timeout;
  #last = performance.now();
  #longest = 0;

  constructor() {
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  /** Forgets those until now. */
  begin(): void {
    this.#longest = 0;
    this.#last = performance.now();
  }

  /** The longest since `begin`, in ms; one that goes on counts as far as it has come. */
  get longest(): number {
    this.#tick();
    return this.#longest;
  }

  end(): void {
    clearInterval(this.#timer);
  }

  #tick(): void {
    const now = performance.now();
    this.#longest = Math.max(this.#longest, now - this.#last - TICK_MS);
    this.#last = now;
  }
}
