/** fio as the one client of all contenders. */
import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { type Cell, DISK_SIZE } from './cells.js';
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

/** Writes every byte of an export with data that is not zero, and flushes. */
export async function fill(uri: string): Promise<void> {
  const how = ['--rw=write', '--bs=1m', '--iodepth=8', `--size=${DISK_SIZE}`, '--end_fsync=1', '--refill_buffers'];
  await run('fio', ['--name=fill', '--ioengine=nbd', `--uri=${uri}`, ...how, '--output=/dev/null']);
}

/** Reads every byte of an export, so that it is in the page cache. */
export async function warm(uri: string): Promise<void> {
  const how = ['--rw=read', '--bs=1m', '--iodepth=8', `--size=${DISK_SIZE}`];
  await run('fio', ['--name=warm', '--ioengine=nbd', `--uri=${uri}`, ...how, '--output=/dev/null']);
}

/** Runs a cell once; resolves to its rate in the cell's unit. @throws when fio saw an error */
export async function measure(cell: Cell, uri: string, runtime: number, scratch: string): Promise<number> {
  const output = path.join(scratch, 'fio.json');
  const duration = cell.bounded ? [] : ['--time_based', `--runtime=${runtime}`];
  const common = ['--ioengine=nbd', `--uri=${uri}`, `--size=${DISK_SIZE}`, '--randrepeat=1', '--norandommap'];
  const format = ['--output-format=json', `--output=${output}`];
  await run('fio', [`--name=${cell.id}`, ...common, ...cell.fio, ...duration, ...format], scratch);
  const text = readFileSync(output, 'utf8');
  rmSync(output);
  // The nbd engine prints a line about the connection before the JSON.
  const { jobs } = JSON.parse(text.slice(text.indexOf('{'))) as { jobs: Job[] };
  const [job] = jobs;
  if (job.error !== 0) throw new Error(`fio: error ${job.error} in ${cell.title} on ${uri}`);
  const busy = job.read.total_ios > 0 ? job.read : job.write;
  return cell.unit === 'IOPS' ? busy.iops : busy.bw_bytes / (1 << 20);
}
