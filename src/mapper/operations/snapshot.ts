/** Snapshots: a read-only map of the volume's objects, which the volume from then on shares with it. No data moves. */
import { forOnce, type Once } from '../../requests/once.js';
import { CHUNK_ENTRIES, EntryFlag } from '../../requests/resolved-map.js';
import { errnoOf, errnos } from '../../sys/errno.js';
import { forEachObject, runRoom, SharedRuns, writeRuns } from '../bulk.js';
import { type MapperContext, ownMap } from '../context.js';
import { lateLineage, newLineage } from '../formats/lineage.js';
import * as v2 from '../formats/v2.js';
import type { MapStore, OpenOptions } from '../map-store.js';
import { flushOwnData } from '../own-data.js';
import type { StoredMap } from '../stored-map.js';
import type { Volume } from '../volume.js';
import { idFor, isOwn, noteEpoch, wasMade } from './again.js';
import { epochForNew } from './create.js';
import { makeMissingObjects } from './own-objects.js';

const KEEP_SHARED = EntryFlag.ARCHIP | EntryFlag.ZERO;

/**
 * Makes `target` a snapshot of the volume. Each step is durable before the next: the data, the snapshot's entries, the volume's next epoch,
 * its entries without WRITABLE, the snapshot's header. A crash between two leaves a volume that works, and no snapshot.
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
      if (volume.written) await flushOwnData(context.blocks, () => Promise.resolve(map));
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
 * Writes the snapshot's entries, which count for nothing before its header, and takes WRITABLE from those of the volume, which are then the same
 * bytes, after its epoch was raised: what is written from then on gets new objects. All durable. What is damaged, and a full store, are found
 * before anything of the volume changes. An image or snapshot without writable entries has nothing to share anew and stays as it is.
 */
async function shareEntries(context: MapperContext, volume: Volume, map: StoredMap, target: string): Promise<void> {
  const { maps } = context;
  const { readOnly } = map.header;
  if (map.header.lineage === null) await map.check(0, map.blocks);
  const runs = new SharedRuns(map);
  const writable = new Set<number>();
  try {
    await writeRuns(maps, target, map.header.blockSize, map.blocks, async (run, room) => {
      const shared = await runs.take({ ...run, object: objectOf(map, run) }, room);
      if (shared.writable) writable.add(run.first);
      return shared.bytes;
    });
  } catch (error) {
    // There is no snapshot yet. Should this fail, too, `vlmc check` tells what is left.
    await maps.removeMapData(target, map.header, map.blocks).catch(() => {});
    throw error;
  }
  if (readOnly && writable.size === 0) return;
  await makeMissingObjects(context, map);
  // A volume that is older than its lineage has an id from its next snapshot on.
  const lineage = map.header.lineage ?? lateLineage();
  const header = { ...map.header, epoch: map.header.epoch + 1, lineage };
  await maps.writeHeader(map.stored, header);
  map.header = header;
  await takeWritable(maps, volume, map, runs, writable);
}

/** @param writable first blocks of the runs that have writable entries */
async function takeWritable(
  maps: MapStore,
  volume: Volume,
  map: StoredMap,
  runs: SharedRuns,
  writable: ReadonlySet<number>,
): Promise<void> {
  const { blockSize } = map.header;
  await forEachObject(map.blocks, blockSize, async (first, count) => {
    const changed = new Set<string>();
    const room = runRoom();
    for (const run of v2.entryRuns(map.stored, blockSize, first, count, CHUNK_ENTRIES)) {
      if (!writable.has(run.first)) continue;
      const { bytes } = await runs.take(run, room);
      volume.touched.add(run.object);
      await maps.writeRun(run, bytes, changed);
      map.entries.keepFlags(run.first, run.count, KEEP_SHARED);
    }
    const durable = [...changed];
    await maps.flush(changed);
    for (const name of durable) volume.touched.delete(name);
  });
}

/** The map-data object that has the entries of a run. */
const objectOf = ({ stored, header }: StoredMap, { first }: v2.EntryRun): string =>
  v2.mapDataName(stored, Math.floor(first / v2.entriesPerObject(header.blockSize)));
