/**
 * Makes durable what was written to a volume's blocks, whoever wrote it. The store is flushed whole, which needs no names and covers what a process left
 * that was killed. Where the disk has not taken an object, that fails as long as the object is there (blockers/file/durability.ts), also
 * when it is another volume's: then this volume's own objects are asked for by their names.
 */

import type { ObjectClient } from '../requests/object-client.js';
import { EntryFlag } from '../requests/resolved-map.js';
import { errnoOf, errnos } from '../sys/errno.js';
import type { StoredMap } from './stored-map.js';

/** Blocks whose names are held at the same time. */
const STEP = 4096;

/**
 * The caller is alone on the volume, and all that was acknowledged of it is in its map: nothing but the writable entries' objects can have been
 * written.
 * @param map of the volume; only called when it matters. It throws ENOENT when there is none
 * @param whole flushes the store
 * @throws SystemError EIO when an object of the volume was not taken, or when that cannot be told; others of the store
 */
export async function flushOwnData(
  blocks: ObjectClient,
  map: () => Promise<StoredMap>,
  whole: () => Promise<void> = () => blocks.flush(null),
): Promise<void> {
  try {
    await whole();
  } catch (error) {
    if (errnoOf(error) !== errnos.EIO) throw error;
    await flushByName(blocks, map, error);
  }
}

async function flushByName(blocks: ObjectClient, mapOf: () => Promise<StoredMap>, cause: unknown): Promise<void> {
  const map = await mapOf().catch((error) => {
    if (errnoOf(error) === errnos.ENOENT) return null;
    throw cause;
  });
  if (map === null) return;
  for (let first = 0; first < map.blocks; first += STEP) {
    const count = Math.min(STEP, map.blocks - first);
    await map.load(first, count);
    const { entries } = map;
    const names: string[] = [];
    for (let i = first; i < first + count; i++) {
      // What cannot be read may name anything.
      if (!map.usable(i)) throw cause;
      const flags = entries.flags(i);
      if ((flags & (EntryFlag.WRITABLE | EntryFlag.ZERO)) === EntryFlag.WRITABLE) names.push(entries.objectName(i));
    }
    if (names.length > 0) await blocks.flush(names);
  }
}
