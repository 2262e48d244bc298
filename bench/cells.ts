/** What a cell is: one workload on one kind of disk; its figure is a rate, of which more is better, or a time. */

/** The state of the disk that a cell needs. */
export type DiskKind =
  /** Every byte was written before and is in the page cache. Shared by all cells of this kind. */
  | 'filled'
  /** Nothing was ever written. Made anew for each measurement. */
  | 'fresh'
  /** A clone of a snapshot that is full of data, nothing of its own yet. Made anew for each measurement. */
  | 'clone'
  /** The same, for cells that only read: shared by them. */
  | 'clone-read'
  /** Nothing was ever written, for cells that only read: shared by them. */
  | 'fresh-read'
  /** Written in full, as far as the cell uses it, before each measurement, which takes data away. Shared, and made of nothing. */
  | 'scrap';

/** Kinds of which each contender has one disk for all of its measurements. */
export const SHARED: readonly DiskKind[] = ['filled', 'clone-read', 'fresh-read', 'scrap'];

/** What a timed cell does: one command, on a volume of `size` bytes; `nothing` is a command that only starts and ends. */
export interface Task {
  readonly what: 'nothing' | 'snapshot' | 'clone';
  readonly size: number;
}

/** What a cell's fio does, for those who do the same by other means. */
export interface Load {
  readonly write: boolean;
  /** Bytes of each request. */
  readonly bytes: number;
  /** Requests in flight. */
  readonly depth: number;
}

/** Clients other than fio: see programs.ts. */
export type ProgramId = 'nbdcopy-in' | 'nbdcopy-out' | 'qemu-img-read' | 'qemu-img-write';

export interface Cell {
  readonly id: string;
  readonly title: string;
  readonly kind: DiskKind;
  /** A rate, of which more is better; or ms of a task, of which less is. */
  readonly unit: 'IOPS' | 'MiB/s' | 'ms';
  /** fio options; without a duration of their own they run for --runtime. */
  readonly fio: readonly string[];
  readonly load?: Load;
  /** What is timed instead of running fio. */
  readonly task?: Task;
  /** The client that is used instead of fio. */
  readonly program?: ProgramId;
  /** Whether `fio` says how much to do instead of how long. */
  readonly bounded?: boolean;
  /** Bytes of each of its trims, where it trims: who gives nothing back for trims of that size is nobody to compare with. */
  readonly trims?: number;
  /** Bytes of the disk that are used, from its begin; all of them when absent. */
  readonly span?: number;
  /** Whose latency is told: that of all requests, or that of fsync (which the client sends as flushes). Requests when absent. */
  readonly latency?: 'flushes';
  /** A place of a curve instead of a row of the table: which curve, and where on its axis. */
  readonly place?: { readonly curve: string; readonly x: number };
}

/** Bytes of every disk on files when nothing else is said. */
export const DISK_SIZE = 1 << 30;
/** Bytes of a block of a volume, and of an object of an RBD image. */
export const BLOCK = 4 << 20;

/** Programs that read a disk. */
const READERS: readonly (ProgramId | undefined)[] = ['nbdcopy-out', 'qemu-img-read'];

/**
 * Does it read data that was written long before it begins? That has to be read again right before: some systems take out of the page cache
 * what nobody has asked for within a minute, and disks of several contenders wait longer than that for their turns.
 */
export function readsData({ kind, fio, program }: Pick<Cell, 'kind' | 'fio' | 'program'>): boolean {
  if (kind !== 'filled' && kind !== 'clone-read') return false;
  return READERS.includes(program) || fio.some((option) => /^--rw=(rand)?(read|rw)$/.test(option));
}

/** One 4 KiB write, then a skip to the next block, once over a new clone: none hits what was copied before. */
export function firstWrites(diskSize: number): Cell {
  return {
    id: 'copyup1',
    title: 'first write per clone block',
    kind: 'clone',
    unit: 'IOPS',
    bounded: true,
    fio: [`--rw=write:${BLOCK - 4096}`, '--bs=4k', '--iodepth=1', `--number_ios=${diskSize / BLOCK}`],
  };
}
