/**
 * What is in a segment, as every process sees it: where the records are, who owns a port, its queues, the free records, the heap.
 * No state of this process.
 */
import { Heap } from './heap.js';
import { type Geometry, P, PORT_NAME_BYTES, PORT_WORDS, PortState, R, REQUEST_WORDS, RequestState } from './layout.js';
import type { SegmentMemory } from './memory.js';
import { isAlive } from './owner.js';
import { Queue } from './queue.js';
import { RequestPool } from './request-pool.js';

/** States in which somebody may touch a request's data. */
const IN_USE: ReadonlySet<number> = new Set([RequestState.SUBMITTED, RequestState.ACCEPTED, RequestState.ORPHANED]);

export interface PortOwner {
  readonly pid: number;
  readonly name: string;
  readonly alive: boolean;
}

export interface Queues {
  readonly requests: Queue;
  readonly replies: Queue;
}

export class Tables {
  readonly memory: SegmentMemory;
  readonly geometry: Geometry;
  readonly heap: Heap;
  readonly pool: RequestPool;
  readonly #queues = new Map<number, Queues>();

  constructor(memory: SegmentMemory, geometry: Geometry) {
    this.memory = memory;
    this.geometry = geometry;
    this.heap = new Heap(memory, geometry);
    this.pool = new RequestPool(memory, geometry);
  }

  portWord(number: number): number {
    return this.geometry.portTable / 4 + number * PORT_WORDS;
  }

  requestWord(index: number): number {
    return this.geometry.requestTable / 4 + index * REQUEST_WORDS;
  }

  hasPort(number: number): boolean {
    return Number.isInteger(number) && number >= 0 && number < this.geometry.ports;
  }

  queues(number: number): Queues {
    let queues = this.#queues.get(number);
    if (!queues) {
      const { queueCapacity, queues: start } = this.geometry;
      const ring = start / 4 + number * 2 * queueCapacity;
      const word = this.portWord(number);
      queues = {
        requests: new Queue(this.memory, word, 'request', ring, queueCapacity),
        replies: new Queue(this.memory, word, 'reply', ring + queueCapacity, queueCapacity),
      };
      this.#queues.set(number, queues);
    }
    return queues;
  }

  /** Who owns a port; null when it is free. */
  owner(number: number): PortOwner | null {
    if (!this.hasPort(number)) return null;
    const process = this.#process(this.portWord(number));
    return process && { pid: process.pid, name: this.#name(number), alive: isAlive(process.pid, process.start) };
  }

  /** Does a living process own the port? */
  isServed(number: number): boolean {
    if (!this.hasPort(number)) return false;
    const process = this.#process(this.portWord(number));
    return process !== null && isAlive(process.pid, process.start);
  }

  /** First pages of the blocks that requests in flight point into, whoever asked them: sub-requests of other peers count as well. */
  pagesInUse(): Set<number> {
    const { memory, geometry, heap } = this;
    const pages = new Set<number>();
    for (let index = 0; index < geometry.requests; index++) {
      const word = this.requestWord(index);
      if (!IN_USE.has(memory.u32[word + R.STATE]) || memory.u32[word + R.DATA_LENGTH] === 0) continue;
      const block = heap.blockAround(memory.get64(word + R.DATA));
      if (block) pages.add(block.page);
    }
    return pages;
  }

  /** Pid and start time of one owner: the generation tells when it changed between the reads. */
  #process(word: number): { pid: number; start: number } | null {
    const { u32, i32 } = this.memory;
    for (;;) {
      const generation = Atomics.load(i32, word + P.GENERATION);
      if (Atomics.load(i32, word + P.STATE) !== PortState.BOUND) return null;
      const pid = u32[word + P.PID];
      const start = u32[word + P.START];
      if (Atomics.load(i32, word + P.GENERATION) === generation) return { pid, start };
    }
  }

  #name(number: number): string {
    const start = (this.portWord(number) + P.NAME) * 4;
    const name = this.memory.bytes.toString('utf8', start, start + PORT_NAME_BYTES);
    const end = name.indexOf('\0');
    return end < 0 ? name : name.slice(0, end);
  }
}
