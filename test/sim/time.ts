/**
 * Time that stands still until the simulator moves it: the timers and clocks of the process are replaced while one runs, so that no
 * machine's speed has a say in what happens. setImmediate stays: its order is certain.
 */
interface Timer {
  readonly id: number;
  due: number;
  readonly every: number | null;
  readonly call: () => void;
}

/** What setTimeout returns, as far as anybody looks at it. */
class Handle {
  readonly timer: Timer;
  constructor(timer: Timer) {
    this.timer = timer;
  }
  ref(): this {
    return this;
  }
  unref(): this {
    return this;
  }
  hasRef(): boolean {
    return false;
  }
}

type Callback = (...args: unknown[]) => void;

const real = {
  setTimeout: globalThis.setTimeout,
  clearTimeout: globalThis.clearTimeout,
  setInterval: globalThis.setInterval,
  clearInterval: globalThis.clearInterval,
  dateNow: Date.now,
  performanceNow: performance.now,
};

/** Real milliseconds, whatever runs. */
export const realNow = (): number => real.performanceNow.call(performance);

const START = Date.UTC(2026, 5, 1);

export class VirtualTime {
  #now = 1_000_000;
  #timers: Timer[] = [];
  #nextId = 1;

  get now(): number {
    return this.#now;
  }

  /** Takes the place of the process's clocks. The caller calls uninstall in the end, whatever happens. */
  install(): void {
    const start = (callback: Callback, ms: number | undefined, every: boolean, args: unknown[]): Handle => {
      const delay = Math.max(1, ms ?? 0);
      const timer = {
        id: this.#nextId++,
        due: this.#now + delay,
        every: every ? delay : null,
        call: () => callback(...args),
      };
      this.#timers.push(timer);
      return new Handle(timer);
    };
    const stop = (handle: unknown): void => {
      if (handle instanceof Handle) this.#timers = this.#timers.filter((timer) => timer !== handle.timer);
      else if (handle) real.clearTimeout(handle as NodeJS.Timeout);
    };
    Object.assign(globalThis, {
      setTimeout: (callback: Callback, ms?: number, ...args: unknown[]) => start(callback, ms, false, args),
      setInterval: (callback: Callback, ms?: number, ...args: unknown[]) => start(callback, ms, true, args),
      clearTimeout: stop,
      clearInterval: stop,
    });
    Date.now = () => START + Math.floor(this.#now);
    performance.now = () => this.#now;
  }

  uninstall(): void {
    const { setTimeout, clearTimeout, setInterval, clearInterval } = real;
    Object.assign(globalThis, { setTimeout, clearTimeout, setInterval, clearInterval });
    Date.now = real.dateNow;
    performance.now = real.performanceNow;
  }

  /** Puts the timers aside, for another life on the same clock; the function returned brings them back. */
  suspend(): () => void {
    const timers = this.#timers;
    const now = this.#now;
    this.#timers = [];
    return () => {
      this.#timers = timers;
      this.#now = now;
    };
  }

  /** Lets `ms` pass and runs what became due. */
  pass(ms: number): void {
    this.#now += ms;
    for (;;) {
      let next: Timer | null = null;
      for (const timer of this.#timers) {
        if (timer.due <= this.#now && (next === null || timer.due < next.due)) next = timer;
      }
      if (next === null) return;
      if (next.every === null) this.#timers = this.#timers.filter((timer) => timer !== next);
      else next.due += next.every;
      next.call();
    }
  }

  /** Goes to the next timer's moment and runs it; false when there is none. */
  skip(): boolean {
    if (this.#timers.length === 0) return false;
    this.pass(Math.max(0, Math.min(...this.#timers.map(({ due }) => due)) - this.#now));
    return true;
  }
}
