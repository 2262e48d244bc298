/**
 * Map data that its header does not cover: behind the end of a volume, or of one that is marked deleted. Nothing that is to be kept is named
 * there, unless the header is damaged: it has no checksum, and a flipped bit of it must not make a volume's blocks orphans.
 */
import * as v2 from '../../../mapper/formats/v2.js';
import type { VolumeListEntry } from '../../../requests/json.js';
import { errnoOf, errnos } from '../../../sys/errno.js';
import { isOutage } from '../../common/patience.js';
import type { Session } from '../../common/session.js';
import { EntryFlag } from '../entries.js';
import { count, type Findings } from './findings.js';
import type { MapDataId } from './maps-store.js';
import type { NameSet } from './name-set.js';
import { namesIn, readHeader } from './stored.js';

const OWN = EntryFlag.WRITABLE | EntryFlag.ARCHIP;

/**
 * Tells of objects that only such map data names as a volume's own, and takes them from the candidates: both removing and shrinking change
 * the entries first, the header last.
 * @param mapData of volumes that have a header
 * @returns false when some could not be read
 */
export async function protectUncovered(
  session: Session,
  findings: Findings,
  volumes: readonly VolumeListEntry[],
  mapData: readonly MapDataId[],
  candidates: NameSet,
): Promise<boolean> {
  const byName = new Map(volumes.filter(({ version, error }) => version === 2 && !error).map((v) => [v.name, v]));
  const found = new Map<VolumeListEntry, number>();
  let complete = true;
  for (const { object, volume: name, id } of mapData) {
    if (candidates.size === 0) break;
    const volume = byName.get(name);
    if (!volume) continue;
    const per = v2.entriesPerObject(volume.blockSize);
    const first = volume.deleted ? 0 : Math.ceil(volume.size / volume.blockSize) - id * per;
    if (first >= per) continue;
    // The original shrinks a volume by its header alone: what it left behind the end of a volume of its own is an orphan.
    if (!volume.deleted && !(await readHeader(session, name))?.header.lineage) continue;
    const onName = (named: string, flags: number): void => {
      if ((flags & (OWN | EntryFlag.DELETED)) !== OWN || !candidates.has(named)) return;
      candidates.delete(named);
      found.set(volume, (found.get(volume) ?? 0) + 1);
    };
    try {
      await namesIn(session, object, onName, { first: Math.max(0, first) });
    } catch (error) {
      if (isOutage(error)) throw error;
      // Its volume was removed or renamed meanwhile.
      if (errnoOf(error) !== errnos.ENOENT) complete = false;
    }
  }
  for (const [{ name, deleted, size }, objects] of found) {
    const what = deleted
      ? `the header says that it is deleted, but ${count(objects, 'own block')} of its map were not removed`
      : `its map has ${count(objects, 'own block')} behind its end at ${size} bytes`;
    await findings.add({
      severity: 'error',
      kind: 'header-damaged',
      volume: name,
      count: objects,
      message: `${what}: the header may be damaged; nothing of it is called an orphan`,
    });
  }
  return complete;
}
