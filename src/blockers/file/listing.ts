/**
 * Walks the store's tree for the names in it, a page at a time. The cursor is the last name's place, so a walk goes on after a restart,
 * and an object that exists all along is seen once.
 */
import fs from 'node:fs';
import path from 'node:path';
import { errnos, SystemError } from '../../sys/errno.js';
import type { ListPage } from '../driver.js';
import { fileError, isErrno } from '../errors.js';
import { hashedPath, isPithosName, pithosPath } from './paths.js';
import type { FileSystem } from './system.js';

const DIGITS = /^[0-9a-f]{2}$/;
const CURSOR = /^([0-9a-f]{2})\/([0-9a-f]{2})\/([0-9a-f]{2})\/(.*)$/s;
/** Leaf directories looked at for one page: a page of a huge, empty tree ends too. */
const MAX_LEAVES = 4096;

async function entries(system: FileSystem, directory: string, wanted: (name: string) => boolean): Promise<string[]> {
  try {
    return (await system.readdir(directory)).filter(wanted).sort();
  } catch (error) {
    // Removed since its parent was read, or a file where the layout has directories: no objects there.
    if (isErrno(error, errnos.ENOENT, errnos.ENOTDIR)) return [];
    throw fileError(`cannot list directory ${directory}`, error);
  }
}

const digits = (system: FileSystem, directory: string) => entries(system, directory, (name) => DIGITS.test(name));

/**
 * @param cursor of the page before, or null
 * @throws SystemError EINVAL for a cursor that no page gave
 */
export async function listNames(
  system: FileSystem,
  root: string,
  cursor: string | null,
  limit: number,
): Promise<ListPage> {
  const at = cursor === null ? ['', '', '', '', ''] : CURSOR.exec(cursor);
  if (!at) throw new SystemError(errnos.EINVAL, `list cursor ${JSON.stringify(cursor)} is not one of this store's`);
  const [, fromTop, fromMiddle, fromLeaf, fromName] = at;
  const names: string[] = [];
  let leaves = 0;
  for (const top of await digits(system, root)) {
    if (top < fromTop) continue;
    const inTop = top === fromTop;
    for (const middle of await digits(system, path.join(root, top))) {
      if (inTop && middle < fromMiddle) continue;
      const inMiddle = inTop && middle === fromMiddle;
      for (const leaf of await digits(system, path.join(root, top, middle))) {
        if (inMiddle && leaf < fromLeaf) continue;
        const after = inMiddle && leaf === fromLeaf ? fromName : '';
        const directory = path.join(root, top, middle, leaf);
        for (const name of await entries(system, directory, (found) => found > after)) {
          if (!(await belongs(system, root, directory, name))) continue;
          names.push(name);
          if (names.length >= limit) return { names, cursor: `${top}/${middle}/${leaf}/${name}` };
        }
        if (++leaves >= MAX_LEAVES) return { names, cursor: `${top}/${middle}/${leaf}/\uffff` };
      }
    }
  }
  return { names, cursor: null };
}

/** Is this file the object of its name? Strangers' files are not listed, nor an object a second time at its other path. */
async function belongs(system: FileSystem, root: string, directory: string, name: string): Promise<boolean> {
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
