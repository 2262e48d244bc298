/** Snapshots: a read-only map of the volume's objects, which the volume from then on shares with it. No data moves. */
import { forOnce, type Once } from '../../requests/once.js';
import { CHUNK_ENTRIES, EntryFlag } from '../../requests/resolved-map.js';
import { errnoOf, errnos } from '../../sys/errno.js';
import { forEachObject, SharedRuns } from '../bulk.js';
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
      noteEpoch(once, epoch);
      await shareEntries(context, volume, map, target.name);
      const lineage = newLineage({ name: volume.name, lineage: map.header.lineage }, created, idFor(once));
      await context.maps.writeHeader(target.name, { ...map.header, readOnly: true, epoch, lineage });
      context.snapshots.made(target.name);
    });
  });
}

/**
 * Takes WRITABLE from every entry, after the epoch was raised: what is written from then on gets new objects; and writes the entries of the
 * snapshot, which are the same bytes. All durable, and what is damaged is refused before anything changes. An image or snapshot without writable
 * entries has nothing to share anew and stays as it is.
 */
async function shareEntries(context: MapperContext, volume: Volume, map: StoredMap, target: string): Promise<void> {
  const { maps } = context;
  const { stored } = map;
  const { blockSize, readOnly } = map.header;
  if (map.header.lineage === null) await map.check(0, map.blocks);
  const runs = new SharedRuns(map);
  const writable = await runs.survey();
  const stays = readOnly && !writable;
  if (!stays) {
    await makeMissingObjects(context, map);
    // A volume that is older than its lineage has an id from its next snapshot on.
    const lineage = map.header.lineage ?? lateLineage();
    const header = { ...map.header, epoch: map.header.epoch + 1, lineage };
    await maps.writeHeader(stored, header);
    map.header = header;
  }
  await forEachObject(map.blocks, blockSize, async (first, count, id) => {
    const object = v2.mapDataName(target, id);
    const made = new Set<string>();
    const changed = new Set<string>();
    for (const run of v2.entryRuns(stored, blockSize, first, count, CHUNK_ENTRIES)) {
      const shared = await runs.take(run);
      if (shared.writable && !stays) {
        volume.touched.add(run.object);
        await maps.writeRun(run, shared.bytes, changed);
        map.entries.keepFlags(run.first, run.count, KEEP_SHARED);
      }
      await maps.writeRun({ ...run, object }, shared.bytes, made);
    }
    await Promise.all([maps.flush(changed), maps.flush(made)]);
    for (const name of changed) volume.touched.delete(name);
  });
}
