/** What must hold when all is quiet: every byte, the maps and objects, the segment, the locks, the processes. */
import path from 'node:path';
import { connectNbd } from '../../src/nbd/index.js';
import { Op } from '../../src/requests/ops.js';
import { report, Segment } from '../../src/xseg/index.js';
import { R, RequestState } from '../../src/xseg/layout.js';
import { bin, type TestNode } from '../e2e/harness/node.js';
import { attempt, describeOutcome, type Outcome } from '../e2e/harness/run.js';
import { type Runs, readContent, SECTOR } from './content.js';
import type { Fleet } from './fleet.js';
import { Disk, matchReading, oneMoment, WrongData } from './model.js';

const CHUNK = 1 << 20;
/** How long requests that nobody waits for any more may take to end, in ms. */
const QUIET_LIMIT_MS = 60_000;

const underWay: readonly number[] = [RequestState.SUBMITTED, RequestState.ACCEPTED, RequestState.ORPHANED];

/** Requests that somebody works on. The mapper's question for news is under way as long as there are locks, and answered when there is some. */
function inFlight({ memory, tables, geometry }: Segment): number {
  const isWork = (index: number): boolean => {
    const word = tables.requestWord(index);
    return underWay.includes(memory.u32[word + R.STATE]) && memory.u32[word + R.OP] !== Op.NEWS;
  };
  let count = 0;
  for (let index = 0; index < geometry.requests; index++) if (isWork(index)) count++;
  return count;
}

/** Waits until no peer has a request under way. @throws Error with the segment's report */
export async function untilQuiet(node: TestNode): Promise<void> {
  const limit = Date.now() + QUIET_LIMIT_MS;
  const segment = Segment.join(`posix:${node.segment}:`);
  try {
    for (let idle = 0; idle < 3; ) {
      idle = inFlight(segment) === 0 ? idle + 1 : 0;
      if (Date.now() > limit) throw new Error(`requests do not end:\n${JSON.stringify(report(segment), null, 1)}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  } finally {
    segment.unmap();
  }
}

/** What is in the segment now, for the report of a hang. */
export function segmentOf(node: TestNode): string {
  try {
    const segment = Segment.join(`posix:${node.segment}:`);
    const all = report(segment);
    segment.unmap();
    return JSON.stringify(all, null, 1);
  } catch (error) {
    return String(error);
  }
}

const tool = (node: TestNode, name: string, ...args: string[]): Promise<Outcome> =>
  attempt(process.execPath, [
    path.join(bin, name),
    ...(name === 'xseg.js' ? [`posix:${node.segment}:`] : ['-c', node.conf]),
    ...args,
  ]);

/** Sizes of all volumes and snapshots in bytes. */
export async function sizes(node: TestNode): Promise<Map<string, number>> {
  const outcome = await tool(node, 'vlmc.js', '--json', 'list');
  if (outcome.code !== 0) throw new WrongData(describeOutcome(outcome));
  const { volumes } = JSON.parse(outcome.stdout) as { volumes: { name: string; size: number }[] };
  return new Map(volumes.map(({ name, size }) => [name, size]));
}

/** Reads all of an export. @throws WrongData when a sector is damaged */
async function contentOf(node: TestNode, name: string, fleet: Fleet): Promise<Runs> {
  const client = await connectNbd({ path: node.socket }, { exportName: name });
  try {
    const all: Runs = [];
    for (let offset = 0; offset < client.size; offset += CHUNK) {
      const bytes = await client.read(offset, Math.min(CHUNK, client.size - offset));
      const { runs, damage } = readContent(bytes, offset / SECTOR);
      if (damage) throw new WrongData(`${name}: sector ${damage.sector} ${damage.what}`);
      all.push(...runs);
    }
    fleet.counts.bytes += client.size;
    return all;
  } finally {
    await client.disconnect();
  }
}

const length = (runs: Runs): number => runs.reduce((sum, [, sectors]) => sum + sectors, 0);

/** Reads volumes and snapshots and compares each byte. @throws WrongData */
export async function verifyContent(node: TestNode, fleet: Fleet): Promise<void> {
  for (const { disk } of fleet.volumes.values()) {
    const reading = disk.startReading(0, disk.size);
    const runs = await contentOf(node, disk.name, fleet);
    requireSize(disk.name, runs, disk.size);
    disk.read(reading, runs);
  }
  for (const snapshot of fleet.snapshots.values()) {
    const { name, disk, reading } = snapshot;
    const runs = await contentOf(node, name, fleet);
    if (disk) {
      requireSize(name, runs, disk.size);
      disk.read(disk.startReading(0, disk.size), runs);
    } else if (reading) {
      requireSize(name, runs, reading.candidates.length);
      const seen = matchReading(name, reading, runs);
      oneMoment(name, reading, seen);
      snapshot.disk = new Disk(name, seen);
      snapshot.reading = null;
    }
  }
}

function requireSize(name: string, runs: Runs, size: number): void {
  if (length(runs) !== size) throw new WrongData(`${name}: has ${length(runs)} sectors, and must have ${size}`);
}

interface CheckReport {
  readonly findings: readonly { severity: string; kind: string; message: string }[];
}

/** Maps and objects agree, but for orphans. @returns how many orphans there are @throws WrongData */
export async function verifyStore(node: TestNode): Promise<number> {
  const outcome = await tool(node, 'vlmc.js', '--json', 'check', '--all');
  let findings: CheckReport['findings'];
  try {
    ({ findings } = JSON.parse(outcome.stdout) as CheckReport);
  } catch {
    throw new WrongData(describeOutcome(outcome));
  }
  const errors = findings.filter(({ severity }) => severity === 'error');
  if (errors.length > 0)
    throw new WrongData(errors.map(({ kind, message }) => `check: ${kind}: ${message}`).join('\n'));
  return findings.length;
}

/** The segment is in order and no lock is held by the dead. @throws WrongData */
export async function verifySegment(node: TestNode): Promise<void> {
  const outcome = await tool(node, 'xseg.js', 'verify');
  if (outcome.code !== 0) throw new WrongData(describeOutcome(outcome));
}

/** Each role runs. @throws WrongData */
export async function verifyProcesses(node: TestNode): Promise<void> {
  const outcome = await tool(node, 'archipelago.js', 'status');
  if (outcome.code !== 0) throw new WrongData(describeOutcome(outcome));
}
