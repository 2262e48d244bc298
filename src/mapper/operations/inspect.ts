/** What a volume is: INFO, STAT and LIST. They lock nothing and change nothing. */
import type { VolumeListEntry, VolumeListReply, VolumeStat } from '../../requests/json.js';
import { CHUNK_ENTRIES, EntryFlag } from '../../requests/resolved-map.js';
import { errnoOf, errnos, messageOf } from '../../sys/errno.js';
import { forEachObject, runRoom } from '../bulk.js';
import { frozenMessage, type MapperContext, mapOf, PARALLEL } from '../context.js';
import { DEFAULT_BLOCK_SIZE, HEADER_READ } from '../formats/header.js';
import * as v1 from '../formats/v1.js';
import * as v2 from '../formats/v2.js';
import { countBytes, type EntryCounts } from '../formats/v2-bytes.js';
import { forEachLimited } from '../gate.js';
import type { OpenOptions } from '../map-store.js';
import { LEGACY_PREFIX, mayBeHeader, mayBeV0, plainName } from '../names.js';
import type { StoredMap } from '../stored-map.js';
import type { Volume } from '../volume.js';

const OWN = EntryFlag.WRITABLE | EntryFlag.ARCHIP;

/** Everything `vlmc info` shows. @param allocated ask for the space of every object: slow */
export async function stat(
  context: MapperContext,
  volume: Volume,
  options: OpenOptions,
  allocated: boolean,
): Promise<VolumeStat> {
  const map = await mapOf(context, volume, options);
  const cached = volume.map === map;
  const { header } = map;
  const blocks: VolumeStat['blocks'] = { total: map.blocks, zero: 0, own: 0, shared: 0, foreign: 0, damaged: 0 };
  const space = { own: 0, other: 0, missing: 0 };
  const ancestors = new Map<string, number>();
  // A lineage that goes back to the start knows of every parent; names of objects also tell of former names.
  const wholeLineage = header.lineage !== null && header.lineage.created !== null;
  if (wholeLineage && !allocated && header.version === 2) await countStored(volume.name, map, cached, blocks);
  else {
    for (let first = 0; first < map.blocks; first += CHUNK_ENTRIES) {
      const count = Math.min(CHUNK_ENTRIES, map.blocks - first);
      await map.load(first, count);
      countBlocks(volume.name, map, first, count, blocks, ancestors);
      if (allocated) await addSpace(context, map, first, count, space);
      if (!cached) map.unload(0, first + count);
    }
  }
  const [likely = null] = [...ancestors].sort((a, b) => b[1] - a[1])[0] ?? [];
  const frozen = map.frozenReason;
  return {
    name: volume.name,
    size: header.size,
    blockSize: header.blockSize,
    version: header.version,
    epoch: header.epoch,
    readOnly: map.immutable,
    ...(frozen === null ? {} : { readOnlyReason: frozenMessage(volume.name, frozen) }),
    parent: wholeLineage ? map.parent : (map.parent ?? likely),
    created: map.created,
    blocks,
    ...(allocated ? { allocated: space } : {}),
    lock: await context.locks.holder(volume.name),
    open: volume.open,
    byHand: volume.byHand,
    lost: volume.lost,
  };
}

/** countBlocks of all blocks on the bytes that are stored: nothing is decoded but what is not all there, and nothing kept. */
async function countStored(name: string, map: StoredMap, cached: boolean, blocks: EntryCounts): Promise<void> {
  const { blockSize } = map.header;
  await forEachObject(map.blocks, blockSize, async (first, count) => {
    const room = runRoom();
    for (const run of v2.entryRuns(map.stored, blockSize, first, count, CHUNK_ENTRIES)) {
      const bytes = await map.readRun(run, room);
      // What is in memory is what counts: it is what requests are served by.
      if (bytes && map.entries.agrees(run.first, bytes, v2.ENTRY_SIZE)) countBytes(bytes, blocks);
      else {
        await map.load(run.first, run.count);
        countBlocks(name, map, run.first, run.count, blocks, null);
        if (!cached) map.unload(run.first, run.count);
      }
    }
  });
  await map.assertSame();
}

/** @param ancestors counts blocks by what their objects are named after; null: nobody asks */
function countBlocks(
  name: string,
  map: StoredMap,
  first: number,
  count: number,
  blocks: EntryCounts,
  ancestors: Map<string, number> | null,
): void {
  for (let i = first; i < first + count; i++) {
    if (!map.usable(i)) {
      blocks.damaged++;
      continue;
    }
    const flags = map.entries.flags(i);
    if (flags & EntryFlag.ZERO) blocks.zero++;
    else if ((flags & OWN) === OWN) blocks.own++;
    else if (flags & EntryFlag.ARCHIP) {
      blocks.shared++;
      const prefix = ancestors && map.entries.namePrefix(i);
      if (ancestors && prefix && prefix !== name) ancestors.set(prefix, (ancestors.get(prefix) ?? 0) + 1);
    } else blocks.foreign++;
  }
}

async function addSpace(
  context: MapperContext,
  map: StoredMap,
  first: number,
  count: number,
  space: { own: number; other: number; missing: number },
): Promise<void> {
  const used: number[] = [];
  for (let i = first; i < first + count; i++) {
    if (map.usable(i) && (map.entries.flags(i) & EntryFlag.ZERO) === 0) used.push(i);
  }
  await forEachLimited(used, PARALLEL, async (i) => {
    const own = (map.entries.flags(i) & OWN) === OWN;
    try {
      const { allocated } = await context.blocks.info(map.entries.objectName(i));
      if (own) space.own += allocated;
      else space.other += allocated;
    } catch (error) {
      if (errnoOf(error) !== errnos.ENOENT) throw error;
      space.missing++;
    }
  });
}

/**
 * A page of the volumes in the maps store. Legacy names are shown plain, v0 maps only when their name is a hash; what is no map
 * is left out, a map that cannot be read is listed with the reason.
 */
export async function list(
  context: MapperContext,
  cursor: string | null,
  limit: number,
  deleted: boolean,
): Promise<VolumeListReply> {
  const page = await context.maps.objects.list(cursor, limit);
  const found = new Map<string, VolumeListEntry>();
  await forEachLimited(page.names.filter(mayBeHeader), PARALLEL, async (object) => {
    const entry = await listEntry(context, object);
    if (entry && (deleted || !entry.deleted)) found.set(object, entry);
  });
  const volumes = page.names.flatMap((name) => found.get(name) ?? []);
  return { volumes, cursor: page.cursor };
}

async function listEntry(context: MapperContext, object: string): Promise<VolumeListEntry | null> {
  const name = plainName(object);
  const unreadable = (error: unknown): VolumeListEntry => ({
    name,
    size: 0,
    blockSize: 0,
    readOnly: true,
    version: 2,
    error: messageOf(error),
  });
  let head: Buffer;
  try {
    head = await context.maps.objects.read(object, 0, HEADER_READ);
    // What a volume of the same plain name hides cannot be opened, so it is not listed.
    if (name !== object && (await hides(context, name))) return null;
  } catch (error) {
    return errnoOf(error) === errnos.ENOENT ? null : unreadable(error);
  }
  try {
    if (v2.isV2(head)) {
      const { size, blockSize, readOnly, deleted, epoch, lineage } = v2.decodeHeader(object, head);
      const immutable = readOnly || object.startsWith(LEGACY_PREFIX);
      const entry = { name, size, blockSize, readOnly: immutable, version: 2, epoch };
      if (deleted) return { ...entry, deleted };
      const { created, parent } = lineage
        ? { created: lineage.created, parent: lineage.parentName }
        : { created: readOnly ? (await context.maps.objects.info(object)).modified : null, parent: null };
      return { ...entry, ...(created ? { created } : {}), ...(parent ? { parent } : {}) };
    }
    if (!mayBeV0(object)) {
      if (!v1.startsLikeV1(head)) return null;
      const { size, blockSize } = v1.decodeHeader(object, head);
      return { name, size, blockSize, readOnly: true, version: 1 };
    }
    const map = await context.maps.open(object, { assumeV0: true, v0Size: -1 });
    return (
      map && { name, size: map.header.size, blockSize: DEFAULT_BLOCK_SIZE, readOnly: true, version: map.header.version }
    );
  } catch (error) {
    return unreadable(error);
  }
}

async function hides(context: MapperContext, plain: string): Promise<boolean> {
  try {
    const head = await context.maps.objects.read(plain, 0, HEADER_READ);
    return !v2.isV2(head) || !v2.decodeHeader(plain, head).deleted;
  } catch (error) {
    if (errnoOf(error) === errnos.ENOENT) return false;
    throw error;
  }
}
