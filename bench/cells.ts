/**
 * What is measured on files: the cells of the table. A cell is one fio workload on one kind of disk; its figure is a rate, more is better.
 */

/** The state of the disk that a cell needs. `filled` is shared by its cells, the others are made anew for each run. */
export type DiskKind =
  /** Every byte was written before and is in the page cache. */
  | 'filled'
  /** Nothing was ever written. */
  | 'fresh'
  /** A clone of a snapshot that is full of data, nothing of its own yet. */
  | 'clone';

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
  /** Whether `fio` says how much to do instead of how long. */
  readonly bounded?: boolean;
}

/** Bytes of every disk on files. */
export const DISK_SIZE = 1 << 30;
/** Bytes of a block of a volume, and of an object of an RBD image. */
export const BLOCK = 4 << 20;

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

export const cells: readonly Cell[] = [
  {
    id: 'r4k1',
    title: '4k read qd1',
    kind: 'filled',
    unit: 'IOPS',
    fio: ['--rw=randread', '--bs=4k', '--iodepth=1'],
  },
  {
    id: 'r4k32',
    title: '4k read qd32',
    kind: 'filled',
    unit: 'IOPS',
    fio: ['--rw=randread', '--bs=4k', '--iodepth=32'],
  },
  {
    id: 'w4k1',
    title: '4k write qd1',
    kind: 'filled',
    unit: 'IOPS',
    fio: ['--rw=randwrite', '--bs=4k', '--iodepth=1'],
  },
  {
    id: 'w4k32',
    title: '4k write qd32',
    kind: 'filled',
    unit: 'IOPS',
    fio: ['--rw=randwrite', '--bs=4k', '--iodepth=32'],
  },
  {
    id: 'r512k8',
    title: '512k read qd8',
    kind: 'filled',
    unit: 'MiB/s',
    fio: ['--rw=read', '--bs=512k', '--iodepth=8'],
  },
  {
    id: 'w512k8',
    title: '512k write qd8',
    kind: 'filled',
    unit: 'MiB/s',
    fio: ['--rw=write', '--bs=512k', '--iodepth=8'],
  },
  {
    id: 'sync4k1',
    title: '4k write + flush',
    kind: 'filled',
    unit: 'IOPS',
    fio: ['--rw=randwrite', '--bs=4k', '--iodepth=1', '--fsync=1'],
  },
  {
    id: 'fresh4k8',
    title: '4k random on a fresh disk',
    kind: 'fresh',
    unit: 'IOPS',
    bounded: true,
    fio: ['--rw=randwrite', '--bs=4k', '--iodepth=8', '--io_size=32m'],
  },
  {
    id: 'clone4k8',
    title: '4k random on a new clone',
    kind: 'clone',
    unit: 'IOPS',
    bounded: true,
    fio: ['--rw=randwrite', '--bs=4k', '--iodepth=8', '--io_size=32m'],
  },
  firstWrites(DISK_SIZE),
];
