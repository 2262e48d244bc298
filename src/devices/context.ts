/** What the parts of Devices share, and how they change the table. */
import path from 'node:path';
import type { Log } from '../nbd/log.js';
import { locked } from './lock.js';
import { kernelDevices } from './sysfs.js';
import { type Entry, readOrReplaceTable, reconcile, writeTable } from './table.js';
import type { EndpointAddress, SystemRoots } from './types.js';

export interface Context {
  readonly runDir: string;
  readonly segment: string;
  readonly endpoint: EndpointAddress;
  /** Seconds. */
  readonly timeout: number;
  readonly log: Log;
  readonly roots: SystemRoots;
}

/** Writes the table: each step of a change is there when the process dies in the next. */
export type Save = (entries: readonly Entry[]) => void;

/** Runs `work` with the lock of the table, which was brought into line with the kernel before. @throws SystemError */
export function withTable<T>(
  { runDir, segment, roots, log }: Context,
  work: (entries: readonly Entry[], save: Save) => Promise<T>,
): Promise<T> {
  return locked(runDir, async () => {
    const kernel = kernelDevices(roots);
    const { table, damage } = readOrReplaceTable(runDir, kernel);
    if (damage !== null) log.warn(damage);
    const found = reconcile(table, kernel, segment, Date.now(), false);
    for (const { index, volume } of found.adopted) {
      log.warn(`/dev/nbd${index} is volume ${volume}: whoever attached it did not live to note it down`);
    }
    for (const { index, volume, state } of found.dropped) {
      if (state === 'attached') log.warn(`/dev/nbd${index} is not volume ${volume} any more: somebody else ended it`);
    }
    if (found.changed) writeTable(runDir, found.entries);
    return work(found.entries, (entries) => writeTable(runDir, entries));
  });
}

/** The entry of a volume; undefined: it has no device that is of use. */
export const entryOf = (entries: readonly Entry[], volume: string): Entry | undefined =>
  entries.find((entry) => entry.volume === volume && entry.state === 'attached');

/** Where a device connects: sockets that systemd has, and those of single volumes, are not where the configuration says. */
export const endpointOf = (context: Pick<Context, 'endpoint'>, entry: Pick<Entry, 'endpoint'>): EndpointAddress =>
  entry.endpoint ?? context.endpoint;

/** Whether a name given by a person means this device. */
export function isNamed(device: { readonly volume: string; readonly path: string }, name: string): boolean {
  return device.volume === name || (name.startsWith('/') && path.normalize(name) === device.path);
}
