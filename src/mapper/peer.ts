/** The mapper as a role of a node: its port, its start and its end. */
import path from 'node:path';
import type { Config, MapperSettings } from '../config/types.js';
import type { RoleStarter, RunningRole } from '../peer/role.js';
import { XsegLockClient } from '../requests/lock-client.js';
import { XsegObjectClient } from '../requests/object-client.js';
import { Op, opName } from '../requests/ops.js';
import { mapReplySize } from '../requests/structs.js';
import { errnoName, errnoOf, errnos, messageOf } from '../sys/errno.js';
import { Mounted } from '../sys/mounted.js';
import type { Request } from '../xseg/index.js';
import { realClock } from './clock.js';
import type { MapperLog } from './context.js';
import type { FenceTarget } from './locking/fencing.js';
import { LostLock } from './locking/lost.js';
import { bootId, LockRegistry } from './locking/registry.js';
import { Stopping } from './locking/waiting.js';
import { Mapper } from './mapper.js';
import { PendingCalls } from './pending.js';
import { NoteFiles } from './provisional/note-files.js';
import { type MountOf, type NoteStore, openNotes } from './provisional/notes.js';
import { TooManyBlocks } from './ranges.js';
import { perform } from './requests.js';
import type { LostMark } from './volume.js';
import { VolumeUsers } from './volume-users.js';

/** Errors that tell of the node's or a disk's trouble; the others are answers to those who asked. */
const trouble = new Set<number>([errnos.EIO, errnos.ENOSPC, errnos.EACCES, errnos.ENOMEM, errnos.EMFILE]);

/** What a composer needs to finish what it runs when its lease is revoked. */
const drainOps = new Set<number>([Op.MAPR, Op.MAPW, Op.MAPOWN, Op.MAPZERO, Op.MAPFETCH, Op.FLUSH]);

type Role = Parameters<RoleStarter<MapperSettings>>[0];

/** Starts the mapper on the first port of its range. */
export const start: RoleStarter<MapperSettings> = (role) => {
  const { runDir } = role.config;
  const boot = bootId();
  // What cannot be told from the notes of an earlier start of the machine is not kept.
  const store = runDir && boot ? new NoteFiles(path.join(runDir, 'provisional')) : null;
  const blocker = blockerAt(role.config, role.settings.blockerbPort);
  const mounted = blocker?.type === 'file_blocker' ? new Mounted(blocker.archipDir) : null;
  return startWith(role, store, boot, (before) => mounted?.id(before) ?? null);
};

/**
 * @param store where first writes are noted, null: nowhere
 * @param boot changes when the machine starts
 * @param mount changes when the file system of the objects is mounted anew; null: not known (Notes)
 */
export async function startWith(
  { segment, settings, config, ports, name, log }: Role,
  store: NoteStore | null,
  boot: string,
  mount?: MountOf,
): Promise<RunningRole> {
  const port = segment.bind(ports.first, { name });
  const alive = (number: number): boolean => segment.portOwner(number)?.alive ?? false;
  const composers = config.roles.filter((role) => role.type === 'vlmcd').map((role) => role.portnoStart);
  // What a dead composer sent may still be under way, under leases that nobody knows any more.
  await Promise.all(composers.map((composer) => segment.nothingLeftBy(composer, port.number)));
  const mapperLog: MapperLog = { warn: (message) => log.warn(message), info: (message) => log.info(message) };
  const endpoints = config.roles.filter((role) => role.type === 'nbd').map((role) => role.portnoStart);
  const users = new VolumeUsers(port, endpoints);
  const renewing = new Set<number>();
  const stores = { maps: new PendingCalls(port, realClock), blocks: new PendingCalls(port, realClock) };
  const { blockermPort, blockerbPort } = settings;
  const locks = new XsegLockClient(stores.maps, blockermPort);
  const fences: FenceTarget[] = [{ store: 'maps', client: locks }];
  if (blockerbPort !== blockermPort) {
    fences.push({ store: 'blocks', client: new XsegLockClient(stores.blocks, blockerbPort) });
  }
  const mapper = new Mapper({
    // A blocker that is being restarted is waited for: clients see a pause, no error.
    maps: new XsegObjectClient(stores.maps, blockermPort, { wait: true }),
    blocks: new XsegObjectClient(stores.blocks, blockerbPort, { wait: true }),
    holders: {
      revoke: async (holder, volume, flags) => {
        try {
          await port.call(holder, { op: Op.REVOKE, target: volume, flags });
        } finally {
          // A composer that died, or whose successor answers, may have left writes to a blocker that are still being executed.
          await segment.nothingLeftBy(holder, port.number);
        }
      },
      renew: (holder, until) => {
        // One at a time: a composer that hangs is not sent more and more.
        if (renewing.has(holder)) return;
        renewing.add(holder);
        port
          .call(holder, { op: Op.RENEW, offset: Math.floor(until) })
          .catch((error) => log.debug({ err: error }, 'a lease could not be renewed'))
          .finally(() => renewing.delete(holder));
      },
      alive,
      isUsed: (volume) => users.isUsed(volume),
      lookAtEndpoints: () => users.look(),
      inherited: composers.filter(alive),
    },
    locks,
    fences,
    owner: ownerOf(config, settings, mapperLog),
    registry: config.runDir ? LockRegistry.load(config.runDir, mapperLog) : LockRegistry.volatile(),
    notes: store && openNotes(store, boot, mapperLog, mount),
    isDurableOnAck: [blockermPort, blockerbPort].every((number) => blockerAt(config, number)?.type === 'rados_blocker'),
    log: mapperLog,
    lockWaitMs: settings.lockWait * 1000,
  });

  const served = new Map<string, number>();
  const failed = new Map<string, number>();
  const count = (counter: Map<string, number>, op: number): void => {
    counter.set(opName(op), (counter.get(opName(op)) ?? 0) + 1);
  };
  let inFlight = 0;
  /** Of those in flight, the ones that are not in drainOps. */
  let operations = 0;
  let stopping = false;
  let onIdle: () => void = () => {};
  const status = (): object => ({
    role: 'mapperd',
    inFlight,
    ...mapper.status(),
    stores: { maps: stores.maps.status(), blocks: stores.blocks.status() },
    served: Object.fromEntries(served),
    failed: Object.fromEntries(failed),
  });

  /** Losses of locks that an error was logged of: the clients that go on ask again and again, and say nothing new. */
  const losses = new WeakSet<LostMark>();
  const isKnown = (error: unknown): boolean => {
    if (!(error instanceof LostLock)) return false;
    const { mark } = error;
    if (mark === null || losses.has(mark)) return true;
    losses.add(mark);
    return false;
  };

  const answer = async (request: Request): Promise<void> => {
    const { op, target } = request;
    if (request.dataLength > 0 && !request.hasValidData) {
      request.fail(errnos.EINVAL, `${opName(op)} of ${target}: the data is outside of the segment`);
      return;
    }
    try {
      const reply = await perform(mapper, request, status);
      if (reply.length > request.dataLength) {
        const message = `${opName(op)} of ${target}: the answer is ${reply.length} bytes, the buffer ${request.dataLength}`;
        count(failed, op);
        request.fail(errnos.ERANGE, message, reply.length);
        return;
      }
      if (reply.length > 0) request.data.set(reply);
      count(served, op);
      request.succeed(reply.length);
    } catch (error) {
      // Left unanswered: the port's next owner finds it when this one has closed.
      if (error instanceof Stopping) return;
      const errno = errnoOf(error);
      count(failed, op);
      if (trouble.has(errno) && !isKnown(error))
        log.error({ op: opName(op), target, errno: errnoName(errno) }, messageOf(error));
      else log.debug({ op: opName(op), target, errno: errnoName(errno) }, messageOf(error));
      const needed = error instanceof TooManyBlocks ? mapReplySize(error.blocks) : 0;
      request.fail(errno, messageOf(error), needed);
    }
  };

  mapper.start();
  port.serve((request) => {
    const drains = drainOps.has(request.op);
    // What comes while it stops is left to the port's next owner, unless an operation still waits for a composer to drain.
    if (stopping && !(drains && operations > 0)) return;
    inFlight++;
    if (!drains) operations++;
    void answer(request).finally(() => {
      if (!drains) operations--;
      if (--inFlight === 0) onIdle();
    });
  });

  return {
    stop: async (): Promise<void> => {
      stopping = true;
      mapper.endWaiting();
      if (inFlight > 0) await new Promise<void>((resolve) => (onIdle = resolve));
      await mapper.stop();
      port.close();
    },
    status,
  };
}

/** The owner string of this node's locks: that of the blocker which takes them. */
function ownerOf(config: Config, settings: MapperSettings, log: MapperLog): string {
  const blocker = blockerAt(config, settings.blockermPort);
  if (blocker?.type === 'file_blocker' || blocker?.type === 'rados_blocker') return blocker.uniqueStr;
  log.warn(
    `port ${settings.blockermPort} is no blocker's of this node: other nodes cannot be asked for locks, nor answered; correct blockerm_port`,
  );
  return '';
}

const blockerAt = (config: Config, port: number): Config['roles'][number] | undefined =>
  config.roles.find((role) => role.portnoStart === port);
