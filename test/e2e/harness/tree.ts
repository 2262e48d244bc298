/** Stores as a fingerprint: what is there, with content and times or versions, to prove that nobody wrote. */
import { createHash } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { DURABLE, decodeMark, HEAD, tailOffset, WRITTEN } from '../../../src/blockers/file/partial/tail.js';
import { objectPath } from './store.js';
import { FileStore, type Store } from './stores.js';

/** What nodes tell each other, and what has no name yet, lies in files of its own, which are no part of any volume. */
const APART: readonly string[] = ['.archipelago-mail', '.archipelago-tmp', '.archipelago-ledgers'];

export interface Tree {
  /** `size mtime ctime hash` of each file and directory by its path (directories have no hash); `size version` of each object on RADOS. */
  readonly entries: ReadonlyMap<string, string>;
  /** The latest change of any file, ns since the epoch: no program can set it back. On RADOS 0. */
  readonly changed: { readonly path: string; readonly ctime: bigint };
}

/** All that is in some stores, except mail, temporary files, and objects with these names. */
export async function fingerprint(stores: readonly Store[], except: readonly string[] = []): Promise<Tree> {
  const entries = new Map<string, string>();
  let changed = { path: '', ctime: 0n };
  for (const store of stores) {
    if (store instanceof FileStore) {
      const tree = fingerprintFiles(store.directory, pathsOf(store.directory, except));
      for (const [file, entry] of tree.entries) entries.set(file, entry);
      if (tree.changed.ctime > changed.ctime) changed = tree.changed;
    } else {
      for (const { name, size, version } of await store.objects()) {
        if (!except.includes(name)) entries.set(`${store.part}/${name}`, `${size} ${version}`);
      }
    }
  }
  return { entries, changed };
}

/** Files of objects, with their directories, which change when an object comes or goes. */
function pathsOf(directory: string, names: readonly string[]): Set<string> {
  const paths = new Set<string>();
  for (const name of names) {
    for (let at = objectPath(directory, name); at !== directory; at = path.dirname(at)) paths.add(at);
  }
  return paths;
}

function fingerprintFiles(directory: string, except: ReadonlySet<string>): Tree {
  const entries = new Map<string, string>();
  let changed = { path: '', ctime: 0n };
  const visit = (file: string, top: boolean): void => {
    const stat = lstatSync(file, { bigint: true });
    // The top directory changes when those come into being.
    if (!top && !except.has(file)) {
      const partial = stat.isFile() ? partialContent(file) : null;
      const hash = stat.isFile()
        ? createHash('sha256')
            .update(partial ?? readFileSync(file))
            .digest('hex')
        : '-';
      // A sync that was under way says what it made durable, in its own time.
      const times = partial === null ? `${stat.mtimeNs} ${stat.ctimeNs}` : 'partial';
      entries.set(file, `${stat.isFile() ? stat.size : '-'} ${times} ${hash}`);
      if (partial === null && stat.ctimeNs > changed.ctime) changed = { path: file, ctime: stat.ctimeNs };
    }
    if (!stat.isDirectory()) return;
    for (const name of readdirSync(file)) if (!APART.includes(name)) visit(path.join(file, name), false);
  };
  visit(directory, true);
  return { entries, changed };
}

/** A partial object's file, in which what is there for good and what is there otherwise are alike; null: it is none. */
function partialContent(file: string): Buffer | null {
  const mark = kernel.marks?.at(file) ?? null;
  const length = mark && decodeMark(mark);
  if (!length) return null;
  const bytes = readFileSync(file);
  const states = bytes.subarray(tailOffset(length) + HEAD);
  for (const [i, state] of states.entries()) if (state === DURABLE) states[i] = WRITTEN;
  return bytes;
}

/** What is different, one line each; empty: nothing. */
export function differences(before: Tree, after: Tree): string[] {
  const found: string[] = [];
  for (const [file, entry] of after.entries) {
    const old = before.entries.get(file);
    if (old === undefined) found.push(`new: ${file}: ${entry}`);
    else if (old !== entry) found.push(`changed: ${file}: ${old} -> ${entry}`);
  }
  for (const file of before.entries.keys()) if (!after.entries.has(file)) found.push(`gone: ${file}`);
  return found;
}
