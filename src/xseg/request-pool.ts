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
    const { u32 } = this.#memory;
    const room = Math.min(BATCH, u32[portWord + P.REQUEST_LIMIT] - u32[portWord + P.REQUESTS]);
    let taken = 0;
    this.#lock(port);
    while (taken < room && u32[H.FREE_REQUESTS] !== 0) {
      const index = u32[H.FREE_REQUESTS] - 1;
      const word = this.#table + index * REQUEST_WORDS;
      u32[word + R.SRC] = port;
      u32[word + R.ORPHAN] = 0;
      Atomics.store(this.#memory.i32, word + R.STATE, RequestState.HELD);
      u32[H.FREE_REQUESTS] = u32[word + R.NEXT];
      u32[H.FREE_REQUEST_COUNT]--;
      into.push(index);
      taken++;
    }
    unlock(this.#memory, H.REQUESTS_LOCK);
    u32[portWord + P.REQUESTS] += taken;
    return taken > 0;
  }

  /** Frees records. @param portWord the holder's record, -1 when nobody counts them any more */
  giveBack(port: number, portWord: number, indices: readonly number[]): void {
    const { u32 } = this.#memory;
    this.#lock(port);
    for (const index of indices) {
      const word = this.#table + index * REQUEST_WORDS;
      u32[word + R.NEXT] = u32[H.FREE_REQUESTS];
      Atomics.store(this.#memory.i32, word + R.STATE, RequestState.FREE);
      u32[H.FREE_REQUESTS] = index + 1;
      u32[H.FREE_REQUEST_COUNT]++;
    }
    unlock(this.#memory, H.REQUESTS_LOCK);
    if (portWord >= 0) u32[portWord + P.REQUESTS] -= indices.length;
  }

  rebuild(port: number): void {
    lock(this.#memory, H.REQUESTS_LOCK, port);
    this.#rebuild();
    unlock(this.#memory, H.REQUESTS_LOCK);
  }

  #lock(port: number): void {
    if (lock(this.#memory, H.REQUESTS_LOCK, port)) this.#rebuild();
  }

  #rebuild(): void {
    const { u32 } = this.#memory;
    let head = 0;
    let count = 0;
    for (let index = this.#count - 1; index >= 0; index--) {
      const word = this.#table + index * REQUEST_WORDS;
      if (u32[word + R.STATE] !== RequestState.FREE) continue;
      u32[word + R.NEXT] = head;
      head = index + 1;
      count++;
    }
    u32[H.FREE_REQUESTS] = head;
    u32[H.FREE_REQUEST_COUNT] = count;
  }
}
