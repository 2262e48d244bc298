/**
 * What slows one volume down, for all connections that have it open here: requests pass its buckets, those that find too little wait. Of
 * each connection one waits, without its data; they are let go in the order they came, reads and writes in turn.
 */
import type { Throttle, ThrottleTicket } from '../../nbd/index.js';
import type { Bucket } from './bucket.js';
import { type Buckets, isLimited, type Limits, makeBuckets } from './rates.js';

/** Milliseconds that only grow, and a call when some of them are over. */
export interface Clock {
  now(): number;
  /** Calls back once; the function that is returned has it not do so. */
  after(ms: number, callback: () => void): () => void;
}

/** Timers count no further than some weeks; to look again once in a while costs nothing. */
const LONGEST_MS = 60_000;
const NO_BUCKETS: Buckets = { ofReads: [], ofWrites: [], shared: false };

export class VolumeThrottle implements Throttle {
  readonly #clock: Clock;
  #buckets = NO_BUCKETS;
  #active = false;
  readonly #reads: ThrottleTicket[] = [];
  readonly #writes: ThrottleTicket[] = [];
  /** The next that both kinds could have is a write's. */
  #writesFirst = false;
  #stopTimer: (() => void) | null = null;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Something is limited. */
  get active(): boolean {
    return this.#active;
  }

  /** Connections whose next request waits. */
  get waiting(): number {
    return this.#reads.length + this.#writes.length;
  }

  /** Nothing would be lost if it were made anew. */
  get isFresh(): boolean {
    const now = this.#clock.now();
    const { ofReads, ofWrites } = this.#buckets;
    return this.waiting === 0 && [...ofReads, ...ofWrites].every((bucket) => bucket.isFull(now));
  }

  /** Sets other limits. Who waits is held by these from now on; a limit that was changed begins with what it saves, and owes nothing. */
  set(limits: Limits): void {
    this.#buckets = makeBuckets(limits, this.#clock.now(), this.#buckets);
    this.#active = isLimited(limits);
    this.#serve();
  }

  admit(ticket: ThrottleTicket): boolean {
    const { isWrite, bytes } = ticket;
    const buckets = this.#of(isWrite);
    if (buckets.length === 0) return true;
    const others = isWrite ? this.#reads : this.#writes;
    const own = isWrite ? this.#writes : this.#reads;
    const first = own.length === 0 && (others.length === 0 || !this.#buckets.shared);
    if (first && waitFor(buckets, this.#clock.now()) === 0) {
      take(buckets, bytes);
      return true;
    }
    own.push(ticket);
    this.#arm();
    return false;
  }

  charge(ticket: ThrottleTicket): void {
    take(this.#of(ticket.isWrite), ticket.bytes);
  }

  cancel(ticket: ThrottleTicket): void {
    const queue = ticket.isWrite ? this.#writes : this.#reads;
    const i = queue.indexOf(ticket);
    if (i < 0) return;
    queue.splice(i, 1);
    this.#arm();
  }

  #of(isWrite: boolean): readonly Bucket[] {
    return isWrite ? this.#buckets.ofWrites : this.#buckets.ofReads;
  }

  /** Lets go who may. */
  #serve(): void {
    const now = this.#clock.now();
    while (this.#next(this.#writesFirst, now) || this.#next(!this.#writesFirst, now)) {
      // What one kind got, the other gets next.
    }
    this.#arm();
  }

  #next(isWrite: boolean, now: number): boolean {
    const queue = isWrite ? this.#writes : this.#reads;
    const buckets = this.#of(isWrite);
    if (queue.length === 0 || waitFor(buckets, now) > 0) return false;
    const ticket = queue.shift() as ThrottleTicket;
    take(buckets, ticket.bytes);
    this.#writesFirst = !isWrite;
    ticket.granted();
    return true;
  }

  /** Has the next one let go when its time comes. */
  #arm(): void {
    this.#stopTimer?.();
    this.#stopTimer = null;
    if (this.waiting === 0) return;
    const now = this.#clock.now();
    const { ofReads, ofWrites } = this.#buckets;
    const ofRead = this.#reads.length > 0 ? waitFor(ofReads, now) : Number.POSITIVE_INFINITY;
    const ofWrite = this.#writes.length > 0 ? waitFor(ofWrites, now) : Number.POSITIVE_INFINITY;
    this.#stopTimer = this.#clock.after(Math.min(ofRead, ofWrite, LONGEST_MS), () => {
      this.#stopTimer = null;
      this.#serve();
    });
  }
}

/** How long until all of them have something, in ms. */
function waitFor(buckets: readonly Bucket[], now: number): number {
  let longest = 0;
  for (const bucket of buckets) longest = Math.max(longest, bucket.wait(now));
  return longest;
}

function take(buckets: readonly Bucket[], bytes: number): void {
  for (const bucket of buckets) bucket.take(bytes);
}
