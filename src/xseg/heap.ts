/**
 * The data heap: a buddy allocator over the segment's pages, shared by all processes under one lock.
 *
 * A block is 2^order pages, aligned to its size from the heap's start. The page table alone says what is allocated and to which
 * port, so after any crash the free lists are rebuilt from it (rebuild). Ports keep small caches of blocks in front of this, so the
 * lock is off the hot path.
 */
import { errnos, SystemError } from '../sys/errno.js';
import { type Geometry, H, MAX_ALLOCATION, ORPHAN_OWNER, PAGE_ALLOCATED, PAGE_FREE, PAGE_WORDS } from './layout.js';
import { lock, unlock } from './lock.js';
import type { SegmentMemory } from './memory.js';

const ORDER_SHIFT = 24;
const ORDER_MASK = 0x1f;
const OWNER_MASK = 0xffff;

/** One allocated block, for reports and recovery. */
export interface Block {
  /** First page. */
  readonly page: number;
  readonly order: number;
  readonly owner: number;
}

export class Heap {
  readonly #memory: SegmentMemory;
  readonly #pages: number;
  readonly #table: number;
  readonly #start: number;
  readonly #pageShift: number;
  readonly maxOrder: number;

  constructor(memory: SegmentMemory, geometry: Geometry) {
    this.#memory = memory;
    this.#pages = geometry.heapPages;
    this.#table = geometry.pageTable / 4;
    this.#start = geometry.heap;
    this.#pageShift = geometry.pageShift;
    this.maxOrder = Math.log2(MAX_ALLOCATION) - geometry.pageShift;
  }

  /** The order of the smallest block that holds `length` bytes. @throws SystemError E2BIG above MAX_ALLOCATION */
  orderFor(length: number): number {
    if (length > MAX_ALLOCATION) {
      throw new SystemError(errnos.E2BIG, `${length} bytes are more than one segment buffer holds (${MAX_ALLOCATION})`);
    }
    const pages = Math.max(1, Math.ceil(length / (1 << this.#pageShift)));
    return 32 - Math.clz32(pages - 1);
  }

  bytesOf(order: number): number {
    return 1 << (order + this.#pageShift);
  }

  /** Order of the block that starts at this segment offset and is allocated to `port`, or -1 when there is no such block. */
  orderAt(offset: number, port: number): number {
    const page = this.#pageAt(offset);
    if (page < 0) return -1;
    const state = this.#memory.u32[this.#entry(page)];
    return state & PAGE_ALLOCATED && (state & OWNER_MASK) === port ? (state >>> ORDER_SHIFT) & ORDER_MASK : -1;
  }

  /** Marks an allocated block as kept at hand by its port, so that freeing it once more is noticed. */
  setSpare(offset: number, spare: boolean): void {
    this.#memory.u32[this.#entry((offset - this.#start) >>> this.#pageShift) + 1] = spare ? 1 : 0;
  }

  isSpare(offset: number): boolean {
    return this.#memory.u32[this.#entry((offset - this.#start) >>> this.#pageShift) + 1] === 1;
  }

  /** Are these bytes inside the heap? For requests that came from somebody else. */
  contains(offset: number, length: number): boolean {
    return offset >= this.#start && length >= 0 && offset + length <= this.#start + this.#pages * this.bytesOf(0);
  }

  /** The allocated block that these bytes begin in, or null. */
  blockAround(offset: number): Block | null {
    const page = (offset - this.#start) >>> this.#pageShift;
    if (!this.contains(offset, 0) || page >= this.#pages) return null;
    for (let order = 0; order <= this.maxOrder; order++) {
      const head = page & ~((1 << order) - 1);
      const block = this.#allocated(head);
      if (block && head + (1 << block.order) > page) return block;
    }
    return null;
  }

  /** Allocates a block of this order for a port: its segment offset, or -1 when the heap has none. */
  allocate(order: number, port: number): number {
    this.#lock(port);
    try {
      let found = order;
      while (found <= this.maxOrder && this.#head(found) === 0) found++;
      if (found > this.maxOrder) return -1;
      if (!this.#isFreeBlock(this.#head(found) - 1, found)) {
        // Somebody wrote over the list: what is allocated is known all the same.
        this.#rebuild();
        found = order;
        while (found <= this.maxOrder && this.#head(found) === 0) found++;
        if (found > this.maxOrder) return -1;
      }
      const page = this.#head(found) - 1;
      this.#unlink(page, found);
      while (found > order) {
        found--;
        this.#link(page + (1 << found), found);
      }
      this.#memory.u32[this.#entry(page)] = (PAGE_ALLOCATED | (order << ORDER_SHIFT) | port) >>> 0;
      this.#memory.u32[H.FREE_PAGES] -= 1 << order;
      return this.#start + page * this.bytesOf(0);
    } finally {
      unlock(this.#memory, H.HEAP_LOCK);
    }
  }

  /**
   * Gives a block back if it is (still) allocated to `owner`: of several that try, one succeeds, and never with a block that
   * meanwhile is somebody else's.
   * @param needed asked under the lock; true keeps the block
   */
  free(offset: number, owner: number, needed?: (block: Block) => boolean): boolean {
    this.#lock(owner);
    try {
      const page = this.#pageAt(offset);
      let order = this.orderAt(offset, owner);
      if (order < 0 || needed?.({ page, order, owner })) return false;
      this.#memory.u32[this.#entry(page)] = 0;
      this.#memory.u32[H.FREE_PAGES] += 1 << order;
      let at = page;
      for (; order < this.maxOrder; order++) {
        const buddy = at ^ (1 << order);
        if (buddy + (1 << order) > this.#pages) break;
        if (!this.#isFreeBlock(buddy, order)) break;
        this.#unlink(buddy, order);
        at = Math.min(at, buddy);
      }
      this.#link(at, order);
      return true;
    } finally {
      unlock(this.#memory, H.HEAP_LOCK);
    }
  }

  /** All allocated blocks, in order of address. Those that come or go meanwhile may be missed. */
  *blocks(): Generator<Block> {
    const { u32 } = this.#memory;
    for (let page = 0; page < this.#pages; ) {
      const block = this.#allocated(page);
      if (block) {
        yield block;
        page += 1 << block.order;
        continue;
      }
      const state = u32[this.#entry(page)];
      const order = (state >>> ORDER_SHIFT) & ORDER_MASK;
      page += state & PAGE_FREE && this.#isBlock(page, order) ? 1 << order : 1;
    }
  }

  /** The allocated block that starts at this page, or null. */
  #allocated(page: number): Block | null {
    const state = this.#memory.u32[this.#entry(page)];
    const order = (state >>> ORDER_SHIFT) & ORDER_MASK;
    return state & PAGE_ALLOCATED && this.#isBlock(page, order) ? { page, order, owner: state & OWNER_MASK } : null;
  }

  /** Can a block of this order start here? */
  #isBlock(page: number, order: number): boolean {
    return order <= this.maxOrder && (page & ((1 << order) - 1)) === 0 && page + (1 << order) <= this.#pages;
  }

  #isFreeBlock(page: number, order: number): boolean {
    return (
      this.#isBlock(page, order) && this.#memory.u32[this.#entry(page)] === (PAGE_FREE | (order << ORDER_SHIFT)) >>> 0
    );
  }

  /** The page that starts at a segment offset, -1 when none does. */
  #pageAt(offset: number): number {
    const page = (offset - this.#start) / this.bytesOf(0);
    return Number.isInteger(page) && page >= 0 && page < this.#pages ? page : -1;
  }

  offsetOf(block: Block): number {
    return this.#start + block.page * this.bytesOf(0);
  }

  /** Marks a block as nobody's: freed when the last request that works on it is answered. */
  orphan(block: Block): void {
    this.#memory.u32[this.#entry(block.page)] = (PAGE_ALLOCATED | (block.order << ORDER_SHIFT) | ORPHAN_OWNER) >>> 0;
  }

  /** Makes the free lists from what is not allocated: at creation, and after an owner of the heap lock died. */
  rebuild(port: number): void {
    lock(this.#memory, H.HEAP_LOCK, port);
    try {
      this.#rebuild();
    } finally {
      unlock(this.#memory, H.HEAP_LOCK);
    }
  }

  /** Counts free pages by walking the lists: what verify compares with the counter. -1 = a list is broken. */
  countFree(): number {
    let count = 0;
    for (let order = 0; order <= this.maxOrder; order++) {
      let steps = 0;
      for (let next = this.#head(order); next !== 0; next = this.#memory.u32[this.#entry(next - 1) + 1]) {
        if (!this.#isFreeBlock(next - 1, order) || steps++ > this.#pages) return -1;
        count += 1 << order;
      }
    }
    return count;
  }

  #lock(port: number): void {
    if (lock(this.#memory, H.HEAP_LOCK, port)) this.#rebuild();
  }

  #rebuild(): void {
    const { u32 } = this.#memory;
    for (let order = 0; order <= this.maxOrder; order++) u32[H.FREE_BLOCKS + order] = 0;
    const taken = [...this.blocks()];
    let free = 0;
    let page = 0;
    for (const block of [...taken, { page: this.#pages, order: 0, owner: 0 }]) {
      for (let p = page; p < block.page; p++) u32.fill(0, this.#entry(p), this.#entry(p) + PAGE_WORDS);
      free += block.page - page;
      while (page < block.page) {
        const aligned = page === 0 ? this.maxOrder : Math.min(this.maxOrder, Math.log2(page & -page));
        const order = Math.min(aligned, Math.floor(Math.log2(block.page - page)));
        this.#link(page, order);
        page += 1 << order;
      }
      page = block.page + (1 << block.order);
    }
    u32[H.FREE_PAGES] = free;
  }

  #entry(page: number): number {
    return this.#table + page * PAGE_WORDS;
  }

  #head(order: number): number {
    return this.#memory.u32[H.FREE_BLOCKS + order];
  }

  #link(page: number, order: number): void {
    const { u32 } = this.#memory;
    const entry = this.#entry(page);
    const next = this.#head(order);
    u32[entry] = (PAGE_FREE | (order << ORDER_SHIFT)) >>> 0;
    u32[entry + 1] = next;
    u32[entry + 2] = 0;
    if (next !== 0) u32[this.#entry(next - 1) + 2] = page + 1;
    u32[H.FREE_BLOCKS + order] = page + 1;
  }

  #unlink(page: number, order: number): void {
    const { u32 } = this.#memory;
    const entry = this.#entry(page);
    const next = u32[entry + 1];
    const previous = u32[entry + 2];
    if (next !== 0) u32[this.#entry(next - 1) + 2] = previous;
    if (previous !== 0) u32[this.#entry(previous - 1) + 1] = next;
    else u32[H.FREE_BLOCKS + order] = next;
    u32[entry] = 0;
    u32[entry + 1] = 0;
    u32[entry + 2] = 0;
  }
}
