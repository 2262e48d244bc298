/** Buffers of the segment as the NBD library wants them. One object per place in the heap, made once and used again. */
import type { IoBuffer } from '../nbd/index.js';
import type { Port } from '../xseg/index.js';

export class SegmentBuffer implements IoBuffer {
  readonly address: number;
  /** Offset in the segment. */
  readonly offset: number;
  length = 0;
  readonly #memory: Buffer;
  #bytes: Buffer | null = null;

  constructor(memory: Buffer, base: number, offset: number) {
    this.#memory = memory;
    this.offset = offset;
    this.address = base + offset;
  }

  get bytes(): Buffer {
    if (this.#bytes?.length !== this.length)
      this.#bytes = this.#memory.subarray(this.offset, this.offset + this.length);
    return this.#bytes;
  }
}

export class SegmentBuffers {
  readonly #port: Port;
  readonly #pageShift: number;
  readonly #known: SegmentBuffer[] = [];

  constructor(port: Port) {
    this.#port = port;
    this.#pageShift = port.segment.geometry.pageShift;
  }

  allocate(length: number): SegmentBuffer | null {
    const offset = this.#port.allocate(length);
    if (offset < 0) return null;
    const page = offset >>> this.#pageShift;
    const { memory } = this.#port.segment;
    this.#known[page] ??= new SegmentBuffer(memory.bytes, memory.base, offset);
    const buffer = this.#known[page];
    buffer.length = length;
    return buffer;
  }

  release(buffer: IoBuffer): void {
    this.#port.free((buffer as SegmentBuffer).offset);
  }
}
