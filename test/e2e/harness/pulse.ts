/** A client that writes and reads back one small range after the other, for as long as it is let: it knows when answers stopped coming. */
import { connectNbd, type NbdClient } from '../../../src/nbd/index.js';

const CHUNK = 4096;
/** Between two beats, ms: it takes no core from what it looks at. */
const REST_MS = 20;

export class Pulse {
  readonly #client: NbdClient;
  readonly #chunks: number;
  readonly #over: Promise<void>;
  #stopping = false;
  /** Requests answered. */
  beats = 0;
  /** The longest time without an answer, ms. */
  longest = 0;
  #last = performance.now();
  /** Why it ended before it was told to. */
  failure: Error | null = null;

  private constructor(client: NbdClient, size: number) {
    this.#client = client;
    this.#chunks = Math.floor(size / CHUNK);
    this.#over = this.#run();
  }

  /** @param size of the volume, bytes */
  static async on(uri: string, size: number): Promise<Pulse> {
    return new Pulse(await connectNbd(uri), size);
  }

  /** How long no answer has come, ms. */
  get silence(): number {
    return performance.now() - this.#last;
  }

  /** Forgets the pauses until now. */
  begin(): void {
    this.longest = 0;
    this.#last = performance.now();
  }

  /** Ends it after the request in flight. @throws what was wrong */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#over;
    if (this.failure) throw this.failure;
    await this.#client.disconnect();
  }

  /** Cuts it off. */
  destroy(): void {
    this.#stopping = true;
    this.#client.destroy();
  }

  async #run(): Promise<void> {
    try {
      for (let i = 0; !this.#stopping; i++) {
        const offset = (i % this.#chunks) * CHUNK;
        const data = Buffer.alloc(CHUNK, 1 + (i % 255));
        await this.#client.write(offset, data);
        this.#beat();
        if (!(await this.#client.read(offset, CHUNK)).equals(data))
          throw new Error(`beat ${i}: other bytes were read than written`);
        this.#beat();
        await new Promise((resolve) => setTimeout(resolve, REST_MS));
      }
    } catch (error) {
      if (!this.#stopping) this.failure = error as Error;
    }
  }

  #beat(): void {
    const now = performance.now();
    this.longest = Math.max(this.longest, now - this.#last);
    this.#last = now;
    this.beats++;
  }
}
