/** A verify load that goes on while something is done to its node: what fio is told, and how it is seen that it still writes. */
import type { TestNode } from './node.js';

/** fio writes at random until SIGINT and reads all of it back by checksum; the first error ends it. */
export function fioArguments(uri: string): string[] {
  return [
    ...['--name=load', '--ioengine=nbd', `--uri=${uri}`, '--rw=randwrite', '--bsrange=4k-64k', '--iodepth=8'],
    ...['--size=64m', '--time_based', '--runtime=120', '--rate=,16m', '--fsync=64', '--randrepeat=1'],
    ...['--verify=crc32c', '--do_verify=1', '--verify_fatal=1', '--verify_backlog=128', '--verify_state_save=0'],
  ];
}

/** A number that grows with each write to an object of the volume: versions of its objects, or when the latest was written. */
export async function newest(node: TestNode, volume: string): Promise<number> {
  const { blocks } = node.stores;
  const versions = (await blocks.objects()).filter(({ name }) => name.includes(volume)).map(({ version }) => version);
  return blocks.onRados ? versions.reduce((sum, version) => sum + version, 0) : Math.max(0, ...versions);
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
