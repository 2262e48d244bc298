/**
 * Changes of names and lengths that have a deadline. On a disk of this machine the time is looked at and the call made in one turn, by this
 * thread: between the two no thread is waited for, and a process that was stopped there does nothing late. That takes some 20 µs; what
 * would take longer, the freeing of a deleted file's blocks, is left for the file's close. A server may not answer for seconds: there
 * a thread waits for it, and the server decides when it is done.
 */
import { checkDeadline } from '../errors.js';
import { inTime } from './pool.js';
import type { FileSystem, ImmediateChanges } from './system.js';

export class TimedChanges {
  readonly #system: FileSystem;
  readonly #root: string;
  /** Undefined: not known yet; null: all changes are for the thread pool. */
  #immediate: ImmediateChanges | null | undefined;

  /** @param root the store's directory: its file system decides */
  constructor(system: FileSystem, root: string) {
    this.#system = system;
    this.#root = root;
  }

  /** What makes calls by this thread that need no disk, whatever their deadline; null: they are for the thread pool. */
  get local(): ImmediateChanges | null {
    return this.#calls();
  }

  /** Is a change with this deadline made by this thread? @param deadline see ObjectIo.deadline, as all here */
  isImmediate(deadline: number): boolean {
    return deadline !== 0 && this.#calls() !== null;
  }

  /** What makes a change with this deadline by this thread, in one turn; null: it is for the thread pool. @throws SystemError ETIME */
  immediate(deadline: number): ImmediateChanges | null {
    if (!this.isImmediate(deadline)) return null;
    checkDeadline(deadline);
    return this.#calls();
  }

  // All reject with the system's error, and with ETIME after the deadline.

  /** Makes a file that must not exist; open for reading and writing. @param flags of open(2), with O_CREAT and O_EXCL */
  create(file: string, flags: number, mode: number, deadline: number): Promise<number> {
    return this.#change(
      deadline,
      (calls) => calls.open(file, flags, mode),
      (system) => system.open(file, flags, mode),
    );
  }

  ftruncate(fd: number, length: number, deadline: number): Promise<void> {
    return this.#change(
      deadline,
      (calls) => calls.ftruncate(fd, length),
      (system) => system.ftruncate(fd, length),
    );
  }

  link(file: string, name: string, deadline: number): Promise<void> {
    return this.#change(
      deadline,
      (calls) => calls.link(file, name),
      (system) => system.link(file, name),
    );
  }

  rename(file: string, name: string, deadline: number): Promise<void> {
    return this.#change(
      deadline,
      (calls) => calls.rename(file, name),
      (system) => system.rename(file, name),
    );
  }

  unlink(file: string, deadline: number): Promise<void> {
    return this.#change(
      deadline,
      (calls) => calls.unlink(file),
      (system) => system.unlink(file),
    );
  }

  #calls(): ImmediateChanges | null {
    if (this.#immediate === undefined) {
      const local = this.#system.isLocal?.(this.#root) ?? false;
      this.#immediate = (local && this.#system.changesNow) || null;
    }
    return this.#immediate;
  }

  async #change<T>(
    deadline: number,
    now: (calls: ImmediateChanges) => T,
    later: (system: FileSystem) => Promise<T>,
  ): Promise<T> {
    const calls = deadline === 0 ? null : this.#calls();
    if (calls === null) return inTime(deadline, () => later(this.#system));
    checkDeadline(deadline);
    return now(calls);
  }
}
