/**
 * Renaming: a new map that names the same objects, then the old one goes. At no time, crash or not, may two live maps write to
 * one object: so the entries lose WRITABLE before the second map appears and get it back when the first is gone.
 */
import { begun, encodeNote, forOnce, type Once } from '../../requests/once.js';
import { EntryFlag } from '../../requests/resolved-map.js';
import { errnos, messageOf, SystemError } from '../../sys/errno.js';
import { type MapperContext, ownMap } from '../context.js';
import { lateLineage } from '../formats/lineage.js';
import * as v2 from '../formats/v2.js';
import { noV0, type OpenOptions } from '../map-store.js';
import { flushOwnData } from '../own-data.js';
import type { StoredMap } from '../stored-map.js';
import type { Volume } from '../volume.js';
import { remainsOf, wasMade } from './again.js';
import { epochForNew } from './create.js';
import { makeMissingObjects } from './own-objects.js';

const ALL = EntryFlag.WRITABLE | EntryFlag.ARCHIP | EntryFlag.ZERO;
const SHARED = EntryFlag.ARCHIP | EntryFlag.ZERO;

/**
 * Renames the volume; its objects keep their names. Each step is durable before the next. A crash leaves the old volume, both as
 * clones of each other, or the new one. Locks of both names are released in the end.
 * @throws SystemError ENOENT, EEXIST, EBUSY, EROFS (a map to be upgraded first)
 */
export async function rename(
  context: MapperContext,
  volume: Volume,
  target: Volume,
  options: OpenOptions,
  once: Once = forOnce(),
): Promise<void> {
  const { maps, locks } = context;
  if (!(await wasRenamed(context, volume, target, once))) {
    await locks.during(volume, async () => {
      const map = await ownMap(context, volume, options);
      await locks.during(target, async () => {
        if (await isCopied(context, map, target, once)) await maps.objects.flush([target.name]);
        else await copy(context, volume, map, target, once);
        context.snapshots.made(target.name);
        await maps.writeHeader(map.stored, { ...map.header, deleted: true });
        await writeAll(context, map, target.name, ALL, target.touched);
      });
      await maps.removeMapData(map.stored, map.header, map.blocks).catch((error) => {
        context.log.warn(`volume ${volume.name} was renamed; its old map data is left over: ${messageOf(error)}`);
      });
    });
  }
  await locks.end(volume);
  volume.map = null;
}

/** Makes the second map. Neither may write in place to what both name. */
async function copy(context: MapperContext, volume: Volume, map: StoredMap, target: Volume, once: Once): Promise<void> {
  const { maps } = context;
  const epoch = await epochForNew(context, target.name);
  if (volume.written) await flushOwnData(context.blocks, () => Promise.resolve(map));
  await maps.flush(volume.touched);
  await map.check(0, map.blocks);
  const writable = runHasWritable(map, 0, map.blocks);
  const lineage = map.header.lineage ?? lateLineage();
  if (writable || map.header.lineage === null) {
    // Between two steps both maps share the objects, and after a crash for good.
    await makeMissingObjects(context, map);
    map.header = { ...map.header, lineage, epoch: map.header.epoch + (writable ? 1 : 0) };
    await maps.writeHeader(map.stored, map.header);
  }
  once.note = encodeNote({ id: lineage.id, epoch });
  if (writable) await writeAll(context, map, map.stored, SHARED, volume.touched);
  await maps.writeMap(target.name, { ...map.header, epoch }, map.blocks, (i, out, at) =>
    v2.encodeEntry(map.entries, i, out, at, SHARED),
  );
}

/** Whether an interrupted run of the request did it, to the point where only the volume's new name is left. */
async function wasRenamed(context: MapperContext, volume: Volume, target: Volume, once: Once): Promise<boolean> {
  const noted = begun(once.note);
  if (noted === null || (await remainsOf(context, volume.name, noted.id)) === 'the volume') return false;
  if (await wasMade(context, target.name, once)) return true;
  throw new SystemError(
    errnos.ESTALE,
    `volume ${volume.name}: its renaming to ${target.name} was interrupted, and both names were used for something else since`,
  );
}

/**
 * Whether an interrupted run of the request made the second map, complete, and neither was changed since.
 * @throws SystemError EEXIST when one was: who writes to which is for the administrator to say
 */
async function isCopied(context: MapperContext, map: StoredMap, target: Volume, once: Once): Promise<boolean> {
  const noted = begun(once.note);
  if (noted === null) return false;
  const { map: made } = await context.maps.lookup(target.name, noV0);
  if (!made || made.header.lineage?.id !== noted.id || map.header.lineage?.id !== noted.id) return false;
  if (await haveSameEntries(map, made)) return true;
  throw new SystemError(
    errnos.EEXIST,
    `the renaming of ${map.stored} to ${target.name} was interrupted, and one of them was written since: both exist; remove one, then try again`,
  );
}

async function haveSameEntries(map: StoredMap, other: StoredMap): Promise<boolean> {
  if (map.header.size !== other.header.size) return false;
  await map.check(0, map.blocks);
  await other.check(0, other.blocks);
  for (let i = 0; i < map.blocks; i++) {
    const flags = map.entries.flags(i) & ALL;
    if (flags !== (other.entries.flags(i) & ALL) || flags & EntryFlag.WRITABLE) return false;
    if (!(flags & EntryFlag.ZERO) && !map.entries.hasSameName(i, other.entries)) return false;
  }
  return true;
}

/** Writes the entries that are writable in memory, with only `keep` of their flags, durably. */
async function writeAll(
  context: MapperContext,
  map: StoredMap,
  stored: string,
  keep: number,
  touched: Set<string>,
): Promise<void> {
  const { blockSize } = map.header;
  for (const run of v2.entryRuns(stored, blockSize, 0, map.blocks, v2.RUN_ENTRIES)) {
    if (!runHasWritable(map, run.first, run.count)) continue;
    const encode = (i: number, out: Buffer, at: number): void => v2.encodeEntry(map.entries, i, out, at, keep);
    await context.maps.writeEntries(stored, blockSize, run.first, run.count, encode, touched);
  }
  await context.maps.flush(touched);
}

/** Whether an entry of these blocks, which were loaded, is writable in place. */
function runHasWritable(map: StoredMap, first: number, count: number): boolean {
  for (let i = first; i < first + count; i++) if (map.entries.flags(i) & EntryFlag.WRITABLE) return true;
  return false;
}
