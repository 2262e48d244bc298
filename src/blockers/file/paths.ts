/**
 * Where an object is below the store's directory (ondisk.md 2.1): three directory levels of two hex digits of the SHA-256 of its
 * name; content-addressed objects of old Pithos stores are under the digits of the name itself.
 */
import { createHash } from 'node:crypto';
import path from 'node:path';

const PITHOS = /^[0-9a-f]{64}$/;

/** True for names that old Pithos stores keep under their own digits. */
export function isPithosName(name: string): boolean {
  return name.length === 64 && PITHOS.test(name);
}

function below(root: string, digits: string, name: string): string {
  return `${root}/${digits.slice(0, 2)}/${digits.slice(2, 4)}/${digits.slice(4, 6)}/${name}`;
}

/** The path of object `name` in the store `root` (no trailing slash). */
export function hashedPath(root: string, name: string): string {
  return below(root, createHash('sha256').update(name, 'utf8').digest('hex'), name);
}

/** The old path of a 64-hex `name`. */
export function pithosPath(root: string, name: string): string {
  return below(root, name, name);
}

/** All paths that `name` may have, in the order they are tried. */
export function candidatePaths(root: string, name: string): string[] {
  const hashed = hashedPath(root, name);
  return isPithosName(name) ? [pithosPath(root, name), hashed] : [hashed];
}

/** The four directories whose entries lead to the object at `file`: its own, the two above, the store's. */
export function directoriesOf(file: string): string[] {
  const leaf = path.dirname(file);
  const middle = path.dirname(leaf);
  const top = path.dirname(middle);
  return [leaf, middle, top, path.dirname(top)];
}
