/** Maps under legacy names that an upgrade has replaced: they must go for good. */
import { EntryFlag } from '../requests/resolved-map.js';
import * as v2 from './formats/v2.js';
import { type MapStore, noV0, removeObject } from './map-store.js';
import { LEGACY_PREFIX } from './names.js';
import type { StoredMap } from './stored-map.js';

/** Removes the objects of a map, durably: a header that came back after a crash would be a volume again. */
export async function removeStored(maps: MapStore, map: StoredMap): Promise<void> {
  await removeObject(maps.objects, map.stored);
  if (map.header.version === 2) await maps.removeMapData(map.stored, map.header, map.blocks);
  await maps.objects.flush([map.stored]);
}

/**
 * An upgrade that was cut short may have left the map under the legacy name beside the new one, which hides it only until it is deleted
 * or renamed: then the volume would be there again. So it goes before anything of the new map changes, while it shows in the objects
 * that it is what `map` was made of; a map that merely has the other name stays. The caller holds the lock.
 */
export async function dropLegacyMap(maps: MapStore, volume: string, map: StoredMap): Promise<void> {
  if (map.legacy || volume.startsWith(LEGACY_PREFIX)) return;
  const legacy = await maps.open(LEGACY_PREFIX + volume, noV0);
  if (legacy && !legacy.header.deleted && (await isCopy(map, legacy))) await removeStored(maps, legacy);
}

/** Do the maps name an object in the same place, or, with the same size, none at all? */
async function isCopy(map: StoredMap, other: StoredMap): Promise<boolean> {
  const blocks = Math.min(map.blocks, other.blocks);
  let named = 0;
  for (let first = 0; first < blocks; first += v2.RUN_ENTRIES) {
    const count = Math.min(v2.RUN_ENTRIES, blocks - first);
    await map.load(first, count);
    await other.load(first, count);
    for (let i = first; i < first + count; i++) {
      const [ours, theirs] = [nameOf(map, i), nameOf(other, i)];
      if (ours !== null && ours === theirs) return true;
      if (ours !== null || theirs !== null) named++;
    }
  }
  return named === 0 && map.header.size === other.header.size;
}

const nameOf = ({ entries }: StoredMap, i: number): string | null =>
  entries.has(i) && (entries.flags(i) & EntryFlag.ZERO) === 0 ? entries.objectName(i) : null;
