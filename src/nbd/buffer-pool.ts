/** A bounded pool of equal payload buffers in C memory: what a device without a heap of its own hands out. */
import { allocateMemory, type Memory } from '../sys/libc.js';
import type { IoBuffer } from './device.js';

class PooledBuffer implements IoBuffer {
  readonly address: number;
  readonly bytes: Buffer;
  readonly length: number;
  constructor(memory: Memory, at: number, length: number) {
    this.address = memory.address + at;
    this.bytes = memory.bytes.subarray(at, at + length);
    this.length = length;
  }
}

/** Buffers of one length, made as they are needed, at most so many: for BlockDevice.allocate and its relatives. */
export class BufferPool {
  readonly #size: number;
  readonly #count: number;
  #made = 0;
  readonly #free: IoBuffer[] = [];
  readonly #waiting: (() => void)[] = [];

  /**
   * @param size bytes of each buffer
   * @param count buffers at most; their memory is taken when first needed and kept
   */
  constructor(size: number, count: number) {
    this.#size = size;
    this.#count = count;
  }

  /** Buffers handed out and not given back. */
  get inUse(): number {
    return this.#made - this.#free.length;
  }

  allocate(): IoBuffer | null {
    const buffer = this.#free.pop();
    if (buffer !== undefined) return buffer;
    if (this.#made === this.#count) return null;
    this.#made++;
    return new PooledBuffer(allocateMemory(this.#size), 0, this.#size);
  }

  release(buffer: IoBuffer): void {
    this.#free.push(buffer);
    this.#waiting.shift()?.();
  }

  /** Calls back once when a buffer has come back. */
  whenAvailable(callback: () => void): void {
    this.#waiting.push(callback);
  }
}
