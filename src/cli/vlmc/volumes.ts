/** The commands that make, change and remove volumes. */
import type { Command } from 'commander';
import { Flag, Op } from '../../requests/ops.js';
import { decodeName, encodeClone, encodeName, NAME_STRUCT_SIZE } from '../../requests/structs.js';
import { errnoOf, errnos, messageOf } from '../../sys/errno.js';
import { attempt, CliError } from '../common/exit.js';
import { printWarning } from '../common/io.js';
import type { Session } from '../common/session.js';
import { forgetLimits, limitsOf, type VolumeLimits } from './limits.js';
import { deviceOf, refuseIfUsed, usedBy } from './mapped.js';
import { checkName, checkNewName, checkNewSnapshot, checkNewVolume } from './names.js';
import { formatSize, parseSize } from './size.js';
import { type V0Options, v0Request, withV0 } from './v0.js';

export function addVolumeCommands(program: Command, session: Session): void {
  withV0(program.command('create <name>'))
    .description('create a volume: blank (--size), or a clone of a snapshot (--snap)')
    .option('-s, --size <size>', "a number of MiB, or e.g. 10G, 512K, 1048576B; with --snap default: the snapshot's")
    .option('--snap <snapshot>', 'the snapshot or image that the volume starts as')
    .addHelpText('after', '\nExamples:\n  vlmc create web-root --size 10G\n  vlmc create web-2-root --snap debian-12')
    .action((name: string, options: CreateOptions) => create(session, name, options));

  withV0(program.command('snapshot <name> <snapshot>'))
    .description("make a read-only snapshot of a volume's present content; no data is copied")
    .action((name: string, snapshot: string, options: V0Options) => snapshotVolume(session, name, snapshot, options));

  withV0(program.command('remove <name>').alias('rm'))
    .description('remove a volume or snapshot that is not mapped; objects shared with others stay')
    .action((name: string, options: V0Options) => remove(session, name, options));

  withV0(program.command('rename <name> <new>'))
    .description('rename a volume that is not mapped')
    .action((name: string, newName: string, options: V0Options) => rename(session, name, newName, options));

  withV0(program.command('resize <name>'))
    .description('change the size of a volume, also while it is in use')
    .requiredOption('-s, --size <size>', 'the new size: a number of MiB, or e.g. 20G')
    .option('-f, --force', 'allow to shrink: what lies beyond the new size is lost')
    .addHelpText('after', '\nShrink file systems before and grow them after:\n  vlmc resize web-root --size 20G')
    .action((name: string, options: ResizeOptions) => resize(session, name, options));

  withV0(program.command('upgrade <name>'))
    .description("rewrite the volume's map in the current format (v2); v0 and v1 maps are never changed otherwise")
    .action((name: string, options: V0Options) => upgrade(session, name, options));

  withV0(program.command('hash <name>'))
    .description("content-address a snapshot's objects")
    .action((name: string, options: V0Options) => hash(session, name, options));
}

interface CreateOptions extends V0Options {
  readonly size?: string;
  readonly snap?: string;
}

async function create(session: Session, name: string, options: CreateOptions): Promise<void> {
  checkNewVolume(name);
  const { snap } = options;
  if (options.size === undefined && snap === undefined) {
    throw new CliError('At least one of the size/snap args must be provided');
  }
  const size = options.size === undefined ? 0 : parseSize(options.size);
  if (snap !== undefined) checkName(snap);
  const request = {
    op: Op.CLONE,
    target: name,
    data: encodeClone({ parent: snap ?? '', size }),
    ...v0Request(options),
  };
  await attempt('vlmc creation failed', () =>
    session.progress.during(`creating ${name}`, session.client.call('mapper', request)),
  );
  await session.result({ name, size: size || undefined, parent: snap });
}

async function snapshotVolume(session: Session, name: string, snapshot: string, options: V0Options): Promise<void> {
  checkName(name);
  checkNewSnapshot(snapshot);
  const request = { op: Op.SNAPSHOT, target: name, data: encodeName(snapshot), ...v0Request(options) };
  await attempt('vlmc snapshot failed', () =>
    session.progress.during(`snapshotting ${name}`, session.client.call('composer', request)),
  );
  await session.result({ name, snapshot }, `Snapshot name: ${snapshot}`);
}

async function remove(session: Session, name: string, options: V0Options): Promise<void> {
  checkName(name);
  await attempt('vlmc removal failed', async () => {
    await refuseIfUsed(session, name);
    const limits = await limitsOf(session, name);
    const request = { op: Op.DELETE, target: name, ...v0Request(options) };
    await session.progress.during(`removing ${name}`, session.client.call('composer', request));
    await forget(session, limits);
  });
  await session.result({ name });
}

/** The volume is gone already: that something of it is remembered is worth a word, not a failure. */
async function forget(session: Session, limits: VolumeLimits | null): Promise<void> {
  try {
    await forgetLimits(session, limits);
  } catch (error) {
    printWarning(session.io, `the limits of ${limits?.name} are still kept: ${messageOf(error)}`);
  }
}

async function rename(session: Session, name: string, newName: string, options: V0Options): Promise<void> {
  checkName(name);
  checkNewName(newName);
  await attempt('vlmc rename failed', async () => {
    const use = await usedBy(session, name);
    if (use) throw new CliError(`Cannot rename a mapped resource: ${name} is ${use}`);
    const request = { op: Op.RENAME, target: name, data: encodeName(newName), ...v0Request(options) };
    await session.progress.during(`renaming ${name}`, session.client.call('mapper', request));
  });
  await session.result({ name: newName, from: name }, `Renamed ${name} to ${newName}`);
}

interface ResizeOptions extends V0Options {
  readonly size: string;
  readonly force?: boolean;
}

async function resize(session: Session, name: string, options: ResizeOptions): Promise<void> {
  checkName(name);
  const size = parseSize(options.size);
  const { flags, v0Size } = v0Request(options);
  const request = {
    op: Op.TRUNCATE,
    target: name,
    offset: size,
    flags: flags | (options.force ? Flag.FORCE : 0),
    v0Size,
  };
  await attempt('vlmc resize failed', () =>
    session.progress.during(`resizing ${name}`, session.client.call('mapper', request)),
  );
  await refreshExport(session, name);
  await followSize(session, name, size);
  await session.result({ name, size }, `Resized ${name} to ${size} bytes (${formatSize(size)})`);
}

/** Tells the endpoint to look at the size again, for clients that stay connected. */
async function refreshExport(session: Session, name: string): Promise<void> {
  if (!session.client.find('endpoint')) return;
  try {
    await session.client.call('endpoint', { op: Op.INFO, target: name, capacity: 8 });
  } catch (error) {
    // Not mapped, or no endpoint runs: then nobody is connected.
    const nobody = [errnos.ENOENT, errnos.ECONNREFUSED].includes(errnoOf(error));
    if (!nobody)
      printWarning(session.io, `clients of ${name} see the new size once they reconnect: ${messageOf(error)}`);
  }
}

/** The volume's device gets the size at once where this command may; where it may not, its keeper does it in a second or so. */
async function followSize(session: Session, name: string, size: number): Promise<void> {
  try {
    const device = await deviceOf(session, name);
    if (device) await (await session.devices()).resize(name, size);
  } catch (error) {
    if ([errnos.EPERM, errnos.EACCES].includes(errnoOf(error))) return;
    printWarning(session.io, `the device of ${name} has its old size for now: ${messageOf(error)}`);
  }
}

async function upgrade(session: Session, name: string, options: V0Options): Promise<void> {
  checkName(name);
  const request = { op: Op.UPDATE, target: name, ...v0Request(options) };
  await attempt('vlmc upgrade failed', () =>
    session.progress.during(`upgrading ${name}`, session.client.call('mapper', request)),
  );
  await session.result({ name, version: 2 }, `Upgraded ${name}: its map is v2`);
}

async function hash(session: Session, name: string, options: V0Options): Promise<void> {
  checkName(name);
  const request = { op: Op.HASH, target: name, capacity: NAME_STRUCT_SIZE, ...v0Request(options) };
  const hashed = await attempt('vlmc hash failed', async () => {
    const reply = await session.progress.during(`hashing ${name}`, session.client.call('mapper', request));
    return decodeName(reply.data, 'HASH reply');
  });
  await session.result({ name, hash: hashed }, `Hash name: ${hashed}`);
}
