/** The mapping of a segment into this process and the typed views over it. */

import { SystemError } from '../sys/errno.js';
import * as libc from '../sys/libc.js';

/** MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE */
const MAP_EMPTY = 0x2 | 0x10 | 0x20 | 0x4000;
const TWO_32 = 0x100000000;

export class SegmentMemory {
  /** Address of the segment in this process. */
  readonly base: number;
  readonly size: number;
  readonly bytes: Buffer;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  readonly f64: Float64Array;

  private constructor(base: number, size: number) {
    this.base = base;
    this.size = size;
    this.bytes = libc.viewMemory(base, size);
    this.u32 = new Uint32Array(this.bytes.buffer, this.bytes.byteOffset, size / 4);
    this.i32 = new Int32Array(this.bytes.buffer, this.bytes.byteOffset, size / 4);
    this.f64 = new Float64Array(this.bytes.buffer, this.bytes.byteOffset, size / 8);
  }

  /**
   * Maps `size` bytes of the shared memory behind `fd`. The mapping lives as long as the process, if nobody calls unmap: views
   * and system calls of other threads may be anywhere.
   */
  static map(fd: number, size: number): SegmentMemory {
    const base = libc.mmap(0, size, libc.PROT_READ | libc.PROT_WRITE, libc.MAP_SHARED, fd, 0);
    if (base === -1 || base >= 2 ** 63) {
      const errno = libc.errno();
      throw new SystemError(errno, `cannot map a segment of ${size} bytes`);
    }
    return new SegmentMemory(base, size);
  }

  /**
   * Gives the memory back to the system, where keeping it until the process ends is too long. Empty private pages take its place, so
   * that a view which is still somewhere reads zeros and harms nobody.
   */
  unmap(): void {
    const protection = libc.PROT_READ | libc.PROT_WRITE;
    if (libc.mmap(this.base, this.size, protection, MAP_EMPTY, -1, 0) !== this.base) {
      const errno = libc.errno();
      throw new SystemError(errno, `cannot give back a segment of ${this.size} bytes`);
    }
  }

  /** Reads a 64-bit field as a number; -1 for all ones (the original's "none"). */
  get64(word: number): number {
    const high = this.u32[word + 1];
    const low = this.u32[word];
    return high === 0xffffffff && low === 0xffffffff ? -1 : high * TWO_32 + low;
  }

  set64(word: number, value: number): void {
    if (value === -1) {
      this.u32[word] = 0xffffffff;
      this.u32[word + 1] = 0xffffffff;
      return;
    }
    this.u32[word] = value;
    this.u32[word + 1] = value / TWO_32;
  }
}
