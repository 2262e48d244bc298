/** The suite of curves about size and number: how cost grows with the size of a volume, with volumes in use, with snapshots, with names. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Curve, CurveSetting, CurveSuite, Line, Point } from './curves.js';
import { run } from './process.js';
import { ScaleNode } from './scale-node.js';
import { allocate, FILLED_BLOCKS, putHeaders, putVolumes } from './scale-store.js';

const GiB = 2 ** 30;
const BLOCK = 4 << 20;
const SIZES = [GiB, 16 * GiB, 128 * GiB, 1024 * GiB, 16 * 1024 * GiB];
const VOLUMES = [1, 10, 100, 1000];
const SNAPSHOTS = [1, 10, 100, 1000];
const NAMES = [100, 1000, 10_000, 100_000];
/** Requests in flight over all volumes, or one for each volume where those are more. */
const DEPTH = 32;
/** Blocks of a volume that are written before they are read. */
const TOUCHED = 256;
/** Of fewer volumes the memory cannot be told from what the processes take or give back anyway. */
const TELLING = 100;
/** Seconds for which an idle node is watched. */
const IDLE = 5;

const HALF =
  'Every second block has an object of its own, by its map entry; the objects are not there, as nothing that is measured reads one. ' +
  'Times are of the whole command; "only starts" is vlmc --version.';

/** A line that grows by `add`. */
function line(name: string): { line: Line; add(x: number, value: number): void } {
  const points: Point[] = [];
  return {
    line: { name, points },
    add(x, value) {
      const point = points.find((p) => p.x === x);
      if (point) point.values.push(value);
      else points.push({ x, values: [value] });
    },
  };
}

const MILLISECONDS = { title: 'time', unit: 'ms', better: 'less' } as const;

/** Making, copying and looking at volumes of growing size. */
async function sizes(node: ScaleNode, { rounds, say }: CurveSetting): Promise<Curve[]> {
  const names = ['create', 'snapshot', 'clone', 'info', 'only starts'] as const;
  const lines = new Map(names.map((name) => [name, line(name)]));
  const took = (what: (typeof names)[number], size: number, ms: number): void => {
    lines.get(what)?.add(size, ms);
    say(`${size / GiB} GiB  ${what}: ${Math.round(ms)} ms`);
  };
  for (let round = 0; round < rounds; round++) {
    for (const size of SIZES) {
      const volume = `large-${size / GiB}-${round}`;
      took('only starts', size, await node.timed('vlmc', '--version'));
      took('create', size, await node.timed('vlmc', 'create', volume, '--size', `${size / GiB}G`));
      allocate(node.maps, volume, size / BLOCK, 2);
      await run('sync', ['-f', node.maps]);
      took('snapshot', size, await node.timed('vlmc', 'snapshot', volume, `${volume}-s`));
      took('clone', size, await node.timed('vlmc', 'create', `${volume}-c`, '--snap', `${volume}-s`));
      took('info', size, await node.timed('vlmc', 'info', '--no-allocated', `${volume}-c`));
    }
  }
  return [
    {
      title: 'Commands on one volume by its size',
      x: { title: 'size of the volume', unit: 'bytes' },
      y: MILLISECONDS,
      series: [...lines.values()].map((each) => each.line),
      note: HALF,
    },
  ];
}

/** fio's jobs: one connection to each of the volumes, reads of blocks that lie all over them. */
function jobs(node: ScaleNode, volumes: readonly string[], size: number, seconds: number): string {
  const depth = Math.max(1, Math.floor(DEPTH / volumes.length));
  const common = ['ioengine=nbd', 'thread', 'group_reporting', `rw=read:${BLOCK - 4096}`, 'bs=4k', `size=${size}`];
  const all = ['[global]', ...common, `iodepth=${depth}`, 'time_based', `runtime=${seconds}`];
  for (const name of volumes) all.push(`[${name}]`, `uri=nbd+unix:///${name}?socket=${node.socket}`);
  return `${all.join('\n')}\n`;
}

/** Clients that fio connects in a second, at least: those of one measurement are to be there all together for the longer part of it. */
const CONNECTS = 100;

async function iops(node: ScaleNode, volumes: readonly string[], size: number, setting: CurveSetting): Promise<number> {
  const file = path.join(setting.dir, 'scale.fio');
  writeFileSync(file, jobs(node, volumes, size, setting.runtime + Math.floor(volumes.length / CONNECTS)));
  const said = await run('fio', ['--output-format=json', file]);
  const result = JSON.parse(said.slice(said.indexOf('{'), said.lastIndexOf('}') + 1)) as {
    jobs: { error: number; read: { iops: number } }[];
  };
  for (const { error } of result.jobs) if (error !== 0) throw new Error(`fio: error ${error}`);
  return result.jobs.reduce((sum, job) => sum + job.read.iops, 0);
}

/** One 4 KiB write into each of the first blocks of a volume: those that are read. */
async function touch(node: ScaleNode, volume: string, blocks: number): Promise<void> {
  const how = [`--rw=write:${BLOCK - 4096}`, '--bs=4k', '--iodepth=16', `--number_ios=${blocks}`];
  const uri = `--uri=nbd+unix:///${volume}?socket=${node.socket}`;
  await run('fio', [
    '--name=touch',
    '--ioengine=nbd',
    uri,
    ...how,
    `--size=${GiB}`,
    '--end_fsync=1',
    '--output=/dev/null',
  ]);
}

/** Reads of 4 KiB on volumes of growing size. */
async function speeds(node: ScaleNode, setting: CurveSetting): Promise<Curve[]> {
  const reads = line('4k reads, 32 in flight');
  for (const size of SIZES) {
    const volume = `sized-${size / GiB}`;
    await node.timed('vlmc', 'create', volume, '--size', `${size / GiB}G`);
    await touch(node, volume, TOUCHED);
  }
  for (let round = 0; round < setting.rounds; round++) {
    for (const size of SIZES) {
      const value = await iops(node, [`sized-${size / GiB}`], GiB, setting);
      reads.add(size, value);
      setting.say(`${size / GiB} GiB  ${Math.round(value)} reads/s`);
    }
  }
  return [
    {
      title: 'Reads by the size of the volume',
      x: { title: 'size of the volume', unit: 'bytes' },
      y: { title: '4k reads', unit: 'IOPS', better: 'more' },
      series: [reads.line],
      note: 'One connection; the same 256 blocks of each volume, in turn.',
    },
  ];
}

const pause = (seconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** I/O on more and more volumes, and what they cost when nothing happens: each is open, its lock held and its map leased. */
async function volumes(node: ScaleNode, setting: CurveSetting): Promise<Curve[]> {
  const reads = line('4k reads on all volumes');
  const opened = line('open, and nobody connected');
  const used = line('after reads, a client for each');
  const wakeUps = line('wake-ups a second, idle');
  const cpu = line('CPU time a second, idle');
  const names: string[] = [];
  const first = node.usage().memory;
  for (const count of VOLUMES) {
    const more = Array.from({ length: count - names.length }, (_, i) => `volume-${names.length + i}`);
    putVolumes(node, more);
    const unopened = node.usage().memory;
    await node.open(more);
    names.push(...more);
    if (count >= TELLING) opened.add(count, (node.usage().memory - unopened) / more.length / 1024);
    for (let round = 0; round < setting.rounds; round++) {
      const before = node.usage();
      await pause(IDLE);
      const after = node.usage();
      wakeUps.add(count, (after.wakeUps - before.wakeUps) / IDLE);
      cpu.add(count, (after.cpu - before.cpu) / IDLE);
      reads.add(count, await iops(node, names, FILLED_BLOCKS * BLOCK, setting));
      if (count >= TELLING) used.add(count, (node.usage().memory - first) / count / 1024);
      const idle = `${Math.round((after.wakeUps - before.wakeUps) / IDLE)} wake-ups and ${(after.cpu - before.cpu) / IDLE} ms of CPU a second`;
      setting.say(
        `${count} volumes  ${Math.round(reads.line.points.at(-1)?.values.at(-1) ?? 0)} reads/s; idle: ${idle}`,
      );
    }
  }
  const x = { title: 'volumes in use', unit: 'count' } as const;
  return [
    {
      title: 'Reads by the number of volumes',
      x,
      y: { title: '4k reads', unit: 'IOPS', better: 'more' },
      series: [reads.line],
      note: 'A connection to each; 32 requests in flight over all, or one on each where there are more volumes.',
    },
    {
      title: 'Memory by the number of volumes',
      x,
      y: { title: 'memory for each volume', unit: 'KiB', better: 'less' },
      target: 100,
      series: [opened.line, used.line],
      note:
        'What the processes have grown by, divided by the volumes: by opening those that are more than before, and since no volume was in use, ' +
        'after reads of all.',
    },
    {
      title: 'An idle node by the number of volumes',
      x,
      y: { title: 'each second', unit: 'wake-ups; ms', better: 'less' },
      series: [wakeUps.line, cpu.line],
      note: 'Nobody is connected; all volumes are open, so their locks are looked at.',
    },
  ];
}

/** More and more snapshots of one volume. */
async function snapshots(node: ScaleNode, { say, rounds }: CurveSetting): Promise<Curve[]> {
  const take = line('the next snapshot');
  const list = line('list --snapshots-of');
  const info = line('info of the volume');
  await node.timed('vlmc', 'create', 'parent-volume', '--size', '1G');
  let there = 0;
  for (const taken of SNAPSHOTS) {
    const more = Array.from({ length: taken - there }, (_, i) => `snapshot-${there + i}`);
    there = taken;
    const last = more.pop() ?? '';
    await node.takeSnapshots('parent-volume', more);
    const took = await node.timed('vlmc', 'snapshot', 'parent-volume', last);
    take.add(taken, took);
    for (let round = 0; round < rounds; round++) {
      list.add(taken, await node.timed('vlmc', 'list', '--snapshots-of', 'parent-volume'));
      info.add(taken, await node.timed('vlmc', 'info', 'parent-volume'));
    }
    say(
      `${taken} snapshots  the last took ${Math.round(took)} ms, listing ${Math.round(list.line.points.at(-1)?.values.at(-1) ?? 0)} ms`,
    );
  }
  return [
    {
      title: 'Commands on a volume by its snapshots',
      x: { title: 'snapshots of the volume', unit: 'count' },
      y: MILLISECONDS,
      series: [take.line, list.line, info.line],
    },
  ];
}

/** More and more volumes in the store. */
async function names(node: ScaleNode, { say, rounds }: CurveSetting): Promise<Curve[]> {
  const list = line('list');
  const info = line('info of one');
  let there = 0;
  for (const count of NAMES) {
    putHeaders(node.maps, 'listed', there, count);
    there = count;
    for (let round = 0; round < rounds; round++) {
      list.add(count, await node.timed('vlmc', 'list'));
      info.add(count, await node.timed('vlmc', 'info', 'listed-7'));
    }
    say(`${count} names  list: ${Math.round(list.line.points.at(-1)?.values.at(-1) ?? 0)} ms`);
  }
  return [
    {
      title: 'Listing by the volumes of the store',
      x: { title: 'volumes of the store', unit: 'count' },
      y: MILLISECONDS,
      series: [list.line, info.line],
      note: 'Headers alone were put into the store.',
    },
  ];
}

const PARTS: Readonly<Record<string, (node: ScaleNode, setting: CurveSetting) => Promise<Curve[]>>> = {
  sizes,
  speeds,
  volumes,
  snapshots,
  names,
};

/** `npm run bench -- scale`: each part on a node of its own, whose files go with it. */
export const scaleSuite: CurveSuite = {
  name: 'scale',
  title: 'How cost grows with the size of volumes and their number',
  ids: Object.keys(PARTS),
  async run(setting) {
    const curves: Curve[] = [];
    for (const [id, measure] of Object.entries(PARTS)) {
      if (setting.only && !setting.only.includes(id)) continue;
      const dir = mkdtempSync(path.join(setting.dir, 'scale-'));
      try {
        const node = await ScaleNode.start(dir);
        try {
          curves.push(...(await measure(node, setting)));
        } finally {
          await node.stop();
        }
      } finally {
        rmSync(dir, { recursive: true, force: true });
      }
    }
    return { curves, missing: [] };
  },
};
