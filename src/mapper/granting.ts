/** Who gets to use and to change a volume's map: leases are granted and the lock is taken here. */
import type { LeaseReply } from '../requests/lease.js';
import { errnoOf, errnos, messageOf } from '../sys/errno.js';
import { frozenMessage, type MapperContext, mapOf, ownMap } from './context.js';
import type { OpenOptions } from './map-store.js';
import { refuseImmutable } from './ranges.js';
import type { StoredMap } from './stored-map.js';
import type { Volume } from './volume.js';

/**
 * Why a lock is not to be had although the map can be read: somebody else has it, or the store takes no lock file because it is full
 * or read-only. Reading goes on without one.
 */
const UNLOCKABLE: ReadonlySet<number> = new Set([
  errnos.EBUSY,
  errnos.ENOSPC,
  errnos.EDQUOT,
  errnos.EROFS,
  errnos.EACCES,
  errnos.EPERM,
]);

/**
 * Grants the port the use of the map: shared when it never changes, exclusive when this node has or gets the lock, else none. The
 * caller is alone in the volume's `leasing`, and in its `intent`.
 * @returns the answer, and why the lock was not to be had
 */
export async function grant(
  context: MapperContext,
  volume: Volume,
  port: number,
  options: OpenOptions,
): Promise<{ reply: LeaseReply; busy: unknown }> {
  let map = await mapOf(context, volume, options);
  let granted: LeaseReply['granted'] = map.immutable ? 'shared' : 'exclusive';
  let busy: unknown;
  if (granted === 'exclusive') {
    try {
      map = await lockAnd(context, volume, () => ownMap(context, volume, options));
      await context.leases.revoke(volume, port);
      volume.written = true;
    } catch (error) {
      if (!UNLOCKABLE.has(errnoOf(error))) throw error;
      busy = error;
      granted = 'none';
    }
  } else volume.map = map;
  if (granted !== 'none') volume.leases.set(port, granted);
  // From now on this port is a holder by its own lease, or has none.
  volume.asked.add(port);
  const { header, frozenReason } = map;
  const reply: LeaseReply = {
    granted,
    size: header.size,
    blockSize: header.blockSize,
    epoch: header.epoch,
    readOnly: map.immutable,
    ...(frozenReason === null ? {} : { readOnlyReason: frozenMessage(volume.name, frozenReason) }),
    version: header.version,
    generation: volume.generation,
    ...(busy === undefined ? {} : { holder: messageOf(busy) }),
  };
  return { reply, busy };
}

/** The map of a volume that this port writes: locked, cached, and leased exclusively to nobody else. */
export async function writableMap(
  context: MapperContext,
  volume: Volume,
  port: number,
  options: OpenOptions,
): Promise<StoredMap> {
  const cached = volume.locked && context.leases.mayWrite(volume, port) ? volume.cached(options) : null;
  if (cached && !cached.immutable) return cached;
  return volume.leasing.exclusive(async () => {
    refuseImmutable(volume.name, await mapOf(context, volume, options));
    const map = await lockAnd(context, volume, async () => {
      const own = await ownMap(context, volume, options);
      refuseImmutable(volume.name, own);
      return own;
    });
    await context.leases.revoke(volume, port);
    return map;
  });
}

/** Takes the lock and keeps it if `work`, which must not write, succeeds. The caller is alone in `leasing`. */
export async function lockAnd<T>(context: MapperContext, volume: Volume, work: () => Promise<T>): Promise<T> {
  const taken = await context.locks.acquire(volume);
  try {
    return await work();
  } catch (error) {
    if (taken) await context.locks.release(volume).catch(() => {});
    throw error;
  }
}
