/**
 * New volumes: blank, of given objects (X_CREATE), or as a clone of a snapshot. Map data first, header last; the header's epoch
 * follows that of a deleted volume of the same name, so that no object name is ever used for two contents.
 */

import { forOnce, type Once } from '../../requests/once.js';
import { CHUNK_ENTRIES, EntryFlag, ResolvedMap } from '../../requests/resolved-map.js';
import type { CreateData } from '../../requests/structs.js';
import { errnoOf, errnos, SystemError } from '../../sys/errno.js';
import { SharedRuns, writeRuns } from '../bulk.js';
import { type MapperContext, mapOf } from '../context.js';
import { newObjectName } from '../copy-up.js';
import {
  blockCount,
  checkNewSize,
  DamagedMap,
  DEFAULT_BLOCK_SIZE,
  type MapHeader,
  validBlockSize,
  ZERO_NAME,
} from '../formats/header.js';
import { type Lineage, newLineage } from '../formats/lineage.js';
import * as v2 from '../formats/v2.js';
import { zeroBytes } from '../formats/v2-bytes.js';
import { noV0, type OpenOptions } from '../map-store.js';
import { checkTarget } from '../names.js';
import type { StoredMap } from '../stored-map.js';
import type { Volume } from '../volume.js';
import { idFor, noteEpoch, wasMade } from './again.js';

/** Errors of an object that is there and is no map this mapper knows. */
const unknownFormat = new Set<number>([errnos.EINVAL, errnos.EOPNOTSUPP]);

/**
 * The epoch for a map that is made under this name: 1 (or `fresh`), or one more than what a deleted volume left. The name's lock is
 * held. @throws SystemError EEXIST when there is a map, or something else, of that name
 */
export async function epochForNew(context: MapperContext, name: string, fresh = 1): Promise<number> {
  const { map, tombstone } = await context.maps.lookup(name, noV0).catch((error) => {
    const unreadable = error instanceof DamagedMap || unknownFormat.has(errnoOf(error));
    if (!unreadable) throw error;
    // Whatever it is, it must not be overwritten.
    throw new SystemError(errnos.EEXIST, `the name ${name} is in use: ${(error as Error).message}`, { cause: error });
  });
  if (map) throw new SystemError(errnos.EEXIST, `volume ${name} exists already`);
  return tombstone ? tombstone.epoch + 1 : fresh;
}

/** Makes a volume of zeros. @param size bytes */
export async function createBlank(
  context: MapperContext,
  volume: Volume,
  size: number,
  once: Once = forOnce(),
): Promise<void> {
  checkNewSize(volume.name, size, DEFAULT_BLOCK_SIZE);
  if (await wasMade(context, volume.name, once)) return;
  await context.locks.during(volume, async () => {
    const epoch = await epochForNew(context, volume.name);
    const header = newHeader(size, DEFAULT_BLOCK_SIZE, epoch, newLineage(null, Date.now(), idFor(once)));
    noteEpoch(once, epoch);
    const zero = zeroBytes(Math.min(blockCount(size, DEFAULT_BLOCK_SIZE), CHUNK_ENTRIES));
    const make = async (run: v2.EntryRun): Promise<Buffer> => zero.subarray(0, run.count * v2.ENTRY_SIZE);
    await writeRuns(context.maps, volume.name, DEFAULT_BLOCK_SIZE, blockCount(size, DEFAULT_BLOCK_SIZE), make);
    await context.maps.writeHeader(volume.name, header);
  });
}

function newHeader(size: number, blockSize: number, epoch: number, lineage: Lineage, readOnly = false): MapHeader {
  return { version: 2, size, blockSize, readOnly, deleted: false, epoch, lineage };
}

/**
 * Makes a map of objects that exist already (images of Pithos and Cyclades).
 * @throws SystemError EINVAL when block size, count and names do not fit
 */
export async function createFromObjects(
  context: MapperContext,
  volume: Volume,
  size: number,
  create: CreateData,
  once: Once = forOnce(),
): Promise<void> {
  const blockSize = create.blockSize || DEFAULT_BLOCK_SIZE;
  if (!validBlockSize(blockSize)) {
    throw new SystemError(errnos.EINVAL, `block size ${blockSize}: it must be a power of two over 128`);
  }
  checkNewSize(volume.name, size, blockSize);
  const count = blockCount(size, blockSize);
  if (create.objects.length !== count) {
    throw new SystemError(
      errnos.EINVAL,
      `volume ${volume.name}: ${create.objects.length} objects are given, ${size} bytes in blocks of ${blockSize} are ${count}`,
    );
  }
  const entries = new ResolvedMap(count);
  for (const [i, object] of create.objects.entries()) {
    checkTarget(object.name);
    if (Buffer.byteLength(object.name) > v2.MAX_ENTRY_NAME) {
      throw new SystemError(errnos.EINVAL, `object name ${object.name} is longer than ${v2.MAX_ENTRY_NAME} bytes`);
    }
    if (object.name === ZERO_NAME) entries.setZero(i);
    else entries.set(i, object.readOnly ? 0 : EntryFlag.WRITABLE, object.name);
  }
  if (await wasMade(context, volume.name, once)) return;
  await context.locks.during(volume, async () => {
    const epoch = await epochForNew(context, volume.name);
    const lineage = newLineage(null, Date.now(), idFor(once));
    const header = newHeader(size, blockSize, epoch, lineage, create.readOnly);
    noteEpoch(once, epoch);
    await context.maps.writeMap(volume.name, header, count, (i, out, at) => v2.encodeEntry(entries, i, out, at));
  });
}

/**
 * Makes a clone. It keeps the parent's block size (defect D2); what is larger than the parent is zeros.
 * @param size bytes, 0 = the parent's
 * @throws SystemError ENOENT (parent), EINVAL (parent is not read-only, or larger), EEXIST
 */
export async function clone(
  context: MapperContext,
  volume: Volume,
  parentVolume: Volume,
  size: number,
  options: OpenOptions,
  once: Once = forOnce(),
): Promise<void> {
  if (await wasMade(context, volume.name, once)) return;
  const parent = await mapOf(context, parentVolume, options);
  const { blockSize } = parent.header;
  if (!parent.header.readOnly) {
    throw new SystemError(
      errnos.EINVAL,
      `${parentVolume.name} is not a snapshot; take one with vlmc snapshot ${parentVolume.name} NAME and clone that`,
    );
  }
  const newSize = size === 0 ? parent.header.size : size;
  checkNewSize(volume.name, newSize, blockSize);
  if (newSize < parent.header.size) {
    throw new SystemError(
      errnos.EINVAL,
      `volume ${volume.name}: ${newSize} bytes are less than the ${parent.header.size} of its parent ${parentVolume.name}`,
    );
  }
  const keepCached = parentVolume.map === parent;
  await context.locks.during(volume, async () => {
    // It may have been removed by another node before the lock said that something is in the making: then its objects may be taken for orphans.
    const { map: still } = await context.maps.lookup(parentVolume.name, options);
    if (!still) throw new SystemError(errnos.ENOENT, `${parentVolume.name} was just removed`);
    const from = { name: parentVolume.name, lineage: parent.header.lineage };
    const lineage = newLineage(from, Date.now(), idFor(once));
    const header = newHeader(newSize, blockSize, await epochForNew(context, volume.name), lineage);
    noteEpoch(once, header.epoch);
    const tail = await copyTail(context, volume.name, header, parent, newSize);
    // Entries of a v0 or v1 parent are not stored like this.
    const make = parent.header.version === 2 ? sharedEntries(parent) : encodedEntries(parent);
    await writeRuns(context.maps, volume.name, blockSize, blockCount(newSize, blockSize), async (run, room) => {
      const bytes = await make(run, room);
      const at = (tail - run.first) * v2.ENTRY_SIZE;
      if (at >= 0 && at < bytes.length) {
        bytes.fill(0, at, at + v2.ENTRY_SIZE);
        const own = newObjectName(volume.name, header.epoch, tail);
        v2.encodeNamedEntry(bytes, at, EntryFlag.WRITABLE | EntryFlag.ARCHIP, own);
      }
      return bytes;
    });
    // All that was read of the parent is of one and the same map.
    await parent.assertSame();
    if (!keepCached) parent.unload(0, parent.blocks);
    await context.maps.writeHeader(volume.name, header);
  });
}

type MakeRun = (run: v2.EntryRun, room: Buffer) => Promise<Buffer>;

/** The entries of a clone: those of the parent, shared, and zero blocks past its end. */
function sharedEntries(parent: StoredMap): MakeRun {
  const runs = new SharedRuns(parent);
  return async (run, room) => {
    const count = Math.min(run.count, parent.blocks - run.first);
    if (count <= 0) return zeroBytes(run.count);
    const id = Math.floor(run.first / v2.entriesPerObject(parent.header.blockSize));
    const { bytes } = await runs.take({ ...run, object: v2.mapDataName(parent.stored, id), count }, room);
    return count === run.count ? bytes : Buffer.concat([bytes, zeroBytes(run.count - count)]);
  };
}

/** The same of a parent whose entries are stored in another format. */
function encodedEntries(parent: StoredMap): MakeRun {
  return async ({ first, count }) => {
    const shared = Math.max(0, Math.min(count, parent.blocks - first));
    await parent.check(first, shared);
    const bytes = Buffer.alloc(shared * v2.ENTRY_SIZE);
    for (let k = 0; k < shared; k++) {
      v2.encodeEntry(parent.entries, first + k, bytes, k * v2.ENTRY_SIZE, EntryFlag.ARCHIP);
    }
    return shared === count ? bytes : Buffer.concat([bytes, zeroBytes(count - shared)]);
  };
}

/**
 * A larger clone must not show what the object of the parent's partial last block may hold past the parent's end: such a
 * block gets its own object. @returns the block, or -1 when there is none
 */
async function copyTail(
  context: MapperContext,
  name: string,
  header: MapHeader,
  parent: Awaited<ReturnType<typeof mapOf>>,
  newSize: number,
): Promise<number> {
  const length = parent.header.size % parent.header.blockSize;
  if (newSize === parent.header.size || length === 0) return -1;
  const i = parent.blocks - 1;
  await parent.check(i, 1);
  if (parent.entries.flags(i) & EntryFlag.ZERO) return -1;
  const source = parent.entries.objectName(i);
  try {
    if ((await context.blocks.info(source)).size <= length) return -1;
  } catch (error) {
    if (errnoOf(error) === errnos.ENOENT) return -1;
    throw error;
  }
  await context.blocks.copy(source, newObjectName(name, header.epoch, i), length, { durable: true });
  return i;
}
