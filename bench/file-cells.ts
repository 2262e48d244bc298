/** What is measured on files: the rows of the table. */
import { type Cell, type DiskKind, firstWrites } from './cells.js';

type Rest = Partial<Pick<Cell, 'unit' | 'bounded' | 'latency' | 'span' | 'trims'>>;

function cell(id: string, title: string, kind: DiskKind, fio: string, rest: Rest = {}): Cell {
  return { id, title, kind, unit: 'IOPS', fio: fio.split(' ').map((option) => `--${option}`), ...rest };
}

function program(id: NonNullable<Cell['program']>, title: string, kind: DiskKind, unit: Cell['unit']): Cell {
  return { id, title, kind, unit, fio: [], program: id };
}

/** A cell, and the same with a flush at its end, which counts: whatever was put off until then. */
function flushedToo(plain: Cell): readonly Cell[] {
  return [
    plain,
    { ...plain, id: `${plain.id}f`, title: `${plain.title}, flush`, fio: [...plain.fio, '--end_fsync=1'] },
  ];
}

function twins(id: string, title: string, kind: DiskKind, fio: string): readonly Cell[] {
  return flushedToo(cell(id, title, kind, fio, { bounded: true }));
}

/** What each trim cell uses of its disk at most: it is filled again each time. */
const MOST_TRIMMED = 512 << 20;

/** @param diskSize bytes of every disk */
export function fileCells(diskSize: number): readonly Cell[] {
  const span = Math.min(MOST_TRIMMED, diskSize);
  const trims = (bytes: number): Rest => ({ bounded: true, span, trims: bytes });
  return [
    cell('r4k1', '4k read qd1', 'filled', 'rw=randread bs=4k iodepth=1'),
    cell('r4k32', '4k read qd32', 'filled', 'rw=randread bs=4k iodepth=32'),
    cell('w4k1', '4k write qd1', 'filled', 'rw=randwrite bs=4k iodepth=1'),
    cell('w4k32', '4k write qd32', 'filled', 'rw=randwrite bs=4k iodepth=32'),
    cell('r512k8', '512k read qd8', 'filled', 'rw=read bs=512k iodepth=8', { unit: 'MiB/s' }),
    cell('w512k8', '512k write qd8', 'filled', 'rw=write bs=512k iodepth=8', { unit: 'MiB/s' }),
    cell('mix4k1', '4k 70/30 qd1', 'filled', 'rw=randrw rwmixread=70 bs=4k iodepth=1'),
    cell('mix4k32', '4k 70/30 qd32', 'filled', 'rw=randrw rwmixread=70 bs=4k iodepth=32'),
    cell('rconn4', '4k read, 4 connections qd8', 'filled', 'rw=randread bs=4k iodepth=8 numjobs=4'),
    cell('wconn4', '4k write, 4 connections qd8', 'filled', 'rw=randwrite bs=4k iodepth=8 numjobs=4'),
    cell('sync4k1', '4k write, fsync=1 qd1', 'filled', 'rw=randwrite bs=4k iodepth=1 fsync=1', { latency: 'flushes' }),
    cell('sync4k8', '4k write, fsync=1 qd8', 'filled', 'rw=randwrite bs=4k iodepth=8 fsync=1', { latency: 'flushes' }),
    cell('sync8', '4k write, fsync=8 qd1', 'filled', 'rw=randwrite bs=4k iodepth=1 fsync=8', {
      latency: 'flushes',
    }),
    cell('sync8k8', '4k write, fsync=8 qd8', 'filled', 'rw=randwrite bs=4k iodepth=8 fsync=8', {
      latency: 'flushes',
    }),
    cell('trim4k32', '4k trim qd32', 'scrap', 'rw=randtrim bs=4k iodepth=32 number_ios=16384', trims(4 << 10)),
    cell('trim64k8', '64k trim qd8', 'scrap', `rw=randtrim bs=64k iodepth=8 number_ios=${span >> 16}`, trims(64 << 10)),
    cell('trim4m1', '4m trim qd1', 'scrap', `rw=trim bs=4m iodepth=1 number_ios=${span >> 22}`, trims(4 << 20)),
    cell('trimwrite', '64k trim, then write qd8', 'scrap', 'rw=trimwrite bs=64k iodepth=8 io_size=1g', trims(64 << 10)),
    ...twins('fresh4k8', '4k random on a fresh disk', 'fresh', 'rw=randwrite bs=4k iodepth=8 io_size=32m'),
    ...twins('clone4k8', '4k random on a new clone', 'clone', 'rw=randwrite bs=4k iodepth=8 io_size=32m'),
    ...flushedToo(firstWrites(diskSize)),
    cell('cr4k1', '4k read of a clone qd1', 'clone-read', 'rw=randread bs=4k iodepth=1'),
    cell('cr4k32', '4k read of a clone qd32', 'clone-read', 'rw=randread bs=4k iodepth=32'),
    cell('cr512k8', '512k read of a clone qd8', 'clone-read', 'rw=read bs=512k iodepth=8', { unit: 'MiB/s' }),
    cell('fr4k32', '4k read of a fresh disk qd32', 'fresh-read', 'rw=randread bs=4k iodepth=32'),
    program('nbdcopy-in', 'nbdcopy to a fresh disk, flush', 'fresh', 'MiB/s'),
    program('nbdcopy-out', 'nbdcopy from the disk', 'filled', 'MiB/s'),
    program('qemu-img-read', 'qemu-img bench 4k read qd32', 'filled', 'IOPS'),
    program('qemu-img-write', 'qemu-img bench 4k write qd32', 'filled', 'IOPS'),
  ];
}

const DEPTHS = [1, 2, 4, 8, 16, 32, 64];
const SIZES = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/** What is measured besides for --growth: the same over the depth, and over the size of a request at depth 8. */
export const growthCells: readonly Cell[] = (['read', 'write'] as const).flatMap((what) => [
  ...DEPTHS.map((depth): Cell => {
    const place = { curve: `4k ${what}, requests in flight`, x: depth };
    const id = `g-${what[0]}4k${depth}`;
    return { ...cell(id, `4k ${what} qd${depth}`, 'filled', `rw=rand${what} bs=4k iodepth=${depth}`), place };
  }),
  ...SIZES.map((bytes): Cell => {
    const place = { curve: `${what} qd8, bytes of a request`, x: bytes };
    const id = `g-${what[0]}${bytes >> 10}k`;
    const title = `${bytes >> 10}k random ${what} qd8`;
    return { ...cell(id, title, 'filled', `rw=rand${what} bs=${bytes} iodepth=8`, { unit: 'MiB/s' }), place };
  }),
]);
