/** Stores as a fingerprint: what is there, with content and times or versions, to prove that nobody wrote. */
import { createHash } from 'node:crypto';
import { type BigIntStats, existsSync, lstatSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { BASES_DIRECTORY } from '../../../src/blockers/file/partial/bases.js';
import { DURABLE, decodeMark, HEAD, tailOffset, WRITTEN } from '../../../src/blockers/file/partial/tail.js';
import { objectPath } from './store.js';
import { FileStore, type Store } from './stores.js';

/** What nodes tell each other, what has no name yet, and what a process has for the next one lie in files of their own, which are no part of any volume. */
const APART: readonly string[] = ['.archipelago-mail', '.archipelago-tmp', '.archipelago-ledgers'];

/** What a flush that was under way may do in its own time (docs/consistency.md, "Where that ends"): take away the name of a base that nobody needs. */
interface Entry {
  /** `size inode times hash` of a file or directory (directories have no hash); `size version` of an object on RADOS. */
  readonly what: string;
  /** Of a file in a store that has bases: it may have one less, by which its ctime changes; else 0. */
  readonly links: bigint;
  readonly ctime: bigint;
  /** Of a partial object's file: what it says of its units, which may become "for good" by such a sync. */
  readonly states: Buffer | null;
}

const only = (what: string): Entry => ({ what, links: 0n, ctime: 0n, states: null });

export interface Tree {
  /** By path, or `part/name` on RADOS. */
  readonly entries: ReadonlyMap<string, Entry>;
  /** The latest change of any file, ns since the epoch: by ctime where that counts, as no program can set it back. On RADOS 0. */
  readonly changed: { readonly path: string; readonly time: bigint };
}

/** All that is in some stores, except mail, temporary files, and objects with these names. */
export async function fingerprint(stores: readonly Store[], except: readonly string[] = []): Promise<Tree> {
  const entries = new Map<string, Entry>();
  let changed = { path: '', time: 0n };
  for (const store of stores) {
    if (store instanceof FileStore) {
      const tree = fingerprintFiles(store.directory, pathsOf(store.directory, except));
      for (const [file, entry] of tree.entries) entries.set(file, entry);
      if (tree.changed.time > changed.time) changed = tree.changed;
    } else {
      for (const { name, size, version } of await store.objects()) {
        if (!except.includes(name)) entries.set(`${store.part}/${name}`, only(`${size} ${version}`));
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
  const entries = new Map<string, Entry>();
  let changed = { path: '', time: 0n };
  const bases = path.join(directory, BASES_DIRECTORY);
  const hasBases = existsSync(bases);
  const add = (file: string, stat: BigIntStats): void => {
    const partial = stat.isFile() ? partialOf(file) : null;
    const hash = stat.isFile() ? sha256(partial?.content ?? readFileSync(file)) : '-';
    const mayLoseName = hasBases && stat.isFile();
    const times = mayLoseName ? [stat.mtimeNs] : [stat.mtimeNs, stat.ctimeNs];
    // A sync that was under way says what it made durable, in its own time.
    const what = [stat.isFile() ? stat.size : '-', stat.ino, partial ? 'partial' : times.join(' '), hash].join(' ');
    const isFixed = mayLoseName && partial === null;
    const states = partial?.states ?? null;
    entries.set(file, { what, links: isFixed ? stat.nlink : 0n, ctime: isFixed ? stat.ctimeNs : 0n, states });
    const time = partial === null ? (times.at(-1) ?? 0n) : 0n;
    if (time > changed.time) changed = { path: file, time };
  };
  const visit = (file: string, top: boolean): void => {
    if (file === bases) {
      for (const name of readdirSync(file)) entries.set(path.join(file, name), only('base'));
      return;
    }
    const stat = lstatSync(file, { bigint: true });
    // The top directory changes when those come into being.
    if (!top && !except.has(file)) add(file, stat);
    if (!stat.isDirectory()) return;
    for (const name of readdirSync(file)) if (!APART.includes(name)) visit(path.join(file, name), false);
  };
  visit(directory, true);
  return { entries, changed };
}

const sha256 = (content: Buffer): string => createHash('sha256').update(content).digest('hex');

/** A partial object's file: all of it but the states of its units, and these; null: it is none. */
function partialOf(file: string): { content: Buffer; states: Buffer } | null {
  const mark = kernel.marks?.at(file) ?? null;
  const length = mark && decodeMark(mark);
  if (!length) return null;
  const bytes = readFileSync(file);
  const from = tailOffset(length) + HEAD;
  return { content: bytes.subarray(0, from), states: bytes.subarray(from) };
}

/** Did nothing but become there for good what was there? */
const isLater = (before: Buffer, after: Buffer): boolean =>
  after.length === before.length &&
  after.every((state, unit) => state === before[unit] || (state === DURABLE && before[unit] === WRITTEN));

/** Is all of the object that this was made a base for there for good, so that nobody needs it? */
function mayGo(base: string, { entries }: Tree): boolean {
  if (!base.includes(`/${BASES_DIRECTORY}/`)) return false;
  const [, object] = /^[^-]+-[^-]+-(.+)$/.exec(path.basename(base)) ?? [];
  for (const [file, { states }] of entries)
    if (states !== null && path.basename(file) === object) return states.every((state) => state === DURABLE);
  return false;
}

/** What is different, one line each; empty: nothing. */
export function differences(before: Tree, after: Tree): string[] {
  const found: string[] = [];
  for (const [file, entry] of after.entries) {
    const old = before.entries.get(file);
    if (old === undefined) found.push(`new: ${file}: ${entry.what}`);
    else if (old.what !== entry.what) found.push(`changed: ${file}: ${old.what} -> ${entry.what}`);
    else if (old.ctime !== entry.ctime && old.links <= entry.links) found.push(`its inode changed: ${file}`);
    else if (old.states !== null && entry.states !== null && !isLater(old.states, entry.states))
      found.push(`units changed: ${file}`);
  }
  for (const file of before.entries.keys())
    if (!after.entries.has(file) && !mayGo(file, after)) found.push(`gone: ${file}`);
  return found;
}
