/**
 * A volume as plain bytes in memory: what a volume must hold after the same writes. Content is written through qemu-io, whose
 * patterns are one repeated byte, so that model and volume are filled by independent code.
 */
import { createHash } from 'node:crypto';
import { qemuIo } from './clients.js';

export class Model {
  #bytes: Buffer;
  readonly #pending: string[] = [];

  constructor(size: number) {
    this.#bytes = Buffer.alloc(size);
  }

  get size(): number {
    return this.#bytes.length;
  }

  /** A model of the same content that changes on its own: what a snapshot or a clone is. */
  copy(size = this.size): Model {
    const model = new Model(size);
    this.#bytes.copy(model.#bytes, 0, 0, Math.min(size, this.size));
    return model;
  }

  /** Fills a range with `pattern` (1..255); the volume gets it at the next `apply`. */
  write(offset: number, length: number, pattern: number): this {
    this.#bytes.fill(pattern, offset, offset + length);
    this.#pending.push(`write -P ${pattern} ${offset} ${length}`);
    return this;
  }

  /** Makes a range zeros: by trim, or by write-zeroes. */
  zero(offset: number, length: number, how: 'discard' | 'write -z'): this {
    this.#bytes.fill(0, offset, offset + length);
    this.#pending.push(`${how} ${offset} ${length}`);
    return this;
  }

  /** As an online resize: what is cut is gone, what is added is zeros. */
  resize(size: number): this {
    const resized = Buffer.alloc(size);
    this.#bytes.copy(resized, 0, 0, Math.min(size, this.size));
    this.#bytes = resized;
    return this;
  }

  /** Does to the volume at `uri` what was done to the model since the last time, then flushes. */
  async apply(uri: string): Promise<void> {
    await qemuIo(uri, ...this.#pending.splice(0), 'flush');
  }

  get sha256(): string {
    return createHash('sha256').update(this.#bytes).digest('hex');
  }
}
