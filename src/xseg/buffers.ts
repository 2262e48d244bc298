/**
 * A port's data buffers: a few freed blocks of each order are kept at hand, so that the steady state takes no lock. What is kept
 * stays the port's in the segment's books.
 */
import { errnos, SystemError } from '../sys/errno.js';
import type { Heap } from './heap.js';
import { P } from './layout.js';
import type { SegmentMemory } from './memory.js';

/** Bytes of one order that a port keeps; at least two blocks. */
const KEEP_BYTES = 1 << 20;

export class BufferCache {
  readonly #heap: Heap;
  readonly #port: number;
  readonly #u32: Uint32Array;
  /** Word of the port's page count. */
  readonly #used: number;
  readonly #limit: number;
  readonly #kept: number[][];
  readonly #pageBytes: number;

  /** @param limitPages pages the port may hold at most */
  constructor(heap: Heap, memory: SegmentMemory, port: number, portWord: number, limitPages: number) {
    this.#heap = heap;
    this.#port = port;
    this.#u32 = memory.u32;
    this.#used = portWord + P.HEAP_PAGES;
    this.#limit = limitPages;
    this.#kept = Array.from({ length: heap.maxOrder + 1 }, () => []);
    this.#pageBytes = heap.bytesOf(0);
  }

  allocate(length: number): number {
    const order = this.#heap.orderFor(length);
    const kept = this.#kept[order].pop();
    if (kept !== undefined) return kept;
    const pages = 1 << order;
    if (this.#u32[this.#used] + pages > this.#limit) this.drain();
    if (this.#u32[this.#used] + pages > this.#limit) return -1;
    let offset = this.#heap.allocate(order, this.#port);
    if (offset < 0 && this.drain()) offset = this.#heap.allocate(order, this.#port);
    if (offset >= 0) this.#u32[this.#used] += pages;
    return offset;
  }

  free(offset: number): void {
    const order = this.#heap.orderAt(offset);
    if (order < 0) throw new SystemError(errnos.EINVAL, `no segment buffer starts at ${offset}: freed twice?`);
    const kept = this.#kept[order];
    if (kept.length < Math.max(2, KEEP_BYTES / this.#heap.bytesOf(order))) kept.push(offset);
    else this.#release(offset, order);
  }

  length(offset: number): number {
    const order = this.#heap.orderAt(offset);
    return order < 0 ? 0 : this.#pageBytes << order;
  }

  /** Gives all kept blocks back to the heap; false when there were none. */
  drain(): boolean {
    let any = false;
    for (let order = 0; order < this.#kept.length; order++) {
      for (const offset of this.#kept[order].splice(0)) {
        this.#release(offset, order);
        any = true;
      }
    }
    return any;
  }

  #release(offset: number, order: number): void {
    this.#heap.free(offset, this.#port);
    this.#u32[this.#used] -= 1 << order;
  }
}
