/**
 * Locks (ondisk.md 2.3), so that this node and one that runs the original exclude each other: a complete file with the owner's name is
 * linked to the lock's name, which works for one of them. To break a lock such a file is renamed over it: at no time is it free.
 */
import path from 'node:path';
import type { LockCheck, LockPage } from '../../requests/locks.js';
import { errnos, SystemError } from '../../sys/errno.js';
import type { LockHolder } from '../driver.js';
import { fileError, isErrno } from '../errors.js';
import { checkOwner, LOCK_SUFFIX, lockedError, notLockedError, notOwnerError } from '../names.js';
import { writeFully } from './copy.js';
import type { DirtyDirectories } from './durability.js';
import { ListedStore, listNames } from './listing.js';
import { LockFiles } from './lock-files.js';
import type { Opener } from './opener.js';
import type { FileSystem } from './system.js';
import type { TempFiles } from './temp.js';

/** How often a lock may vanish between a failed link and reading it before this counts as held by somebody. */
const RACES = 4;

export class FileLocks {
  readonly #owner: string;
  /** Flat directory of the locks, or null: at the hashed path among the objects. */
  readonly #directory: string | null;
  readonly #system: FileSystem;
  readonly #opener: Opener;
  readonly #directories: DirtyDirectories;
  readonly #temp: TempFiles;
  readonly #files: LockFiles;
  readonly #listed: ListedStore;

  /** @throws SystemError EINVAL for an unusable owner string */
  constructor(
    settings: { owner: string; directory: string | null },
    parts: { opener: Opener; directories: DirtyDirectories; temp: TempFiles },
  ) {
    checkOwner(settings.owner);
    this.#owner = settings.owner;
    this.#directory = settings.directory;
    this.#system = parts.opener.system;
    this.#opener = parts.opener;
    this.#directories = parts.directories;
    this.#temp = parts.temp;
    this.#listed = new ListedStore(this.#system, this.#opener.root);
    this.#files = new LockFiles(this.#system, this.#opener.root, this.#directory);
  }

  async acquire(target: string): Promise<void> {
    const file = this.#files.path(target);
    try {
      // An existing lock is the usual refusal, and costs no temporary file.
      const holder =
        (await this.#files.read(file)) ?? (await this.#withOwnFile((own) => this.#take(target, own, file)));
      if (holder && holder.owner !== this.#owner) throw lockedError(target, holder.owner, holder.since);
      await this.#syncEntry(file);
    } catch (error) {
      throw fileError(`cannot lock ${target} by ${file}`, error);
    }
  }

  async release(target: string, force: boolean): Promise<void> {
    const file = this.#files.path(target);
    try {
      const released = await this.#files.alone(file, async (holder) => {
        if (!force && holder.owner !== this.#owner) throw notOwnerError(target, holder.owner);
        await this.#unlink(file);
        return true;
      });
      if (released === null) throw notLockedError(target);
      await this.#syncEntry(file);
    } catch (error) {
      throw fileError(`cannot unlock ${target}: ${file}`, error);
    }
  }

  /** Takes the lock whoever has it. Resolves to who had it; null: nobody. */
  async break(target: string): Promise<LockHolder | null> {
    const file = this.#files.path(target);
    try {
      const before = await this.#withOwnFile((own) => this.#replace(target, own, file));
      await this.#syncEntry(file);
      return before;
    } catch (error) {
      throw fileError(`cannot break the lock of ${target}: ${file}`, error);
    }
  }

  async holder(target: string): Promise<LockHolder | null> {
    const file = this.#files.path(target);
    try {
      return await this.#files.read(file);
    } catch (error) {
      throw fileError(`cannot read the lock of ${target}, ${file}`, error);
    }
  }

  /** Which of these locks are not this owner's. */
  async check(targets: readonly string[]): Promise<LockCheck['lost']> {
    try {
      return await this.#files.others(this.#owner, targets);
    } catch (error) {
      throw fileError('cannot look at the locks', error);
    }
  }

  /** A page of this owner's locks. A page can be empty and still have a cursor. */
  async list(cursor: string | null, limit: number): Promise<LockPage> {
    const page =
      this.#directory === null ? await this.#namesInTree(cursor, limit) : await this.#flatNames(cursor, limit);
    const locks: LockPage['locks'][number][] = [];
    for (const name of page.names) {
      const holder = await this.holder(name);
      if (holder?.owner === this.#owner) locks.push({ name, owner: holder.owner, since: holder.since });
    }
    return { locks, cursor: page.cursor };
  }

  async #namesInTree(cursor: string | null, limit: number): Promise<{ names: string[]; cursor: string | null }> {
    // Objects are many and locks few: a page of names is no more work than a page of locks is allowed.
    const page = await listNames(this.#listed, cursor, Math.max(limit, 256));
    return { names: page.names.filter(isLockName).map(targetOf), cursor: page.cursor };
  }

  async #flatNames(cursor: string | null, limit: number): Promise<{ names: string[]; cursor: string | null }> {
    const all = (await this.#system.readdir(this.#directory ?? '')).filter(isLockName).map(targetOf).sort();
    const after = cursor === null ? all : all.filter((name) => name > cursor);
    const names = after.slice(0, limit);
    return { names, cursor: names.length < after.length ? names[names.length - 1] : null };
  }

  /** A durable file with this owner's name, for work to link or rename; what is left of it is removed. */
  async #withOwnFile<T>(work: (file: string) => Promise<T>): Promise<T> {
    const temp = await this.#temp.create();
    try {
      try {
        await writeFully(this.#system, temp.fd, Buffer.from(this.#owner, 'utf8'), 0);
        await this.#system.fdatasync(temp.fd);
      } finally {
        await this.#system.close(temp.fd);
      }
      return await work(temp.path);
    } finally {
      await this.#temp.remove(temp.path);
    }
  }

  /** Makes `own` the lock file. Resolves to its holder if there is one already, which can be this owner; null: taken. */
  async #take(target: string, own: string, file: string): Promise<LockHolder | null> {
    for (let race = 0; race < RACES; race++) {
      if (await this.#link(own, file)) return null;
      const holder = await this.#files.read(file);
      if (holder) return holder;
    }
    throw raceError(target);
  }

  /** Makes `own` the lock file in the place of the one that is there, if there is one. */
  async #replace(target: string, own: string, file: string): Promise<LockHolder | null> {
    for (let race = 0; race < RACES; race++) {
      const before = await this.#files.alone(file, async (holder) => {
        if (holder.owner !== this.#owner) await this.#rename(own, file);
        return holder;
      });
      if (before) return before;
      if (await this.#link(own, file)) return null;
    }
    throw raceError(target);
  }

  async #rename(own: string, file: string): Promise<void> {
    try {
      await this.#system.rename(own, file);
    } catch (error) {
      // A network file system that asks its server twice hears the second time that there is nothing to rename.
      if (!isErrno(error, errnos.ENOENT) || (await this.#files.read(file))?.owner !== this.#owner) throw error;
    }
  }

  async #unlink(file: string): Promise<void> {
    try {
      await this.#system.unlink(file);
    } catch (error) {
      // It was there: as above.
      if (!isErrno(error, errnos.ENOENT)) throw error;
    }
  }

  async #link(from: string, file: string): Promise<boolean> {
    for (;;) {
      try {
        await this.#system.link(from, file);
        return true;
      } catch (error) {
        if (isErrno(error, errnos.EEXIST)) return false;
        if (!isErrno(error, errnos.ENOENT) || this.#directory !== null) throw error;
      }
      await this.#opener.makeDirectories(file);
    }
  }

  async #syncEntry(file: string): Promise<void> {
    const directory = path.dirname(file);
    this.#directories.mark(directory);
    if (this.#directory === null) await this.#directories.sync([file]);
    else await this.#directories.syncOne(directory);
  }
}

const isLockName = (name: string): boolean => name.length > LOCK_SUFFIX.length && name.endsWith(LOCK_SUFFIX);

const targetOf = (name: string): string => name.slice(0, -LOCK_SUFFIX.length);

function raceError(target: string): SystemError {
  return new SystemError(errnos.EBUSY, `${target} is being locked and unlocked by others just now`);
}
