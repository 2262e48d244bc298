/**
 * When a sync is waited for by this thread. A thread of the pool has to be woken for it, and this one for its end: on a fast disk that takes
 * longer than the sync. While it lasts nobody else is served, so it is done where no other request is known of, and as long as the
 * disk of this machine is quick.
 */
import type { Handle } from './handle.js';
import type { FileSystem } from './system.js';

/** What a sync may take, with or without the pool's part. */
const QUICK_MS = 1;
/** Quick ones count for one each, slow ones against so many of them… */
const SLOW = 4;
/** …and in place it goes from so many on. SPARE more are counted, so that a slow one does not end it. */
const ENOUGH = 8;
const SPARE = 8;
/** After one that took this long all begins anew, and so many times as many are needed: a disk that hangs now and then is found out. */
const STUCK_MS = 20;
const WORSE = 8;
const MOST_NEEDED = 1 << 15;

export class SyncsInPlace {
  readonly #system: FileSystem;
  readonly #isLocal: boolean;
  #credit = 0;
  #needed = ENOUGH;
  /** Quick ones since the last that was stuck, or since less was needed. */
  #quick = 0;

  /** @param root the store's directory: its file system decides */
  constructor(system: FileSystem, root: string) {
    this.#system = system;
    this.#isLocal = system.fdatasyncNow !== undefined && (system.isLocal?.(root) ?? false);
  }

  /** Whether the next sync may be waited for, where nothing else is under way. */
  get allowed(): boolean {
    return this.#isLocal && this.#credit >= this.#needed;
  }

  /** Syncs a dirty file of which no sync is under way. @throws SystemError EIO: what was written is lost */
  sync(handle: Handle): void {
    const started = this.#system.now();
    try {
      handle.syncNow();
    } finally {
      this.learn(started);
    }
  }

  /** What a sync that began then took until now says of the next one. @param started by FileSystem.now */
  learn(started: number): void {
    const took = this.#system.now() - started;
    if (took > STUCK_MS) {
      this.#credit = 0;
      this.#quick = 0;
      this.#needed = Math.min(this.#needed * WORSE, MOST_NEEDED);
    } else if (took > QUICK_MS) this.#credit = Math.max(0, this.#credit - SLOW);
    else this.#learnQuick();
  }

  #learnQuick(): void {
    if (this.#credit < this.#needed + SPARE) this.#credit++;
    // Twice as many without one that was stuck, and half as many are enough again.
    if (this.#needed === ENOUGH || ++this.#quick < 2 * this.#needed) return;
    this.#quick = 0;
    this.#needed = Math.max(ENOUGH, this.#needed >> 1);
  }
}
