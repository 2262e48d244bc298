/**
 * Orphans: objects that have a volume's name pattern and that no map names. They are what crashes and deleted snapshots leave behind.
 *
 * Objects are listed before maps are read: what is made later is not looked at, and what a map names by then is no orphan.
 */
import type { VolumeListEntry } from '../../../requests/json.js';
import type { XsegObjectClient } from '../../../requests/object-client.js';
import type { Session } from '../../common/session.js';
import type { Findings } from './findings.js';
import { NameSet, parseObjectName } from './name-set.js';

/** Names asked for at once. */
const PAGE = 4096;
/** Map-data objects are numbered; a larger number is part of a name that somebody chose. */
const MAX_MAP_DATA = 2 ** 32;

async function* names(store: XsegObjectClient): AsyncGenerator<string> {
  let cursor: string | null = null;
  do {
    const page: { names: string[]; cursor: string | null } = await store.list(cursor, PAGE);
    yield* page.names;
    cursor = page.cursor;
  } while (cursor !== null);
}

/** The objects of the blocks store that volumes made. @param volume only those of this one */
export async function listCandidates(session: Session, volume: string | null): Promise<NameSet> {
  const found = new NameSet();
  let seen = 0;
  for await (const name of names(session.client.objects('blocks'))) {
    session.progress.update('listing objects', ++seen);
    if (volume !== null && !name.startsWith(`${volume}_`)) continue;
    const parsed = parseObjectName(name);
    if (parsed && (volume === null || parsed.volume === volume)) found.add(name);
  }
  return found;
}

/**
 * Map data that belongs to no volume in the list: either garbage, or the map of a volume whose name the list does not take for one.
 * @returns how many there are
 */
export async function tellStrayMaps(
  session: Session,
  findings: Findings,
  volumes: readonly VolumeListEntry[],
): Promise<number> {
  const known = new Set(volumes.map((volume) => volume.name));
  let strays = 0;
  for await (const name of names(session.client.objects('maps'))) {
    const match = /^(?:archip_)?(.+)_([0-9a-f]{16})$/s.exec(name);
    if (!match || (known.has(match[1]) && Number.parseInt(match[2], 16) < MAX_MAP_DATA)) continue;
    strays++;
    const message = `${name} in the maps store looks like map data, but there is no volume it belongs to`;
    await findings.add({ severity: 'note', kind: 'stray-map', volume: null, object: name, message });
  }
  return strays;
}
