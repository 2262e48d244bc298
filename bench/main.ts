/**
 * npm run bench: this project beside every peer that is installed, on this machine, with the same client. Contenders take turns in
 * each cell of each round, so that what changes on the machine meanwhile hits all of them; a figure is the median of its rounds.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import type { Cell } from './cells.js';
import type { Contender, Disk } from './contender.js';
import { fileSuite } from './contenders.js';
import { fill, measure, warm } from './fio.js';
import { picture } from './picture.js';
import { cpuTime, run } from './process.js';
import { radosSuite } from './rados.js';
import { radosCells } from './rados-cells.js';
import { type CellResult, markdown, type Results, shown } from './results.js';
import type { Suite } from './suite.js';

const USAGE = `npm run bench -- [files|rados] [options]
  files          NBD servers on files (this is what is measured when nothing is said)
  rados          NBD on a Ceph cluster of its own, beside RBD and rados bench
  --rounds N     rounds, each contender once per cell and round (3)
  --runtime S    seconds of one measurement (3)
  --cells A,B    only these cells: ${fileSuite.cells.map((cell) => cell.id).join(',')}
                 rados: ${radosCells.map((cell) => cell.id).join(',')}
  --peers A,B    only these peers: nbdkit,qemu-raw,qemu-qcow2; rados: qemu-rbd,fio-rbd,rados-bench (archipelago always takes part)
  --bluestore    rados: the OSD keeps objects in a file below DIR instead of in memory
  --dir DIR      where the disks are made (the system's directory for temporary files)
  --out DIR      where results.json, results.md and results.svg go (bench-results; rados: bench-results/rados)
  --help`;

interface Options {
  readonly suite: Suite;
  readonly rounds: number;
  readonly runtime: number;
  readonly cells: readonly Cell[];
  readonly peers: readonly string[] | null;
  readonly dir: string;
  readonly out: string;
}

function readOptions(): Options {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      rounds: { type: 'string', default: '3' },
      runtime: { type: 'string', default: '3' },
      cells: { type: 'string' },
      peers: { type: 'string' },
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
  if ((name !== 'files' && name !== 'rados') || more.length > 0) throw new Error(`files or rados?\n${USAGE}`);
  const suite = name === 'files' ? fileSuite : radosSuite(values.bluestore ? 'bluestore' : 'memstore');
  const positive = (name: 'rounds' | 'runtime'): number => {
    const value = Number(values[name]);
    if (!Number.isInteger(value) || value < 1) throw new Error(`--${name} must be a whole number of at least 1`);
    return value;
  };
  const all = suite.cells.map((cell) => cell.id);
  const wanted = values.cells?.split(',') ?? all;
  const unknown = wanted.filter((id) => !all.includes(id));
  if (unknown.length > 0) throw new Error(`no cell ${unknown.join(', ')}; there are ${all.join(', ')}`);
  return {
    suite,
    rounds: positive('rounds'),
    runtime: positive('runtime'),
    cells: suite.cells.filter((cell) => wanted.includes(cell.id)),
    peers: values.peers?.split(',') ?? null,
    dir: values.dir,
    out: values.out ?? (name === 'files' ? 'bench-results' : 'bench-results/rados'),
  };
}

function machine(dir: string): Results['machine'] {
  const fileSystem = execFileSync('stat', ['-f', '-c', '%T', dir], { encoding: 'utf8' }).trim();
  return {
    cpu: os.cpus()[0]?.model.trim() ?? 'unknown',
    cores: os.cpus().length,
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
    kernel: os.release(),
    os: /^PRETTY_NAME="(.*)"$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? os.type(),
    fileSystem,
    client: execFileSync('fio', ['--version'], { encoding: 'utf8' }).trim(),
  };
}

interface Figures {
  readonly value: number;
  /** CPU time of the servers for each request, µs. */
  readonly cpu?: number;
}

/** One measurement on a disk that is made (and removed) for it, unless it is the shared filled one. */
async function once(
  contender: Contender,
  cell: Cell,
  filled: Map<Contender, Disk>,
  { suite, dir, runtime }: Options,
  scratch: string,
): Promise<Figures | null> {
  if (cell.task) return contender.time ? { value: await contender.time(cell.task) } : null;
  if (contender.measure) {
    const value = await contender.measure(cell, runtime);
    return value === null ? null : { value };
  }
  const shared = cell.kind === 'filled' ? filled.get(contender) : undefined;
  const disk = shared ?? (await contender.disk(cell.kind, (client) => fill(client, suite.diskSize)));
  if (!disk) return null;
  // What others wrote before must not be written back during this measurement.
  await run('sync', ['-f', dir]);
  try {
    const servers = contender.servers?.() ?? [];
    const before = cpuTime(servers);
    const { rate, requests } = await measure(cell, disk.client, suite.diskSize, runtime, scratch);
    if (servers.length === 0) return { value: rate };
    return { value: rate, cpu: ((cpuTime(servers) - before) * 1000) / requests };
  } finally {
    if (!shared) await disk.dispose();
  }
}

async function main(): Promise<void> {
  const options = readOptions();
  const { suite } = options;
  const scratch = mkdtempSync(path.join(options.dir, 'archipelago-bench-'));
  const filled = new Map<Contender, Disk>();
  const started: Contender[] = [];
  const interrupted = new Promise<never>((_, reject) => {
    process.once('SIGINT', () => reject(new Error('interrupted')));
    process.once('SIGTERM', () => reject(new Error('interrupted')));
  });

  const everything = async (): Promise<Results> => {
    const { present, missing } = await suite.contenders(scratch);
    const chosen = present.filter((c, i) => i === 0 || options.peers === null || options.peers.includes(c.id));
    for (const line of missing) console.error(`not measured: ${line}`);
    const results: CellResult[] = options.cells.map((cell) => ({
      id: cell.id,
      title: cell.title,
      unit: cell.unit,
      series: chosen.map((contender) => ({ contender: contender.id, values: [], cpu: [] })),
    }));
    for (const contender of chosen) {
      started.push(contender);
      await contender.start();
      if (!options.cells.some((cell) => cell.kind === 'filled')) continue;
      console.error(`filling ${suite.diskSize >> 20} MiB: ${contender.title}`);
      const disk = await contender.disk('filled', (client) => fill(client, suite.diskSize));
      if (!disk) continue;
      filled.set(contender, disk);
      await warm(disk.client, suite.diskSize);
    }
    for (let round = 0; round < options.rounds; round++) {
      for (const [index, cell] of options.cells.entries()) {
        // Another one begins each round: nobody always has the machine as the same neighbour left it.
        const order = chosen.map((_, i) => (i + round) % chosen.length);
        for (const turn of order) {
          const figures = await once(chosen[turn], cell, filled, options, scratch);
          if (figures === null) continue;
          const { values, cpu } = results[index].series[turn];
          values.push(figures.value);
          if (figures.cpu !== undefined) cpu.push(figures.cpu);
          const cost = figures.cpu === undefined ? '' : `, ${shown(figures.cpu)} µs of CPU each`;
          const said = `${chosen[turn].title}: ${shown(figures.value)} ${cell.unit}${cost}`;
          console.error(`round ${round + 1}  ${cell.title}  ${said}`);
        }
      }
    }
    return {
      title: suite.title,
      date: new Date().toISOString(),
      machine: { ...machine(options.dir), ...(await suite.store()) },
      options: { rounds: options.rounds, runtime: options.runtime, diskMiB: suite.diskSize >> 20 },
      contenders: await Promise.all(
        chosen.map(async (c) => ({ id: c.id, title: c.title, version: await c.version() })),
      ),
      references: suite.references,
      missing,
      cells: results,
    };
  };

  try {
    const report = await Promise.race([everything(), interrupted]);
    mkdirSync(options.out, { recursive: true });
    writeFileSync(path.join(options.out, 'results.json'), `${JSON.stringify(report, null, 2)}\n`);
    writeFileSync(path.join(options.out, 'results.md'), `${markdown(report)}\n`);
    writeFileSync(path.join(options.out, 'results.svg'), picture(report));
    console.log(markdown(report));
    console.error(`\nwritten to ${options.out}: results.json, results.md, results.svg`);
  } finally {
    for (const disk of filled.values()) await disk.dispose().catch((error: Error) => console.error(error.message));
    for (const contender of started) await contender.stop().catch((error: Error) => console.error(error.message));
    await suite.stop().catch((error: Error) => console.error(error.message));
    rmSync(scratch, { recursive: true, force: true });
  }
}

main().catch((error: Error) => {
  console.error(error.message);
  process.exitCode = 1;
});
