/**
 * Opens an object's file within the call, where the kernel has all in memory that leads to it: what a sequential reader comes to next was made or read not long ago, and a thread
 * of the pool would come too late for the requests that are there already. Only on a disk of this machine: a server is asked when its files are opened.
 */
import fs from 'node:fs';
import { isSameStatus } from './identity.js';
import type { OpenedFile } from './opener.js';
import { hasOddLength } from './partial/tail.js';
import { hashedPath, isPithosName } from './paths.js';
import type { FileSystem, ImmediateChanges } from './system.js';

const { O_RDWR } = fs.constants;

export class OpeningNow {
  readonly #system: FileSystem;
  readonly #root: string;
  /** Undefined: not known yet; null: nothing is opened so here. */
  #calls: ImmediateChanges | null | undefined;

  /** @param root the store's directory: its file system decides */
  constructor(system: FileSystem, root: string) {
    this.#system = system;
    this.#root = root;
  }

  /**
   * The object's file, for reading and writing. null: it is to be opened on the other way, which says why if it cannot be.
   * @param isMarked of an open file: not all of its content is there (partial/)
   */
  open(name: string, isMarked: (fd: number) => boolean): OpenedFile | null {
    const calls = this.#known();
    // Those have two paths, and may be moved from one to the other.
    if (calls === null || isPithosName(name)) return null;
    const path = hashedPath(this.#root, name);
    const fd = this.#system.openCached?.(path, O_RDWR) ?? -1;
    if (fd < 0) return null;
    try {
      // A killed process may have left something behind its content.
      if (!hasOddLength(calls.fstat(fd).size) && !isMarked(fd)) return { fd, path, writable: true };
    } catch {
      // As the other way finds it.
    }
    calls.close(fd);
    return null;
  }

  /** Is what was opened just now the same file as `old`, by the same path? Closes it in any case. */
  isStill(old: { readonly fd: number; readonly path: string }, file: OpenedFile): boolean {
    const calls = this.#known();
    if (calls === null) return false;
    let same = false;
    try {
      same = old.path === file.path && isSameStatus(calls.fstat(old.fd), calls.fstat(file.fd));
    } catch {
      // It is not known to be.
    }
    calls.close(file.fd);
    return same;
  }

  #known(): ImmediateChanges | null {
    if (this.#calls === undefined) {
      const local = this.#system.isLocal?.(this.#root) ?? false;
      this.#calls = (local && this.#system.changesNow) || null;
    }
    return this.#calls;
  }
}
