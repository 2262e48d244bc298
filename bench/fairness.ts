/**
 * The suite of fairness: a client that sends one 4 KiB request at a time, while others stream 512 KiB writes at depth 32. How its latency
 * grows with their number, on volumes of their own or on its own; and with a limit on each of them that is set while they run.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import os from 'node:os';
import { Archipelago } from './archipelago.js';
import { DISK_SIZE } from './cells.js';
import { type Client, type Contender, type Disk, hasProgram } from './contender.js';
import type { Curve, CurveSetting, CurveSuite, Line } from './curves.js';
import { fill, type Latency, measure } from './fio.js';
import { Nbdkit, QemuRaw } from './peers.js';

/** Of each disk so much is filled, read and written: all of them together stay in the page cache. */
const REGION = 128 << 20;
/** Clients that stream beside the one that is measured. */
const STREAMS = [0, 1, 2, 4, 8];
/** What a limited stream gets a second. */
const LIMIT = 64 << 20;
/** Until the streams are at their full speed, in ms. */
const SETTLE_MS = 500;

interface Scene {
  readonly id: string;
  readonly title: string;
  readonly rw: 'randread' | 'randwrite';
  /** The streams go to the volume that the measured client uses. */
  readonly same: boolean;
}

const scenes: readonly Scene[] = [
  { id: 'read', title: '4k reads at depth 1 beside streams to other volumes', rw: 'randread', same: false },
  { id: 'write', title: '4k writes at depth 1 beside streams to other volumes', rw: 'randwrite', same: false },
  { id: 'same', title: '4k reads at depth 1 beside streams to the same volume', rw: 'randread', same: true },
];

/** A way of serving that is measured. */
interface Way {
  readonly name: string;
  readonly contender: Contender;
  readonly limited: boolean;
}

/** The disks of one contender, filled: the first is the measured client's. */
interface Stage {
  readonly contender: Contender;
  readonly disks: Disk[];
}

export const fairnessSuite: CurveSuite = {
  name: 'fairness',
  title: 'Latency of a small client beside clients that stream',
  ids: scenes.map(({ id }) => id),
  run: async (setting) => {
    const { contenders, missing } = present(setting);
    const stages: Stage[] = [];
    try {
      for (const contender of contenders) stages.push(await prepare(contender));
      return { curves: await measureAll(stages, setting), missing };
    } finally {
      for (const { contender, disks } of stages) {
        for (const disk of disks) await disk.dispose();
        await contender.stop();
      }
    }
  },
};

function present({ dir, peers }: CurveSetting): { contenders: Contender[]; missing: string[] } {
  const contenders: Contender[] = [new Archipelago(dir, { diskSize: DISK_SIZE })];
  const missing: string[] = [];
  const add = (program: string, contender: Contender): void => {
    if (!(peers?.includes(contender.id) ?? true)) return;
    if (hasProgram(program)) contenders.push(contender);
    else missing.push(`${contender.title} (${program} is not installed)`);
  };
  add('nbdkit', new Nbdkit(dir, DISK_SIZE));
  add('qemu-nbd', new QemuRaw(dir, DISK_SIZE));
  return { contenders, missing };
}

async function prepare(contender: Contender): Promise<Stage> {
  await contender.start();
  const disks: Disk[] = [];
  for (let i = 0; i <= Math.max(...STREAMS); i++) {
    const disk = await contender.disk('filled', (client) => fill(client, REGION));
    if (disk) disks.push(disk);
  }
  return { contender, disks };
}

async function measureAll(stages: readonly Stage[], setting: CurveSetting): Promise<Curve[]> {
  const curves: Curve[] = [];
  for (const scene of scenes) {
    if (!(setting.only?.includes(scene.id) ?? true)) continue;
    const ways = stages.flatMap((stage) => waysOf(stage, scene).map((way) => ({ ...way, stage })));
    const lines = new Map(ways.map(({ name }) => [name, { p50: line(name), p99: line(name) }]));
    for (let round = 1; round <= setting.rounds; round++) {
      for (const streams of STREAMS) {
        for (const { name, limited, stage } of ways) {
          if (limited && streams === 0) continue;
          const latency = await once(stage, scene, streams, limited, setting);
          const { p50, p99 } = lines.get(name) ?? { p50: line(name), p99: line(name) };
          note(p50, 1 + streams, latency.p50);
          note(p99, 1 + streams, latency.p99);
          setting.say(
            `${scene.id}, ${streams} streams, ${name}: p50 ${latency.p50} µs, p99 ${latency.p99} µs (${round})`,
          );
        }
      }
    }
    for (const which of ['p50', 'p99'] as const) {
      curves.push(
        curve(
          scene,
          which,
          [...lines.values()].map((both) => both[which]),
        ),
      );
    }
  }
  return curves;
}

/** A limit holds for a volume: it cannot tell clients of the same one apart. */
function waysOf({ contender, disks }: Stage, { same }: Scene): Way[] {
  const plain = { name: contender.title, contender, limited: false };
  if (same || disks[0].limit === undefined) return [plain];
  return [plain, { ...plain, name: `${contender.title}, streams limited`, limited: true }];
}

const line = (name: string): Line => ({ name, points: [] });

function note({ points }: Line, x: number, value: number): void {
  const known = points.find((point) => point.x === x);
  if (known) known.values.push(value);
  else points.push({ x, values: [value] });
}

function curve({ id, title }: Scene, which: 'p50' | 'p99', series: Line[]): Curve {
  return {
    title: `${title}: ${which === 'p50' ? 'median' : '99th percentile'}`,
    x: { title: 'clients, the measured one among them', unit: 'count' },
    y: { title: `${which} latency`, unit: 'µs', better: 'less' },
    series,
    note:
      `Streams write 512 KiB at depth 32, over and over ${REGION >> 20} MiB of a volume each; 1 client: it is alone. ` +
      (id === 'same' ? '' : `Limited: vlmc limit --bps ${LIMIT} for each of their volumes. `) +
      `${os.cpus().length} processors for servers and clients.`,
  };
}

async function once(
  { disks }: Stage,
  scene: Scene,
  streams: number,
  limited: boolean,
  { runtime, dir }: CurveSetting,
): Promise<Latency> {
  const targets = Array.from({ length: streams }, (_, i) => disks[scene.same ? 0 : 1 + i]);
  if (limited) await Promise.all(targets.map((disk) => disk.limit?.(LIMIT)));
  const running = targets.map(({ client }) => stream(client));
  try {
    if (streams > 0) await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    const died = running.find(({ exitCode }) => exitCode !== null);
    if (died) throw new Error(`a stream ended with status ${died.exitCode}`);
    const cell = {
      id: `fairness-${scene.id}`,
      title: scene.title,
      unit: 'IOPS' as const,
      fio: [`--rw=${scene.rw}`, '--bs=4k', '--iodepth=1'],
    };
    const { latency } = await measure(cell, disks[0].client, REGION, runtime, dir);
    if (latency === undefined) throw new Error(`fio told no latency of ${scene.title}`);
    return latency;
  } finally {
    await Promise.all(running.map(end));
    if (limited) await Promise.all(targets.map((disk) => disk.limit?.(0)));
  }
}

/** A client that streams until it is ended. */
function stream(client: Client): ChildProcess {
  const how = [
    '--rw=write',
    '--bs=512k',
    '--iodepth=32',
    `--size=${REGION}`,
    '--time_based',
    '--runtime=3600',
    '--thread',
  ];
  return spawn('fio', ['--name=stream', ...client, ...how, '--output=/dev/null'], { stdio: 'ignore' });
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) return;
  const gone = new Promise((resolve) => child.once('close', resolve));
  child.kill('SIGKILL');
  await gone;
}
