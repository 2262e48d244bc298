/** A verify load that goes on while something is done to its node: what fio is told, and how it is seen that it still writes. */
import { readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import type { TestNode } from './node.js';

/** fio writes at random until SIGINT and reads all of it back by checksum; the first error ends it. */
export function fioArguments(uri: string): string[] {
  return [
    ...['--name=load', '--ioengine=nbd', `--uri=${uri}`, '--rw=randwrite', '--bsrange=4k-64k', '--iodepth=8'],
    ...['--size=64m', '--time_based', '--runtime=120', '--rate=,16m', '--fsync=64', '--randrepeat=1'],
    ...['--verify=crc32c', '--do_verify=1', '--verify_fatal=1', '--verify_backlog=128', '--verify_state_save=0'],
  ];
}

/** When an object of the volume was written last, ms since the epoch. */
export function newest(node: TestNode, volume: string): number {
  let latest = 0;
  for (const name of readdirSync(node.blocks, { recursive: true, encoding: 'utf8' })) {
    if (!name.includes(volume)) continue;
    const stat = statSync(path.join(node.blocks, name), { throwIfNoEntry: false });
    if (stat?.isFile()) latest = Math.max(latest, stat.mtimeMs);
  }
  return latest;
}

/** Whether another process than `pid` runs the role. */
export function successor(node: TestNode, role: string, pid: number): boolean {
  try {
    const now = node.rolePid(role);
    return now !== pid && node.pids().includes(now);
  } catch {
    return false; // between the old pidfile and the new one
  }
}
