/** What `npm run bench` is asked for. */
import { readdirSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { DISK_SIZE } from './cells.js';
import { curveSuites } from './curve-suites.js';
import type { CurveSuite } from './curves.js';
import { fileCells } from './file-cells.js';
import { fileSuite } from './files.js';
import { radosSuite } from './rados.js';
import { radosCells } from './rados-cells.js';
import type { Build, Suite } from './suite.js';

const ids = (of: readonly { readonly id: string }[]): string => of.map(({ id }) => id).join(',');

const USAGE = `npm run bench -- [SUITE] [options]
  files          NBD servers on files (this is what is measured when nothing is said)
  rados          NBD on a Ceph cluster of its own, beside RBD and rados bench
${curveSuites.map(({ name, title }) => `  ${name.padEnd(15)}${title}\n`).join('')}  --rounds N     rounds, each contender once per cell and round (3)
  --runtime S    seconds of one measurement (1)
  --size MIB     files: size of every disk (1024)
  --growth       files: curves over the depth and over the size of requests as well
  --cells A,B    only these cells: ${ids(fileCells(DISK_SIZE))}
                 rados: ${ids(radosCells)}
${curveSuites.map((suite) => `                 ${suite.name}: ${suite.ids.join(',')}\n`).join('')}  --peers A,B    only these peers: nbdkit,qemu-raw,qemu-threads,qemu-qcow2 (all but qemu-threads when nothing is said); none: nobody;
                 rados: qemu-rbd,fio-rbd,rados-bench (archipelago always takes part)
  --also N=DIR   files, rados: another build of this project takes turns too, as contender N; DIR is its dist/ (more than once)
  --node PATH    the Node that runs this project's node (the one that runs this)
  --skip-verify  do not write, trim and read back on each contender before anything is measured
  --bluestore    rados: the OSD keeps objects in a file below DIR instead of in memory
  --dir DIR      where the disks are made (the system's directory for temporary files)
  --out DIR      where results.json, results.md and results.svg go (bench-results; others: bench-results/SUITE)
  --help`;

export interface Options {
  readonly suite: Suite | CurveSuite;
  readonly rounds: number;
  /** Seconds of one measurement. */
  readonly runtime: number;
  readonly growth: boolean;
  /** Ids of the cells that were asked for; null: all. */
  readonly cells: readonly string[] | null;
  /** Ids of the peers that may take part; null: those that do when nothing is said. */
  readonly peers: readonly string[] | null;
  readonly verify: boolean;
  readonly dir: string;
  readonly out: string;
}

function readBuild(said: string): Build {
  const [name, ...rest] = said.split('=');
  const bin = path.resolve(rest.join('='), 'cli');
  if (!/^[\w.-]+$/.test(name) || rest.length === 0) throw new Error(`--also ${said}: NAME=DIR is meant`);
  if (!readdirSync(bin).includes('vlmc.js')) throw new Error(`--also ${said}: no cli/vlmc.js there; build it first`);
  return { name, bin };
}

/** Reads the command line. @throws when it cannot be meant; prints and ends the process for --help */
export function readOptions(): Options {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      rounds: { type: 'string', default: '3' },
      runtime: { type: 'string', default: '1' },
      size: { type: 'string', default: String(DISK_SIZE >> 20) },
      growth: { type: 'boolean', default: false },
      cells: { type: 'string' },
      peers: { type: 'string' },
      also: { type: 'string', multiple: true, default: [] },
      node: { type: 'string', default: process.execPath },
      'skip-verify': { type: 'boolean', default: false },
      bluestore: { type: 'boolean', default: false },
      dir: { type: 'string', default: os.tmpdir() },
      out: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(USAGE);
    process.exit(0);
  }
  const [name = 'files', ...more] = positionals;
  const positive = (option: 'rounds' | 'runtime' | 'size'): number => {
    const value = Number(values[option]);
    if (!Number.isInteger(value) || value < 1) throw new Error(`--${option} must be a whole number of at least 1`);
    return value;
  };
  const own = { node: values.node, builds: values.also.map(readBuild) };
  const suites: readonly (Suite | CurveSuite)[] = [
    fileSuite(own, positive('size') << 20, values.growth),
    radosSuite(own, values.bluestore ? 'bluestore' : 'memstore'),
    ...curveSuites,
  ];
  const suite = suites.find((one) => one.name === name);
  if (!suite || more.length > 0) throw new Error(`which of ${suites.map((one) => one.name).join(', ')}?\n${USAGE}`);
  const all = 'cells' in suite ? suite.cells.map((cell) => cell.id) : suite.ids;
  const cells = values.cells?.split(',') ?? null;
  const unknown = (cells ?? []).filter((id) => !all.includes(id));
  if (unknown.length > 0) throw new Error(`no cell ${unknown.join(', ')}; there are ${all.join(', ')}`);
  return {
    suite,
    rounds: positive('rounds'),
    runtime: positive('runtime'),
    growth: values.growth,
    cells,
    peers: values.peers?.split(',') ?? null,
    verify: !values['skip-verify'],
    dir: values.dir,
    out: values.out ?? (name === 'files' ? 'bench-results' : `bench-results/${name}`),
  };
}
