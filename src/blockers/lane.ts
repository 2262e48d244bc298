/** A bounded number of requests at a time, the others in order of arrival. */
import type { Request } from '../xseg/index.js';

export class Lane {
  readonly #limit: number;
  readonly #run: (request: Request) => void;
  #running = 0;
  /** A ring would not pay: this is empty nearly always. */
  #waiting: Request[] = [];
  #starting = false;
  #stopped = false;
  #drained: (() => void)[] = [];

  /** @param run starts a request; whoever ends it calls `leave` */
  constructor(limit: number, run: (request: Request) => void) {
    this.#limit = limit;
    this.#run = run;
  }

  get running(): number {
    return this.#running;
  }

  /** Whatever came now would be started at once. */
  get isOpen(): boolean {
    return !this.#stopped && this.#waiting.length === 0 && this.#running < this.#limit;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  enter(request: Request): void {
    if (this.#running >= this.#limit || this.#stopped) {
      this.#waiting.push(request);
      return;
    }
    this.#running++;
    this.#run(request);
  }

  leave(): void {
    this.#running--;
    if (this.#stopped) {
      if (this.#running > 0) return;
      for (const wake of this.#drained.splice(0)) wake();
      return;
    }
    if (this.#waiting.length === 0 || this.#starting) return;
    // A request may end within its start: without the guard each end would start the next one a call deeper.
    this.#starting = true;
    let started = 0;
    while (started < this.#waiting.length && this.#running < this.#limit) {
      this.#running++;
      this.#run(this.#waiting[started++]);
    }
    this.#waiting.splice(0, started);
    this.#starting = false;
  }

  /** Starts nothing more; resolves when nothing runs. What waits stays with the port. */
  async stop(): Promise<void> {
    this.#stopped = true;
    if (this.#running > 0) await new Promise<void>((resolve) => this.#drained.push(resolve));
    this.#waiting = [];
  }
}
