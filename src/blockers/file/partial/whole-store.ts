/**
 * The way back from partial objects: each is replaced by a whole copy, and then what the store has for them goes, so that it can be used by
 * what does not know them. Nobody else is at the store meanwhile. It can be killed at any point, and begun again: an object is partial with its base, or
 * whole and durable before the base goes.
 */
import fs from 'node:fs';
import path from 'node:path';
import { errnos, SystemError } from '../../../sys/errno.js';
import { fileError, isErrno } from '../../errors.js';
import { Copying } from '../copying.js';
import { Predecessor } from '../durability.js';
import { Handles } from '../handles.js';
import type { FileSystem } from '../system.js';
import { TempFiles } from '../temp.js';
import { BASES_DIRECTORY } from './bases.js';
import { LEDGERS_DIRECTORY } from './ledger.js';
import { type FoundPartial, type Problem, type Scan, scanStore } from './scan.js';
import { ownStore, type Release } from './store-lock.js';

/** Objects that are copied side by side: each waits for the disk several times. */
const ABREAST = 4;
/** Files kept open. */
const FILES = 64;

export interface WholeStoreOptions {
  /** The store's directory. */
  readonly root: string;
  readonly system: FileSystem;
  /** Mode bits that new files do not get. */
  readonly umask: number;
  /** Look only. Then others may be at the store, and the figures be old when they are told. */
  readonly dryRun?: boolean;
  /** Of an object's file, which is replaced by one of this process's account. @throws SystemError EPERM when it is another's */
  readonly checkOwner?: (file: string) => Promise<void>;
  /** Bytes that are free on the store's file system. */
  readonly free: () => Promise<number>;
  /** Called now and then. @param total 0: not known */
  readonly progress?: (what: string, done: number, total: number) => void;
}

export interface WholeStoreReport {
  readonly directory: string;
  /** All objects of the store. */
  readonly objects: number;
  /** Partial ones that were found. */
  readonly partial: number;
  /** Of these, made whole. */
  readonly completed: number;
  /** Bytes of room that it takes at most. */
  readonly needed: number;
  /** Bytes that were free before. */
  readonly free: number;
  readonly problems: readonly Problem[];
  /** No object is partial any more, and nothing is left that is there for such ones. */
  readonly isWhole: boolean;
}

/**
 * Makes every object of a store whole.
 * @throws SystemError EBUSY when a process has the store, EOPNOTSUPP where partial objects cannot be told, ENOSPC when there is no room: nothing was changed; EIO when what was left by killed processes
 *   cannot be made durable; the system's error
 */
export async function makeStoreWhole(options: WholeStoreOptions): Promise<WholeStoreReport> {
  const { system, dryRun = false } = options;
  const root = path.resolve(options.root);
  let release: Release = async () => {};
  try {
    if (!dryRun) release = await ownStore(system, root);
    return await new WholeStore({ ...options, root }).run(dryRun);
  } catch (error) {
    throw fileError(`the store ${root}`, error);
  } finally {
    await release();
  }
}

class WholeStore {
  readonly #options: WholeStoreOptions;
  readonly #root: string;
  readonly #system: FileSystem;
  readonly #bases: string;
  readonly #ledgers: string;

  constructor(options: WholeStoreOptions) {
    this.#options = options;
    this.#root = options.root;
    this.#system = options.system;
    this.#bases = path.join(options.root, BASES_DIRECTORY);
    this.#ledgers = path.join(options.root, LEDGERS_DIRECTORY);
  }

  async run(dryRun: boolean): Promise<WholeStoreReport> {
    // What is partial can be told where it was made only, and locks of here reach no other machine's processes.
    if (!(this.#system.marks?.suits(this.#root) ?? false) && (await this.#has(this.#bases))) {
      throw new SystemError(
        errnos.EOPNOTSUPP,
        `the store ${this.#root} may have partial objects, which cannot be told on this file system: run this where it was made`,
      );
    }
    const found = await this.#scan('objects looked at');
    const free = await this.#options.free();
    const needed = roomFor(found.partial);
    const report = {
      directory: this.#root,
      objects: found.objects,
      partial: found.partial.length,
      completed: 0,
      needed,
      free,
      problems: found.problems,
    };
    const isClean = found.problems.length === 0 && found.partial.length === 0;
    const isUsed = (await this.#has(this.#bases)) || (await this.#has(this.#ledgers));
    if (dryRun) return { ...report, isWhole: isClean && !isUsed };
    if (isClean && !isUsed) {
      // A run before this one may have been killed before that.
      await this.#syncRoot();
      return { ...report, isWhole: true };
    }
    if (needed > free) throw noRoom(this.#root, needed, free);
    const { completed, problems } = await this.#complete(found.partial);
    const all = [...found.problems, ...problems];
    if (all.length > 0) return { ...report, completed, problems: all, isWhole: false };
    if (completed > 0) await this.#check();
    await this.#tidy();
    return { ...report, completed, isWhole: true };
  }

  #scan(what: string): Promise<Scan> {
    return scanStore(
      this.#system,
      this.#root,
      (base) => path.join(this.#bases, base),
      (objects) => this.#options.progress?.(what, objects, 0),
    );
  }

  async #has(directory: string): Promise<boolean> {
    return (await this.#entries(directory)) !== null;
  }

  /** null: there is no such directory. */
  async #entries(directory: string): Promise<string[] | null> {
    try {
      return await this.#system.readdir(directory);
    } catch (error) {
      if (isErrno(error, errnos.ENOENT)) return null;
      throw error;
    }
  }

  async #complete(found: readonly FoundPartial[]): Promise<{ completed: number; problems: Problem[] }> {
    await this.#checkLedgers();
    const handles = new Handles({
      system: this.#system,
      root: this.#root,
      umask: this.#options.umask,
      pithosMigrate: false,
      limit: FILES,
      partials: { root: this.#root, makes: false, isAlone: true },
    });
    const temp = new TempFiles(this.#root, handles.opener);
    await handles.partials.open(temp);
    try {
      // Of runs before this one, or of nodes, that were killed.
      await temp.clean();
      // Also where all are whole: a run before this one may have been killed before it could make the last of them durable.
      await new Predecessor(
        this.#root,
        this.#system,
        (work) => handles.retrying(work),
        () => handles.partials.settleLeft(),
      ).sync();
      return await this.#completeAll(found, handles, new Copying(handles, temp));
    } finally {
      await handles.close();
      await handles.partials.close();
    }
  }

  /** Processes of builds that do not lock the store have their ledgers locked. @throws SystemError EBUSY */
  async #checkLedgers(): Promise<void> {
    for (const entry of (await this.#entries(this.#ledgers)) ?? []) {
      const fd = await this.#system.open(path.join(this.#ledgers, entry), fs.constants.O_RDWR, 0);
      const isLocked = this.#system.marks?.lock(fd) === false;
      await this.#system.close(fd);
      if (isLocked) throw new SystemError(errnos.EBUSY, `a process has the store ${this.#root} open: stop its node`);
    }
  }

  async #completeAll(
    found: readonly FoundPartial[],
    handles: Handles,
    copying: Copying,
  ): Promise<{ completed: number; problems: Problem[] }> {
    const waiting = [...found];
    const problems: Problem[] = [];
    let completed = 0;
    const work = async (): Promise<void> => {
      for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
        const { name } = next;
        try {
          await this.#options.checkOwner?.(next.file);
          await handles.exclusive(name, async () => {
            handles.failed.check([name]);
            await copying.complete(name, 0);
          });
          completed++;
          this.#options.progress?.('objects made whole', completed, found.length);
        } catch (error) {
          problems.push({ object: name, reason: fileError('it cannot be made whole', error).message });
          // The next ones would find no room either.
          if (isErrno(error, errnos.ENOSPC, errnos.EDQUOT)) waiting.length = 0;
        }
      }
    };
    await Promise.all(Array.from({ length: ABREAST }, work));
    return { completed, problems };
  }

  /** Looks once more: what the bases are removed for is to be seen, not concluded. @throws SystemError EIO */
  async #check(): Promise<void> {
    const { partial, problems } = await this.#scan('objects looked at again');
    if (partial.length === 0 && problems.length === 0) return;
    const some = [...partial.map(({ name }) => name), ...problems.map(({ object }) => object)].slice(0, 3);
    throw new SystemError(errnos.EIO, `the store ${this.#root} has partial objects still: ${some.join(', ')}`);
  }

  /** What is there for partial objects goes: by that other processes tell whether the store may have any. */
  async #tidy(): Promise<void> {
    for (const directory of [this.#bases, this.#ledgers]) {
      const entries = await this.#entries(directory);
      if (entries === null) continue;
      for (const entry of entries) await this.#system.unlink(path.join(directory, entry));
      await fs.promises.rmdir(directory);
    }
    await this.#syncRoot();
  }

  async #syncRoot(): Promise<void> {
    const fd = await this.#system.open(this.#root, fs.constants.O_RDONLY, 0);
    try {
      await this.#system.fsync(fd);
    } finally {
      await this.#system.close(fd);
    }
  }
}

/** Most room, in bytes, that is taken at any time while these are made whole, one after the other, some of them side by side. */
function roomFor(found: readonly FoundPartial[]): number {
  const linksLeft = new Map<number, number>();
  const largest = Math.max(0, ...found.map(({ whole }) => whole));
  let taken = 0;
  let most = 0;
  for (const { whole, space, base } of found) {
    most = Math.max(most, taken + whole + (ABREAST - 1) * largest);
    taken += whole - space;
    if (base === null) continue;
    const left = (linksLeft.get(base.ino) ?? base.nlink) - 1;
    linksLeft.set(base.ino, left);
    // The last name of what nothing else in the store is.
    if (left === 0) taken -= base.blocks * 512;
  }
  return most;
}

const inMiB = (bytes: number): string => `${Math.ceil(bytes / 2 ** 20)} MiB`;

const noRoom = (root: string, needed: number, free: number): SystemError =>
  new SystemError(
    errnos.ENOSPC,
    `the partial objects of ${root} need up to ${inMiB(needed)} to be made whole, and ${inMiB(free)} are free there: nothing was changed; make room first`,
  );
