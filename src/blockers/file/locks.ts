/**
 * Lock files (ondisk.md 2.3), so that this node and one that runs the original exclude each other: a complete file with the
 * owner's name is linked to the lock's name, which works for one of them.
 */
import fs from 'node:fs';
import path from 'node:path';
import { errnos, SystemError } from '../../sys/errno.js';
import type { LockHolder } from '../driver.js';
import { fileError, isErrno } from '../errors.js';
import { checkLockTarget, checkOwner, LOCK_SUFFIX, lockedError, notLockedError, notOwnerError } from '../names.js';
import { readFully, writeFully } from './copy.js';
import type { DirtyDirectories } from './durability.js';
import type { Opener } from './opener.js';
import { hashedPath } from './paths.js';
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
  }

  #path(target: string): string {
    checkLockTarget(target);
    const name = target + LOCK_SUFFIX;
    return this.#directory === null ? hashedPath(this.#opener.root, name) : path.join(this.#directory, name);
  }

  async acquire(target: string): Promise<void> {
    const file = this.#path(target);
    try {
      // An existing lock is the usual refusal, and costs no temporary file.
      const holder = (await this.#read(file)) ?? (await this.#take(target, file));
      if (holder && holder.owner !== this.#owner) throw lockedError(target, holder.owner, holder.since);
      await this.#syncEntry(file);
    } catch (error) {
      throw fileError(`cannot lock ${target} by ${file}`, error);
    }
  }

  /** Makes the lock file. Resolves to its holder if there is one already, which can be this driver's owner. */
  async #take(target: string, file: string): Promise<LockHolder | null> {
    const temp = await this.#temp.create();
    try {
      try {
        await writeFully(this.#system, temp.fd, Buffer.from(this.#owner, 'utf8'), 0);
        await this.#system.fdatasync(temp.fd);
      } finally {
        await this.#system.close(temp.fd);
      }
      for (let race = 0; race < RACES; race++) {
        if (await this.#link(temp.path, file)) return null;
        const holder = await this.#read(file);
        if (holder) return holder;
      }
    } finally {
      await this.#temp.remove(temp.path);
    }
    throw new SystemError(errnos.EBUSY, `${target} is being locked and unlocked by others just now`);
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

  async release(target: string, force: boolean): Promise<void> {
    const file = this.#path(target);
    try {
      const holder = await this.#read(file);
      if (holder === null) throw notLockedError(target);
      if (!force && holder.owner !== this.#owner) throw notOwnerError(target, holder.owner);
      await this.#system.unlink(file);
      await this.#syncEntry(file);
    } catch (error) {
      if (isErrno(error, errnos.ENOENT)) throw notLockedError(target);
      throw fileError(`cannot unlock ${target}: ${file}`, error);
    }
  }

  async holder(target: string): Promise<LockHolder | null> {
    const file = this.#path(target);
    try {
      return await this.#read(file);
    } catch (error) {
      throw fileError(`cannot read the lock of ${target}, ${file}`, error);
    }
  }

  /** The original pads the content with NULs when it writes with direct I/O. */
  async #read(file: string): Promise<LockHolder | null> {
    let fd: number;
    try {
      fd = await this.#system.open(file, fs.constants.O_RDONLY, 0);
    } catch (error) {
      if (isErrno(error, errnos.ENOENT)) return null;
      throw error;
    }
    try {
      const { size, mtimeMs } = await this.#system.fstat(fd);
      const content = (await readFully(this.#system, fd, size)).toString('utf8');
      return { owner: content.replace(/\0+$/, ''), since: Math.round(mtimeMs) };
    } finally {
      await this.#system.close(fd);
    }
  }

  async #syncEntry(file: string): Promise<void> {
    const directory = path.dirname(file);
    this.#directories.mark(directory);
    if (this.#directory === null) await this.#directories.sync([file]);
    else await this.#directories.syncOne(directory);
  }
}
