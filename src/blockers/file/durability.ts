/**
 * What is written but not yet durable: files and directories that a flush has to sync, each once however many ask.
 *
 * A failed fdatasync is final: the kernel has dropped the dirty pages and would report the next one as a success. So the object
 * stays marked as failed, and every flush that covers it fails with EIO, until its content is made anew (reset, copy onto it,
 * delete) or the process restarts and reads what the disk has.
 */
import fs from 'node:fs';
import { errnoName, errnoOf, errnos, SystemError } from '../../sys/errno.js';
import { fileError, isErrno } from '../errors.js';
import { directoriesOf } from './paths.js';
import { Limiter, poolThreads } from './pool.js';
import type { FileSystem, ImmediateChanges } from './system.js';

/** Half of the pool: cold reads find a thread while a flush runs. Whoever has a place waits for nothing but the disk. */
const syncs = new Limiter(Math.max(2, poolThreads >> 1));
/** Directories open at the same time to be synced. */
const openDirectories = new Limiter(Math.max(2, poolThreads));

/**
 * Something that can be dirty and synced. sync() covers every change marked before the call; callers share one run where
 * it covers them all.
 */
export abstract class Syncable {
  dirty = false;
  #running: Promise<void> | null = null;
  #queued: Promise<void> | null = null;

  /** Makes it durable: the system call runs in `sync`, which waits for its turn and then makes `dirty` false; a change sets it again. */
  protected abstract perform(sync: (call: () => Promise<void>) => Promise<void>): Promise<void>;

  get needsSync(): boolean {
    return this.dirty || this.#running !== null;
  }

  /** A sync is under way. */
  protected get isSyncing(): boolean {
    return this.#running !== null;
  }

  sync(): Promise<void> {
    // A queued run has not begun: it covers everything up to now.
    if (this.#queued) return this.#queued;
    if (this.#running) {
      if (!this.dirty) return this.#running;
      const again = () => {
        this.#queued = null;
        return this.#start();
      };
      this.#queued = this.#running.then(again, again);
      return this.#queued;
    }
    return this.#start();
  }

  #start(): Promise<void> {
    if (!this.dirty) return Promise.resolve();
    const run = this.perform(this.#sync).finally(() => {
      this.#running = null;
    });
    this.#running = run;
    return run;
  }

  readonly #sync = (call: () => Promise<void>): Promise<void> =>
    syncs.run(() => {
      this.dirty = false;
      return call();
    });
}

/** Runs work that opens a file, and again when descriptors have run out and some could be closed. */
type Opening = (work: () => Promise<number>) => Promise<number>;

/** What opens and closes a directory on this thread; null: that is for the thread pool. */
type Local = () => ImmediateChanges | null;

/** A sync that failed has lost what only the kernel knows: it is an error for good, until the process starts again. */
export function lostError(what: string, error: unknown): SystemError {
  return new SystemError(
    errnos.EIO,
    `${what} may be lost: syncing failed with ${errnoName(errnoOf(error))}; check the disk and its file system, then restart the blocker`,
    { cause: error },
  );
}

class Directory extends Syncable {
  readonly path: string;
  readonly #owner: Map<string, Directory>;
  readonly #open: Opening;
  readonly #local: Local;
  readonly #system: FileSystem;

  #failure: SystemError | null = null;

  constructor(path: string, owner: Map<string, Directory>, system: FileSystem, open: Opening, local: Local) {
    super();
    this.#system = system;
    this.path = path;
    this.#owner = owner;
    this.#open = open;
    this.#local = local;
  }

  protected override perform(sync: (call: () => Promise<void>) => Promise<void>): Promise<void> {
    // Opening may have to wait for others to be synced and closed: not with a place among the syncs.
    return openDirectories.run(async () => {
      try {
        if (this.#failure) throw this.#failure;
        // It was changed a moment ago: what opens it finds it in memory, and a thread of the pool would cost several times as much as the call.
        const local = this.#local();
        const { path } = this;
        const fd = await this.#open(async () =>
          local === null
            ? await this.#system.open(path, fs.constants.O_RDONLY, 0)
            : local.open(path, fs.constants.O_RDONLY, 0),
        );
        try {
          await sync(() => this.#fsync(fd));
        } finally {
          if (local === null) await this.#system.close(fd);
          else local.close(fd);
        }
        if (!this.dirty) this.#owner.delete(this.path);
      } catch (error) {
        // A directory that somebody removed has nothing left to make durable: reported once.
        if (isErrno(error, errnos.ENOENT)) this.#owner.delete(this.path);
        else this.dirty = true;
        throw fileError(`cannot make directory ${this.path} durable`, error);
      }
    });
  }

  /** fsync: the directory's entries survive a power cut. */
  async #fsync(fd: number): Promise<void> {
    try {
      await this.#system.fsync(fd);
    } catch (error) {
      // Some network file systems cannot sync a directory; their servers make entries durable themselves.
      if (isErrno(error, errnos.EINVAL, errnos.EBADF)) return;
      this.#failure = lostError(`changes of directory ${this.path}`, error);
      throw this.#failure;
    }
  }
}

/**
 * What a process that used the store before this one acknowledged and did not sync: it was killed, and only the kernel knows which
 * pages those are. The first flush or durable change writes the whole file system; a clean end leaves nothing, so that costs little
 * then.
 */
export class Predecessor extends Syncable {
  readonly #root: string;
  readonly #system: FileSystem;
  readonly #open: Opening;
  readonly #settle: () => Promise<void>;
  #isSynced = false;
  #failure: SystemError | null = null;

  /** @param settle makes for good what is there of partial objects; asked again after others may have been killed (suspect) */
  constructor(root: string, system: FileSystem, open: Opening, settle: () => Promise<void>) {
    super();
    this.#root = root;
    this.#system = system;
    this.#open = open;
    this.#settle = settle;
    this.dirty = true;
  }

  /** Another process may have had objects, and have been killed. */
  suspect(): void {
    this.dirty = true;
  }

  protected override async perform(sync: (call: () => Promise<void>) => Promise<void>): Promise<void> {
    // What comes while this runs asks once more.
    this.dirty = false;
    try {
      if (!this.#isSynced) await this.#syncAll(sync);
      this.#isSynced = true;
      await this.#settle();
    } catch (error) {
      this.dirty = true;
      throw fileError(`cannot make durable what was written to ${this.#root} before this process`, error);
    }
  }

  async #syncAll(sync: (call: () => Promise<void>) => Promise<void>): Promise<void> {
    if (this.#failure) throw this.#failure;
    const directory = await this.#open(() => this.#system.open(this.#root, fs.constants.O_RDONLY, 0));
    try {
      await sync(() => this.#syncfs(directory));
    } finally {
      await this.#system.close(directory);
    }
  }

  /**
   * Twice: ext4 without a journal empties the disk's cache first, and only then writes the inodes and what else leads to the data
   * (ext4_sync_fs comes before sync_blockdev in Linux' sync_filesystem). The second finds next to nothing to write, and empties the cache.
   */
  async #syncfs(directory: number): Promise<void> {
    try {
      await this.#system.syncfs(directory);
      await this.#system.syncfs(directory);
    } catch (error) {
      this.#failure = lostError(`what was written to ${this.#root} before this process`, error);
      throw this.#failure;
    }
  }
}

/** Directories with entries made, replaced or removed since they were last synced. */
export class DirtyDirectories {
  readonly #directories = new Map<string, Directory>();
  readonly #system: FileSystem;
  readonly #open: Opening;
  readonly #local: Local;

  constructor(system: FileSystem, open: Opening, local: Local = () => null) {
    this.#system = system;
    this.#open = open;
    this.#local = local;
  }

  mark(path: string): void {
    let directory = this.#directories.get(path);
    if (!directory) {
      directory = new Directory(path, this.#directories, this.#system, this.#open, this.#local);
      this.#directories.set(path, directory);
    }
    directory.dirty = true;
  }

  get size(): number {
    return this.#directories.size;
  }

  /** Is anything of what leads to the object's file not durable yet? */
  owes(file: string): boolean {
    if (this.#directories.size === 0) return false;
    return directoriesOf(file).some((path) => this.#directories.has(path));
  }

  /** Syncs one directory now, dirty or not. */
  async syncOne(path: string): Promise<void> {
    this.mark(path);
    await this.#directories.get(path)?.sync();
  }

  /** Syncs all that leads to an object's file now, dirty or not: another process may have made it. */
  async syncTo(file: string): Promise<void> {
    for (const path of directoriesOf(file)) this.mark(path);
    await this.sync([file]);
  }

  /** Syncs what leads to the objects at these paths, or everything when null. */
  async sync(files: readonly string[] | null): Promise<void> {
    if (this.#directories.size === 0) return;
    const wanted = new Set<Directory>();
    if (files === null) for (const directory of this.#directories.values()) wanted.add(directory);
    else {
      for (const file of files) {
        for (const path of directoriesOf(file)) {
          const directory = this.#directories.get(path);
          if (directory) wanted.add(directory);
        }
      }
    }
    await all([...wanted].map((directory) => directory.sync()));
  }
}

/** Waits for all, then rejects with the first failure: nothing is still running when it returns. */
export async function all(promises: readonly (Promise<unknown> | false)[]): Promise<void> {
  for (const outcome of await Promise.allSettled(promises)) if (outcome.status === 'rejected') throw outcome.reason;
}

/** Objects whose fdatasync failed, by name (see the top of this file). */
export class FailedObjects {
  readonly #failed = new Map<string, SystemError>();

  /** Remembers the failure; returns the error to report. */
  add(name: string, path: string, error: unknown): SystemError {
    const failure = new SystemError(
      errnos.EIO,
      `object ${name}: writes may be lost: syncing ${path} failed with ${errnoName(errnoOf(error))}; check the disk, then restore the object`,
      { cause: error },
    );
    this.#failed.set(name, failure);
    return failure;
  }

  /** The object's content was made anew. */
  clear(name: string): void {
    if (this.#failed.size > 0) this.#failed.delete(name);
  }

  has(name: string): boolean {
    return this.#failed.size > 0 && this.#failed.has(name);
  }

  get size(): number {
    return this.#failed.size;
  }

  /** @throws SystemError EIO when one of these objects (of all when null) has failed */
  check(names: readonly string[] | null): void {
    if (this.#failed.size === 0) return;
    const failure =
      names === null
        ? this.#failed.values().next().value
        : names.map((name) => this.#failed.get(name)).find((error) => error !== undefined);
    if (failure) throw failure;
  }
}
