/**
 * How a walk over the store looks at directories and files. A thread of the pool costs several times what it takes to read a small directory,
 * or the beginning of a file, that the kernel has in memory, so on a disk of this machine this thread does it; but only while that is
 * quick, and all walks together let others have their turn.
 */
import type { FileSystem } from './system.js';

/** What takes longer than this, in ms, had the disk to wait for. */
const SLOW_MS = 0.5;
/** Looks that are left to the pool then: the next ones are likely not to be in memory either. */
const SPARE = 64;
/** Milliseconds of looking after which the event loop goes round. */
const TURN_MS = 0.5;

export class Pace {
  readonly #system: FileSystem;
  readonly #root: string;
  #isLocal: boolean | null = null;
  /** Looks that are still left to the pool. */
  #spare = 0;
  /** Milliseconds of looking in this turn. */
  #spent = 0;
  /** The end of this turn, for those who wait for it. */
  #turn: Promise<void> | null = null;

  /** @param root the store's directory: its file system decides */
  constructor(system: FileSystem, root: string) {
    this.#system = system;
    this.#root = root;
  }

  /** Whether this thread may look now, perhaps after the others' turn. False: it is the pool's. @throws the system's error */
  async allows(): Promise<boolean> {
    this.#isLocal ??= this.#system.isLocal?.(this.#root) ?? false;
    if (!this.#isLocal) return false;
    // Whoever waited looks again: others may have used this turn up.
    while (this.#spare === 0 && this.#spent >= TURN_MS) {
      this.#turn ??= new Promise<void>((resolve) =>
        setImmediate(() => {
          this.#spent = 0;
          this.#turn = null;
          resolve();
        }),
      );
      await this.#turn;
    }
    if (this.#spare === 0) return true;
    this.#spare--;
    return false;
  }

  /** Looks, and counts how long that takes. */
  look<T>(look: () => T): T {
    const from = this.#system.now();
    try {
      return look();
    } finally {
      const took = this.#system.now() - from;
      this.#spent += took;
      if (took > SLOW_MS) this.#spare = SPARE;
    }
  }
}
