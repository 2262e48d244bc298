/**
 * Looking at this node's lock files from a process without the blocker that takes them. A lock changes hands by link, rename or unlink, or
 * by hand: each puts another file to its name, or none, or changes the file's times. So as long as the name leads to the same file with
 * the same time of its last change, the lock was never another's, however short. One call that waits for nothing, on a file system of this
 * machine.
 */

import type { LockLook, LockSeal } from '../../requests/lock-look.js';
import { Status, StatusWord } from '../../sys/status.js';
import { kernel } from './kernel.js';
import { LockFiles, MOST_BYTES, ownerOf } from './lock-files.js';

/**
 * Times of files go by the kernel's tick (at most 10 ms): what changed so lately may change once more and look the same.
 */
const SETTLED_MS = 100;

const { LINKS, INODE, CTIME, CTIME_NS, DEVICE_MAJOR, DEVICE_MINOR } = StatusWord;
/** What makes a file that file, unchanged: its number, the seconds and nanoseconds of its last change, its device; and that it has one name. */
const IDENTITY = [LINKS, INODE, INODE + 1, CTIME, CTIME + 1, CTIME_NS, DEVICE_MAJOR, DEVICE_MINOR];

interface FileSeal extends LockSeal {
  readonly file: string;
  readonly identity: Uint32Array;
}

export interface LockLookSettings {
  /** Directory of the objects among which the locks are. */
  readonly root: string;
  /** Flat directory of the locks, or null: at the hashed paths below root. */
  readonly directory: string | null;
  /** Owner string of this node's locks. */
  readonly owner: string;
}

export class FileLockLook implements LockLook {
  readonly #settings: LockLookSettings;
  readonly #files: LockFiles;
  readonly #status = new Status();
  /** Looking takes microseconds; null: not known yet. */
  #isLocal: boolean | null = null;

  constructor(settings: LockLookSettings) {
    this.#settings = settings;
    this.#files = new LockFiles(kernel, settings.root, settings.directory);
  }

  seal(name: string): LockSeal | null {
    const file = this.#files.path(name);
    if (!this.#isQuick() || !this.#status.look(file)) return null;
    const { words } = this.#status;
    const changed = (words[CTIME] + words[CTIME + 1] * 2 ** 32) * 1000 + words[CTIME_NS] / 1e6;
    if (words[LINKS] !== 1 || Date.now() - changed < SETTLED_MS) return null;
    const identity = Uint32Array.from(IDENTITY, (word) => words[word]);
    const bytes = kernel.peek?.(file, MOST_BYTES) ?? null;
    return bytes !== null && ownerOf(bytes) === this.#settings.owner ? ({ name, file, identity } as FileSeal) : null;
  }

  holds(seal: LockSeal): boolean {
    const { file, identity } = seal as FileSeal;
    if (!this.#status.look(file)) return false;
    const { words } = this.#status;
    for (let i = 0; i < IDENTITY.length; i++) if (words[IDENTITY[i]] !== identity[i]) return false;
    return true;
  }

  #isQuick(): boolean {
    if (this.#isLocal === null) {
      const { directory, root } = this.#settings;
      try {
        this.#isLocal = kernel.isLocal?.(directory ?? root) ?? false;
      } catch {
        // This process may not see it: the blocker says what is wrong, if something is.
        this.#isLocal = false;
      }
    }
    return this.#isLocal;
  }
}
