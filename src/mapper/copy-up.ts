/**
 * Changes of single entries: blocks become writable (copy-up, first write) or zero. What an entry names is durable before the
 * entry is written; the entry is written in place, then the one in memory changes (ondisk 5, consistency: order). Where it can be noted that
 * the object is there, or that the block is zero, the entry in memory changes first, and the rest follows with the next commit
 * (provisional/commits.ts).
 */
import { EntryFlag } from '../requests/resolved-map.js';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import { type MapperContext, PARALLEL } from './context.js';
import * as v2 from './formats/v2.js';
import { forEachLimited } from './gate.js';
import { LostLock } from './locking/lost.js';
import { type EntryEncoder, removeObject } from './map-store.js';
import { droppedBy, zeroedAmong } from './provisional/zeroes.js';
import type { BlockRun } from './ranges.js';
import type { StoredMap } from './stored-map.js';
import type { Volume, ZeroedBlock } from './volume.js';

const OWN = EntryFlag.WRITABLE | EntryFlag.ARCHIP;

/** `<volume>_<epoch>_<index>`: what the volume calls a new object of block `i` now. */
export function newObjectName(volume: string, epoch: number, i: number): string {
  return `${volume}_${epoch.toString(16).padStart(16, '0')}_${i.toString(16).padStart(16, '0')}`;
}

/**
 * Makes the blocks of these runs writable in place. The caller holds the lock of the volume and a place in its gate.
 * @throws SystemError EIO when a shared object is missing (it is never replaced by zeros), ENOSPC and others of the stores
 */
export async function makeWritable(
  context: MapperContext,
  volume: Volume,
  map: StoredMap,
  runs: readonly BlockRun[],
): Promise<void> {
  const check = async (): Promise<void> => {
    for (const { first, end } of runs) await map.check(first, end - first);
  };
  await check();
  if (unwritable(map, runs).length === 0) return;
  const make = (): Promise<BlockRun | null> =>
    volume.blocks.runAll(runs, async () => {
      // A zeroing that this had to wait for may have left them in doubt.
      await check();
      const zeroed = runs.find(({ first, end }) => zeroedAmong(volume, first, end).length > 0);
      if (!zeroed) await makeBlocksWritable(context, volume, map, unwritable(map, runs));
      return zeroed ?? null;
    });
  for (let zeroed = await make(); zeroed !== null; zeroed = await make()) {
    await context.volumes.committer.settleZeroes(volume, zeroed.first, zeroed.end);
  }
}

async function makeBlocksWritable(
  context: MapperContext,
  volume: Volume,
  map: StoredMap,
  todo: readonly number[],
): Promise<void> {
  if (todo.length === 0) return;
  volume.written = true;
  const epochs = new Map<number, number>();
  const { committer } = context.volumes;
  if (committer.accepts(volume)) {
    const { losses } = volume;
    const mount = committer.mount(null);
    const marked = context.locks.mark(volume);
    marked.catch(() => {});
    // Whatever becomes of the mark: who hears of its failure asks again, and none of these may be begun anew beneath what is written then.
    await makeObjects(context, volume, map, todo, epochs, false);
    await marked;
    if (volume.lost || volume.losses !== losses) throw new LostLock(volume);
    // In one turn: what is noted is what the map in memory says, and nobody has asked for it to be committed in between.
    const blocks = todo.map((block) => ({ block, epoch: epochs.get(block)! }));
    if (committer.add(volume, map.header, blocks, mount)) {
      for (const { block, epoch } of blocks) map.entries.setOwn(block, OWN, volume.name, epoch);
      return;
    }
    await context.blocks.flush(blocks.map(({ block, epoch }) => newObjectName(volume.name, epoch, block)));
    await context.locks.verify(volume);
    // Who made them durable may know nothing of those that were made before a mount.
    if (committer.mount(mount) !== mount) {
      throw new SystemError(
        errnos.EIO,
        `volume ${volume.name}: the file system of the objects was mounted anew meanwhile`,
      );
    }
  } else {
    // The lock is looked at while the objects are made; what took long is looked at again.
    const verified = context.locks.verify(volume);
    verified.catch(() => {});
    await makeObjects(context, volume, map, todo, epochs, true);
    await verified;
    if (!context.locks.isFresh(volume)) await context.locks.verify(volume);
  }
  await writeOwnEntries(context, volume, map, todo, epochs, true);
}

/** Makes the own objects of these blocks, the empty ones by one request, and notes the epochs in their names. */
async function makeObjects(
  context: MapperContext,
  volume: Volume,
  map: StoredMap,
  blocks: readonly number[],
  epochs: Map<number, number>,
  durable: boolean,
): Promise<void> {
  const { epoch } = map.header;
  const isZero = (i: number): boolean => (map.entries.flags(i) & EntryFlag.ZERO) !== 0;
  const empty = blocks.filter(isZero);
  const names = empty.map((i) => newObjectName(volume.name, epoch, i));
  // Not only when the entry is written: by then the first write has been answered.
  for (const name of names) v2.checkEntryName(name);
  // Objects of these names may be left from blocks that were trimmed, or from interrupted writes: they must be empty.
  if (names.length > 0) await context.blocks.reset(names, durable);
  for (const i of empty) epochs.set(i, epoch);
  const shared = blocks.filter((i) => !isZero(i));
  await forEachLimited(shared, PARALLEL, async (i) => {
    epochs.set(i, await copyObject(context, volume, map, i, map.blockLength(i), durable));
  });
}

/** The blocks that cannot be written in place. */
function unwritable(map: StoredMap, runs: readonly BlockRun[]): number[] {
  const found: number[] = [];
  for (const { first, end } of runs) {
    for (let i = first; i < end; i++) {
      if ((map.entries.flags(i) & (EntryFlag.WRITABLE | EntryFlag.ZERO)) !== EntryFlag.WRITABLE) found.push(i);
    }
  }
  return found;
}

/**
 * Makes the own object of a shared block: `length` bytes of the shared one. Durable, or with the next flush of its name.
 * @returns the epoch in its name
 */
async function copyObject(
  context: MapperContext,
  volume: Volume,
  map: StoredMap,
  i: number,
  length: number,
  durable: boolean,
): Promise<number> {
  const epoch = map.header.epoch;
  // Not only when the entry is written: by then the first write has been answered.
  v2.checkEntryName(newObjectName(volume.name, epoch, i));
  const source = map.entries.objectName(i);
  if (source === newObjectName(volume.name, epoch, i)) {
    // Maps that the original grew name the block's current object by the current epoch without owning it (defect D3).
    await bumpEpoch(context, volume, map, epoch);
    return copyObject(context, volume, map, i, length, durable);
  }
  try {
    await context.blocks.copy(source, newObjectName(volume.name, epoch, i), length, { durable });
  } catch (error) {
    if (errnoOf(error) !== errnos.ENOENT) throw error;
    throw new SystemError(
      errnos.EIO,
      `volume ${volume.name}: object ${source} of block ${i} is missing; it is shared, so it cannot be taken for zeros`,
      { cause: error },
    );
  }
  return epoch;
}

/** Stores the next epoch unless somebody else did since `seen`. */
async function bumpEpoch(context: MapperContext, volume: Volume, map: StoredMap, seen: number): Promise<void> {
  await volume.bumping.exclusive(async () => {
    if (map.header.epoch !== seen) return;
    const header = { ...map.header, epoch: seen + 1 };
    context.volumes.committer.become(volume, header);
    await context.maps.writeHeader(map.stored, header);
    map.header = header;
  });
}

/** Writes the entries of blocks that have own objects now, as few writes as there are runs, then stores them in memory. */
export async function writeOwnEntries(
  context: MapperContext,
  volume: Volume,
  map: StoredMap,
  blocks: readonly number[],
  epochs: ReadonlyMap<number, number>,
  guarded = false,
): Promise<void> {
  const encode: EntryEncoder = (i, out, at) => {
    v2.encodeNamedEntry(out, at, OWN, newObjectName(volume.name, epochs.get(i)!, i));
  };
  await forEachLimited(runsIn(blocks), PARALLEL, async (run) => {
    await writeRun(context, volume, map, run, encode, guarded);
    for (let i = run.first; i < run.end; i++) map.entries.setOwn(i, OWN, volume.name, epochs.get(i)!);
  });
}

/** Writes zero entries for these blocks, which are in ascending order and zero in memory, as few writes as there are runs. */
export async function writeZeroEntries(
  context: MapperContext,
  volume: Volume,
  map: StoredMap,
  blocks: readonly number[],
  guarded = false,
): Promise<void> {
  for (const run of runsIn(blocks)) await writeRun(context, volume, map, run, encodeZero, guarded);
}

async function writeRun(
  { maps }: MapperContext,
  volume: Volume,
  map: StoredMap,
  { first, end }: BlockRun,
  encode: EntryEncoder,
  guarded: boolean,
): Promise<void> {
  const { blockSize } = map.header;
  await maps.writeEntries(map.stored, blockSize, first, end - first, encode, volume.touched, undefined, guarded);
}

/** @param blocks in ascending order */
function runsIn(blocks: readonly number[]): BlockRun[] {
  const runs: BlockRun[] = [];
  for (let from = 0; from < blocks.length; ) {
    let to = from + 1;
    while (to < blocks.length && blocks[to] === blocks[to - 1] + 1) to++;
    runs.push({ first: blocks[from], end: blocks[to - 1] + 1 });
    from = to;
  }
  return runs;
}

/**
 * Makes blocks [first, end) zero blocks, and deletes the own objects they had: at once and durably, or, where few blocks are zero by the note alone,
 * with the next commit. An object that cannot be deleted is left over, which is logged: the blocks are zero all the same.
 */
export async function makeZero(
  context: MapperContext,
  volume: Volume,
  map: StoredMap,
  first: number,
  end: number,
): Promise<void> {
  for (const run of v2.entryRuns(map.stored, map.header.blockSize, first, end - first, v2.RUN_ENTRIES)) {
    // Each on its own: a commit, which a flush waits for, is not to wait for the whole of a large range.
    await volume.blocks.run(run.first, run.first + run.count, () => makeRunZero(context, volume, map, run));
  }
}

async function makeRunZero(
  context: MapperContext,
  volume: Volume,
  map: StoredMap,
  { first, count }: v2.EntryRun,
): Promise<void> {
  await map.check(first, count);
  if (await noteZeroes(context, volume, map, first, count)) return;
  const { dropped, changed } = dropEntries(map, first, count);
  dropped.push(...leftObjects(volume, map, first, first + count));
  const noted = zeroedAmong(volume, first, first + count);
  // What was acknowledged may be owed of blocks that are zero without it. That nothing is noted of them any more needs the zeros to be stored.
  if (!changed && (noted.length === 0 || volume.owed.size === 0)) {
    await deleteDropped(context, volume, dropped);
    if (volume.owed.size > 0) context.volumes.committer.drop(volume, first, first + count);
    return;
  }
  dropped.push(...(await droppedBy(map, noted)));
  try {
    await context.maps.writeEntries(map.stored, map.header.blockSize, first, count, encodeZero, volume.touched);
  } catch (error) {
    // Some of the zeros may be stored. What goes on as own would be written in place beneath them, and be gone with this mapper; what goes on
    // as zero might come back. Until the store tells, nobody goes by either.
    map.doubt(first, count);
    throw error;
  }
  // Not earlier: until the zeros are stored, a provisional block's note is all that tells of what was written to it.
  context.volumes.committer.drop(volume, first, first + count);
  for (let i = first; i < first + count; i++) map.entries.setZero(i);
  if (dropped.length === 0) return;
  // An entry that names no object any more must not come back: the next snapshot would share what is not there.
  await context.maps.flush(volume.touched);
  await deleteDropped(context, volume, dropped);
}

/**
 * Makes the blocks zero in memory, and notes that; the rest is the next commit's (provisional/zeroes.ts).
 * @returns false: nothing was done, it has to be durable at once
 */
async function noteZeroes(
  context: MapperContext,
  volume: Volume,
  map: StoredMap,
  first: number,
  count: number,
): Promise<boolean> {
  const { committer } = context.volumes;
  const blocks: ZeroedBlock[] = [];
  for (let i = first; i < first + count; i++) {
    // What was first written and not committed is told by its own note until the zeros are stored.
    if (volume.provisional.has(i) || volume.owed.has(i)) return false;
    const flags = map.entries.flags(i);
    if (flags & EntryFlag.ZERO) continue;
    const dropped = (flags & OWN) === OWN ? map.entries.objectName(i) : null;
    blocks.push({ block: i, dropped, isAdopted: false });
    if (!committer.acceptsZeroes(volume, blocks.length)) return false;
  }
  if (blocks.length === 0) return false;
  await context.locks.mark(volume);
  while (!context.holds()) await context.locks.verify(volume);
  // In one turn with the look at the lock: no store is told that would refuse what comes too late.
  if (!committer.addZeroes(volume, map.header, blocks)) return false;
  for (const { block } of blocks) map.entries.setZero(block);
  return true;
}

/** Deletes objects that no stored entry names any more. One that cannot be deleted is logged. */
export async function deleteDropped(context: MapperContext, volume: Volume, names: readonly string[]): Promise<void> {
  await deleteObjects(context, volume.name, names).catch((error) => {
    context.log.warn(`volume ${volume.name}: an object of a zeroed block is left over: ${messageOf(error)}`);
  });
}

const encodeZero = (_i: number, out: Buffer, at: number): void => v2.encodeZeroEntry(out, at);

/** Names of the own objects of these blocks, and whether any block is not zero. */
export function dropEntries(map: StoredMap, first: number, count: number): { dropped: string[]; changed: boolean } {
  const dropped: string[] = [];
  let changed = false;
  for (let i = first; i < first + count; i++) {
    const flags = map.entries.flags(i);
    if (flags & EntryFlag.ZERO) continue;
    changed = true;
    if ((flags & OWN) === OWN) dropped.push(map.entries.objectName(i));
  }
  return { dropped, changed };
}

/**
 * The names of objects that were for owed blocks among [first, end), of which the entries are loaded: but never what an entry names, whoever
 * wrote it, nor what one that cannot be read may.
 */
export function leftObjects({ name, owed }: Volume, { entries }: StoredMap, first: number, end: number): string[] {
  const names: string[] = [];
  for (const [block, { epoch }] of owed) {
    if (block < first || block >= end || epoch === 0 || !entries.has(block)) continue;
    const object = newObjectName(name, epoch, block);
    const flags = entries.flags(block);
    if ((flags & EntryFlag.DELETED) !== 0) continue;
    if ((flags & EntryFlag.ZERO) !== 0 || entries.objectName(block) !== object) names.push(object);
  }
  return names;
}

/** Deletes objects; missing ones are fine. All are tried. @throws SystemError that says how many failed, and the first reason */
export async function deleteObjects(context: MapperContext, volume: string, names: readonly string[]): Promise<void> {
  const failures: unknown[] = [];
  await forEachLimited(names, PARALLEL, async (name) => {
    await removeObject(context.blocks, name).catch((error) => failures.push(error));
  });
  if (failures.length === 0) return;
  throw new SystemError(
    errnoOf(failures[0]),
    `volume ${volume}: ${failures.length} of ${names.length} objects could not be deleted: ${messageOf(failures[0])}`,
    { cause: failures[0] },
  );
}

/**
 * Makes everything of block `i` from `length` bytes on zeros, whatever the object holds there, durably. A shared object that is
 * longer is copied first; a missing one needs nothing.
 */
export async function cutBlock(
  context: MapperContext,
  volume: Volume,
  map: StoredMap,
  i: number,
  length: number,
): Promise<void> {
  await map.check(i, 1);
  const flags = map.entries.flags(i);
  if (flags & EntryFlag.ZERO) return;
  const name = map.entries.objectName(i);
  let size: number;
  try {
    size = (await context.blocks.info(name)).size;
  } catch (error) {
    if (errnoOf(error) === errnos.ENOENT) return;
    throw error;
  }
  if (size <= length) return;
  if (flags & EntryFlag.WRITABLE) {
    await context.locks.verify(volume);
    await context.blocks.truncate(name, length);
    await context.blocks.flush([name]);
    return;
  }
  const epoch = await copyObject(context, volume, map, i, length, true);
  await writeOwnEntries(context, volume, map, [i], new Map([[i, epoch]]));
  await context.maps.flush(volume.touched);
}
