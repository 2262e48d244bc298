/**
 * `vlmc unlock`: gives up this node's lock, breaks another's, or waits until there is none. Breaking is the mapper's: it returns when
 * nothing of the old holder can reach the store any more, because that one said so or because its time is over.
 */
import { type Command, InvalidArgumentError } from 'commander';
import { decodeJson } from '../../requests/json.js';
import { Flag, Op } from '../../requests/ops.js';
import { errnoOf, errnos, messageOf } from '../../sys/errno.js';
import { attempt, CliError } from '../common/exit.js';
import type { Session } from '../common/session.js';
import { type Released, readReleased, tellFenced } from './fenced.js';
import { formatLock, hostOf } from './lock-state.js';
import { usedBy } from './mapped.js';
import { checkName } from './names.js';

const HELP = `
Without -f only this node's own lock is released; a volume that is open here is flushed and closed first.

-f breaks the lock of another node, for when that node is down or hangs. It returns when nothing of the old holder can reach the store any
more: at once when that node answers, else after five seconds, in which what it was allowed to do runs out; a store that can (RADOS) then refuses its clients
before anybody else gets the lock. A node that runs the original Archipelago knows nothing of time and letters and writes on unless the store refuses it: make sure that it is down. On the old holder the volume refuses everything until it is closed and opened again.

--wait waits until nobody holds the lock, and takes nothing from anybody.

Examples:
  vlmc unlock web-root
  vlmc unlock web-root --wait --timeout 60
  vlmc unlock -f web-root        node1 is down, this node takes over

Exit status: 255 when the lock is another node's (without -f), when there is none (without --wait), and when --timeout has passed.`;

/** How often --wait looks. */
const POLL_MS = 250;

interface UnlockOptions {
  readonly force?: boolean;
  readonly wait?: boolean;
  /** Milliseconds. */
  readonly timeout?: number;
}

export function addUnlockCommand(program: Command, session: Session): void {
  program
    .command('unlock <name>')
    .description('release the lock of a volume, or wait until it is released')
    .option('-f, --force', "break another node's lock: only when that node is down or hangs")
    .option('--wait', 'wait until nobody holds it')
    .option('--timeout <seconds>', 'with --wait: how long at most; default: no end', parseSeconds)
    .addHelpText('after', HELP)
    .action((name: string, options: UnlockOptions) => unlock(session, name, options));
}

function parseSeconds(text: string): number {
  const seconds = Number(text);
  if (!/^\d+(\.\d+)?$/.test(text) || !Number.isFinite(seconds)) {
    throw new InvalidArgumentError('It is a number of seconds.');
  }
  return seconds * 1000;
}

/** There was no lock of another node to break. */
const unbroken = { holder: null, confirmed: null, fencedBy: null, fenced: null };

async function unlock(session: Session, name: string, options: UnlockOptions): Promise<void> {
  checkName(name);
  if (options.timeout !== undefined && !options.wait) throw new CliError('--timeout goes with --wait');
  const force = options.force === true;
  if (!force && !options.wait) await refuseInUse(session, name);
  const released = await attempt('vlmc unlock failed', () =>
    options.wait && !force ? waitFor(session, name, options.timeout) : release(session, name, force),
  );
  if (released.holder !== null && !session.json) tellFenced(session.io, name, released.holder, released);
  await session.result({ name, ...released }, 'Volume unlocked');
}

async function refuseInUse(session: Session, name: string): Promise<void> {
  await attempt('vlmc unlock failed', async () => {
    const use = await usedBy(session, name);
    if (use) throw new CliError(`volume ${name} is ${use}: its lock is in use; unmap it, or vlmc close ${name}`);
  });
}

async function release(session: Session, name: string, force: boolean): Promise<Released> {
  const { client } = session;
  const start = Date.now();
  const holder = await client.objects('maps').lockHolder(name);
  const own = holder !== null && holder.owner === client.lockOwner;
  if (own) {
    // Written data first: whoever takes the lock next must find it.
    await closeHere(session, name);
    if (!(await client.objects('maps').lockHolder(name))) {
      return { ...unbroken, waitedMs: Date.now() - start };
    }
  }
  const host = holder === null ? 'the holder' : hostOf(holder.owner);
  const what = force && !own ? `waiting until nothing of ${host} can reach ${name}` : `unlocking ${name}`;
  const request = { op: Op.RELEASE, target: name, flags: force ? Flag.FORCE : 0, capacity: 64 << 10 };
  const reply = await session.progress.during(what, client.call('mapper', request)).catch((error) => {
    if (errnoOf(error) === errnos.EPERM && holder !== null) {
      const why = `volume ${name} is ${formatLock(holder)}, not by this node; vlmc close ${name} there, or vlmc unlock -f ${name} once ${host} is down`;
      throw new CliError(`vlmc unlock failed: ${why}`, errnos.EPERM, { cause: error });
    }
    if (!force || errnoOf(error) !== errnos.ECONNREFUSED) throw error;
    throw new CliError(
      `vlmc unlock failed: ${messageOf(error)}: it is the mapper that waits until nothing of ${host} can reach the store`,
      errnos.ECONNREFUSED,
      { cause: error },
    );
  });
  const answer = reply.serviced > 0 ? decodeJson(reply.data.subarray(0, reply.serviced), 'RELEASE reply') : null;
  return { ...readReleased(answer), waitedMs: Date.now() - start };
}

/** Gives up the lock if it is this node's, then waits until nobody has it. */
async function waitFor(session: Session, name: string, timeout = Number.POSITIVE_INFINITY): Promise<Released> {
  const { client } = session;
  const maps = client.objects('maps');
  const start = Date.now();
  for (let first = true; ; first = false) {
    const holder = await maps.lockHolder(name);
    const waitedMs = Date.now() - start;
    if (!holder) return { ...unbroken, waitedMs };
    if (first && holder.owner === client.lockOwner) {
      await refuseInUse(session, name);
      await release(session, name, false);
      continue;
    }
    if (waitedMs >= timeout) {
      throw new CliError(
        `vlmc unlock failed: volume ${name} is still ${formatLock(holder)} after ${(waitedMs / 1000).toFixed(1)} s; ` +
          `vlmc close ${name} there, or vlmc unlock -f ${name} once ${hostOf(holder.owner)} is down`,
        errnos.ETIMEDOUT,
      );
    }
    const pause = new Promise<void>((resolve) => setTimeout(resolve, Math.min(POLL_MS, timeout - waitedMs)));
    session.progress.update(`waiting for ${holder.owner} to unlock ${name}, seconds`, Math.round(waitedMs / 1000));
    await pause;
  }
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
