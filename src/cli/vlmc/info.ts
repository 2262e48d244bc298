/** The commands that tell about volumes: info and list. */
import type { Command } from 'commander';
import type { ListRequest, VolumeListEntry, VolumeListReply, VolumeStat } from '../../requests/json.js';
import { Op } from '../../requests/ops.js';
import { columns, formatTime } from '../common/columns.js';
import { attempt } from '../common/exit.js';
import { print, printWarning } from '../common/io.js';
import type { Session } from '../common/session.js';
import { formatLimits, limitsOf, type VolumeLimits } from './limits.js';
import { formatAge, formatLock, formatLost, type HolderInfo, holderInfo } from './lock-state.js';
import { checkName } from './names.js';
import { formatSize } from './size.js';
import { type V0Options, v0Request, withV0 } from './v0.js';

/** Volumes asked for at once. */
const PAGE = 512;
/** How long an endpoint that hangs keeps info from telling the rest, in ms. */
const LIMITS_MS = 1000;
/** Locks asked for at the same time. */
const PARALLEL = 32;

const LIST_HELP = `
With --json each volume also has its lock, as lock --show tells it.

Examples:
  vlmc list --long
  vlmc --json list | jq -r '.volumes[].name'
  vlmc --json list | jq -r '.volumes[] | select(.lock.host == "node2") | .name'`;

export function addInfoCommands(program: Command, session: Session): void {
  withV0(program.command('info <name>'))
    .description('everything about a volume: size, block size, epoch, flags, parent, space')
    .option('--no-allocated', 'do not ask for the space of every object: faster for large volumes')
    .action((name: string, options: InfoOptions) => info(session, name, options));

  program
    .command('list')
    .alias('ls')
    .description('names of all volumes and snapshots, one a line')
    .option('-l, --long', 'with size in bytes, block size, map version, kind, time of making and parent')
    .option('--snapshots-of <volume>', 'just the snapshots that were taken of this volume')
    .option('--deleted', 'deleted volumes too (their headers stay, so that names of objects never repeat)')
    .addHelpText('after', LIST_HELP)
    .action((options: ListOptions) => list(session, options));
}

interface InfoOptions extends V0Options {
  readonly allocated: boolean;
}

async function info(session: Session, name: string, options: InfoOptions): Promise<void> {
  checkName(name);
  const { allocated } = options;
  const asked = attempt('vlmc info failed', () =>
    session.progress.during(
      `looking at the objects of ${name}`,
      session.client.json<VolumeStat>('mapper', Op.STAT, name, { allocated }, v0Request(options)),
    ),
  );
  const limits = limitsOf(session, name);
  const stat = await asked;
  const limited = await within(LIMITS_MS, limits);
  const words = limited === null ? '' : formatLimits(limited.limits);
  const text = formatInfo(name, stat);
  if (limited === null || words === '') await session.result(stat, text);
  else await session.result({ ...stat, limits: inForce(limited) }, `${text}\n${row('limits', words)}`);
}

/** What comes in time; else null. */
async function within<T>(ms: number, promise: Promise<T>): Promise<T | null> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(resolve, ms, null);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Of all limits those that are. */
const inForce = ({ limits }: VolumeLimits): object =>
  Object.fromEntries(Object.entries(limits).filter(([, value]) => value > 0));

const row = (key: string, value: string): string => `  ${`${key}:`.padEnd(17)}${value}`;

/** The text of `vlmc info`; the first line is the original's. */
export function formatInfo(name: string, stat: VolumeStat): string {
  const { blocks, allocated } = stat;
  const bytes = (value: number): string => `${value} (${formatSize(value)})`;
  const inBlocks = (count: number): string => `${count} blocks, ${formatSize(count * stat.blockSize)}`;
  const reason = stat.readOnlyReason === undefined ? '' : ` (${stat.readOnlyReason})`;
  const rows: [string, string][] = [
    ['block size', bytes(stat.blockSize)],
    ['blocks', String(blocks.total)],
    ['map version', String(stat.version)],
    ['epoch', String(stat.epoch)],
    ['flags', stat.readOnly ? `READONLY${reason}` : 'writable'],
    ['parent', stat.parent ?? 'not known'],
    ['lock', lockWords(stat)],
    ['zero', inBlocks(blocks.zero)],
    ['own', inBlocks(blocks.own)],
    ['shared', inBlocks(blocks.shared)],
    ['foreign', inBlocks(blocks.foreign)],
  ];
  if (blocks.damaged > 0) {
    rows.push(['damaged', `${inBlocks(blocks.damaged)} cannot be read; vlmc check ${name} tells which`]);
  }
  if (allocated) {
    rows.push(['allocated', `${bytes(allocated.own)} own, ${bytes(allocated.other)} shared`]);
    if (allocated.missing > 0) rows.push(['missing objects', `${allocated.missing}; vlmc check ${name} tells which`]);
  }
  if (stat.lost) rows.push(['lost', formatLost(name, stat.lost)]);
  if (typeof stat.created === 'number') rows.push(['created', formatTime(stat.created)]);
  const lines = rows.map(([key, value]) => row(key, value));
  return [`Volume ${name}: size: ${stat.size}`, ...lines].join('\n');
}

/** Who has the lock, and how the volume is open here. */
function lockWords({ lock, open }: VolumeStat): string {
  const age = lock && lock.since !== null ? ` (${formatAge(Math.max(0, Date.now() - lock.since))})` : '';
  return `${formatLock(lock)}${age}${open ? `; open ${open} here` : ''}`;
}

/** All volumes, or the snapshots of one, page by page. */
export async function* volumes(
  session: Session,
  deleted = false,
  snapshotsOf?: string,
): AsyncGenerator<VolumeListEntry> {
  let cursor: string | null = null;
  do {
    const request: ListRequest = {
      cursor,
      limit: PAGE,
      deleted,
      ...(snapshotsOf === undefined ? {} : { snapshotsOf }),
    };
    const page: VolumeListReply = await session.client.json('mapper', Op.LIST, '', request);
    yield* page.volumes;
    cursor = page.cursor;
  } while (cursor !== null);
}

interface ListOptions {
  readonly long?: boolean;
  readonly deleted?: boolean;
  readonly snapshotsOf?: string;
}

async function list(session: Session, options: ListOptions): Promise<void> {
  if (options.snapshotsOf !== undefined) checkName(options.snapshotsOf);
  const all: VolumeListEntry[] = [];
  await attempt('vlmc list failed', async () => {
    for await (const volume of volumes(session, options.deleted, options.snapshotsOf)) {
      if (session.json || options.long) all.push(volume);
      else await print(session.io, `${volume.name}\n`);
    }
  });
  all.sort((a, b) => (a.name < b.name ? -1 : 1));
  if (session.json) await session.result({ volumes: await attempt('vlmc list failed', () => withLocks(session, all)) });
  else if (options.long) await session.result(null, formatList(all));
  for (const volume of all) {
    if (volume.error && !session.json) printWarning(session.io, `${volume.name}: ${volume.error}`);
  }
}

/** The volumes with who holds the lock of each. */
async function withLocks(
  session: Session,
  all: readonly VolumeListEntry[],
): Promise<(VolumeListEntry & { lock: HolderInfo | null })[]> {
  const maps = session.client.objects('maps');
  const locks = new Map<string, HolderInfo | null>();
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < all.length) {
      const { name } = all[next++];
      locks.set(name, holderInfo(session, await maps.lockHolder(name)));
    }
  };
  await Promise.all(Array.from({ length: Math.min(PARALLEL, all.length) }, worker));
  return all.map((volume) => ({ ...volume, lock: locks.get(volume.name) ?? null }));
}

/** The table of `vlmc list --long`; empty when there are no volumes. */
export function formatList(all: readonly VolumeListEntry[]): string {
  if (all.length === 0) return '';
  const rows = [
    ['NAME', 'SIZE', '', 'BLOCK', 'MAP', 'KIND', 'CREATED', 'PARENT'],
    ...all.map((v) => [
      v.name,
      v.error ? '?' : String(v.size),
      v.error ? '' : formatSize(v.size),
      v.error ? '?' : formatSize(v.blockSize),
      v.error ? '?' : `v${v.version}`,
      kind(v),
      v.created === undefined ? '-' : formatTime(v.created),
      v.parent ?? '-',
    ]),
  ];
  // Sizes to the right, words to the left.
  return columns(rows, [1, 2]);
}

function kind(volume: VolumeListEntry): string {
  if (volume.error) return 'unreadable';
  if (volume.deleted) return 'deleted';
  if (!volume.readOnly) return 'volume';
  // Maps of old versions are read-only until they are upgraded, whatever they are.
  return volume.version < 2 ? 'old' : 'snapshot';
}
