/**
 * The explicit upgrade of a v0 or v1 map, or of one with a legacy name, to v2 under its own name (ondisk 4.5, 6.4). Only ever
 * done on request: reading such maps changes nothing.
 */
import { errnos, SystemError } from '../../sys/errno.js';
import { type MapperContext, noSuchVolume } from '../context.js';
import * as v2 from '../formats/v2.js';
import { dropLegacyMap, removeStored } from '../leftover.js';
import type { OpenOptions } from '../map-store.js';
import type { StoredMap } from '../stored-map.js';
import type { Volume } from '../volume.js';

/**
 * Upgrades the map; one that is v2 already stays as it is. Entries first, then the header over the old one in place; a legacy
 * name's map is removed when the new one is durable. A crash leaves the old map or the new one.
 * @throws SystemError ENOENT, EBUSY, EINVAL, EIO
 */
export async function upgrade(context: MapperContext, volume: Volume, options: OpenOptions): Promise<void> {
  await context.locks.during(volume, async () => {
    const { map, tombstone } = await context.maps.lookup(volume.name, options);
    if (!map) throw noSuchVolume(volume.name);
    if (map.frozenReason === null) {
      await dropLegacyMap(context.maps, volume.name, map);
      return;
    }
    volume.map = null;
    if (!map.legacy) {
      await write(context, map, map.stored, 0);
      return;
    }
    // An original node would lock the legacy name: keep it out as well.
    await context.locks.client.acquire(map.stored).catch((error) => {
      throw new SystemError(errnos.EBUSY, `map ${map.stored} is locked: ${(error as Error).message}`, { cause: error });
    });
    try {
      await write(context, map, volume.name, tombstone ? tombstone.epoch + 1 : Math.max(1, map.header.epoch));
      await removeStored(context.maps, map);
    } finally {
      await context.locks.client.release(map.stored, false);
    }
  });
}

async function write(context: MapperContext, map: StoredMap, stored: string, epoch: number): Promise<void> {
  await context.maps.writeMap(
    stored,
    { ...map.header, version: 2, epoch },
    map.blocks,
    (i, out, at) => v2.encodeEntry(map.entries, i, out, at),
    (first, count) => map.check(first, count),
  );
}
