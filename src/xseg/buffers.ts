/**
 * A port's data buffers: a few freed blocks of each order are kept at hand, so that the steady state takes no lock. What is kept
 * stays the port's in the segment's books; under pressure it goes back.
 */
import { errnos, SystemError } from '../sys/errno.js';
import type { Heap } from './heap.js';
import { P } from './layout.js';
import type { SegmentMemory } from './memory.js';

/** Bytes of one order that a port keeps, and of all orders together; at most, in a large heap. */
const KEEP_BYTES = 1 << 20;
const KEEP_TOTAL_BYTES = 16 << 20;
/** Of a small heap a port keeps at most this part. */
const KEEP_SHARE = 1 / 32;

export class BufferCache {
  readonly #heap: Heap;
  readonly #port: number;
  readonly #u32: Uint32Array;
  /** Word of the port's page count. */
  readonly #used: number;
  readonly #limit: number;
  readonly #kept: number[][];
  readonly #keepTotal: number;
  readonly #pageBytes: number;
  readonly #onShortage: () => void;
  #keptPages = 0;

  /**
   * @param limitPages pages the port may hold at most
   * @param onShortage asks everybody to give back what they keep
   */
  constructor(
    heap: Heap,
    memory: SegmentMemory,
    port: number,
    portWord: number,
    limitPages: number,
    heapPages: number,
    onShortage: () => void,
  ) {
    this.#heap = heap;
    this.#port = port;
    this.#u32 = memory.u32;
    this.#used = portWord + P.HEAP_PAGES;
    this.#limit = limitPages;
    this.#kept = Array.from({ length: heap.maxOrder + 1 }, () => []);
    this.#pageBytes = heap.bytesOf(0);
    this.#keepTotal = Math.min(KEEP_TOTAL_BYTES / this.#pageBytes, Math.floor(heapPages * KEEP_SHARE));
    this.#onShortage = onShortage;
  }

  allocate(length: number): number {
    const order = this.#heap.orderFor(length);
    const kept = this.#kept[order].pop();
    const pages = 1 << order;
    if (kept !== undefined) {
      this.#heap.setSpare(kept, false);
      this.#keptPages -= pages;
      return kept;
    }
    if (this.#u32[this.#used] + pages > this.#limit) this.drain();
    if (this.#u32[this.#used] + pages > this.#limit) return -1;
    let offset = this.#heap.allocate(order, this.#port);
    if (offset < 0) {
      this.#onShortage();
      offset = this.#heap.allocate(order, this.#port);
    }
    if (offset >= 0) this.#u32[this.#used] += pages;
    return offset;
  }

  /** @throws SystemError EINVAL when no buffer of this port starts there */
  free(offset: number): void {
    const order = this.#heap.orderAt(offset, this.#port);
    if (order < 0 || this.#heap.isSpare(offset)) {
      throw new SystemError(errnos.EINVAL, `no buffer of port ${this.#port} starts at ${offset}: freed twice?`);
    }
    const kept = this.#kept[order];
    const pages = 1 << order;
    const room = kept.length < Math.max(2, KEEP_BYTES / (this.#pageBytes << order));
    if (room && this.#keptPages + pages <= this.#keepTotal) {
      this.#heap.setSpare(offset, true);
      this.#keptPages += pages;
      kept.push(offset);
    } else this.#release(offset, order);
  }

  length(offset: number): number {
    const order = this.#heap.orderAt(offset, this.#port);
    return order < 0 ? 0 : this.#pageBytes << order;
  }

  /** Gives all kept blocks back to the heap. */
  drain(): void {
    this.#keptPages = 0;
    for (let order = 0; order < this.#kept.length; order++) {
      for (const offset of this.#kept[order].splice(0)) this.#release(offset, order);
    }
  }

  #release(offset: number, order: number): void {
    if (this.#heap.free(offset, this.#port)) this.#u32[this.#used] -= 1 << order;
  }
}
