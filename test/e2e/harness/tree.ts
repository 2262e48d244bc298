/** A store's directories as a fingerprint: what is there, with content and times, to prove that nobody wrote. */
import { createHash } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

/** What nodes tell each other lies in files of its own, which are no part of any volume. */
const MAIL = '.archipelago-mail';

export interface Tree {
  /** `size mtime ctime hash` of each file and directory by its path. Directories have no hash. */
  readonly entries: ReadonlyMap<string, string>;
  /** The latest change of anything in it, ns since the epoch: no program can set it back. */
  readonly changed: { readonly path: string; readonly ctime: bigint };
}

/** All below some directories, except mail and these paths, which may be files or directories; what is below such a directory counts. */
export function fingerprint(directories: readonly string[], except: ReadonlySet<string> = new Set()): Tree {
  const entries = new Map<string, string>();
  let changed = { path: '', ctime: 0n };
  const visit = (file: string, top: boolean): void => {
    const stat = lstatSync(file, { bigint: true });
    // The top directory changes when the directory of mail comes into being.
    if (!top && !except.has(file)) {
      const hash = stat.isFile() ? createHash('sha256').update(readFileSync(file)).digest('hex') : '-';
      entries.set(file, `${stat.isFile() ? stat.size : '-'} ${stat.mtimeNs} ${stat.ctimeNs} ${hash}`);
      if (stat.ctimeNs > changed.ctime) changed = { path: file, ctime: stat.ctimeNs };
    }
    if (!stat.isDirectory()) return;
    for (const name of readdirSync(file)) if (name !== MAIL) visit(path.join(file, name), false);
  };
  for (const directory of directories) visit(directory, true);
  return { entries, changed };
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
