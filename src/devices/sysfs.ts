/** What /sys tells of the kernel's nbd devices. Plain files: quick, and for everybody to read. */
import fs from 'node:fs';
import path from 'node:path';
import { SECTOR, SYSTEM_ROOTS, type SystemRoots } from './types.js';

/** A device that is connected. */
export interface KernelDevice {
  readonly index: number;
  /** The process that connected it; it need not be there any more. */
  readonly pid: number;
  /** What it was called when it was connected; null: by somebody who gave no name, or before Linux 5.14. */
  readonly backend: string | null;
  /** Bytes. */
  readonly size: number;
  readonly readOnly: boolean;
  readonly connections: number;
}

/** A whole device or one of its partitions. */
export interface BlockNode {
  /** `nbd3`, `nbd3p1`. */
  readonly name: string;
  /** Of /dev. */
  readonly path: string;
  /** `major:minor`. */
  readonly number: string;
  /** Its directory in /sys. */
  readonly directory: string;
}

/** Without the line's end alone: a name may end in a blank, and is another than the one that does not. */
const read = (file: string): string | null => {
  try {
    return fs.readFileSync(file, 'utf8').replace(/\n$/, '');
  } catch {
    return null;
  }
};

const directoryOf = (index: number, roots: SystemRoots): string => path.join(roots.sys, 'block', `nbd${index}`);

/** The path of a device. */
export const devicePath = (index: number, roots: SystemRoots = SYSTEM_ROOTS): string =>
  path.join(roots.dev, `nbd${index}`);

/** Null: it is not connected. */
export function kernelDevice(index: number, roots: SystemRoots = SYSTEM_ROOTS): KernelDevice | null {
  const directory = directoryOf(index, roots);
  const pid = read(path.join(directory, 'pid'));
  if (pid === null) return null;
  const backend = read(path.join(directory, 'backend'));
  return {
    index,
    pid: Number(pid),
    backend: backend === '' ? null : backend,
    size: Number(read(path.join(directory, 'size')) ?? 0) * SECTOR,
    readOnly: read(path.join(directory, 'ro')) === '1',
    connections: countQueues(directory),
  };
}

/** The driver makes a queue for each connection, and no more than there are processors. */
function countQueues(directory: string): number {
  try {
    return Math.max(1, fs.readdirSync(path.join(directory, 'mq')).length);
  } catch {
    return 1;
  }
}

/** All nbd devices that are connected, by whomever, in the order of their numbers. */
export function kernelDevices(roots: SystemRoots = SYSTEM_ROOTS): KernelDevice[] {
  const indices = names(path.join(roots.sys, 'block')).flatMap((name) => {
    const match = /^nbd(\d+)$/.exec(name);
    return match ? [Number(match[1])] : [];
  });
  return indices
    .sort((a, b) => a - b)
    .map((index) => kernelDevice(index, roots))
    .filter((device) => device !== null);
}

/** Entries of a directory; none where there is none. */
export function names(directory: string): string[] {
  try {
    return fs.readdirSync(directory);
  } catch {
    return [];
  }
}

/** A device and its partitions. */
export function blockNodes(index: number, roots: SystemRoots = SYSTEM_ROOTS): BlockNode[] {
  const whole = directoryOf(index, roots);
  const node = (name: string, directory: string): BlockNode => ({
    name,
    path: path.join(roots.dev, name),
    number: read(path.join(directory, 'dev')) ?? '',
    directory,
  });
  const partitions = names(whole)
    .filter((name) => new RegExp(`^nbd${index}p\\d+$`).test(name))
    .map((name) => node(name, path.join(whole, name)));
  return [node(`nbd${index}`, whole), ...partitions];
}

/** Requests that the driver has not answered: reads, writes. */
export function inFlight(index: number, roots: SystemRoots = SYSTEM_ROOTS): { reads: number; writes: number } {
  const [reads = 0, writes = 0] = (read(path.join(directoryOf(index, roots), 'inflight')) ?? '')
    .trim()
    .split(/\s+/)
    .map(Number);
  return { reads: reads || 0, writes: writes || 0 };
}

/**
 * Has requests whose connection was lost sent again so long after they were first sent, once there is another connection. For devices
 * connected from then on it is forgotten.
 * @returns false where the kernel does not take it (before Linux 4.20)
 */
export function setRequestTimeout(index: number, ms: number, roots: SystemRoots = SYSTEM_ROOTS): boolean {
  try {
    fs.writeFileSync(path.join(directoryOf(index, roots), 'queue', 'io_timeout'), String(ms), { flag: 'r+' });
    return true;
  } catch {
    return false;
  }
}
