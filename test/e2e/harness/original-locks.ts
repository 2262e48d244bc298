/**
 * The lock files of a node that runs the original, made by plain file calls as its blocker makes them: a temporary file with the owner in
 * it, linked to the lock's name, unlinked.
 */
import {
  closeSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  statSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import path from 'node:path';
import { objectPath } from './store.js';

export class OriginalLocks {
  readonly #maps: string;
  readonly #lockDir: string | undefined;
  readonly owner: string;

  /** @param lockDir undefined: locks lie beside the maps */
  constructor(maps: string, lockDir: string | undefined, owner: string) {
    this.#maps = maps;
    this.#lockDir = lockDir;
    this.owner = owner;
  }

  /** Path of the lock file of a volume. */
  path(volume: string): string {
    return this.#place(`${volume}_lock`);
  }

  /** Takes a lock, without waiting. @returns false when somebody else has it */
  acquire(volume: string): boolean {
    const temporary = this.#place(`${volume}_lock${this.owner}_aa`);
    for (const file of [temporary, this.path(volume)]) mkdirSync(path.dirname(file), { recursive: true });
    const fd = openSync(temporary, 'wx', 0o600);
    try {
      writeSync(fd, this.owner);
      fsyncSync(fd);
      linkSync(temporary, this.path(volume));
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      return readFileSync(this.path(volume), 'latin1').startsWith(this.owner);
    } finally {
      closeSync(fd);
      unlinkSync(temporary);
    }
  }

  /** Releases a lock; by force whoever has it. @returns false when it is somebody else's */
  release(volume: string, force = false): boolean {
    if (!force && !readFileSync(this.path(volume), 'latin1').startsWith(this.owner)) return false;
    unlinkSync(this.path(volume));
    return true;
  }

  /** What is in the lock file and how many names it has; null: there is none. */
  look(volume: string): { content: string; links: number } | null {
    try {
      const content = readFileSync(this.path(volume), 'latin1');
      return { content, links: statSync(this.path(volume)).nlink };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw error;
    }
  }

  #place(name: string): string {
    return this.#lockDir ? path.join(this.#lockDir, name) : objectPath(this.#maps, name);
  }
}
