/**
 * The devices of a node, remembered in RUN_DIR/devices.json, and how that is brought into line with the kernel, which alone knows what is.
 * RUN_DIR is empty after a reboot, as is the kernel. Whoever changes the table holds its lock (lock.ts); reading needs none, as each version
 * is a file that is there whole.
 */
import fs from 'node:fs';
import path from 'node:path';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import { identifierOf, volumeOf } from './identifier.js';
import type { KernelDevice } from './sysfs.js';
import type { EndpointAddress } from './types.js';

/**
 * attaching: the kernel is being asked for it; attached; leaving: it was detached by force and goes as soon as those who have it open close
 * it: nothing is done about it any more.
 */
export type EntryState = 'attaching' | 'attached' | 'leaving';

export interface Entry {
  /** -1 while it is being attached. */
  readonly index: number;
  readonly volume: string;
  readonly exportName: string;
  /** Where it connects; undefined, as of a device that was adopted: where the node is configured to listen. */
  readonly endpoint?: EndpointAddress;
  /** What the kernel knows it as. */
  readonly identifier: string;
  /** Bytes. */
  readonly size: number;
  readonly readOnly: boolean;
  /** Whoever attached it wanted it so; an export that nobody can write to makes it so all the same. */
  readonly readOnlyAsked: boolean;
  readonly connections: number;
  /** ms since the epoch. */
  readonly since: number;
  /** The process that connected it, as the kernel tells: what it is known by where the kernel has no identifiers. */
  readonly pid: number;
  /** Inodes of its connections; none: not known. */
  readonly sockets: readonly number[];
  readonly state: EntryState;
}

const FILE = 'devices.json';
const MODE = 0o644;

export const tablePath = (runDir: string): string => path.join(runDir, FILE);

/** The table is there, and is none. */
export class DamagedTable extends SystemError {}

/** The table as it was written last; empty where there is none. @throws DamagedTable EIO naming the file */
export function readTable(runDir: string): Entry[] {
  const file = tablePath(runDir);
  let content: string;
  try {
    content = fs.readFileSync(file, 'utf8');
  } catch (error) {
    if (errnoOf(error) === errnos.ENOENT) return [];
    throw new SystemError(errnoOf(error), `cannot read the table of devices: ${messageOf(error)}`);
  }
  try {
    const { devices } = JSON.parse(content) as { devices: Entry[] };
    for (const entry of devices) check(entry);
    return devices;
  } catch (error) {
    throw new DamagedTable(
      errnos.EIO,
      `${file} is damaged (${messageOf(error)}); remove it: the devices that there are will be found again`,
    );
  }
}

function check(entry: Entry): void {
  const { index, volume, exportName, identifier, size, connections, since, pid, sockets, state } = entry;
  const { readOnly, readOnlyAsked, endpoint } = entry;
  for (const text of [volume, exportName, identifier])
    if (typeof text !== 'string') throw new Error('a name is missing');
  for (const number of [index, size, connections, since, pid]) {
    if (!Number.isSafeInteger(number)) throw new Error(`a number of ${volume} is missing`);
  }
  if (typeof readOnly !== 'boolean' || typeof readOnlyAsked !== 'boolean' || !isAddress(endpoint))
    throw new Error(`the entry of ${volume} is not whole`);
  if (!Array.isArray(sockets) || !sockets.every(Number.isSafeInteger))
    throw new Error(`the entry of ${volume} is not whole`);
  if (!['attaching', 'attached', 'leaving'].includes(state)) throw new Error(`${volume} is ${String(state)}`);
}

function isAddress(endpoint: object | undefined): boolean {
  if (endpoint === undefined) return true;
  const { path: socket, host, port } = endpoint as { path?: unknown; host?: unknown; port?: unknown };
  return typeof socket === 'string' || (typeof host === 'string' && typeof port === 'number');
}

/**
 * The table for who only looks: a damaged one is empty where the kernel knows each device by its name, so that all are found again.
 * @throws DamagedTable where devices would be forgotten
 */
export function readTableOrNone(runDir: string, kernel: readonly KernelDevice[]): Entry[] {
  try {
    return readTable(runDir);
  } catch (error) {
    if (!(error instanceof DamagedTable) || kernel.some(({ backend }) => backend === null)) throw error;
    return [];
  }
}

/**
 * The table, with the lock held. A damaged one is put aside where it is none to who only looks.
 * @returns also why it was put aside, null: it was not
 * @throws DamagedTable where devices would be forgotten
 */
export function readOrReplaceTable(
  runDir: string,
  kernel: readonly KernelDevice[],
): { readonly table: Entry[]; readonly damage: string | null } {
  try {
    return { table: readTable(runDir), damage: null };
  } catch (error) {
    if (!(error instanceof DamagedTable)) throw error;
    const table = readTableOrNone(runDir, kernel);
    const file = tablePath(runDir);
    fs.renameSync(file, `${file}.damaged`);
    return { table, damage: `the table of devices was damaged and is ${file}.damaged now; devices are found again` };
  }
}

/** Replaces the table in one step. Under a name that nobody can have put in its place: the directory belongs to the node's user. */
export function writeTable(runDir: string, entries: readonly Entry[]): void {
  const file = tablePath(runDir);
  const temporary = `${file}.${process.pid}.${process.hrtime.bigint()}`;
  const content = `${JSON.stringify({ version: 1, devices: entries }, null, 1)}\n`;
  try {
    fs.writeFileSync(temporary, content, { flag: 'wx', mode: MODE });
    // Whatever the umask is: who may enter the directory may look.
    fs.chmodSync(temporary, MODE);
    fs.renameSync(temporary, file);
  } catch (error) {
    fs.rmSync(temporary, { force: true });
    throw new SystemError(errnoOf(error), `cannot write the table of devices: ${messageOf(error)}`);
  }
}

/** What is true, and what the table lacked or had too much. */
export interface Reconciled {
  /** By index. */
  readonly entries: Entry[];
  /** Devices of this node that the table did not know: whoever attached them died before it was written. */
  readonly adopted: Entry[];
  /** Entries whose device is gone, or is somebody else's now. */
  readonly dropped: Entry[];
  /** The table has to be written. */
  readonly changed: boolean;
}

/**
 * Brings a table into line with the kernel.
 * @param segment whose devices are this node's
 * @param now ms since the epoch: since when an adopted device is said to be there
 * @param attaching true while somebody may be asking the kernel for a device: entries in that state are kept
 */
export function reconcile(
  table: readonly Entry[],
  kernel: readonly KernelDevice[],
  segment: string,
  now: number,
  attaching: boolean,
): Reconciled {
  const left = new Map(kernel.map((device) => [device.index, device]));
  const entries: Entry[] = [];
  const dropped: Entry[] = [];
  const intended: Entry[] = [];
  for (const entry of table) {
    const device = left.get(entry.index);
    if (entry.state === 'attaching') intended.push(entry);
    else if (
      device !== undefined &&
      isSame(entry, device) &&
      entry.identifier === identifierOf(segment, entry.volume)
    ) {
      left.delete(entry.index);
      entries.push(entry.size === device.size ? entry : { ...entry, size: device.size });
    } else dropped.push(entry);
  }
  const adopted: Entry[] = [];
  for (const device of left.values()) {
    const volume = volumeOf(segment, device.backend);
    if (volume === null) continue;
    const at = intended.findIndex(({ identifier }) => identifier === device.backend);
    const [intention] = at < 0 ? [] : intended.splice(at, 1);
    const { index, size, readOnly, pid } = device;
    const identifier = identifierOf(segment, volume);
    // The kernel makes no more queues than it has processors, and tells of no other number.
    const { exportName = volume, since = now, readOnlyAsked = readOnly, endpoint } = intention ?? {};
    const { connections } = intention ?? device;
    adopted.push({
      index,
      volume,
      exportName,
      ...(endpoint === undefined ? {} : { endpoint }),
      identifier,
      size,
      readOnly,
      readOnlyAsked,
      connections,
      since,
      pid,
      sockets: [],
      state: 'attached',
    });
  }
  if (attaching) entries.push(...intended);
  else dropped.push(...intended);
  entries.push(...adopted);
  entries.sort((a, b) => a.index - b.index);
  const changed = JSON.stringify(entries) !== JSON.stringify(table);
  return { entries, adopted, dropped, changed };
}

/** Is the kernel's device the one that the entry is about? */
export function isSame(entry: Entry, device: KernelDevice): boolean {
  return device.backend === null ? device.pid === entry.pid : device.backend === entry.identifier;
}
