/** Takes an exact number of bytes at a time off a stream, for the client: payloads go straight to where they are wanted. */
import type { Duplex } from 'node:stream';
import { DisconnectedError } from './errors.js';

/** Bytes kept before the stream is paused. */
const HIGH_WATER = 1024 * 1024;

export class ByteSource {
  readonly #stream: Duplex;
  #chunks: Buffer[] = [];
  #kept = 0;
  #over: Error | null = null;
  #wake: (() => void) | null = null;

  constructor(stream: Duplex) {
    this.#stream = stream;
    stream.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#kept += chunk.length;
      if (this.#kept >= HIGH_WATER) stream.pause();
      this.#woken();
    });
    stream.on('error', (error) => this.#end(new DisconnectedError(error.message, { cause: error })));
    stream.on('end', () => this.#end(new DisconnectedError()));
    stream.on('close', () => this.#end(new DisconnectedError()));
  }

  #end(error: Error): void {
    this.#over ??= error;
    this.#woken();
  }

  #woken(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  /** @throws DisconnectedError when the stream ends before */
  async read(length: number): Promise<Buffer> {
    const out = Buffer.allocUnsafe(length);
    await this.readInto(out);
    return out;
  }

  /** Fills all of `out`. @throws DisconnectedError when the stream ends before */
  async readInto(out: Buffer): Promise<void> {
    let got = 0;
    while (got < out.length) {
      const chunk = this.#chunks[0];
      if (chunk === undefined) {
        if (this.#over !== null) throw this.#over;
        this.#stream.resume();
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        continue;
      }
      const count = Math.min(chunk.length, out.length - got);
      chunk.copy(out, got, 0, count);
      got += count;
      this.#kept -= count;
      if (count === chunk.length) this.#chunks.shift();
      else this.#chunks[0] = chunk.subarray(count);
    }
  }
}
