/**
 * Headers and map data as they are stored: what the mapper does not tell, because it has no use for it. Read only; nothing but the codecs
 * of the formats is shared with the mapper.
 */
import { HEADER_READ, type MapHeader } from '../../../mapper/formats/header.js';
import * as v2 from '../../../mapper/formats/v2.js';
import { CHUNK_ENTRIES, EntryFlag, ResolvedMap } from '../../../requests/resolved-map.js';
import { errnoOf, errnos, messageOf } from '../../../sys/errno.js';
import { isOutage } from '../../common/patience.js';
import type { Session } from '../../common/session.js';

/** Before the names of volumes of versions up to 0.3. */
const LEGACY_PREFIX = 'archip_';

export interface StoredHeader {
  /** Name of the header object. */
  readonly stored: string;
  readonly header: MapHeader;
}

/** The header of a live v2 map of that name; null when there is none (or none that can be read: the mapper tells of those). */
export async function readHeader(session: Session, name: string): Promise<StoredHeader | null> {
  for (const stored of [name, LEGACY_PREFIX + name]) {
    const header = await decode(session, stored);
    if (header && !header.deleted) return { stored, header };
  }
  return null;
}

async function decode(session: Session, stored: string): Promise<MapHeader | null> {
  try {
    const head = await session.client.objects('maps').read(stored, 0, HEADER_READ);
    return v2.isV2(head) ? v2.decodeHeader(stored, head) : null;
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === errnos.ENOENT || errno === errnos.EIO || errno === errnos.EOPNOTSUPP) return null;
    throw error;
  }
}

/** Why entries cannot be read, as kind and words. */
export interface Damage {
  readonly kind: 'map-data-missing' | 'map-data-short' | 'map-entry-damaged' | 'map-unreadable';
  readonly object: string;
  readonly message: string;
}

/** Finds out what is wrong with a block's entry; null when it is fine now. */
export async function explainDamage(session: Session, map: StoredHeader, block: number): Promise<Damage | null> {
  const maps = session.client.objects('maps');
  const [{ object, offset }] = v2.entryRuns(map.stored, map.header.blockSize, block, 1, 1);
  try {
    const { size } = await maps.info(object);
    if (size < offset + v2.ENTRY_SIZE) {
      const message = `map data ${object} ends after ${size} bytes, the entry is at ${offset}`;
      return { kind: 'map-data-short', object, message };
    }
    const bytes = await maps.read(object, offset, v2.ENTRY_SIZE);
    const what = v2.decodeEntry(new ResolvedMap(block + 1), block, bytes, 0);
    return what === null ? null : { kind: 'map-entry-damaged', object, message: `map data ${object}: ${what}` };
  } catch (error) {
    if (isOutage(error)) throw error;
    if (errnoOf(error) === errnos.ENOENT) {
      return { kind: 'map-data-missing', object, message: `map data ${object} is missing` };
    }
    return { kind: 'map-unreadable', object, message: `map data ${object} cannot be read: ${messageOf(error)}` };
  }
}

/**
 * Calls back with every object that the entries in a map-data object name, whoever it belongs to. What is no entry is stepped over.
 * @param onName gets the entry's flags too
 * @param range entries of the object, [first, end)
 */
export async function namesIn(
  session: Session,
  object: string,
  onName: (name: string, flags: number) => void,
  { first = 0, end = Number.POSITIVE_INFINITY }: { first?: number; end?: number } = {},
): Promise<void> {
  const maps = session.client.objects('maps');
  const { size } = await maps.info(object);
  const last = Math.min(end, Math.floor(size / v2.ENTRY_SIZE));
  for (let next = first; next < last; next += CHUNK_ENTRIES) {
    const at = next * v2.ENTRY_SIZE;
    const count = Math.min(CHUNK_ENTRIES, last - next);
    const bytes = await maps.read(object, at, count * v2.ENTRY_SIZE);
    const entries = new ResolvedMap(count);
    for (let i = 0; i < count; i++) {
      const fine = v2.decodeEntry(entries, i, bytes, i * v2.ENTRY_SIZE) === null;
      if (fine && (entries.flags(i) & EntryFlag.ZERO) === 0) onName(entries.objectName(i), entries.flags(i));
    }
  }
}
