/** `vlmc showmapped`: exports of the endpoint joined with devices of the kernel. Each may be there without the other. */
import type { Device } from '../../devices/types.js';
import { columns, formatTime } from '../common/columns.js';
import { attempt, CliError } from '../common/exit.js';
import { print, printWarning } from '../common/io.js';
import type { Session } from '../common/session.js';
import { type Mapping, reachedBy, showMappedOrWhy } from './mapped.js';
import { formatSize } from './size.js';

/** A line of the table, and an element of `mapped` with --json. */
export interface MappedRow {
  /** null: a device that the endpoint knows no mapping of, or does not run to tell. */
  readonly id: number | null;
  /** The same as `volume`, as it was called first. */
  readonly name: string;
  readonly volume: string;
  /** `/dev/nbdN`; null: none. */
  readonly device: string | null;
  readonly uris: readonly string[];
  /** Of the device: bytes, and connections that it was made with. */
  readonly size: number | null;
  readonly connections: number | null;
  /** Connections to the endpoint, those of the device among them; null: it does not run. */
  readonly clients: number | null;
  /** ms since the epoch. */
  readonly since: number;
  readonly readOnly: boolean;
  readonly healthy: boolean;
  /** What is the matter; null: nothing. */
  readonly trouble: string | null;
}

/** In the order of ids, then devices without one. */
export function joinMapped(mapped: readonly Mapping[], devices: readonly Device[]): MappedRow[] {
  const ofVolume = new Map(devices.map((device) => [device.volume, device]));
  const withMapping = mapped.map((mapping) => {
    const device = ofVolume.get(mapping.name);
    ofVolume.delete(mapping.name);
    return { ...mapping, ...ofDevice(device), volume: mapping.name, readOnly: device?.readOnly ?? mapping.readOnly };
  });
  const others = [...ofVolume.values()].map((device) => ({
    id: null,
    name: device.volume,
    volume: device.volume,
    uris: [],
    clients: null,
    since: device.since,
    readOnly: device.readOnly,
    ...ofDevice(device),
  }));
  return [...withMapping, ...others];
}

function ofDevice(device: Device | undefined) {
  if (!device) return { device: null, size: null, connections: null, healthy: true, trouble: null };
  const { path, size, connections, healthy, trouble } = device;
  return { device: path, size, connections, healthy, trouble };
}

export async function show(session: Session, long: boolean): Promise<void> {
  const { rows, connections, why } = await attempt('vlmc showmapped failed', async () => {
    const devices = await (await session.devices()).list();
    const shown = await showMappedOrWhy(session);
    if (typeof shown !== 'string')
      return { rows: joinMapped(shown.mapped, devices), connections: shown.connections, why: null };
    // Without a node there is something to tell only where it left devices.
    if (devices.length === 0) throw new CliError(shown);
    return { rows: joinMapped([], devices), connections: [], why: shown };
  });
  if (session.json) await session.result({ mapped: rows, connections });
  else if (long) await session.result(null, formatLong(rows));
  else await print(session.io, formatMapped(rows));
  if (why !== null) printWarning(session.io, `only devices are shown: ${why}`);
}

/** The original's table: what scripts parse. */
export function formatMapped(rows: readonly Pick<MappedRow, 'id' | 'volume' | 'device' | 'uris'>[]): string {
  if (rows.length === 0) return 'No volumes mapped\n\n';
  const lines = rows.map((row) => `${row.id ?? '-'}\t${row.volume}\t${row.device ?? reachedBy(row)}`);
  return ['id\timage\t\tdevice', ...lines, ''].join('\n');
}

/** For people; empty when there is nothing. */
export function formatLong(rows: readonly MappedRow[]): string {
  if (rows.length === 0) return 'No volumes mapped';
  return columns(
    [
      ['ID', 'VOLUME', 'DEVICE', 'SIZE', '', 'CONNECTIONS', 'SINCE', 'ACCESS', 'STATE'],
      ...rows.map((row) => [
        String(row.id ?? '-'),
        row.volume,
        row.device ?? reachedBy(row),
        row.size === null ? '-' : String(row.size),
        row.size === null ? '' : formatSize(row.size),
        String(row.connections ?? row.clients ?? '-'),
        formatTime(row.since),
        row.readOnly ? 'ro' : 'rw',
        row.healthy ? 'healthy' : (row.trouble ?? 'not healthy'),
      ]),
    ],
    [0, 3, 4, 5],
  );
}
