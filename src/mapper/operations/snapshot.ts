/** Snapshots: a read-only map of the volume's objects, which the volume from then on shares with it. No data moves. */
import { forOnce, type Once } from '../../requests/once.js';
import { EntryFlag } from '../../requests/resolved-map.js';
import { errnoOf, errnos } from '../../sys/errno.js';
import { type MapperContext, ownMap } from '../context.js';
import { lateLineage, newLineage } from '../formats/lineage.js';
import * as v2 from '../formats/v2.js';
import type { OpenOptions } from '../map-store.js';
import type { StoredMap } from '../stored-map.js';
import type { Volume } from '../volume.js';
import { idFor, isOwn, noteEpoch, wasMade } from './again.js';
import { epochForNew } from './create.js';
import { makeMissingObjects } from './own-objects.js';

const KEEP_SHARED = EntryFlag.ARCHIP | EntryFlag.ZERO;

/**
 * Makes `target` a snapshot of the volume. Each step is durable before the next: the data, the volume's next epoch, its entries
 * without WRITABLE, the snapshot's entries, its header. A crash between two leaves a volume that works, and no snapshot.
 * @throws SystemError ENOENT, EEXIST, EBUSY, EROFS (a map to be upgraded first)
 */
export async function snapshot(
  context: MapperContext,
  volume: Volume,
  target: Volume,
  options: OpenOptions,
  once: Once = forOnce(),
): Promise<void> {
  if (await wasMade(context, target.name, once)) return;
  await context.locks.during(volume, async () => {
    const map = await ownMap(context, volume, options);
    // The volume is drained: its content is that of now, however long the rest takes.
    const created = Date.now();
    await context.locks.during(target, async () => {
      // A snapshot's epoch is 0 as the original's, unless the name was used before (defect D6).
      const epoch = await epochForNew(context, target.name, 0).catch(async (error) => {
        if (errnoOf(error) === errnos.EEXIST && (await isOwn(context, target.name, once))) return null;
        throw error;
      });
      if (epoch === null) return;
      if (volume.written) await context.blocks.flush(null);
      await context.maps.flush(volume.touched);
      await shareEntries(context, volume, map);
      const lineage = newLineage({ name: volume.name, lineage: map.header.lineage }, created, idFor(once));
      noteEpoch(once, epoch);
      await context.maps.writeMap(
        target.name,
        { ...map.header, readOnly: true, epoch, lineage },
        map.blocks,
        (i, out, at) => v2.encodeEntry(map.entries, i, out, at, KEEP_SHARED),
        (first, count) => map.check(first, count),
      );
      context.snapshots.made(target.name);
    });
  });
}

/**
 * Takes WRITABLE from every entry, after the epoch was raised: what is written from then on gets new objects. Durable. An
 * image or snapshot without writable entries has nothing to share anew and stays as it is.
 */
export async function shareEntries(context: MapperContext, volume: Volume, map: StoredMap): Promise<void> {
  await map.check(0, map.blocks);
  if (map.header.readOnly && !runHasWritable(map, 0, map.blocks)) return;
  await makeMissingObjects(context, map);
  // A volume that is older than its lineage has an id from its next snapshot on.
  const lineage = map.header.lineage ?? lateLineage();
  const header = { ...map.header, epoch: map.header.epoch + 1, lineage };
  await context.maps.writeHeader(map.stored, header);
  map.header = header;
  const { blockSize } = header;
  for (const run of v2.entryRuns(map.stored, blockSize, 0, map.blocks, v2.RUN_ENTRIES)) {
    if (!runHasWritable(map, run.first, run.count)) continue;
    await context.maps.writeEntries(
      map.stored,
      blockSize,
      run.first,
      run.count,
      (i, out, at) => v2.encodeEntry(map.entries, i, out, at, KEEP_SHARED),
      volume.touched,
    );
    for (let i = run.first; i < run.first + run.count; i++) {
      map.entries.setFlags(i, map.entries.flags(i) & KEEP_SHARED);
    }
  }
  await context.maps.flush(volume.touched);
}

/** Whether an entry of these blocks, which were loaded, is writable in place. */
export function runHasWritable(map: StoredMap, first: number, count: number): boolean {
  for (let i = first; i < first + count; i++) if (map.entries.flags(i) & EntryFlag.WRITABLE) return true;
  return false;
}
