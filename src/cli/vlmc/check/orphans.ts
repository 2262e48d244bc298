/**
 * Orphans: objects that have a volume's name pattern and that no map names. They are what crashes and deleted snapshots leave behind.
 *
 * Objects are listed before maps are read: what is made later is not looked at, and what a map names by then is no orphan.
 */
import type { XsegObjectClient } from '../../../requests/object-client.js';
import { errnoOf, errnos } from '../../../sys/errno.js';
import { isOutage } from '../../common/patience.js';
import type { Session } from '../../common/session.js';
import { count, type Findings } from './findings.js';
import { NameSet, parseObjectName } from './name-set.js';

/** Names asked for at once. */
const PAGE = 4096;
/** Requests to the blocker at the same time. */
const PARALLEL = 32;
const MEMO = '_hash';
/** `<object>_hash<owner>_<two letters>`. */
const TEMPORARY = /_hash.+_[a-z]{2}$/s;

/** All names in a store. */
export async function* names(store: XsegObjectClient): AsyncGenerator<string> {
  let cursor: string | null = null;
  do {
    const page: { names: string[]; cursor: string | null } = await store.list(cursor, PAGE);
    yield* page.names;
    cursor = page.cursor;
  } while (cursor !== null);
}

export interface ObjectNames {
  /** Objects that volumes made. */
  readonly candidates: NameSet;
  /** Of what there is a remembered hash, among those. */
  readonly memos: NameSet;
  /** Temporary files of hashing. */
  readonly temporary: readonly string[];
}

/** Lists the blocks store. @param volume only objects of this one */
export async function listObjects(session: Session, volume: string | null): Promise<ObjectNames> {
  const candidates = new NameSet();
  const memos = new NameSet();
  const temporary: string[] = [];
  let seen = 0;
  for await (const name of names(session.client.objects('blocks'))) {
    session.progress.update('listing objects', ++seen);
    if (volume !== null && !name.startsWith(`${volume}_`)) continue;
    const ofVolume = (object: string): boolean => {
      const parsed = parseObjectName(object);
      return parsed !== null && (volume === null || parsed.volume === volume);
    };
    if (ofVolume(name)) candidates.add(name);
    else if (name.endsWith(MEMO)) {
      const object = name.slice(0, -MEMO.length);
      if (ofVolume(object)) memos.add(object);
    } else if (TEMPORARY.test(name)) temporary.push(name);
  }
  return { candidates, memos, temporary };
}

/** Forgets those that are gone by now: their volume was removed meanwhile, or wrote zeros. */
export async function dropMissing(session: Session, candidates: NameSet): Promise<void> {
  const blocks = session.client.objects('blocks');
  const todo = candidates[Symbol.iterator]();
  let looked = 0;
  const worker = async (): Promise<void> => {
    for (let next = todo.next(); !next.done; next = todo.next()) {
      const object = next.value;
      session.progress.update('looking at orphans', ++looked, candidates.size);
      try {
        await blocks.info(object);
      } catch (error) {
        if (isOutage(error)) throw error;
        if (errnoOf(error) === errnos.ENOENT) candidates.delete(object);
      }
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, worker));
}

/** Tells what hashing left: nothing reads it, nothing is harmed by it. @param exist the objects that there were */
export async function tellHashes(findings: Findings, found: ObjectNames): Promise<void> {
  for (const object of found.memos) {
    if (found.candidates.has(object)) continue;
    await findings.add({
      severity: 'note',
      kind: 'hash-without-object',
      volume: parseObjectName(object)?.volume ?? null,
      object: `${object}${MEMO}`,
      message: `${object}${MEMO} remembers the hash of an object that does not exist`,
    });
  }
  if (found.temporary.length === 0) return;
  const [object] = found.temporary;
  await findings.add({
    severity: 'note',
    kind: 'temporary-file',
    volume: null,
    object,
    count: found.temporary.length,
    message: `${count(found.temporary.length, 'temporary file')} of hashing in the blocks store, left by a crash; the first is ${object}`,
  });
}
