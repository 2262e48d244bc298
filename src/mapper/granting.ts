/** Who gets to use and to change a volume's map: leases are granted and the lock is taken here. */
import type { LeaseReply } from '../requests/lease.js';
import { errnoOf, errnos, messageOf } from '../sys/errno.js';
import { frozenMessage, type MapperContext, mapOf, ownMap } from './context.js';
import { refuseLost } from './locking/lost.js';
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
 * @returns the answer, why the lock was not to be had, and whether it was taken for it
 */
export async function grant(
  context: MapperContext,
  volume: Volume,
  port: number,
  options: OpenOptions,
): Promise<{ reply: LeaseReply; busy: unknown; taken: boolean }> {
  refuseLost(volume);
  let taken = false;
  let map = await mapOf(context, volume, options);
  let granted: LeaseReply['granted'] = map.immutable ? 'shared' : 'exclusive';
  let busy: unknown;
  if (granted === 'exclusive') {
    try {
      taken = await context.locks.acquire(volume);
      // A grant is good for as long as a lock that was just looked at.
      if (!taken) await context.locks.verify(volume);
      map = await keeping(context, volume, taken, () => ownMap(context, volume, options));
      await context.leases.revoke(volume, { except: port });
      refuseLost(volume);
      volume.written = true;
      volume.writers.add(port);
    } catch (error) {
      if (!UNLOCKABLE.has(errnoOf(error))) throw error;
      busy = error;
      granted = 'none';
    }
  } else volume.map = map;
  if (granted !== 'none') volume.leases.set(port, granted);
  // From now on this port is a holder by its own lease, or has none.
  volume.asked.add(port);
  if (granted === 'exclusive') await context.locks.note(volume);
  refuseLost(volume);
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
    ...(granted === 'exclusive' ? { until: volume.validUntil } : {}),
    ...(busy === undefined ? {} : { holder: messageOf(busy) }),
  };
  return { reply, busy, taken };
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
  refuseLost(volume);
  return volume.leasing.exclusive(async () => {
    refuseImmutable(volume.name, await mapOf(context, volume, options));
    const taken = await context.locks.acquire(volume);
    const map = await keeping(context, volume, taken, async () => {
      const own = await ownMap(context, volume, options);
      refuseImmutable(volume.name, own);
      return own;
    });
    await context.leases.revoke(volume, { except: port });
    volume.writers.add(port);
    return map;
  });
}

/** Keeps the lock, if it was just taken, when `work`, which must not write, succeeds. The caller is alone in `leasing`. */
export async function keeping<T>(
  context: MapperContext,
  volume: Volume,
  taken: boolean,
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (taken) await context.locks.release(volume).catch(() => {});
    throw error;
  }
}
