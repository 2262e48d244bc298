/**
 * Renaming: a new map that names the same objects, then the old one goes. At no time, crash or not, may two live maps write to
 * one object: so the entries lose WRITABLE before the second map appears and get it back when the first is gone.
 */
import { EntryFlag } from '../../requests/resolved-map.js';
import { messageOf } from '../../sys/errno.js';
import { type MapperContext, ownMap } from '../context.js';
import * as v2 from '../formats/v2.js';
import type { OpenOptions } from '../map-store.js';
import type { StoredMap } from '../stored-map.js';
import type { Volume } from '../volume.js';
import { epochForNew } from './create.js';
import { runHasWritable } from './snapshot.js';

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
): Promise<void> {
  const { maps, locks } = context;
  await locks.during(volume, async () => {
    const map = await ownMap(context, volume, options);
    await locks.during(target, async () => {
      const epoch = await epochForNew(context, target.name);
      if (volume.written) await context.blocks.flush(null);
      await maps.flush(volume.touched);
      await map.check(0, map.blocks);
      const writable = runHasWritable(map, 0, map.blocks);
      if (writable) {
        map.header = { ...map.header, epoch: map.header.epoch + 1 };
        await maps.writeHeader(map.stored, map.header);
        await writeAll(context, map, map.stored, SHARED, volume.touched);
      }
      const header = { ...map.header, epoch };
      await maps.writeMap(target.name, header, map.blocks, (i, out, at) =>
        v2.encodeEntry(map.entries, i, out, at, SHARED),
      );
      context.snapshots.made(target.name);
      await maps.writeHeader(map.stored, { ...map.header, deleted: true });
      if (writable) await writeAll(context, map, target.name, ALL, target.touched);
    });
    await maps.removeMapData(map.stored, map.header, map.blocks).catch((error) => {
      context.log.warn(`volume ${volume.name} was renamed; its old map data is left over: ${messageOf(error)}`);
    });
  });
  await locks.release(volume);
  volume.map = null;
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
