/**
 * npm run bench: this project beside every peer that is installed, on this machine, with the same client. Contenders take turns in
 * each cell of each round, so that what changes on the machine meanwhile hits all of them; a figure is the median of its rounds.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { type Cell, cells, DISK_SIZE } from './cells.js';
import { type Contender, contenders, type Disk } from './contenders.js';
import { fill, measure, warm } from './fio.js';
import { picture } from './picture.js';
import { run } from './process.js';
import { type CellResult, markdown, type Results, shown } from './results.js';

const USAGE = `npm run bench -- [options]
  --rounds N     rounds, each contender once per cell and round (3)
  --runtime S    seconds of one measurement (3)
  --cells A,B    only these cells: ${cells.map((cell) => cell.id).join(',')}
  --peers A,B    only these peers: nbdkit,qemu-raw,qemu-qcow2 (archipelago always takes part)
  --dir DIR      where the disks are made (the system's directory for temporary files)
  --out DIR      where results.json, results.md and results.svg go (bench-results)
  --help`;

interface Options {
  readonly rounds: number;
  readonly runtime: number;
  readonly cells: readonly Cell[];
  readonly peers: readonly string[] | null;
  readonly dir: string;
  readonly out: string;
}

function readOptions(): Options {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '3' },
      runtime: { type: 'string', default: '3' },
      cells: { type: 'string' },
      peers: { type: 'string' },
      dir: { type: 'string', default: os.tmpdir() },
      out: { type: 'string', default: 'bench-results' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(USAGE);
    process.exit(0);
  }
  const positive = (name: 'rounds' | 'runtime'): number => {
    const value = Number(values[name]);
    if (!Number.isInteger(value) || value < 1) throw new Error(`--${name} must be a whole number of at least 1`);
    return value;
  };
  const wanted = values.cells?.split(',') ?? cells.map((cell) => cell.id);
  const unknown = wanted.filter((id) => !cells.some((cell) => cell.id === id));
  if (unknown.length > 0)
    throw new Error(`no cell ${unknown.join(', ')}; there are ${cells.map((c) => c.id).join(', ')}`);
  return {
    rounds: positive('rounds'),
    runtime: positive('runtime'),
    cells: cells.filter((cell) => wanted.includes(cell.id)),
    peers: values.peers?.split(',') ?? null,
    dir: values.dir,
    out: values.out,
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

/** One measurement on a disk that is made (and removed) for it, unless it is the shared filled one. */
async function once(
  contender: Contender,
  cell: Cell,
  filled: Map<Contender, Disk>,
  options: Options,
  scratch: string,
): Promise<number | null> {
  const shared = cell.kind === 'filled' ? filled.get(contender) : undefined;
  const disk = shared ?? (await contender.disk(cell.kind, fill));
  if (!disk) return null;
  // What others wrote before must not be written back during this measurement.
  await run('sync', ['-f', options.dir]);
  try {
    return await measure(cell, disk.uri, options.runtime, scratch);
  } finally {
    if (!shared) await disk.dispose();
  }
}

async function main(): Promise<void> {
  const options = readOptions();
  const scratch = mkdtempSync(path.join(options.dir, 'archipelago-bench-'));
  const { present, missing } = contenders(scratch);
  const chosen = present.filter((c, i) => i === 0 || options.peers === null || options.peers.includes(c.id));
  for (const line of missing) console.error(`not measured: ${line}`);

  const results: CellResult[] = options.cells.map((cell) => ({
    id: cell.id,
    title: cell.title,
    unit: cell.unit,
    series: chosen.map((contender) => ({ contender: contender.id, values: [] })),
  }));
  const filled = new Map<Contender, Disk>();
  const started: Contender[] = [];
  const interrupted = new Promise<never>((_, reject) => {
    process.once('SIGINT', () => reject(new Error('interrupted')));
    process.once('SIGTERM', () => reject(new Error('interrupted')));
  });

  const everything = async (): Promise<void> => {
    for (const contender of chosen) {
      started.push(contender);
      await contender.start();
      if (!options.cells.some((cell) => cell.kind === 'filled')) continue;
      console.error(`filling ${DISK_SIZE >> 20} MiB: ${contender.title}`);
      const disk = await contender.disk('filled', fill);
      if (!disk) continue;
      filled.set(contender, disk);
      await warm(disk.uri);
    }
    for (let round = 0; round < options.rounds; round++) {
      for (const [index, cell] of options.cells.entries()) {
        // Another one begins each round: nobody always has the machine as the same neighbour left it.
        const order = chosen.map((_, i) => (i + round) % chosen.length);
        for (const turn of order) {
          const value = await once(chosen[turn], cell, filled, options, scratch);
          if (value === null) continue;
          results[index].series[turn].values.push(value);
          console.error(`round ${round + 1}  ${cell.title}  ${chosen[turn].title}: ${shown(value)} ${cell.unit}`);
        }
      }
    }
  };

  try {
    await Promise.race([everything(), interrupted]);
    const report: Results = {
      date: new Date().toISOString(),
      machine: machine(options.dir),
      options: { rounds: options.rounds, runtime: options.runtime, diskMiB: DISK_SIZE >> 20 },
      contenders: await Promise.all(
        chosen.map(async (c) => ({ id: c.id, title: c.title, version: await c.version() })),
      ),
      missing,
      cells: results,
    };
    mkdirSync(options.out, { recursive: true });
    writeFileSync(path.join(options.out, 'results.json'), `${JSON.stringify(report, null, 2)}\n`);
    writeFileSync(path.join(options.out, 'results.md'), `${markdown(report)}\n`);
    writeFileSync(path.join(options.out, 'results.svg'), picture(report));
    console.log(markdown(report));
    console.error(`\nwritten to ${options.out}: results.json, results.md, results.svg`);
  } finally {
    for (const disk of filled.values()) await disk.dispose().catch((error: Error) => console.error(error.message));
    for (const contender of started) await contender.stop().catch((error: Error) => console.error(error.message));
    rmSync(scratch, { recursive: true, force: true });
  }
}

main().catch((error: Error) => {
  console.error(error.message);
  process.exitCode = 1;
});
