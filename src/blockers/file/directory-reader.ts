/**
 * Reads directories for walks over the store. A thread of the pool costs several times what reading a small directory does that the kernel
 * has in memory, so on a disk of this machine this thread does it; but only while that is quick, and it lets others have their turn.
 */
import type { FileSystem } from './system.js';

/** What takes longer than this, in ms, had the disk to wait for. */
const SLOW_MS = 0.5;
/** Directories that are read by the pool then: the next ones are likely not to be in memory either. */
const SPARE = 64;
/** Milliseconds of reading after which the event loop goes round. */
const TURN_MS = 0.5;

export class DirectoryReader {
  readonly #system: FileSystem;
  readonly #root: string;
  #isLocal: boolean | null = null;
  /** Directories that are still to be read by the pool. */
  #spare = 0;
  /** Milliseconds of reading in this turn. */
  #spent = 0;

  /** @param root the store's directory: its file system decides */
  constructor(system: FileSystem, root: string) {
    this.#system = system;
    this.#root = root;
  }

  /** The names in a directory, in no order. @throws the system's error */
  async read(directory: string): Promise<string[]> {
    const system = this.#system;
    if (system.readdirNow === undefined) return system.readdir(directory);
    this.#isLocal ??= system.isLocal?.(this.#root) ?? false;
    if (!this.#isLocal || this.#spare > 0) {
      if (this.#spare > 0) this.#spare--;
      return system.readdir(directory);
    }
    if (this.#spent >= TURN_MS) {
      this.#spent = 0;
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
    const from = system.now();
    try {
      return system.readdirNow(directory);
    } finally {
      const took = system.now() - from;
      this.#spent += took;
      if (took > SLOW_MS) this.#spare = SPARE;
    }
  }
}
