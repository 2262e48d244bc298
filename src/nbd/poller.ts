/**
 * Adaptive busy-polling. After requests were served, the next ones often come sooner than the processor would take to sleep and
 * wake; asking the active sockets directly for a short while saves that. It pays only while clients are that quick, so each pause between
 * an answer and the next request is a vote: a short one, slept through or not, for polling, a long one against it. The event loop has its
 * turn after every bounded slice.
 *
 * A client that sends one request at a time sleeps until its answer comes, and Linux often wakes it up on the processor that the answer
 * was sent by: where that one is asking, the client waits for who waits for it. So where one such client is all there is, the processor is
 * offered to it (sched_yield: nothing happens when nobody else wants it) before it is asked, and it is asked for no longer than some times
 * what it usually takes: then sleeping lets it run. Clients with several requests in flight are polled for the whole window
 * without that: they run meanwhile, and on a busy machine each offer can cost a round of the scheduler.
 *
 * Who finds that the processor was away while he asked or offered it sleeps for a while: others want it.
 */
import { schedYield } from '../sys/libc.js';
import { UsualPause } from './usual-pause.js';

export interface Pollable {
  /** Asking makes sense now. */
  readonly pollable: boolean;
  /** The device is at work for it and needs the event loop to end. */
  readonly waiting: boolean;
  /** Its client sends one request at a time, as far as is known. */
  readonly single: boolean;
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

/** Asks of a single client in vain before the processor is offered to it again. */
const OFFER_ASKS = 32;

export class Poller {
  readonly #mostMs: number;
  readonly #now: () => number;
  readonly #offer: () => void;
  readonly #usual: UsualPause;
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
   * @param offer lets another thread have the processor, if one waits for it
   */
  constructor(busyPollUs: number, now = (): number => performance.now(), offer: () => void = schedYield) {
    this.#mostMs = busyPollUs / 1000;
    this.#now = now;
    this.#offer = offer;
    this.#usual = new UsualPause(this.#mostMs);
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
    this.#usual.learn(pause);
  }

  /** One client is all there is, and sends one request at a time. */
  get #isSingle(): boolean {
    return this.#active.length === 1 && this.#active[0].single;
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
    let vain = 0;
    for (;;) {
      const single = this.#isSingle;
      if (single && vain % OFFER_ASKS === 0) {
        this.#offer();
        const before = now;
        now = this.#now();
        if (this.#wasAway(before, now)) return;
      }
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
      vain++;
      if (any) {
        vain = 0;
        this.#usual.learn(before - this.#last);
        this.#last = now;
        if (this.#credit < MOST_CREDIT) this.#credit++;
      } else {
        if (this.#wasAway(before, now)) return;
        const most = single && !waiting ? this.#usual.patience : this.#mostMs;
        if (!asked || now - this.#last > most || this.#active.length > MAX_ACTIVE) {
          this.#armed = false;
          return;
        }
      }
      if (waiting || (now - start) * 1000 > SLICE_US) break;
    }
    setImmediate(this.#round);
  }

  /** Was the processor away, from `before` to `now`? Then it is left to others, for longer each time this follows closely. */
  #wasAway(before: number, now: number): boolean {
    if ((now - before) * 1000 <= AWAY_US) return false;
    const again = now < this.#avoidUntil + MOST_AVOID_MS;
    this.#avoidMs = again ? Math.min(2 * this.#avoidMs, MOST_AVOID_MS) : AVOID_MS;
    this.#avoidUntil = now + this.#avoidMs;
    this.#armed = false;
    return true;
  }
}
