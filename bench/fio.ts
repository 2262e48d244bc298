/** fio as the one client of all contenders. */
import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { BLOCK, type Cell } from './cells.js';
import type { Client } from './contender.js';
import { run } from './process.js';

interface Direction {
  readonly iops: number;
  readonly bw_bytes: number;
  readonly total_ios: number;
}

interface Job {
  readonly error: number;
  readonly read: Direction;
  readonly write: Direction;
}

export interface Measured {
  /** In the cell's unit. */
  readonly rate: number;
  /** Requests done. */
  readonly requests: number;
}

async function all(client: Client, name: string, how: readonly string[]): Promise<void> {
  await run('fio', [`--name=${name}`, ...client, ...how, '--output=/dev/null']);
}

/** Writes every byte of a disk of `size` bytes with data that is not zero, and flushes. */
export function fill(client: Client, size: number): Promise<void> {
  return all(client, 'fill', [
    '--rw=write',
    '--bs=1m',
    '--iodepth=8',
    `--size=${size}`,
    '--end_fsync=1',
    '--refill_buffers',
  ]);
}

/** Reads every byte of a disk, so that it is in the page cache. */
export function warm(client: Client, size: number): Promise<void> {
  return all(client, 'warm', ['--rw=read', '--bs=1m', '--iodepth=8', `--size=${size}`]);
}

/** One 4 KiB write into each of the first `blocks` blocks of a disk of `size` bytes. */
export function touch(client: Client, size: number, blocks: number): Promise<void> {
  const how = [`--rw=write:${BLOCK - 4096}`, '--bs=4k', '--iodepth=16', `--number_ios=${blocks}`, `--size=${size}`];
  return all(client, 'touch', [...how, '--end_fsync=1']);
}

/** Runs a cell once on a disk of `size` bytes. @throws when fio saw an error */
export async function measure(
  cell: Cell,
  client: Client,
  size: number,
  runtime: number,
  scratch: string,
): Promise<Measured> {
  const output = path.join(scratch, 'fio.json');
  const duration = cell.bounded ? [] : ['--time_based', `--runtime=${runtime}`];
  const common = [...client, `--size=${size}`, '--randrepeat=1', '--norandommap'];
  const format = ['--output-format=json', `--output=${output}`];
  await run('fio', [`--name=${cell.id}`, ...common, ...cell.fio, ...duration, ...format], scratch);
  const text = readFileSync(output, 'utf8');
  rmSync(output);
  // The nbd engine prints a line about the connection before the JSON.
  const { jobs } = JSON.parse(text.slice(text.indexOf('{'))) as { jobs: Job[] };
  const [job] = jobs;
  if (job.error !== 0) throw new Error(`fio: error ${job.error} in ${cell.title} on ${client.join(' ')}`);
  const busy = job.read.total_ios > 0 ? job.read : job.write;
  return { rate: cell.unit === 'IOPS' ? busy.iops : busy.bw_bytes / (1 << 20), requests: busy.total_ios };
}
