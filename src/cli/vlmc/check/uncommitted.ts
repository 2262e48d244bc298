/**
 * Entries that a first write is about to change: until its commit the mapper tells of the new object, and the stored map names the one that it
 * was copied from. After a power cut the stored map counts, so that one is to be kept (docs/architecture.md, "First writes").
 */
import * as v2 from '../../../mapper/formats/v2.js';
import type { VolumeListEntry } from '../../../requests/json.js';
import { errnoOf, errnos } from '../../../sys/errno.js';
import { isOutage } from '../../common/patience.js';
import type { Session } from '../../common/session.js';
import type { MapDataId } from './maps-store.js';
import type { NameSet } from './name-set.js';
import { namesIn } from './stored.js';

/**
 * Takes from the candidates what stored maps name: entries of volumes that exist, up to the end of each. To be called once the mapper has told
 * what it knows of all maps: what is committed in between is named there.
 * @param mapData of volumes that have a header
 * @returns false when some could not be read
 */
export async function protectStored(
  session: Session,
  volumes: readonly VolumeListEntry[],
  mapData: readonly MapDataId[],
  candidates: NameSet,
): Promise<boolean> {
  const live = volumes.filter(
    ({ version, deleted, readOnly, error }) => version === 2 && !deleted && !readOnly && !error,
  );
  const byName = new Map(live.map((volume) => [volume.name, volume]));
  let complete = true;
  for (const { object, volume: name, id } of mapData) {
    if (candidates.size === 0) break;
    const volume = byName.get(name);
    if (!volume) continue;
    const end = Math.ceil(volume.size / volume.blockSize) - id * v2.entriesPerObject(volume.blockSize);
    if (end <= 0) continue;
    try {
      await namesIn(session, object, (named) => candidates.delete(named), { end });
    } catch (error) {
      if (isOutage(error)) throw error;
      // Its volume was removed or renamed meanwhile.
      if (errnoOf(error) !== errnos.ENOENT) complete = false;
    }
  }
  return complete;
}
