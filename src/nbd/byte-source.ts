/** Takes an exact number of bytes at a time off a stream, for the client's handshake. */
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
    stream.on('data', this.#onData);
    stream.on('error', this.#onError);
    stream.on('end', this.#onEnd);
    stream.on('close', this.#onEnd);
    if (stream.destroyed || stream.readableEnded) this.#onEnd();
  }

  readonly #onData = (chunk: Buffer): void => {
    this.#chunks.push(chunk);
    this.#kept += chunk.length;
    if (this.#kept >= HIGH_WATER) this.#stream.pause();
    this.#woken();
  };
  readonly #onError = (error: Error): void => this.#end(new DisconnectedError(error.message, { cause: error }));
  readonly #onEnd = (): void => this.#end(new DisconnectedError());

  #end(error: Error): void {
    this.#over ??= error;
    this.#woken();
  }

  #woken(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  /**
   * Leaves the stream, paused, to somebody else. An error of the stream before that one listens would be nobody's: listen at once.
   * @returns what came and was not taken
   */
  detach(): Buffer[] {
    const stream = this.#stream;
    stream.pause();
    stream.off('data', this.#onData);
    stream.off('error', this.#onError);
    stream.off('end', this.#onEnd);
    stream.off('close', this.#onEnd);
    const rest = this.#chunks;
    this.#chunks = [];
    this.#kept = 0;
    return rest;
  }

  /** @throws DisconnectedError when the stream ends before */
  async read(length: number): Promise<Buffer> {
    const out = Buffer.allocUnsafe(length);
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
    return out;
  }
}
