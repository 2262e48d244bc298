/** What is measured on RADOS. */
import { type Cell, firstWrites } from './cells.js';

/** Bytes of every disk on RADOS: the cluster may have all of them in memory, and those of its peers. */
export const RADOS_DISK_SIZE = 256 << 20;

/** Blocks of the large volume that have data. */
export const LARGE_BLOCKS = 4096;
const LARGE_SIZE = 2 ** 40;

function cell(write: boolean, bytes: number, depth: number): Cell {
  const small = bytes < 64 << 10;
  const what = write ? 'write' : 'read';
  return {
    id: `${what[0]}${bytes >> 10}k${depth}`,
    title: `${bytes >> 10}k ${what} qd${depth}`,
    kind: 'filled',
    unit: small ? 'IOPS' : 'MiB/s',
    fio: [`--rw=${small ? 'rand' : ''}${what}`, `--bs=${bytes}`, `--iodepth=${depth}`],
    load: { write, bytes, depth },
  };
}

const depths = [1, 16, 32];

export const radosCells: readonly Cell[] = [
  ...[4 << 10, 512 << 10].flatMap((bytes) =>
    [false, true].flatMap((write) => depths.map((depth) => cell(write, bytes, depth))),
  ),
  firstWrites(RADOS_DISK_SIZE),
  ...(['snapshot', 'clone', 'nothing'] as const).map((what): Cell => {
    const title = what === 'nothing' ? 'start of the command' : `${what} of 1 TiB`;
    return { id: what, title, kind: 'fresh', unit: 'ms', fio: [], task: { what, size: LARGE_SIZE } };
  }),
];
