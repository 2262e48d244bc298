/** What other processes left: units that are there, and not for good, and names of bases that nobody needs. */
import fs from 'node:fs';
import path from 'node:path';
import { errnos, SystemError } from '../../../sys/errno.js';
import { isErrno } from '../../errors.js';
import { candidatePaths } from '../paths.js';
import { NativeError } from '../pool.js';
import type { FileSystem } from '../system.js';
import type { PartialContext } from './partial.js';
import type { PartialsOf } from './partials.js';
import { settle } from './settle.js';
import { storedOf, Unreadable } from './stored.js';
import { DURABLE, type Tail, WRITTEN } from './tail.js';
import { Units } from './units.js';

export class Left {
  readonly #root: string;
  readonly #system: FileSystem;
  readonly #context: PartialContext;
  readonly #failed: PartialsOf['failed'];
  readonly #retrying: PartialsOf['retrying'];
  #isClosed = false;

  constructor(root: string, context: PartialContext, { failed, retrying }: Pick<PartialsOf, 'failed' | 'retrying'>) {
    this.#root = root;
    this.#system = context.system;
    this.#context = context;
    this.#failed = failed;
    this.#retrying = retrying;
  }

  /** What runs ends soon. */
  close(): void {
    this.#isClosed = true;
  }

  /**
   * Makes durable what other processes acknowledged: those that were killed, and those that live, whose volumes' locks may have been broken, so that
   * nobody asks them any more.
   * @throws the system's error: it can be tried again
   */
  async settle(): Promise<void> {
    const { ledger: own } = this.#context;
    const others = await own.others();
    if (others.some(({ names }) => names.length > 0)) {
      this.#context.bases.suspect();
      await this.#context.bases.sync();
    }
    for (const ledger of others) {
      let isDone = true;
      for (const name of ledger.names) isDone = (await this.#settleName(name)) && isDone;
      // What could not be done the next process tries.
      if (isDone && !ledger.isAlive) await own.drop(ledger);
    }
  }

  /** @returns false: it failed, which is this object's trouble and nobody else's */
  async #settleName(name: string): Promise<boolean> {
    if (this.#failed.has(name)) return false;
    for (const file of candidatePaths(this.#root, name)) {
      try {
        await this.#settleFile(file);
      } catch (error) {
        // For lack of what comes back.
        if (isErrno(error, errnos.EMFILE, errnos.ENFILE, errnos.ENOMEM)) throw error;
        this.#failed.add(name, file, error);
        return false;
      }
    }
    return true;
  }

  async #settleFile(file: string): Promise<void> {
    let fd: number;
    try {
      fd = await this.#retrying(() => this.#system.open(file, fs.constants.O_RDWR, 0));
    } catch (error) {
      // Not there any more, not a name, or another user's: not this one's either.
      const isNobodys = [
        errnos.ENOENT,
        errnos.ENOTDIR,
        errnos.ENAMETOOLONG,
        errnos.EINVAL,
        errnos.EACCES,
        errnos.EPERM,
      ];
      if (isErrno(error, ...isNobodys)) return;
      throw error;
    }
    try {
      const stored = await storedOf(this.#context, fd, path.basename(file)).catch((error: unknown) => {
        // Whoever reads it hears of it; what others have acknowledged does not hang on it.
        if (error instanceof Unreadable) return null;
        throw error;
      });
      if (!stored?.isCurrent || !stored.tail.states.includes(WRITTEN)) return;
      await this.#makeDurable(fd, stored.tail).catch((error: unknown) => {
        // The kernel tells of it once; others' objects have no part in it.
        this.#failed.add(path.basename(file), file, error);
      });
    } finally {
      await this.#system.close(fd);
    }
  }

  async #makeDurable(fd: number, { length, states }: Tail): Promise<void> {
    // With its attributes: it may have been made just before.
    await this.#system.fsync(fd);
    const errno = settle(this.#context, fd, length, new Units(length, states).writtenRuns());
    if (errno !== 0) throw new NativeError('pwrite', errno);
    await this.#system.fdatasync(fd);
  }

  /** Names of bases that nobody needs, which a process left that ended between two changes. */
  async sweep(): Promise<void> {
    await this.#context.bases.sweep(async (object, base) => {
      for (const file of candidatePaths(this.#root, object)) if (await this.#mayNeed(file, base)) return true;
      return false;
    });
  }

  /** May the object at a path need this base? False only where that is known. */
  async #mayNeed(file: string, base: string): Promise<boolean> {
    let fd: number;
    try {
      fd = await this.#retrying(() => this.#system.open(file, fs.constants.O_RDONLY, 0));
    } catch (error) {
      if (isErrno(error, errnos.ENOENT)) return false;
      throw error;
    }
    try {
      if (this.#isClosed) throw new SystemError(errnos.EBADF, 'the store is closed');
      const stored = await storedOf(this.#context, fd);
      if (stored === null || stored.tail.base !== base) return false;
      if (stored.tail.states.some((state) => state !== DURABLE)) return true;
      // Who wrote them may not have synced them yet.
      await this.#system.fdatasync(fd);
      return false;
    } catch (error) {
      if (error instanceof Unreadable) return true;
      throw error;
    } finally {
      await this.#system.close(fd);
    }
  }
}
