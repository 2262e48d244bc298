/**
 * The free request records: a list in the segment under a lock, from which ports take a handful at a time. The records' states
 * alone say what is free, so the list can be rebuilt after any crash.
 */
import { type Geometry, H, P, R, REQUEST_WORDS, RequestState } from './layout.js';
import { lock, unlock } from './lock.js';
import type { SegmentMemory } from './memory.js';

/** Records that a port takes at once. */
const BATCH = 32;

export class RequestPool {
  readonly #memory: SegmentMemory;
  readonly #table: number;
  readonly #count: number;

  constructor(memory: SegmentMemory, geometry: Geometry) {
    this.#memory = memory;
    this.#table = geometry.requestTable / 4;
    this.#count = geometry.requests;
  }

  /** Moves up to a batch of free records to a port; false when it may hold no more or none is free. */
  take(port: number, portWord: number, into: number[]): boolean {
    const { u32, i32 } = this.#memory;
    const room = Math.min(BATCH, u32[portWord + P.REQUEST_LIMIT] - u32[portWord + P.REQUESTS]);
    if (room <= 0) return false;
    let taken = 0;
    this.#lock(port);
    try {
      while (taken < room) {
        const index = this.#head();
        if (index < 0) break;
        const word = this.#table + index * REQUEST_WORDS;
        u32[H.FREE_REQUESTS] = u32[word + R.NEXT];
        u32[H.FREE_REQUEST_COUNT]--;
        u32[word + R.SRC] = port;
        Atomics.store(i32, word + R.STATE, RequestState.HELD);
        into.push(index);
        taken++;
      }
    } finally {
      unlock(this.#memory, H.REQUESTS_LOCK);
    }
    u32[portWord + P.REQUESTS] += taken;
    return taken > 0;
  }

  /** Frees records that a port holds. @param portWord the port's record, which counts them */
  giveBack(port: number, portWord: number, indices: readonly number[]): void {
    let freed = 0;
    for (const index of indices) if (this.reclaim(index, RequestState.HELD, port)) freed++;
    this.#memory.u32[portWord + P.REQUESTS] -= freed;
  }

  /**
   * Frees a record if it is (still) in this state. Of several that try, one succeeds.
   * @param port for whom the lock is taken, -1 = nobody's
   */
  reclaim(index: number, state: number, port: number): boolean {
    const { u32, i32 } = this.#memory;
    const word = this.#table + index * REQUEST_WORDS;
    this.#lock(port);
    try {
      if (Atomics.compareExchange(i32, word + R.STATE, state, RequestState.FREE) !== state) return false;
      u32[word + R.NEXT] = u32[H.FREE_REQUESTS];
      u32[H.FREE_REQUESTS] = index + 1;
      u32[H.FREE_REQUEST_COUNT]++;
      return true;
    } finally {
      unlock(this.#memory, H.REQUESTS_LOCK);
    }
  }

  rebuild(port: number): void {
    lock(this.#memory, H.REQUESTS_LOCK, port);
    try {
      this.#rebuild();
    } finally {
      unlock(this.#memory, H.REQUESTS_LOCK);
    }
  }

  /** Length of the free list by walking it, -1 when it is broken: what verify compares with the counter. */
  countFree(): number {
    const { u32 } = this.#memory;
    let count = 0;
    for (let next = u32[H.FREE_REQUESTS]; next !== 0; count++) {
      if (next > this.#count || count > this.#count || !this.#isFree(next - 1)) return -1;
      next = u32[this.#table + (next - 1) * REQUEST_WORDS + R.NEXT];
    }
    return count;
  }

  #lock(port: number): void {
    if (lock(this.#memory, H.REQUESTS_LOCK, port)) this.#rebuild();
  }

  /** The first free record, -1 = none. A list that leads elsewhere is made anew. */
  #head(): number {
    const { u32 } = this.#memory;
    for (let attempt = 0; attempt < 2; attempt++) {
      const head = u32[H.FREE_REQUESTS];
      if (head === 0) return -1;
      if (head <= this.#count && this.#isFree(head - 1)) return head - 1;
      this.#rebuild();
    }
    return -1;
  }

  #isFree(index: number): boolean {
    return this.#memory.u32[this.#table + index * REQUEST_WORDS + R.STATE] === RequestState.FREE;
  }

  #rebuild(): void {
    const { u32 } = this.#memory;
    let head = 0;
    let count = 0;
    for (let index = this.#count - 1; index >= 0; index--) {
      if (!this.#isFree(index)) continue;
      u32[this.#table + index * REQUEST_WORDS + R.NEXT] = head;
      head = index + 1;
      count++;
    }
    u32[H.FREE_REQUESTS] = head;
    u32[H.FREE_REQUEST_COUNT] = count;
  }
}
