/**
 * Adaptive busy-polling. After requests were served, the next ones often come sooner than the processor would take to sleep and
 * wake; asking the active sockets directly for a short while saves that. It pays only while clients are that quick, so a poll that
 * found nothing makes the next ones rarer, and the event loop has its turn after every bounded slice. It never yields the processor:
 * on a busy machine that costs a whole round of the scheduler, where sleeping in epoll does not.
 */

export interface Pollable {
  /** Asking makes sense now. */
  readonly pollable: boolean;
  /** The device is at work for it and needs the event loop to end. */
  readonly waiting: boolean;
  /** Receives and serves what is there; false when nothing was. */
  poll(): boolean;
}

/** Microseconds of serving by polling before the event loop has a turn. */
const SLICE_US = 250;
/** With more active connections than this epoll finds the readable ones for less than asking each. */
const MAX_ACTIVE = 8;
/** A connection without a request for this many milliseconds is not asked any more. */
const FORGET_MS = 2;
/** After n polls in vain 2^n - 1 chances are let pass, n at most this. */
const MAX_BACKOFF = 6;

export class Poller {
  readonly #busyMs: number;
  readonly #active: Pollable[] = [];
  readonly #seen: number[] = [];
  /** When something last arrived or was answered. */
  #last = 0;
  #armed = false;
  #hit = false;
  #misses = 0;
  #skip = 0;
  readonly #round = (): void => this.#poll();

  /** @param busyPollUs microseconds to ask in vain before going back to the event loop; 0 = never poll */
  constructor(busyPollUs: number) {
    this.#busyMs = busyPollUs / 1000;
  }

  /** The connection was just served through the event loop. */
  touched(connection: Pollable): void {
    if (this.#busyMs <= 0) return;
    const now = performance.now();
    this.#last = now;
    const i = this.#active.indexOf(connection);
    if (i >= 0) this.#seen[i] = now;
    else if (this.#active.length <= MAX_ACTIVE) {
      this.#active.push(connection);
      this.#seen.push(now);
    }
    if (this.#armed) return;
    if (this.#skip > 0) {
      this.#skip--;
      return;
    }
    this.#armed = true;
    this.#hit = false;
    setImmediate(this.#round);
  }

  /** The connection is over. */
  forget(connection: Pollable): void {
    const i = this.#active.indexOf(connection);
    if (i >= 0) this.#remove(i);
  }

  #remove(i: number): void {
    this.#active.splice(i, 1);
    this.#seen.splice(i, 1);
  }

  #poll(): void {
    const start = performance.now();
    let now = start;
    for (;;) {
      let any = false;
      let waiting = false;
      let asked = false;
      for (let i = this.#active.length - 1; i >= 0; i--) {
        const connection = this.#active[i];
        if (connection === undefined) continue;
        const { pollable } = connection;
        if (pollable) asked = true;
        if (pollable && connection.poll()) {
          any = true;
          this.#seen[i] = now;
        } else if (now - this.#seen[i] > FORGET_MS) {
          this.#remove(i);
          continue;
        }
        if (connection.waiting) waiting = true;
      }
      now = performance.now();
      if (any) {
        this.#last = now;
        this.#hit = true;
      } else if (!asked || now - this.#last > this.#busyMs || this.#active.length > MAX_ACTIVE) {
        this.#rest();
        return;
      }
      if (waiting || (now - start) * 1000 > SLICE_US) break;
    }
    setImmediate(this.#round);
  }

  /** Goes back to readiness. */
  #rest(): void {
    this.#armed = false;
    if (this.#hit) {
      this.#misses = 0;
      return;
    }
    this.#misses = Math.min(this.#misses + 1, MAX_BACKOFF);
    this.#skip = 2 ** this.#misses - 1;
  }
}
