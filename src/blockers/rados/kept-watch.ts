/** A watch of one object that is made again whenever it breaks. */
import type { Pool, Watch } from '../../rados/types.js';

/** Between attempts, in ms. */
const RETRY_MS = 1000;

export interface KeptWatchOptions {
  readonly pool: () => Pool;
  /** Is made when it is missing. */
  readonly object: string;
  readonly notified: (message: Buffer) => void;
  /** The watch is broken: until `mended` nothing is heard. */
  readonly broken: () => void;
  readonly mended: () => void;
}

export class KeptWatch {
  readonly #options: KeptWatchOptions;
  #watch: Watch | null = null;
  #timer: NodeJS.Timeout | null = null;
  /** Changes whenever an earlier watch does not count any more. */
  #round = 0;
  #closed = false;

  constructor(options: KeptWatchOptions) {
    this.#options = options;
  }

  /** Watches, and again if it did before with an earlier client. @throws SystemError */
  async begin(): Promise<void> {
    const round = ++this.#round;
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    // Not waited for: that of an earlier client may take as long as Ceph does not answer.
    void this.#end();
    const { pool, object, notified, broken } = this.#options;
    const current = pool();
    await current.operate(object, [{ do: 'create', exclusive: false }]);
    const watch = await current.watch(object, {
      notified: (message) => {
        if (round === this.#round && !this.#closed) notified(message);
      },
      failed: () => {
        if (round !== this.#round || this.#closed) return;
        broken();
        this.retry();
      },
    });
    if (round !== this.#round || this.#closed) await watch.end();
    else this.#watch = watch;
  }

  /** Is the watch there, and has Ceph heard of it within the last `ms`? */
  isAlive(ms: number): boolean {
    const age = this.#watch?.age() ?? -1;
    return age >= 0 && age <= ms;
  }

  /** Ends until `begin`. */
  async pause(): Promise<void> {
    this.#round++;
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
    await this.#end();
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.pause();
  }

  async #end(): Promise<void> {
    const watch = this.#watch;
    this.#watch = null;
    // What fails is the end of a watch that has ended already.
    await watch?.end().catch(() => undefined);
  }

  /** Tries again by and by. */
  retry(): void {
    if (this.#closed || this.#timer) return;
    const round = this.#round;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      if (round !== this.#round || this.#closed) return;
      this.begin().then(this.#options.mended, () => this.retry());
    }, RETRY_MS).unref();
  }
}
