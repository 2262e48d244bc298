/**
 * Temporary files: content is made here and then moved or linked to its place, complete. They live in one directory of the
 * store (or of the lock directory), so that what a crash leaves is found without walking the tree. No name is used twice.
 */
import { randomBytes } from 'node:crypto';
import path from 'node:path';
import { errnos } from '../../sys/errno.js';
import { isErrno } from '../errors.js';
import type { Opener } from './opener.js';

/** Not a place any object's path can have: objects are below two hex digits, flat locks end in _lock. */
export const TEMP_DIRECTORY = '.archipelago-tmp';
/** What is older was left by a crash: nothing takes that long. */
const STALE_MS = 3_600_000;

export class TempFiles {
  readonly #directory: string;
  readonly #opener: Opener;
  readonly #prefix = `${process.pid}-${randomBytes(6).toString('hex')}`;
  #count = 0;

  constructor(parent: string, opener: Opener) {
    this.#directory = path.join(parent, TEMP_DIRECTORY);
    this.#opener = opener;
  }

  /**
   * Makes an empty file with the store's mode; the caller moves or removes it.
   * @param deadline of the change that it is for: see TimedChanges
   * @throws the system's error; SystemError ETIME after the deadline
   */
  async create(deadline = 0): Promise<{ fd: number; path: string }> {
    const file = path.join(this.#directory, `${this.#prefix}-${this.#count++}`);
    try {
      return { fd: await this.#opener.createFile(file, deadline), path: file };
    } catch (error) {
      if (!isErrno(error, errnos.ENOENT)) throw error;
    }
    await this.#opener.makeDirectory(this.#directory);
    return { fd: await this.#opener.createFile(file, deadline), path: file };
  }

  /** Removes a file that create made, if it is still there. */
  async remove(file: string): Promise<void> {
    try {
      await this.#opener.system.unlink(file);
    } catch (error) {
      if (!isErrno(error, errnos.ENOENT)) throw error;
    }
  }

  /** Removes what crashes have left. Never fails: leftovers are in nobody's way. */
  async clean(): Promise<void> {
    try {
      for (const name of await this.#opener.system.readdir(this.#directory)) {
        const file = path.join(this.#directory, name);
        const { mtimeMs } = await this.#opener.system.stat(file);
        if (Date.now() - mtimeMs > STALE_MS) await this.remove(file);
      }
    } catch (error) {
      // No such directory yet, a file gone meanwhile, or a store that cannot be written: all fine.
      if (!isErrno(error, errnos.ENOENT, errnos.EROFS, errnos.EACCES, errnos.EPERM)) throw error;
    }
  }
}
