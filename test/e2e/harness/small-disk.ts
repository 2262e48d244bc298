/** Small file systems to be filled to the last byte or inode. Mounting needs root. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import { guard, unguard } from './guard.js';
import { run } from './run.js';

export interface SmallDisk {
  readonly path: string;
  /** A directory on it, made when the disk was. */
  store(name: string): string;
}

/**
 * A tmpfs for the tests of the enclosing describe (or file).
 * @param options of mount: size=64m, nr_inodes=500
 */
export function useSmallDisk(options: string, stores: readonly string[] = ['maps', 'blocks']): SmallDisk {
  let directory = '';
  beforeAll(async () => {
    directory = mkdtempSync(path.join(os.tmpdir(), 'archipelago-disk-'));
    guard(directory);
    await run('mount', ['-t', 'tmpfs', '-o', `mode=755,${options}`, 'archipelago-test', directory]);
    for (const store of stores) mkdirSync(path.join(directory, store));
  });
  afterAll(async () => {
    await run('umount', [directory]);
    rmSync(directory, { recursive: true });
    unguard(directory);
  });
  return {
    get path(): string {
      return directory;
    },
    store: (name) => path.join(directory, name),
  };
}

/** Takes all the space that is left. */
export async function fill(disk: SmallDisk): Promise<void> {
  await run('sh', ['-c', `cat /dev/zero > ${disk.path}/rest 2> /dev/null; true`]);
}

/** Takes all the inodes that are left, but `spare`. */
export async function fillInodes(disk: SmallDisk, spare = 0): Promise<void> {
  const script = `mkdir -p ${disk.path}/inodes && cd ${disk.path}/inodes && i=0; while : > $i; do i=$((i + 1)); done 2> /dev/null; while [ $i -gt 0 ] && [ ${spare} -gt $s ]; do i=$((i - 1)); s=$((s + 1)); rm -f $i; done; true`;
  await run('bash', ['-c', `s=0; ${script}`]);
}

/** Gives back what fill and fillInodes took. */
export function empty(disk: SmallDisk): void {
  for (const name of ['rest', 'inodes']) rmSync(path.join(disk.path, name), { recursive: true, force: true });
}
