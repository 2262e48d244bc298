/**
 * Room for descriptors: how many files a store has open, and which closes for another. Files that are clean close first; one that is dirty is synced
 * before, so that a failure cannot pass unseen.
 */
import { errnos } from '../../sys/errno.js';
import { isErrno } from '../errors.js';
import type { Handle } from './handle.js';

/** Files beyond both limits that may wait for their sync before they close; past that, opening waits. */
const OVERFLOW = 64;

/** The files that are kept. */
export interface Kept {
  /** How many. */
  readonly size: number;
  /** One to close; null when all are in use. */
  victim(): Handle | null;
  drop(handle: Handle): void;
  isKept(name: string): boolean;
  /** Has the store bases of partial objects, whose descriptors are not counted? */
  hasBases(): boolean;
}

export class Room {
  readonly #kept: Kept;
  readonly #limit: number;
  readonly #dirtyLimit: number;
  /** Descriptors that exist, those being closed included. */
  #opened = 0;
  /** Of these, the ones that are not in a handle yet. */
  #reserved = 0;
  #waiters: (() => void)[] = [];

  /**
   * @param limit files kept open
   * @param dirtyLimit files beyond that that may be open while dirty
   */
  constructor(kept: Kept, { limit, dirtyLimit }: { limit: number; dirtyLimit: number }) {
    this.#kept = kept;
    this.#limit = limit;
    this.#dirtyLimit = dirtyLimit;
  }

  /** Descriptors that exist, those being closed included. */
  get opened(): number {
    return this.#opened;
  }

  /** A descriptor, for which there was room, is there, and ends up in a handle. */
  count(): void {
    this.#opened++;
  }

  /**
   * Makes room for one more descriptor and counts it: `open` makes one, and on EMFILE runs again after cached files were closed.
   * The descriptor ends up in a handle, or is reported by closed.
   */
  async during<T>(open: () => Promise<T>): Promise<T> {
    await this.#make();
    try {
      return await this.retrying(open);
    } catch (error) {
      this.closed();
      throw error;
    } finally {
      this.#reserved--;
    }
  }

  /** Runs work that opens files; when no descriptor is left, closes cached files and runs it again. */
  async retrying<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await work();
      } catch (error) {
        if (!isErrno(error, errnos.EMFILE, errnos.ENFILE) || !(await this.#closeSome())) throw error;
      }
    }
  }

  /** A descriptor that was counted is closed. */
  readonly closed = (): void => {
    this.#opened--;
    this.changed();
  };

  /** A descriptor was closed or is not used any more: whoever waits for room looks again. */
  readonly changed = (): void => {
    if (this.#waiters.length === 0) return;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const wake of waiters) wake();
  };

  async #whenChanged(): Promise<void> {
    await new Promise<void>((resolve) => this.#waiters.push(resolve));
  }

  /** Resolves when no descriptor is open any more. */
  async whenEmpty(): Promise<void> {
    while (this.#opened > 0) await this.#whenChanged();
  }

  /** Closes what was only kept because it was dirty. */
  shrink(): void {
    while (this.#kept.size > this.#limit) {
      const victim = this.#kept.victim();
      if (victim === null || victim.needsSync) return;
      this.#kept.drop(victim);
    }
  }

  /** Makes room for one more descriptor if a file that is clean, or none, has to be closed for it. */
  makeNow(): boolean {
    const kept = this.#kept;
    if (this.#opened >= this.#limit + this.#dirtyLimit + OVERFLOW) return false;
    if (kept.size + this.#reserved < this.#limit) return true;
    const victim = kept.victim();
    if (victim === null || victim.needsSync) return false;
    kept.drop(victim);
    return true;
  }

  /** Waits until one more descriptor is within the limit, and counts it. */
  async #make(): Promise<void> {
    const kept = this.#kept;
    const background = this.#limit + (kept.hasBases() ? this.#dirtyLimit >> 1 : this.#dirtyLimit);
    const most = background + OVERFLOW;
    for (;;) {
      const cached = kept.size + this.#reserved;
      if (cached < this.#limit && this.#opened < most) break;
      const victim = cached < this.#limit ? null : kept.victim();
      if (victim !== null && !victim.needsSync) {
        kept.drop(victim);
        continue;
      }
      if (this.#opened < most) {
        if (victim !== null && this.#opened >= background) void this.#syncAndDrop(victim);
        break;
      }
      // Everything is in use, closing or dirty: one closes or becomes idle sooner or later, for every use ends.
      if (victim === null) await this.#whenChanged();
      else await this.#syncAndDrop(victim);
    }
    this.#opened++;
    this.#reserved++;
  }

  /** After EMFILE: closes an eighth of the idle files, at least one. False when none could be closed. */
  async #closeSome(): Promise<boolean> {
    const kept = this.#kept;
    let dropped = 0;
    for (let wanted = Math.max(1, kept.size >> 3); wanted > 0; wanted--) {
      const victim = kept.victim();
      if (victim === null) break;
      if (victim.needsSync) await this.#syncAndDrop(victim);
      else kept.drop(victim);
      if (!kept.isKept(victim.name)) dropped++;
    }
    // Closing is asynchronous: wait for one.
    if (dropped > 0) await this.#whenChanged();
    return dropped > 0;
  }

  async #syncAndDrop(victim: Handle): Promise<void> {
    victim.evicting = true;
    try {
      await victim.sync();
    } catch {
      // Remembered as failed: every flush of the object reports it.
    } finally {
      victim.evicting = false;
    }
    if (victim.idle && !victim.needsSync && !victim.held) this.#kept.drop(victim);
  }
}
