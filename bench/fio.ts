/** fio as the client of all contenders. */
import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { BLOCK, type Cell } from './cells.js';
import type { Client } from './contender.js';
import { run } from './process.js';

/** Latency as the client sees it, µs: from the request to its reply. */
export interface Latency {
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
}

export interface Measured {
  /** In the cell's unit. */
  readonly rate: number;
  /** Requests done, flushes not among them. */
  readonly requests: number;
  /** Absent where the client does not tell. */
  readonly latency?: Latency;
}

interface Spread {
  readonly percentile?: Readonly<Record<string, number>>;
}

interface Direction {
  readonly iops: number;
  readonly bw_bytes: number;
  readonly total_ios: number;
  readonly clat_ns: Spread;
}

interface Job {
  readonly error: number;
  /** Reads, writes and trims together; absent when they are told apart. */
  readonly mixed?: Direction;
  readonly write?: Direction;
  /** Flushes; told only when directions are told apart. */
  readonly sync?: { readonly lat_ns: Spread };
}

async function all(client: Client, name: string, how: readonly string[]): Promise<void> {
  await run('fio', [`--name=${name}`, ...client, ...how, '--output=/dev/null']);
}

/**
 * Writes every byte of a disk of `size` bytes with data that is not zero, and flushes. By 64 KiB: larger requests leave larger folios behind servers
 * that hand them on whole, in which later small writes are dearer.
 */
export function fill(client: Client, size: number): Promise<void> {
  return all(client, 'fill', [
    '--rw=write',
    '--bs=64k',
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

function latency({ percentile }: Spread): Latency | undefined {
  if (!percentile) return undefined;
  const us = (key: string): number => (percentile[key] ?? 0) / 1000;
  return { p50: us('50.000000'), p99: us('99.000000'), p999: us('99.900000') };
}

/** Runs a cell once on a disk of `size` bytes. @throws when fio saw an error */
export async function measure(
  cell: Pick<Cell, 'id' | 'title' | 'unit' | 'fio' | 'bounded' | 'latency'>,
  client: Client,
  size: number,
  runtime: number,
  scratch: string,
): Promise<Measured> {
  const output = path.join(scratch, `fio-${cell.id}.json`);
  const duration = cell.bounded ? [] : ['--time_based', `--runtime=${runtime}`];
  const common = [...client, `--size=${size}`, '--randrepeat=1', '--norandommap'];
  // What a cell does in several directions or by several jobs is told as one; flushes are told only beside directions.
  const flushes = cell.latency === 'flushes';
  const format = [`--unified_rw_reporting=${flushes ? 0 : 1}`, '--group_reporting', '--percentile_list=50:99:99.9'];
  const options = [...common, ...cell.fio, ...duration, ...format, '--output-format=json', `--output=${output}`];
  await run('fio', [`--name=${cell.id}`, ...options], scratch);
  const text = readFileSync(output, 'utf8');
  rmSync(output);
  // The nbd engine prints a line about the connection before the JSON.
  const { jobs } = JSON.parse(text.slice(text.indexOf('{'))) as { jobs: Job[] };
  const [{ error, mixed, write, sync }] = jobs;
  if (error !== 0) throw new Error(`fio: error ${error} in ${cell.title} on ${client.join(' ')}`);
  const done = flushes ? write : mixed;
  if (!done) throw new Error(`fio told nothing of ${cell.title}`);
  return {
    rate: cell.unit === 'IOPS' ? done.iops : done.bw_bytes / (1 << 20),
    requests: done.total_ios,
    latency: latency((flushes ? sync?.lat_ns : done.clat_ns) ?? {}),
  };
}
