/**
 * Resizing. A volume that grows reads zeros where it grew, whatever its past; one that shrinks loses what is past its new end for
 * good (defects D1, D3).
 */
import { errnos, messageOf, SystemError } from '../../sys/errno.js';
import { type MapperContext, ownMap } from '../context.js';
import { cutBlock, deleteObjects, dropEntries } from '../copy-up.js';
import { blockCount, checkNewSize } from '../formats/header.js';
import * as v2 from '../formats/v2.js';
import type { EntryEncoder, OpenOptions } from '../map-store.js';
import type { StoredMap } from '../stored-map.js';
import type { Volume } from '../volume.js';

const encodeZero: EntryEncoder = (_i, out, at) => v2.encodeZeroEntry(out, at);

/**
 * Makes the volume `size` bytes long. Entries first, header last, each durable; repeatable after a crash.
 * @param force needed to shrink
 * @throws SystemError EINVAL (size 0, shrinking without force), EFBIG, EROFS, ENOENT, EBUSY
 */
export async function resize(
  context: MapperContext,
  volume: Volume,
  size: number,
  force: boolean,
  options: OpenOptions,
): Promise<void> {
  await context.locks.during(volume, async () => {
    const map = await ownMap(context, volume, options);
    const old = map.header.size;
    if (map.header.readOnly) throw new SystemError(errnos.EROFS, `${volume.name} is a snapshot: it cannot be resized`);
    checkNewSize(volume.name, size, map.header.blockSize);
    if (size === old) return;
    if (size < old && !force) {
      throw new SystemError(
        errnos.EINVAL,
        `volume ${volume.name} has ${old} bytes; shrinking it to ${size} destroys what is past that: use --force`,
      );
    }
    volume.written = true;
    if (size > old) await grow(context, volume, map, size);
    else await shrink(context, volume, map, size);
    await context.maps.writeHeader(map.stored, { ...map.header, size });
    map.resize(size);
  });
}

async function grow(context: MapperContext, volume: Volume, map: StoredMap, size: number): Promise<void> {
  const { blockSize, size: old } = map.header;
  // The object of the partial last block may be longer than the volume was, after a shrink by the original.
  if (old % blockSize !== 0) await cutBlock(context, volume, map, map.blocks - 1, old % blockSize);
  const count = blockCount(size, blockSize) - map.blocks;
  if (count === 0) return;
  // Entries of a larger past may lie there.
  await context.maps.writeEntries(map.stored, blockSize, map.blocks, count, encodeZero, volume.touched);
  await context.maps.flush(volume.touched);
}

async function shrink(context: MapperContext, volume: Volume, map: StoredMap, size: number): Promise<void> {
  const { blockSize } = map.header;
  const blocks = blockCount(size, blockSize);
  if (size % blockSize !== 0) await cutBlock(context, volume, map, blocks - 1, size % blockSize);
  for (const run of v2.entryRuns(map.stored, blockSize, blocks, map.blocks - blocks, v2.RUN_ENTRIES)) {
    await map.check(run.first, run.count);
    const { dropped, changed } = dropEntries(map, run.first, run.count);
    if (!changed) continue;
    await context.maps.writeEntries(map.stored, blockSize, run.first, run.count, encodeZero, volume.touched);
    await context.maps.flush(volume.touched);
    for (let i = run.first; i < run.first + run.count; i++) map.entries.setZero(i);
    await deleteObjects(context, volume.name, dropped).catch((error) => {
      context.log.warn(`volume ${volume.name}: an object past its new end is left over: ${messageOf(error)}`);
    });
  }
}
