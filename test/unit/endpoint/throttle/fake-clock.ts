/** Time that a test moves, and tickets that remember when they were let go. */
import type { Clock, VolumeThrottle } from '../../../../src/endpoint/throttle/volume-throttle.js';
import type { ThrottleTicket } from '../../../../src/nbd/index.js';

export class FakeClock implements Clock {
  #now = 1000;
  #timers: { at: number; callback: () => void }[] = [];

  now(): number {
    return this.#now;
  }

  after(ms: number, callback: () => void): () => void {
    const timer = { at: this.#now + ms, callback };
    this.#timers.push(timer);
    return () => {
      this.#timers = this.#timers.filter((other) => other !== timer);
    };
  }

  get timers(): number {
    return this.#timers.length;
  }

  /** Lets time pass, calling back in order. */
  pass(ms: number): void {
    const end = this.#now + ms;
    for (;;) {
      const [next] = this.#timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at);
      if (next === undefined) break;
      this.#timers = this.#timers.filter((other) => other !== next);
      this.#now = Math.max(this.#now, next.at);
      next.callback();
    }
    this.#now = end;
  }
}

/** A connection that asks again as soon as it was let go, `left` times. */
export class FakeTicket implements ThrottleTicket {
  readonly isWrite: boolean;
  readonly bytes: number;
  /** When its requests began, in ms after the start. */
  readonly begun: number[] = [];
  left: number;
  readonly #throttle: VolumeThrottle;
  readonly #clock: FakeClock;
  readonly #start: number;

  constructor(
    throttle: VolumeThrottle,
    clock: FakeClock,
    request: { isWrite?: boolean; bytes?: number; times?: number } = {},
  ) {
    this.#throttle = throttle;
    this.#clock = clock;
    this.#start = clock.now();
    this.isWrite = request.isWrite ?? false;
    this.bytes = request.bytes ?? 4096;
    this.left = request.times ?? 1;
  }

  ask(): this {
    while (this.left > 0 && this.#throttle.admit(this)) this.#begin();
    return this;
  }

  granted(): void {
    this.#begin();
    // As the server does: later, not within the call.
    if (this.left > 0) this.#clock.after(0, () => this.ask());
  }

  #begin(): void {
    this.left--;
    this.begun.push(this.#clock.now() - this.#start);
  }
}
