/**
 * Deleting a volume: its own objects go, shared and foreign ones stay, and so do its header and entries, marked, because the
 * epoch must not be used again (ondisk 6).
 */
import { begun, encodeNote, forOnce, type Once } from '../../requests/once.js';
import { EntryFlag } from '../../requests/resolved-map.js';
import { errnos, SystemError } from '../../sys/errno.js';
import { type MapperContext, mapOf } from '../context.js';
import { deleteObjects, leftObjects, writeZeroEntries } from '../copy-up.js';
import { lateLineage } from '../formats/lineage.js';
import * as v2 from '../formats/v2.js';
import { dropLegacyMap } from '../leftover.js';
import type { OpenOptions } from '../map-store.js';
import { droppedBy, zeroedAmong } from '../provisional/zeroes.js';
import type { StoredMap } from '../stored-map.js';
import type { Volume } from '../volume.js';
import { remainsOf } from './again.js';
import { upgrade } from './upgrade.js';

const OWN = EntryFlag.WRITABLE | EntryFlag.ARCHIP;

/**
 * Deletes the volume. Entries are marked before their objects go, so that an interrupted deletion shows as that and not as zeros;
 * it can be repeated. Missing objects are fine (defect D18). The lock is released in the end.
 * @throws SystemError ENOENT, EBUSY, EROFS (v0 map), or what kept objects from being deleted: the volume then still exists
 */
export async function remove(
  context: MapperContext,
  volume: Volume,
  options: OpenOptions,
  once: Once = forOnce(),
): Promise<void> {
  const noted = begun(once.note);
  // What stands there instead was made later, and nobody asked to delete that.
  const done = noted !== null && (await remainsOf(context, volume.name, noted.id)) !== 'the volume';
  if (!done) await removeNow(context, volume, options, once);
  await context.locks.end(volume);
  volume.map = null;
}

async function removeNow(context: MapperContext, volume: Volume, options: OpenOptions, once: Once): Promise<void> {
  await context.locks.during(volume, async () => {
    let map = await mapOf(context, volume, options);
    if (map.header.version === 0) {
      throw new SystemError(
        errnos.EROFS,
        `${volume.name} is a v0 map and belongs to Pithos; vlmc upgrade ${volume.name} makes it a volume that can be removed`,
      );
    }
    if (map.frozenReason !== null) {
      volume.map = null;
      await upgrade(context, volume, options);
      map = await mapOf(context, volume, options);
    }
    if (volume.map !== map) await dropLegacyMap(context.maps, volume.name, map);
    const { epoch } = map.header;
    if (map.header.lineage === null) {
      const { committer } = context.volumes;
      // What was noted of the map as it is must count under its id, too: until its entry says so, no block is deleted.
      await committer.confirm(volume, map.header);
      const header = { ...map.header, lineage: lateLineage() };
      committer.become(volume, header);
      await context.maps.writeHeader(map.stored, header);
      map.header = header;
    }
    once.note = encodeNote({ id: map.header.lineage!.id, epoch });
    for (const run of v2.entryRuns(map.stored, map.header.blockSize, 0, map.blocks, v2.RUN_ENTRIES)) {
      await removeRun(context, volume, map, run);
    }
    await context.maps.writeHeader(map.stored, { ...map.header, deleted: true });
    // Of what an earlier mapper owed, nobody needs to know any more.
    context.volumes.committer.drop(volume, 0, Number.POSITIVE_INFINITY);
  });
}

/** No commit may write these entries meanwhile. */
function removeRun(
  context: MapperContext,
  volume: Volume,
  map: StoredMap,
  { first, count }: v2.EntryRun,
): Promise<void> {
  return volume.blocks.run(first, first + count, () => removeBlocks(context, volume, map, first, count));
}

async function removeBlocks(
  context: MapperContext,
  volume: Volume,
  map: StoredMap,
  first: number,
  count: number,
): Promise<void> {
  // Damaged entries name nothing that could be deleted; they must not keep the volume from going.
  await map.load(first, count);
  const { entries } = map;
  const own = (i: number): boolean => entries.has(i) && (entries.flags(i) & (OWN | EntryFlag.ZERO)) === OWN;
  const names: string[] = [];
  // What the disk did not take of first writes keeps the store from being flushed whole.
  names.push(...leftObjects(volume, map, first, first + count));
  // What was made zero last, and named an object until then.
  const zeroed = zeroedAmong(volume, first, first + count).sort((a, b) => a.block - b.block);
  names.push(...(await droppedBy(map, zeroed)));
  await writeZeroEntries(
    context,
    volume,
    map,
    zeroed.map(({ block }) => block),
  );
  for (let from = first; from < first + count; ) {
    if (!own(from)) {
      from++;
      continue;
    }
    let to = from;
    while (to < first + count && own(to)) names.push(entries.objectName(to++));
    const encode = (i: number, out: Buffer, at: number): void =>
      v2.encodeEntry(entries, i, out, at, OWN, EntryFlag.DELETED);
    await context.maps.writeEntries(map.stored, map.header.blockSize, from, to - from, encode, volume.touched);
    from = to;
  }
  if (names.length === 0) return;
  await context.maps.flush(volume.touched);
  // Of what was first written or made zero and not committed, the entries tell now.
  context.volumes.committer.drop(volume, first, first + count);
  await deleteObjects(context, volume.name, names);
}
