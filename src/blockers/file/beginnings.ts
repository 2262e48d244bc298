/**
 * Reads the beginnings of objects as the store has them now: the headers that a listing of volumes shows, one after the other. To open and to
 * close a file by a thread of the pool each time was most of what a listing took; within the call while that is quick (pace.ts) it is three
 * system calls.
 */
import type { ObjectIo } from '../driver.js';
import type { Pace } from './pace.js';
import { mayHaveTail } from './partial/tail.js';
import { hashedPath, isPithosName } from './paths.js';
import type { FileSystem } from './system.js';

/** Longest beginning, in bytes: a header. */
const MOST = 512;

export class Beginnings {
  readonly #system: FileSystem;
  readonly #root: string;
  readonly #pace: Pace;
  readonly #isPartial: (file: string) => boolean;

  /**
   * @param root the store's directory
   * @param isPartial is not all of the content in the file at this path? At once.
   */
  constructor(system: FileSystem, root: string, pace: Pace, isPartial: (file: string) => boolean) {
    this.#system = system;
    this.#root = root;
    this.#pace = pace;
    this.#isPartial = isPartial;
  }

  /**
   * Fills the buffer of a read; of an object that is not open here, so that nothing of what is kept can be out of date.
   * @returns false: it has to be read in the usual way, which also says what is wrong
   */
  async read(io: ObjectIo): Promise<boolean> {
    const { name, offset, length } = io;
    const system = this.#system;
    // An object of old Pithos stores may be in two places.
    if (!system.peek || offset !== 0 || length > MOST || isPithosName(name)) return false;
    if (!(await this.#pace.allows())) return false;
    const file = hashedPath(this.#root, name);
    // Before and afterwards: another file may take its place meanwhile.
    if (this.#isPartial(file)) return false;
    const bytes = this.#pace.look(() => system.peek?.(file, length) ?? null);
    if (bytes === null || this.#isPartial(file)) return false;
    // One that has lost its attributes, or whose cannot be read here.
    if (bytes.length === length && mayHaveTail(system.peekSize?.(file) ?? 0)) return false;
    io.bytes.set(bytes);
    io.bytes.fill(0, bytes.length, length);
    return true;
  }
}
