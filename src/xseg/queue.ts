/**
 * A port's queues: rings of request indices. Many producers under an owned lock, one consumer (the port's owner) without.
 *
 * A ring is a hint, the request's state is the truth: an entry whose request is not what it says any more is dropped, and what a
 * ring misses (a producer died half-way, it was full) is found in the request table when the port's SCAN flag is set.
 */

import { P } from './layout.js';
import { lock, unlock } from './lock.js';
import type { SegmentMemory } from './memory.js';

export class Queue {
  readonly #memory: SegmentMemory;
  readonly #i32: Int32Array;
  readonly #ring: number;
  readonly #capacity: number;
  readonly #mask: number;
  readonly #head: number;
  readonly #tail: number;
  readonly #lock: number;
  readonly #scan: number;

  /**
   * @param port word of the port's record
   * @param kind which of its two queues
   * @param ring word of the ring's first slot
   * @param capacity slots, a power of two
   */
  constructor(memory: SegmentMemory, port: number, kind: 'request' | 'reply', ring: number, capacity: number) {
    this.#memory = memory;
    this.#i32 = memory.i32;
    this.#ring = ring;
    this.#capacity = capacity;
    this.#mask = capacity - 1;
    this.#head = port + (kind === 'request' ? P.REQUEST_HEAD : P.REPLY_HEAD);
    this.#tail = port + (kind === 'request' ? P.REQUEST_TAIL : P.REPLY_TAIL);
    this.#lock = port + (kind === 'request' ? P.REQUEST_LOCK : P.REPLY_LOCK);
    this.#scan = port + P.SCAN;
  }

  /** Entries in the ring. Positions count modulo 2^32; anything but 0 to the capacity means that they are damaged. */
  get length(): number {
    return (Atomics.load(this.#i32, this.#tail) - Atomics.load(this.#i32, this.#head)) | 0;
  }

  get isDamaged(): boolean {
    const { length } = this;
    return length < 0 || length > this.#capacity;
  }

  /** Appends for the port `producer`; false when the ring is full. */
  push(index: number, producer: number): boolean {
    const i32 = this.#i32;
    if (lock(this.#memory, this.#lock, producer)) Atomics.store(i32, this.#scan, 1);
    const tail = i32[this.#tail];
    const room = ((tail - Atomics.load(i32, this.#head)) | 0) <= this.#mask;
    if (room) {
      i32[this.#ring + (tail & this.#mask)] = index;
      Atomics.store(i32, this.#tail, (tail + 1) | 0);
    }
    unlock(this.#memory, this.#lock);
    return room;
  }

  /** Empties the ring of a port that nobody owns; its next owner looks through the table. */
  empty(): void {
    lock(this.#memory, this.#lock, -1);
    Atomics.store(this.#i32, this.#head, Atomics.load(this.#i32, this.#tail));
    Atomics.store(this.#i32, this.#scan, 1);
    unlock(this.#memory, this.#lock);
  }

  /** Takes the oldest entry, -1 when there is none. Only the port's owner calls it. */
  pop(): number {
    const i32 = this.#i32;
    const head = i32[this.#head];
    const length = (Atomics.load(i32, this.#tail) - head) | 0;
    if (length === 0) return -1;
    if (length < 0 || length > this.#capacity) {
      // Somebody wrote where it should not: the table knows what is waiting.
      Atomics.store(i32, this.#head, Atomics.load(i32, this.#tail));
      Atomics.store(i32, this.#scan, 1);
      return -1;
    }
    const index = i32[this.#ring + (head & this.#mask)];
    Atomics.store(i32, this.#head, (head + 1) | 0);
    return index;
  }
}
