/**
 * `archipelago-ganeti list`: the volumes that are disks of Ganeti, and of which instance. Ganeti forgets disks that it could not attach when it
 * removed their instance; with --leaked those are shown that its configuration does not know.
 */
import fs from 'node:fs';
import type { VolumeListReply } from '../../requests/json.js';
import { Op } from '../../requests/ops.js';
import { errnos, messageOf, SystemError } from '../../sys/errno.js';
import { type Io, print, printJson } from '../common/io.js';
import { formatSize } from '../vlmc/size.js';
import type { Node } from './node.js';
import { type DiskRecord, instanceOf, readRecord, recordedNames } from './records.js';

/** What Ganeti calls its disks, and snapshots of them. */
const DISK_NAME = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.ext\.disk\d+(?:\.snap)?$/;
/** Volumes asked for at once. */
const PAGE = 256;
/** Records and locks asked for at the same time. */
const PARALLEL = 16;

/** A disk of Ganeti, or what is left of one. */
export interface ListedDisk {
  /** Ganeti's name of it. */
  readonly disk: string;
  /** The volume; null: it is gone, and its record was left. */
  readonly volume: string | null;
  /** Bytes; null: not known. */
  readonly size: number | null;
  /** As Ganeti called it when the disk was made. */
  readonly instance: string | null;
  /** The name that people gave the disk. */
  readonly name: string | null;
  /** ms since the epoch. */
  readonly created: number | null;
  /** Owner string of who has the volume's lock. */
  readonly lock: string | null;
}

export interface ListOptions {
  readonly json: boolean;
  /** Ganeti's configuration: only disks that are not in it are shown. */
  readonly configuration: string | null;
}

export async function list(node: Node, io: Io, { json, configuration }: ListOptions): Promise<void> {
  // Before, for what is wrong with it; and after, since a disk that was made meanwhile is not a leaked one.
  if (configuration !== null) knownDisks(configuration);
  const all = await allDisks(node);
  const known = configuration === null ? null : knownDisks(configuration);
  const disks = all.filter(({ disk }) => known === null || !known.has(disk));
  if (json) await printJson(io, { disks });
  else if (disks.length > 0) await print(io, `${formatDisks(disks)}\n`);
}

interface Found {
  readonly size: number | null;
  readonly created: number | null;
}
/** It is there, and something is the matter with it. */
const UNKNOWN: Found = { size: null, created: null };

async function allDisks(node: Node): Promise<ListedDisk[]> {
  const volumes = await allVolumes(node);
  const maps = node.maps();
  const recorded = new Set(await recordedNames(maps));
  const disks = [...volumes.keys()].filter((name) => DISK_NAME.test(name) && !recorded.has(name));
  disks.push(...recorded);
  disks.sort();
  const listed: ListedDisk[] = [];
  for (let at = 0; at < disks.length; at += PARALLEL) {
    const some = disks.slice(at, at + PARALLEL).map(async (disk): Promise<ListedDisk> => {
      const record: DiskRecord = (recorded.has(disk) ? await readRecord(maps, disk) : null) ?? {};
      const volume = record.volume ?? disk;
      // A volume may have been made since they were listed: such a disk must not be called gone.
      const found = volumes.get(volume) ?? (await node.info(volume).catch((): Found => UNKNOWN));
      return {
        disk,
        volume: found === null ? null : volume,
        size: found?.size ?? null,
        instance: instanceOf(record),
        name: record.name ?? null,
        created: found?.created ?? null,
        lock: found === null ? null : ((await maps.lockHolder(volume))?.owner ?? null),
      };
    });
    listed.push(...(await Promise.all(some)));
  }
  return listed;
}

async function allVolumes(node: Node): Promise<Map<string, Found>> {
  const found = new Map<string, Found>();
  let cursor: string | null = null;
  do {
    const page: VolumeListReply = await node.json('mapper', Op.LIST, '', { cursor, limit: PAGE, deleted: false });
    for (const { name, size, created = null } of page.volumes) found.set(name, { size, created });
    cursor = page.cursor;
  } while (cursor !== null);
  return found;
}

/** Names of the disks in Ganeti's config.data, which the master and its candidates have. @throws SystemError */
export function knownDisks(file: string): Set<string> {
  let disks: unknown;
  try {
    ({ disks } = JSON.parse(fs.readFileSync(file, 'utf8')) as { disks?: unknown });
  } catch (error) {
    const why = `cannot read Ganeti's configuration: ${messageOf(error)}`;
    throw new SystemError(errnos.EINVAL, `${why}; run this on the master node, or name a copy after --leaked`, {
      cause: error,
    });
  }
  if (typeof disks !== 'object' || disks === null) {
    throw new SystemError(errnos.EINVAL, `${file} is no configuration of Ganeti: it has no disks`);
  }
  const names = new Set<string>();
  for (const disk of Object.values(disks as Record<string, { dev_type?: unknown; logical_id?: unknown }>)) {
    const { dev_type: type, logical_id: id } = disk;
    // The provider's name, and the volume's.
    if (type === 'ext' && Array.isArray(id) && typeof id[1] === 'string') names.add(id[1]);
  }
  return names;
}

/**
 * Before a disk is removed by hand: is it one, and has Ganeti forgotten it, as far as this machine can tell?
 * @param configuration Ganeti's, if this machine has it
 * @throws SystemError EINVAL, EBUSY
 */
export async function requireForgotten(node: Pick<Node, 'maps'>, name: string, configuration: string): Promise<void> {
  if (!DISK_NAME.test(name) && (await readRecord(node.maps(), name)) === null) {
    throw new SystemError(errnos.EINVAL, `that is no disk of Ganeti; vlmc remove ${name} removes other volumes`);
  }
  if (fs.existsSync(configuration) && knownDisks(configuration).has(name)) {
    const why = `an instance of Ganeti has this disk (${configuration})`;
    throw new SystemError(
      errnos.EBUSY,
      `${why}: gnt-instance modify --disk N:remove, or gnt-instance remove, removes it`,
    );
  }
}

/** The table, with a line of titles. */
export function formatDisks(disks: readonly ListedDisk[]): string {
  const rows = [
    ['DISK', 'SIZE', 'INSTANCE', 'NAME', 'CREATED', 'STATE'],
    ...disks.map((disk) => [
      disk.disk,
      disk.size === null ? '-' : formatSize(disk.size),
      disk.instance ?? '-',
      disk.name ?? '-',
      disk.created === null ? '-' : new Date(disk.created).toISOString().slice(0, 19).replace('T', ' '),
      state(disk),
    ]),
  ];
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  return rows
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i]))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

function state({ disk, volume, lock }: ListedDisk): string {
  if (volume === null) return 'gone';
  const words = [volume === disk ? null : `is volume ${volume}`, lock === null ? null : `locked by ${lock}`];
  return words.filter((word) => word !== null).join(', ') || '-';
}
