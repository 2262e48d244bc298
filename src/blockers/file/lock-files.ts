/**
 * Lock files as they are in the store: where they are, what is in them, and how one is dealt with alone.
 *
 * Taking a lock is one step of the file system (link). Releasing and breaking one are two: look whose it is, then remove or replace it.
 * Between the two the lock must not become another's, or that one's would be removed. So both hold the file's advisory lock (flock)
 * while they do it, and look whether the name still leads to the file once they have it. A node that runs the original does not take
 * part: against it there is the moment that there always was.
 */
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { errnos, SystemError } from '../../sys/errno.js';
import type { LockHolder } from '../driver.js';
import { isErrno } from '../errors.js';
import { checkLockTarget, LOCK_SUFFIX } from '../names.js';
import { readFully } from './copy.js';
import { isSameFile } from './identity.js';
import { hashedPath } from './paths.js';
import { Limiter, poolThreads } from './pool.js';
import type { FileStatus, FileSystem } from './system.js';

const { O_RDONLY, O_RDWR } = fs.constants;

/** Of a lock file this much is looked at: an owner is at most 128 bytes long, and direct I/O pads to 512. */
export const MOST_BYTES = 1024;
/** How long others may be releasing or breaking a lock before this counts as a failure; they need milliseconds. */
const ALONE_MS = 5000;
const RETRY_MS = 3;
/** Locks looked at in one turn of the event loop, where that takes some microseconds each. */
const SLICE = 32;
/** Paths remembered. */
const MOST_PATHS = 8192;

export class LockFiles {
  readonly #system: FileSystem;
  readonly #root: string;
  readonly #directory: string | null;
  /** Of the locks asked for lately: they are looked at several times a second. */
  readonly #paths = new Map<string, string>();
  /** Looking at a file takes microseconds; null: not known yet. */
  #isLocal: boolean | null = null;
  /** Looks at files of a network: leaves threads to the data. */
  readonly #looks = new Limiter(Math.max(2, poolThreads >> 1));

  /** @param directory flat directory of the locks, or null: at the hashed paths below root */
  constructor(system: FileSystem, root: string, directory: string | null) {
    this.#system = system;
    this.#root = root;
    this.#directory = directory;
  }

  /** @throws SystemError EINVAL or ENAMETOOLONG for an unusable target */
  path(target: string): string {
    const known = this.#paths.get(target);
    if (known !== undefined) return known;
    checkLockTarget(target);
    const name = target + LOCK_SUFFIX;
    const file = this.#directory === null ? hashedPath(this.#root, name) : path.join(this.#directory, name);
    if (this.#paths.size >= MOST_PATHS) this.#paths.clear();
    this.#paths.set(target, file);
    return file;
  }

  /** Who holds the lock at `file`; null: nobody. */
  async read(file: string): Promise<LockHolder | null> {
    const fd = await this.#open(file, O_RDONLY);
    if (fd === null) return null;
    try {
      return await this.#holder(fd);
    } finally {
      await this.#system.close(fd);
    }
  }

  /**
   * Runs work on the lock that is at `file`, telling whose it is, while nobody else releases or breaks it; null when there is none.
   * @throws SystemError EBUSY when others are at it for seconds
   */
  async alone<T>(file: string, work: (holder: LockHolder) => Promise<T>): Promise<T | null> {
    for (const giveUp = Date.now() + ALONE_MS; ; await delay(RETRY_MS)) {
      const fd = await this.#openToLock(file);
      if (fd === null) return null;
      try {
        if ((await this.#flock(fd)) && (await this.#isAt(file, fd))) {
          const holder = await this.#holder(fd);
          // Without a name it is nobody's any more: removed by a node that takes no part in this.
          if (holder) return await work(holder);
        }
      } finally {
        await this.#system.close(fd);
      }
      if (Date.now() > giveUp) {
        throw new SystemError(errnos.EBUSY, `${file} has been worked on by others for ${ALONE_MS} ms: try again`);
      }
    }
  }

  /** Which of these locks are not `owner`'s, and whose they are. Each file is opened: a network file system then asks its server. */
  async others(owner: string, targets: readonly string[]): Promise<{ name: string; holder: LockHolder | null }[]> {
    const { peek } = this.#system;
    const lost: { name: string; holder: LockHolder | null }[] = [];
    const look = async (name: string): Promise<void> => {
      const holder = await this.read(this.path(name));
      if (holder?.owner !== owner) lost.push({ name, holder });
    };
    if (peek && this.#isQuick()) {
      let done = 0;
      for (const name of targets) {
        const bytes = peek.call(this.#system, this.path(name), MOST_BYTES);
        if (bytes === null || ownerOf(bytes) !== owner) await look(name);
        if (++done % SLICE === 0) await new Promise((resolve) => setImmediate(resolve));
      }
    } else {
      const looks = targets.map((name) => this.#looks.run(() => look(name)));
      for (const outcome of await Promise.allSettled(looks)) if (outcome.status === 'rejected') throw outcome.reason;
    }
    return lost;
  }

  #isQuick(): boolean {
    this.#isLocal ??= this.#system.isLocal?.(this.#directory ?? this.#root) ?? false;
    return this.#isLocal;
  }

  async #open(file: string, flags: number): Promise<number | null> {
    try {
      return await this.#system.open(file, flags, 0);
    } catch (error) {
      if (isErrno(error, errnos.ENOENT)) return null;
      throw error;
    }
  }

  /** A network file system locks only what is open for writing. */
  async #openToLock(file: string): Promise<number | null> {
    try {
      return await this.#open(file, O_RDWR);
    } catch (error) {
      if (!isErrno(error, errnos.EACCES, errnos.EPERM, errnos.EROFS)) throw error;
      return await this.#open(file, O_RDONLY);
    }
  }

  /** True also where the file system has no such locks. */
  async #flock(fd: number): Promise<boolean> {
    try {
      return (await this.#system.tryFlock?.(fd)) ?? true;
    } catch (error) {
      if (isErrno(error, errnos.EOPNOTSUPP, errnos.ENOSYS, errnos.ENOLCK, errnos.EINVAL, errnos.EBADF)) return true;
      throw error;
    }
  }

  async #isAt(file: string, fd: number): Promise<boolean> {
    const now = await this.#open(file, O_RDONLY);
    if (now === null) return false;
    try {
      return await isSameFile(this.#system, fd, now);
    } finally {
      await this.#system.close(now);
    }
  }

  /** Null for a file that has no name any more: what a network file system still knew of was removed. */
  async #holder(fd: number): Promise<LockHolder | null> {
    const status = await this.#system.fstat(fd);
    if (status.nlink === 0) return null;
    const bytes = await readFully(this.#system, fd, Math.min(status.size, MOST_BYTES));
    const holder = { owner: ownerOf(bytes), since: Math.round(status.mtimeMs) };
    return this.#isQuick() ? { ...holder, mark: markOf(status) } : holder;
  }
}

/**
 * Each lock is a file of its own. Not its last change: that is another one, too, when what was linked to the lock's name goes, which may be late. Nor on a
 * server's file system: what it tells of one file need not stay the same.
 */
const markOf = ({ ino, birthtimeMs, mtimeMs }: FileStatus): string =>
  [ino, Math.floor(birthtimeMs), Math.floor(mtimeMs)].map((number) => number.toString(36)).join('.');

/** The original pads the content with NULs when it writes with direct I/O. */
export function ownerOf(bytes: Buffer): string {
  let end = bytes.length;
  while (end > 0 && bytes[end - 1] === 0) end--;
  return bytes.toString('utf8', 0, end);
}
