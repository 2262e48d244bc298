/**
 * Walks the store's tree for the names in it, a page at a time. The cursor is the last name's place, so a walk goes on after a restart,
 * and an object that exists all along is seen once.
 */
import fs from 'node:fs';
import path from 'node:path';
import { errnos, SystemError } from '../../sys/errno.js';
import type { ListPage } from '../driver.js';
import { fileError, isErrno } from '../errors.js';
import { DirectoryReader } from './directory-reader.js';
import { Pace } from './pace.js';
import { hashedPath, isPithosName, pithosPath } from './paths.js';
import type { FileSystem } from './system.js';

const DIGITS = /^[0-9a-f]{2}$/;
const CURSOR = /^([0-9a-f]{2})\/([0-9a-f]{2})\/([0-9a-f]{2})\/(.*)$/s;
/** Leaf directories looked at for one page: a page of a huge, empty tree ends too. */
const MAX_LEAVES = 4096;
/** Directories of leaves that are read side by side; each waits for a thread of the pool, and others want some of those. */
const AHEAD = 8;

/** A store whose names are listed. */
export class ListedStore {
  readonly system: FileSystem;
  readonly root: string;
  /** Of what is read within the call, the names' objects as well. */
  readonly pace: Pace;
  readonly directories: DirectoryReader;

  /** @param root the store's directory */
  constructor(system: FileSystem, root: string) {
    this.system = system;
    this.root = root;
    this.pace = new Pace(system, root);
    this.directories = new DirectoryReader(system, root, this.pace);
  }
}

async function entries(
  { directories }: ListedStore,
  directory: string,
  wanted: (name: string) => boolean,
): Promise<string[]> {
  try {
    return (await directories.read(directory)).filter(wanted).sort();
  } catch (error) {
    // Removed since its parent was read, or a file where the layout has directories: no objects there.
    if (isErrno(error, errnos.ENOENT, errnos.ENOTDIR)) return [];
    throw fileError(`cannot list directory ${directory}`, error);
  }
}

const digits = (store: ListedStore, directory: string) => entries(store, directory, (name) => DIGITS.test(name));

/** Where a page begins: after this name, in this leaf directory; all empty: at the store's first. */
type Place = readonly [top: string, middle: string, leaf: string, name: string];

/** The names in one leaf directory. */
interface Leaf {
  readonly place: string;
  readonly names: readonly string[];
}

/**
 * @param cursor of the page before, or null
 * @throws SystemError EINVAL for a cursor that no page gave
 */
export async function listNames(store: ListedStore, cursor: string | null, limit: number): Promise<ListPage> {
  const at = cursor === null ? ['', '', '', '', ''] : CURSOR.exec(cursor);
  if (!at) throw new SystemError(errnos.EINVAL, `list cursor ${JSON.stringify(cursor)} is not one of this store's`);
  const from: Place = [at[1], at[2], at[3], at[4]];
  const names: string[] = [];
  let leaves = 0;
  let looked = 0;
  for (const top of await digits(store, store.root)) {
    if (top < from[0]) continue;
    const middles = await digits(store, path.join(store.root, top));
    let next = top === from[0] ? middles.findIndex((middle) => middle >= from[1]) : 0;
    while (next >= 0 && next < middles.length) {
      // As many as the rest of the page is likely to need: what is read beyond it is read again for the next page.
      const likely = Math.ceil(((limit - names.length) * looked) / Math.max(1, names.length));
      const some = middles.slice(next, next + Math.min(Math.max(1, likely), AHEAD));
      next += some.length;
      looked += some.length;
      const read = await Promise.all(some.map((middle) => leavesOf(store, `${top}/${middle}`, from)));
      for (const { place, names: found } of read.flat()) {
        for (const name of found) {
          names.push(name);
          if (names.length >= limit) return { names, cursor: `${place}/${name}` };
        }
        if (++leaves >= MAX_LEAVES) return { names, cursor: `${place}/\uffff` };
      }
    }
  }
  return { names, cursor: null };
}

/** The leaf directories of `middle` (`dd/dd`) that do not lie before a place, one after the other, with their names behind it. */
async function leavesOf(store: ListedStore, middle: string, from: Place): Promise<Leaf[]> {
  const found: Leaf[] = [];
  const [first, second, fromLeaf, fromName] = from;
  const { root } = store;
  const begins = middle === `${first}/${second}`;
  for (const leaf of await digits(store, path.join(root, middle))) {
    if (begins && leaf < fromLeaf) continue;
    const after = begins && leaf === fromLeaf ? fromName : '';
    const place = `${middle}/${leaf}`;
    const directory = path.join(root, place);
    const names: string[] = [];
    for (const name of await entries(store, directory, (entry) => entry > after)) {
      if (await belongs(store, directory, name)) names.push(name);
    }
    found.push({ place, names });
  }
  return found;
}

/** Is this file the object of its name? Strangers' files are not listed, nor an object a second time at its other path. */
async function belongs({ system, root }: ListedStore, directory: string, name: string): Promise<boolean> {
  const file = path.join(directory, name);
  if (!isPithosName(name)) return file === hashedPath(root, name);
  const old = pithosPath(root, name);
  if (file === old) return true;
  if (file !== hashedPath(root, name)) return false;
  try {
    await system.access(old, fs.constants.F_OK);
    return false;
  } catch {
    return true;
  }
}
