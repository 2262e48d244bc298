/** The commands about a volume's lock: open, close, lock, unlock. */
import type { Command } from 'commander';
import type { LockInfo } from '../../requests/json.js';
import { Op } from '../../requests/ops.js';
import { errnoOf, errnos } from '../../sys/errno.js';
import { attempt, CliError } from '../common/exit.js';
import type { Session } from '../common/session.js';
import { usedBy } from './mapped.js';
import { checkName } from './names.js';
import { type V0Options, v0Request, withV0 } from './v0.js';

export function addLockCommands(program: Command, session: Session): void {
  withV0(program.command('open <name>'))
    .description("take the volume's lock for this node, as the first write would")
    .action((name: string, options: V0Options) => passOn(session, name, options, Op.OPEN, 'open', 'Volume opened'));

  withV0(program.command('close <name>'))
    .description('finish and flush what runs on the volume and give up its lock; harmless where it is not held')
    .action((name: string, options: V0Options) => passOn(session, name, options, Op.CLOSE, 'close', 'Volume closed'));

  program
    .command('lock <name>')
    .description("take a volume's lock by hand, or tell who holds it")
    .option('--show', 'only tell who holds it and since when')
    .action((name: string, options: { show?: boolean }) => (options.show ? show(session, name) : lock(session, name)));

  program
    .command('unlock <name>')
    .description('release the lock of a volume')
    .option('-f, --force', "break another node's lock: only when that node is down, or two nodes write to one volume")
    .action((name: string, options: { force?: boolean }) => unlock(session, name, options.force === true));
}

async function passOn(
  session: Session,
  name: string,
  options: V0Options,
  op: Op,
  verb: string,
  text: string,
): Promise<void> {
  checkName(name);
  const request = { op, target: name, ...v0Request(options) };
  await attempt(`vlmc ${verb} failed`, () =>
    session.progress.during(`waiting for ${verb} of ${name}`, session.client.call('composer', request)),
  );
  await session.result({ name }, text);
}

async function lock(session: Session, name: string): Promise<void> {
  checkName(name);
  await attempt('vlmc lock failed', () => session.client.objects('maps').acquire(name));
  await session.result({ name }, 'Volume locked');
}

async function unlock(session: Session, name: string, force: boolean): Promise<void> {
  checkName(name);
  const { client } = session;
  await attempt('vlmc unlock failed', async () => {
    const maps = client.objects('maps');
    if (!force) {
      const use = await usedBy(session, name);
      if (use) throw new CliError(`volume ${name} is ${use}: its lock is in use; unmap it, or vlmc close ${name}`);
    }
    const holder = await maps.lockHolder(name);
    if (holder && holder.owner === client.lockOwner) {
      // This node's mapper may have the volume open: it must flush and know, or it would go on as if it had the lock.
      await closeHere(session, name);
      if (!(await maps.lockHolder(name))) return;
    }
    await maps.release(name, force);
  });
  await session.result({ name }, 'Volume unlocked');
}

/** Closes the volume on this node; there may be no such volume (locks need none), or nobody who has it open. */
async function closeHere(session: Session, name: string): Promise<void> {
  const harmless: ReadonlySet<number> = new Set([errnos.ENOENT, errnos.ECONNREFUSED]);
  for (const peer of ['composer', 'mapper'] as const) {
    try {
      await session.client.call(peer, { op: Op.CLOSE, target: name });
      return;
    } catch (error) {
      if (!harmless.has(errnoOf(error))) throw error;
    }
  }
}

async function show(session: Session, name: string): Promise<void> {
  checkName(name);
  const holder = await attempt('vlmc lock failed', () => session.client.objects('maps').lockHolder(name));
  await session.result({ name, lock: holder }, `Volume ${name}: ${formatLock(holder)}`);
}

/** `locked by node1_1002 since 2024-05-01T10:04:00.000Z`, or `not locked`. */
export function formatLock(lock: LockInfo | null): string {
  if (!lock) return 'not locked';
  const since = lock.since === null ? '' : ` since ${new Date(lock.since).toISOString()}`;
  return `locked by ${lock.owner || 'an unknown owner (empty lock)'}${since}`;
}
