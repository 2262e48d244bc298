/**
 * The files that partial objects get the rest of their content from. Each partial object has a name of its own for its base in one directory of the
 * store (a hard link), so nothing that is done to the object the base was, its end included, takes anything from the partial one. The
 * name goes after the partial object is complete or gone.
 */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { errnos, type SystemError } from '../../../sys/errno.js';
import { isErrno } from '../../errors.js';
import { type DirtyDirectories, lostError, Syncable } from '../durability.js';
import type { Opener } from '../opener.js';
import type { FileSystem } from '../system.js';

/** Not a place any object's path can have. */
export const BASES_DIRECTORY = '.archipelago-bases';
/** Bytes of the longest name of a file. */
const LONGEST_NAME = 255;
/** What is younger may be of a partial object that is being made: nothing takes that long. */
const STALE_MS = 3_600_000;
/** Milliseconds since 1970 in base 36, something that is different each time, and the partial object's name. */
const NAME = /^([0-9a-z]{8,9})-[0-9a-f]{12}[0-9a-z]*-(.+)$/s;

/** The directory, kept open: to open it for each sync could take a descriptor that only a sync gives back. */
class Names extends Syncable {
  readonly #fd: number;
  readonly #path: string;
  readonly #system: FileSystem;
  #failure: SystemError | null = null;

  constructor(fd: number, path: string, system: FileSystem) {
    super();
    this.#fd = fd;
    this.#path = path;
    this.#system = system;
    // A process before this one may have linked what it did not sync.
    this.dirty = true;
  }

  protected override async perform(sync: (call: () => Promise<void>) => Promise<void>): Promise<void> {
    try {
      if (this.#failure) throw this.#failure;
      await sync(() => this.#system.fsync(this.#fd));
    } catch (error) {
      this.dirty = true;
      this.#failure ??= lostError(`changes of directory ${this.#path}`, error);
      throw this.#failure;
    }
  }

  async close(): Promise<void> {
    await this.#system.close(this.#fd).catch(() => {});
  }
}

export class Bases {
  readonly #root: string;
  readonly #directory: string;
  readonly #opener: Opener;
  readonly #directories: DirtyDirectories;
  readonly #prefix = randomBytes(6).toString('hex');
  #count = 0;
  /** null: not in use. */
  #names: Names | null = null;

  constructor(root: string, opener: Opener, directories: DirtyDirectories) {
    this.#root = root;
    this.#directory = path.join(root, BASES_DIRECTORY);
    this.#opener = opener;
    this.#directories = directories;
  }

  /** Is there such a directory: has the store partial objects, or may it have any? @throws the system's error */
  async exist(): Promise<boolean> {
    try {
      await this.#opener.system.stat(this.#directory);
      return true;
    } catch (error) {
      if (isErrno(error, errnos.ENOENT)) return false;
      throw error;
    }
  }

  /** Makes the directory, durably, if it is not there. @throws the system's error */
  async make(): Promise<void> {
    await this.#opener.makeDirectory(this.#directory);
    await this.#directories.syncOne(this.#root);
  }

  /** Begins to use the directory. @throws the system's error */
  async start(): Promise<void> {
    const { system } = this.#opener;
    this.#names = new Names(await system.open(this.#directory, fs.constants.O_RDONLY, 0), this.#directory, system);
  }

  async close(): Promise<void> {
    const names = this.#names;
    this.#names = null;
    await names?.close();
  }

  /** A name for the base of a new partial object that nobody has; null: there is none, the object's is too long. */
  newName(object: string): string | null {
    const name = `${Date.now().toString(36)}-${this.#prefix}${(this.#count++).toString(36)}-${object}`;
    return Buffer.byteLength(name) <= LONGEST_NAME ? name : null;
  }

  /** Where a base is. */
  path(base: string): string {
    return path.join(this.#directory, base);
  }

  /** Names a file as a base. @throws the system's error; ETIME */
  async link(file: string, base: string, deadline: number): Promise<void> {
    await this.#opener.changes.link(file, this.path(base), deadline);
    if (this.#names !== null) this.#names.dirty = true;
  }

  /** What link made is durable. @throws the system's error */
  async sync(): Promise<void> {
    if (this.#names === null) await this.start();
    await this.#names?.sync();
  }

  /** Another process may have linked what it did not sync. */
  suspect(): void {
    if (this.#names !== null) this.#names.dirty = true;
  }

  open(base: string): Promise<number> {
    return this.#opener.system.open(this.path(base), fs.constants.O_RDONLY, 0);
  }

  /** Nobody needs it any more. Never fails: what is left is in nobody's way. */
  async remove(base: string): Promise<void> {
    await this.#opener.system.unlink(this.path(base)).catch(() => {});
  }

  /**
   * Removes the names that were left when a process ended between two changes.
   * @param isNeeded is the object partial, and this its base? What it rejects with ends the search.
   */
  async sweep(isNeeded: (object: string, base: string) => Promise<boolean>): Promise<void> {
    for (const base of await this.#opener.system.readdir(this.#directory)) {
      const [, made, object] = NAME.exec(base) ?? [];
      if (made === undefined || Date.now() - Number.parseInt(made, 36) < STALE_MS) continue;
      if (!(await isNeeded(object, base))) await this.remove(base);
    }
  }
}
