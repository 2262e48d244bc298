/** Stores as a fingerprint: what is there, with content and times or versions, to prove that nobody wrote. */
import { createHash } from 'node:crypto';
import { type BigIntStats, existsSync, lstatSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { BASES_DIRECTORY } from '../../../src/blockers/file/partial/bases.js';
import { DURABLE, decodeMark, HEAD, tailOffset, WRITTEN } from '../../../src/blockers/file/partial/tail.js';
import { objectPath } from './store.js';
import { FileStore, type Store } from './stores.js';

/** What nodes tell each other, what has no name yet, and what partial objects need lie in files of their own, which are no part of any volume. */
const APART: readonly string[] = ['.archipelago-mail', '.archipelago-tmp', '.archipelago-ledgers', BASES_DIRECTORY];

export interface Tree {
  /** `inode size times hash` of each file and directory by its path (directories have no hash); `size version` of each object on RADOS. */
  readonly entries: ReadonlyMap<string, string>;
  /** The latest change of any file, ns since the epoch: by ctime where that counts, as no program can set it back. On RADOS 0. */
  readonly changed: { readonly path: string; readonly time: bigint };
}

/** All that is in some stores, except mail, temporary files, and objects with these names. */
export async function fingerprint(stores: readonly Store[], except: readonly string[] = []): Promise<Tree> {
  const entries = new Map<string, string>();
  let changed = { path: '', time: 0n };
  for (const store of stores) {
    if (store instanceof FileStore) {
      const tree = fingerprintFiles(store.directory, pathsOf(store.directory, except));
      for (const [file, entry] of tree.entries) entries.set(file, entry);
      if (tree.changed.time > changed.time) changed = tree.changed;
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
  let changed = { path: '', time: 0n };
  // That a base has a name less, which nobody needs, is a change of its ctime (docs/consistency.md, "Where that ends").
  const hasBases = existsSync(path.join(directory, BASES_DIRECTORY));
  const timesOf = (stat: BigIntStats, partial: Buffer | null): bigint[] => {
    // A sync that was under way says what it made durable, in its own time.
    if (partial !== null) return [];
    return hasBases && stat.isFile() ? [stat.mtimeNs] : [stat.mtimeNs, stat.ctimeNs];
  };
  const visit = (file: string, top: boolean): void => {
    const stat = lstatSync(file, { bigint: true });
    // The top directory changes when those come into being.
    if (!top && !except.has(file)) {
      const partial = stat.isFile() ? partialContent(file) : null;
      const hash = stat.isFile() ? sha256(partial ?? readFileSync(file)) : '-';
      const times = timesOf(stat, partial);
      entries.set(file, [stat.ino, stat.isFile() ? stat.size : '-', times.join(' ') || 'partial', hash].join(' '));
      const time = times.at(-1) ?? 0n;
      if (time > changed.time) changed = { path: file, time };
    }
    if (!stat.isDirectory()) return;
    for (const name of readdirSync(file)) if (!APART.includes(name)) visit(path.join(file, name), false);
  };
  visit(directory, true);
  return { entries, changed };
}

const sha256 = (content: Buffer): string => createHash('sha256').update(content).digest('hex');

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
