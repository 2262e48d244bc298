/**
 * Adaptive busy-polling. After requests were served, the next ones often come sooner than the processor would take to sleep and
 * wake; asking the active sockets directly for a short while saves that. It pays only while clients are that quick, so each pause between
 * an answer and the next request is a vote: a short one, slept through or not, for polling, a long one against it. Always the whole
 * window is polled or nothing: the pauses of one client differ by more than an average would tell. The event loop has its turn
 * after every bounded slice.
 *
 * It never yields the processor: on a busy machine that costs a whole round of the scheduler, where sleeping in epoll does not. Who
 * finds that the processor was away while he asked sleeps for a while: others want it.
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
/** Who was served within this many milliseconds is company to the others. */
const COMPANY_MS = 10;
/** The most that short pauses count for together; and what a long one takes away. More than one long pause in three ends the polling. */
const MOST_CREDIT = 12;
const LONG_PAUSE = 2;
/** An ask in vain takes a microsecond or two. When it took so many, another process had the processor… */
const AWAY_US = 500;
/** …and for so many milliseconds nothing is polled; for twice as many each time that it is away again soon after, up to the second. */
const AVOID_MS = 2;
const MOST_AVOID_MS = 32;

export class Poller {
  readonly #mostMs: number;
  readonly #now: () => number;
  /** What the last pauses were; 0: too long for polling. */
  #credit = 0;
  readonly #active: Pollable[] = [];
  readonly #seen: number[] = [];
  /** When something last arrived or was answered. */
  #last = 0;
  /** Who was served last, and when; and when anybody else was. */
  #newest: Pollable | null = null;
  #newestAt = Number.NEGATIVE_INFINITY;
  #otherAt = Number.NEGATIVE_INFINITY;
  #armed = false;
  /** Until when the processor is left to others, and for how long that was. */
  #avoidUntil = 0;
  #avoidMs = 0;
  readonly #round = (): void => this.#poll();

  /**
   * @param busyPollUs microseconds to ask in vain before going back to the event loop, at most; 0 = never poll
   * @param now the clock, in milliseconds
   */
  constructor(busyPollUs: number, now = (): number => performance.now()) {
    this.#mostMs = busyPollUs / 1000;
    this.#now = now;
  }

  /** The connection was just served through the event loop. */
  touched(connection: Pollable): void {
    if (this.#mostMs <= 0) return;
    const now = this.#now();
    if (!this.#armed) this.#learn(now - this.#last);
    this.#last = now;
    this.#served(connection, now);
    const i = this.#active.indexOf(connection);
    if (i >= 0) this.#seen[i] = now;
    else if (this.#active.length <= MAX_ACTIVE) {
      this.#active.push(connection);
      this.#seen.push(now);
    }
    if (this.#armed || this.#credit === 0 || now < this.#avoidUntil) return;
    this.#armed = true;
    setImmediate(this.#round);
  }

  /** @param pause ms from the last answer to this one */
  #learn(pause: number): void {
    if (pause > this.#mostMs) this.#credit = Math.max(0, this.#credit - LONG_PAUSE);
    else if (this.#credit < MOST_CREDIT) this.#credit++;
  }

  /** Has no other connection been served of late, asked or not? False as well where nothing is polled: then nobody knows. */
  isAlone(connection: Pollable): boolean {
    if (this.#newest === null) return false;
    const other = this.#newest === connection ? this.#otherAt : this.#newestAt;
    return this.#now() - other > COMPANY_MS;
  }

  #served(connection: Pollable, now: number): void {
    if (this.#newest !== connection) {
      this.#otherAt = Math.max(this.#otherAt, this.#newestAt);
      this.#newest = connection;
    }
    this.#newestAt = now;
  }

  /** The connection is over. */
  forget(connection: Pollable): void {
    if (this.#newest === connection) this.#newestAt = Number.NEGATIVE_INFINITY;
    const i = this.#active.indexOf(connection);
    if (i >= 0) this.#remove(i);
  }

  #remove(i: number): void {
    this.#active.splice(i, 1);
    this.#seen.splice(i, 1);
  }

  #poll(): void {
    const start = this.#now();
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
          this.#served(connection, now);
        } else if (now - this.#seen[i] > FORGET_MS) {
          this.#remove(i);
          continue;
        }
        if (connection.waiting) waiting = true;
      }
      const before = now;
      now = this.#now();
      if (any) {
        this.#last = now;
        if (this.#credit < MOST_CREDIT) this.#credit++;
      } else if ((now - before) * 1000 > AWAY_US) {
        this.#avoid(now);
        return;
      } else if (!asked || now - this.#last > this.#mostMs || this.#active.length > MAX_ACTIVE) {
        this.#armed = false;
        return;
      }
      if (waiting || (now - start) * 1000 > SLICE_US) break;
    }
    setImmediate(this.#round);
  }

  /** The processor was away: it is left to others, for longer each time this follows closely. */
  #avoid(now: number): void {
    const again = now < this.#avoidUntil + MOST_AVOID_MS;
    this.#avoidMs = again ? Math.min(2 * this.#avoidMs, MOST_AVOID_MS) : AVOID_MS;
    this.#avoidUntil = now + this.#avoidMs;
    this.#armed = false;
  }
}
