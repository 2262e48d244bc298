/** Entries of the table as devices: how they are, and what to do about it. */
import type { Context } from './context.js';
import { aliveConnections } from './liveness.js';
import { devicePath } from './sysfs.js';
import type { Entry } from './table.js';
import type { Device } from './types.js';

/** @param keeper its process, null: none runs */
export async function describe(context: Context, entries: readonly Entry[], keeper: number | null): Promise<Device[]> {
  const alive = await aliveConnections(context, entries);
  return entries.map((entry) => deviceOf(context, entry, troubleOf(entry, lostOf(entry, alive), keeper)));
}

export function deviceOf({ roots }: Pick<Context, 'roots'>, entry: Entry, trouble: string | null): Device {
  const { index, volume, size, connections, readOnly, since } = entry;
  const path = devicePath(index, roots);
  return { index, path, volume, size, connections, readOnly, since, healthy: trouble === null, trouble };
}

/** How many of a device's connections are lost; null: that cannot be told. */
export function lostOf(entry: Entry, alive: ReadonlyMap<number, boolean>): number | null {
  if (entry.sockets.length === 0) return null;
  const known = entry.sockets.filter((inode) => alive.has(inode));
  if (known.length < entry.sockets.length) return null;
  return Math.max(0, entry.connections - known.filter((inode) => alive.get(inode)).length);
}

export function troubleOf(entry: Entry, lost: number | null, keeper: number | null): string | null {
  const { connections, state } = entry;
  if (state === 'leaving') return 'it was detached by force and goes as soon as those who have it open close it';
  const again =
    keeper === null
      ? 'nobody connects it again: run archipelago devices, or enable archipelago-devices.service'
      : `the keeper (process ${keeper}) connects it again as soon as the node answers (archipelago status)`;
  if (lost !== null && lost > 0) {
    const what =
      lost === connections
        ? 'it has no connection to the node, its requests wait'
        : `${lost} of ${connections} connections are lost`;
    return `${what}; ${again}`;
  }
  return keeper === null ? `no keeper runs: after a restart of the node ${again}` : null;
}
