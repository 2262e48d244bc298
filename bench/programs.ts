/** Clients other than fio: what people copy and measure disks with. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import type { Cell, ProgramId } from './cells.js';
import { hasProgram } from './contender.js';
import type { Measured } from './fio.js';
import { run } from './process.js';

/** Requests of one `qemu-img bench`. */
const REQUESTS = 40_000;
/** What nbdcopy asks for at once unless it is told otherwise. */
const COPY_REQUEST = 256 << 10;

/** The programs of cells that are not installed; their cells cannot be measured. */
export function missingPrograms(cells: readonly Cell[]): string[] {
  const wanted = new Set(
    cells.flatMap(({ program }) => (program ? [program.replace(/-(in|out|read|write)$/, '')] : [])),
  );
  return [...wanted].filter((name) => !hasProgram(name));
}

async function seconds(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return (performance.now() - began) / 1000;
}

function copied(size: number, took: number): Measured {
  return { rate: size / (1 << 20) / took, requests: size / COPY_REQUEST };
}

/** A file of `size` bytes without zeros to copy from, made once. */
async function image(dir: string, size: number): Promise<string> {
  const file = path.join(dir, `image-${size}`);
  if (existsSync(file)) return file;
  const how = ['--rw=write', '--bs=1m', `--size=${size}`, '--ioengine=psync', '--refill_buffers', '--end_fsync=1'];
  await run('fio', ['--name=image', `--filename=${file}`, ...how, '--output=/dev/null']);
  return file;
}

/** `qemu-img bench` reads or writes one request after the other, in ascending order; it tells how long all took, without its start. */
async function qemuImg(uri: string, how: readonly string[]): Promise<Measured> {
  const said = await run('qemu-img', [
    'bench',
    '-f',
    'raw',
    '-c',
    String(REQUESTS),
    '-d',
    '32',
    '-s',
    '4096',
    ...how,
    uri,
  ]);
  const took = /completed in ([\d.]+) seconds/.exec(said)?.[1];
  if (!took) throw new Error(`qemu-img bench told no time: ${said}`);
  return { rate: REQUESTS / Number(took), requests: REQUESTS };
}

const programs: Readonly<Record<ProgramId, (uri: string, size: number, dir: string) => Promise<Measured>>> = {
  'nbdcopy-in': async (uri, size, dir) => {
    const from = await image(dir, size);
    return copied(size, await seconds(() => run('nbdcopy', ['--flush', from, uri])));
  },
  'nbdcopy-out': async (uri, size) => copied(size, await seconds(() => run('nbdcopy', [uri, 'null:']))),
  'qemu-img-read': (uri) => qemuImg(uri, []),
  'qemu-img-write': (uri) => qemuImg(uri, ['-w']),
};

/** Makes what a program needs before it is measured. */
export async function prepareProgram(program: ProgramId, size: number, dir: string): Promise<void> {
  if (program === 'nbdcopy-in') await image(dir, size);
}

/** Runs a cell's program once on a disk of `size` bytes. @param dir where it may keep what it copies from */
export function measureProgram(program: ProgramId, uri: string, size: number, dir: string): Promise<Measured> {
  return programs[program](uri, size, dir);
}
