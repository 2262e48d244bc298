/** Takes an exact number of bytes at a time off a transport, for the handshake. Keeps nothing but the stage. */
import { DisconnectedError } from './errors.js';
import type { Transport } from './transport.js';
import { STAGE_START } from './wire-memory.js';

export class HandshakeReader {
  readonly #transport: Transport;
  #start = STAGE_START;
  #end = STAGE_START;
  #over: Error | null = null;
  #wake: (() => void) | null = null;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Staged bytes that nobody took: [start, end) of the stage. */
  get rest(): { start: number; end: number } {
    return { start: this.#start, end: this.#end };
  }

  /** @throws DisconnectedError (or what fail() said) when the connection ends before */
  async read(length: number): Promise<Buffer> {
    const out = Buffer.allocUnsafe(length);
    let got = 0;
    while (got < length) {
      const count = await this.#available(length - got);
      this.#transport.stage.copy(out, got, this.#start, this.#start + count);
      this.#start += count;
      got += count;
    }
    return out;
  }

  /** Reads and forgets. */
  async skip(length: number): Promise<void> {
    let left = length;
    while (left > 0) {
      const count = await this.#available(left);
      this.#start += count;
      left -= count;
    }
  }

  async #available(wanted: number): Promise<number> {
    while (this.#start === this.#end) {
      if (this.#over !== null) throw this.#over;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        this.#transport.resume();
      });
    }
    return Math.min(wanted, this.#end - this.#start);
  }

  // What the transport tells

  readable(staged: number): void {
    this.#transport.pause();
    this.#start = STAGE_START;
    this.#end = STAGE_START + staged;
    this.#woken();
  }

  /** No more bytes will come: a waiting or later read fails with this. */
  fail(error: Error = new DisconnectedError()): void {
    this.#over ??= error;
    this.#woken();
  }

  #woken(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }
}
