/**
 * What a test needs of the machine. A missing thing is a skip that says what is missing and how to get it; with CI=true it is
 * a failure when it could have been installed, because a suite that silently tests nothing is worse than a red one.
 */
import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import path from 'node:path';

const directories = `${process.env.PATH}:/usr/local/sbin:/usr/sbin:/sbin`.split(':');
const inCi = process.env.CI === 'true';

/** Whether a program is in PATH (or where administrators' programs are). */
export function hasProgram(name: string): boolean {
  return directories.some((directory) => {
    try {
      accessSync(path.join(directory, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/**
 * Whether all these programs are there: `describe.runIf(programs('fio'))`.
 * @throws when one is missing and CI=true
 */
export function programs(...names: string[]): boolean {
  return installable(names.filter((name) => !hasProgram(name)));
}

function installable(missing: readonly string[]): boolean {
  if (missing.length === 0) return true;
  const message = `${missing.join(', ')} is missing; scripts/setup.sh installs it`;
  if (inCi) throw new Error(message);
  console.warn(`SKIPPED: ${message}`);
  return false;
}

/** Whether this runs as root, which no installation can change: missing is a loud skip, never a failure. */
export function root(why: string): boolean {
  if (process.getuid?.() === 0) return true;
  console.warn(`SKIPPED: ${why} needs root`);
  return false;
}

/** Whether another account can be used and may read `file`: what lies below a directory of root's alone it can't run. A loud skip otherwise. */
export function anotherAccount(file: string, why: string): boolean {
  if (!root(why)) return false;
  const ids = ['--reuid=65534', '--regid=65534', '--clear-groups'];
  if (spawnSync('setpriv', [...ids, 'test', '-r', file]).status === 0) return true;
  console.warn(`SKIPPED: ${why} needs a checkout that other accounts may read: ${file}`);
  return false;
}

/** Whether a device node can be opened for reading and writing. A loud skip otherwise: no package brings a device. */
export function device(file: string, why: string): boolean {
  try {
    accessSync(file, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    console.warn(`SKIPPED: ${why} needs ${file}`);
    return false;
  }
}
