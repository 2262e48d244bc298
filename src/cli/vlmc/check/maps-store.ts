/**
 * What lies in the maps store beside the maps: map data that belongs to no volume, locks, temporary files of the original. It is what
 * crashes leave, and none of it is in anybody's way.
 */
import type { VolumeListEntry } from '../../../requests/json.js';
import { XsegLockClient } from '../../../requests/lock-client.js';
import { errnoOf, errnos, messageOf } from '../../../sys/errno.js';
import { isOutage } from '../../common/patience.js';
import type { Session } from '../../common/session.js';
import { formatLock } from '../lock-state.js';
import { count, type Findings } from './findings.js';
import type { NameSet } from './name-set.js';
import { names } from './orphans.js';
import { namesIn, readHeader } from './stored.js';

/** Map-data objects are numbered; a larger number is part of a name that somebody chose. */
const MAX_MAP_DATA = 2 ** 32;
const MAP_DATA = /^(?:archip_)?(.+)_([0-9a-f]{16})$/s;
const LOCK = /^(.+)_lock$/s;
/** `<target>_lock<owner>_<two letters>`. */
const TEMPORARY = /^(.+)_lock.+_[a-z]{2}$/s;
/** A lock of no volume is told when it is at least this old: creating and removing hold such ones for a moment. */
const LOCK_AGE_MS = 60_000;
/** Locks asked for at once. */
const PAGE = 512;

/** A map-data object of a volume that has a header. */
export interface MapDataId {
  readonly object: string;
  readonly volume: string;
  readonly id: number;
}

export interface Leftovers {
  readonly mapData: readonly MapDataId[];
  /** Map data of no volume, by the name of the volume it would be of. */
  readonly strays: ReadonlyMap<string, readonly string[]>;
  /** Targets of locks. */
  readonly locks: ReadonlySet<string>;
  readonly temporary: readonly string[];
}

/** Ends the name in what can be the number of a map-data object? */
const isNumbered = (name: string): boolean => Number.parseInt(name.slice(-16), 16) < MAX_MAP_DATA;

/** Lists the maps store. @param volumes all of them, deleted ones too */
export async function listLeftovers(session: Session, volumes: readonly VolumeListEntry[]): Promise<Leftovers> {
  const known = new Set(volumes.map((volume) => volume.name));
  const live = new Set(volumes.filter((volume) => !volume.deleted).map((volume) => volume.name));
  const strays = new Map<string, string[]>();
  const mapData: MapDataId[] = [];
  const locks = new Set<string>();
  const temporary: string[] = [];
  let seen = 0;
  for await (const name of names(session.client.objects('maps'))) {
    session.progress.update('listing maps', ++seen);
    if (known.has(name)) continue;
    const data = MAP_DATA.exec(name);
    const lock = LOCK.exec(name);
    if (data) {
      if (known.has(data[1]) && isNumbered(name)) {
        mapData.push({ object: name, volume: data[1], id: Number.parseInt(data[2], 16) });
        continue;
      }
      const list = strays.get(data[1]) ?? [];
      strays.set(data[1], list);
      list.push(name);
    } else if (lock) {
      if (!live.has(lock[1])) locks.add(lock[1]);
    } else if (TEMPORARY.test(name)) temporary.push(name);
  }
  // Locks may be kept in a directory of their own: of those, this node's can be asked for.
  for await (const target of ownLocks(session)) if (!live.has(target)) locks.add(target);
  return { mapData, strays, locks, temporary };
}

async function* ownLocks(session: Session): AsyncGenerator<string> {
  const { client } = session;
  const port = client.find('maps')?.port ?? 0;
  const locks = new XsegLockClient({ call: (_port, request) => client.call('maps', request) }, port);
  let cursor: string | null = null;
  do {
    try {
      const page = await locks.list(cursor, PAGE);
      yield* page.locks.map(({ name }) => name);
      cursor = page.cursor;
    } catch (error) {
      if (errnoOf(error) === errnos.EOPNOTSUPP) return;
      throw error;
    }
  } while (cursor !== null);
}

/**
 * A name that is locked and has no volume: one is perhaps being made there, of objects that nothing else names any more. Locks that other
 * nodes keep in a directory of their own are asked for by the names of deleted volumes; of others the map data shows.
 */
export async function lockedForNew(
  session: Session,
  { locks }: Leftovers,
  volumes: readonly VolumeListEntry[],
): Promise<string | null> {
  const maps = session.client.objects('maps');
  const live = new Set(volumes.filter(({ deleted }) => !deleted).map(({ name }) => name));
  for (const name of new Set([...locks, ...volumes.map((volume) => volume.name)])) {
    if (!live.has(name) && (await maps.lockHolder(name))) return name;
  }
  return null;
}

/**
 * What stray map data names is not an orphan: it may be of a volume that is just being made.
 * @returns false when some of it could not be read, so that nothing is known of what it names
 */
export async function protectNamed(session: Session, leftovers: Leftovers, candidates: NameSet): Promise<boolean> {
  if (candidates.size === 0) return true;
  let complete = true;
  for (const object of [...leftovers.strays.values()].flat()) {
    try {
      await namesIn(session, object, (name) => candidates.delete(name));
    } catch (error) {
      if (isOutage(error)) throw error;
      // Gone meanwhile: then a map that has a header has it, or nobody.
      if (errnoOf(error) !== errnos.ENOENT) complete = false;
    }
  }
  return complete;
}

export async function tellLeftovers(session: Session, findings: Findings, leftovers: Leftovers): Promise<void> {
  for (const [volume, objects] of leftovers.strays) {
    const [object] = objects;
    // It was being made, and now it is.
    if (isNumbered(object) && (await readHeader(session, volume))) continue;
    const rest = objects.length > 1 ? ` and ${count(objects.length - 1, 'more object')}` : '';
    await findings.add({
      severity: 'note',
      kind: 'stray-map',
      volume: null,
      object,
      count: objects.length,
      message:
        `${object}${rest} in the maps store looks like map data, but there is no volume it belongs to: ${volume} is being made just now, ` +
        'or its making was cut short. It is in nobody’s way, and used again when a volume of that name is made',
    });
  }
  for (const target of leftovers.locks) await tellLock(session, findings, target);
  for (const object of leftovers.temporary) {
    await findings.add({
      severity: 'note',
      kind: 'temporary-file',
      volume: null,
      object,
      message:
        `${object} in the maps store is a temporary file of a lock, left by a crash of a node that runs the original; there it may ` +
        'keep that node from locking, and can be deleted when that node is stopped',
    });
  }
}

async function tellLock(session: Session, findings: Findings, target: string): Promise<void> {
  try {
    const lock = await session.client.objects('maps').lockHolder(target);
    if (!lock || (lock.since !== null && Date.now() - lock.since < LOCK_AGE_MS)) return;
    if (await readHeader(session, target)) return;
    await findings.note(
      'lock-without-volume',
      `${target} is ${formatLock(lock)}, and there is no such volume: if nobody took the lock by hand on purpose, vlmc unlock ${target} there`,
    );
  } catch (error) {
    if (isOutage(error)) throw error;
    await findings.note('lock-unreadable', `the lock of ${target} cannot be read: ${messageOf(error)}`);
  }
}
