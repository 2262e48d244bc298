/** Reads directories for walks over the store: within the call while that is quick (pace.ts), else by the pool. */
import { Pace } from './pace.js';
import type { FileSystem } from './system.js';

export class DirectoryReader {
  readonly #system: FileSystem;
  readonly #pace: Pace;

  /** @param root the store's directory: its file system decides */
  constructor(system: FileSystem, root: string, pace = new Pace(system, root)) {
    this.#system = system;
    this.#pace = pace;
  }

  /** The names in a directory, in no order. @throws the system's error */
  async read(directory: string): Promise<string[]> {
    const system = this.#system;
    if (system.readdirNow === undefined || !(await this.#pace.allows())) return system.readdir(directory);
    return this.#pace.look(() => system.readdirNow?.(directory) ?? []);
  }
}
