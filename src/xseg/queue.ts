/**
 * A port's queues: rings of request indices. Many producers under an owned lock, one consumer (the port's owner) without.
 * A producer that died half-way leaves the lock behind; whoever takes it over sets the port's SCAN flag, and the owner then finds
 * in the request table what the ring does not have.
 */

import { P } from './layout.js';
import { lock, unlock } from './lock.js';
import type { SegmentMemory } from './memory.js';

export class Queue {
  readonly #memory: SegmentMemory;
  readonly #i32: Int32Array;
  readonly #ring: number;
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
    this.#mask = capacity - 1;
    this.#head = port + (kind === 'request' ? P.REQUEST_HEAD : P.REPLY_HEAD);
    this.#tail = port + (kind === 'request' ? P.REQUEST_TAIL : P.REPLY_TAIL);
    this.#lock = port + (kind === 'request' ? P.REQUEST_LOCK : P.REPLY_LOCK);
    this.#scan = port + P.SCAN;
  }

  get length(): number {
    return (Atomics.load(this.#i32, this.#tail) - Atomics.load(this.#i32, this.#head)) | 0;
  }

  /** Appends for the port `producer`; false when the ring is full. */
  push(index: number, producer: number): boolean {
    if (lock(this.#memory, this.#lock, producer)) Atomics.store(this.#i32, this.#scan, 1);
    const tail = this.#i32[this.#tail];
    const room = ((tail - Atomics.load(this.#i32, this.#head)) | 0) <= this.#mask;
    if (room) {
      this.#i32[this.#ring + (tail & this.#mask)] = index;
      Atomics.store(this.#i32, this.#tail, (tail + 1) | 0);
    }
    unlock(this.#memory, this.#lock);
    return room;
  }

  /** Takes the oldest entry, -1 when there is none. Only the port's owner calls it. */
  pop(): number {
    const head = this.#i32[this.#head];
    if (Atomics.load(this.#i32, this.#tail) === head) return -1;
    const index = this.#i32[this.#ring + (head & this.#mask)];
    Atomics.store(this.#i32, this.#head, (head + 1) | 0);
    return index;
  }

  /** Empties the ring; only while nobody else uses the port. */
  clear(): void {
    Atomics.store(this.#i32, this.#head, Atomics.load(this.#i32, this.#tail));
  }
}
