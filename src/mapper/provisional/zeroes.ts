/**
 * Blocks that were made zero and of which the stored entries do not say so yet. Who trims without FLUSH or FUA has asked for nothing durable: that
 * the blocks are zero is noted (notes.ts), the map in memory says so, and the rest follows for many of them at once: the stored entries are
 * made zero, that is made durable, and then the objects go that the entries named. An entry that names no object must never come back: the
 * next snapshot would share what is not there.
 *
 * Such a block gets no new object before that is done (Committer.settleZeroes): its name may be that of the object which goes, and what the
 * stored entry names is not to be written anew before it was replaced by zeros.
 */
import type { MapperContext } from '../context.js';
import { deleteDropped, newObjectName, writeZeroEntries } from '../copy-up.js';
import type { StoredMap } from '../stored-map.js';
import type { Volume, ZeroedBlock } from '../volume.js';
import type { NotedBlock } from './noted.js';
import type { Notes } from './notes.js';

/** Most of a volume at a time: what they name takes space until they are committed, and memory here. Who trims more waits for what is stored. */
const MOST = 1024;

export class Zeroes {
  readonly #notes: Notes | null;

  constructor(notes: Notes | null) {
    this.#notes = notes;
  }

  /** Whether there is room for so many more. */
  accepts({ zeroed }: Volume, count: number): boolean {
    return zeroed.size + count <= MOST;
  }

  /** The blocks as they are noted. */
  static noted(volume: Volume, blocks: readonly ZeroedBlock[]): NotedBlock[] {
    return blocks.map(({ block, dropped }) => ({ block, epoch: epochOf(volume.name, block, dropped) }));
  }

  /** Blocks that an earlier mapper noted. */
  adopt(volume: Volume, noted: readonly NotedBlock[]): void {
    for (const { block, epoch } of noted) {
      const dropped = epoch === 0 ? null : newObjectName(volume.name, epoch, block);
      volume.zeroed.set(block, { block, dropped, isAdopted: true });
    }
  }

  /** Makes the stored entries of these blocks zero, durably, and deletes what they named. @throws SystemError, LostLock: then they are zeroed as before */
  async commit(context: MapperContext, volume: Volume, map: StoredMap, batch: readonly ZeroedBlock[]): Promise<void> {
    const { locks } = context;
    await locks.verify(volume);
    const ranges = batch.map(({ block }) => ({ first: block, end: block + 1 }));
    await volume.blocks.runAll(ranges, async () => {
      // Meanwhile the entries of some may have been written otherwise.
      const left = batch.filter((each) => volume.zeroed.get(each.block) === each).sort((a, b) => a.block - b.block);
      if (left.length === 0) return;
      if (!locks.isFresh(volume)) await locks.verify(volume);
      const dropped = await droppedBy(map, left);
      // Where the objects' file system is not mounted they only seem to be gone. That it was mounted anew does not matter: nothing is owed of them.
      if (dropped.length > 0) this.#notes?.isElsewhere(volume.name);
      const blocks = left.map(({ block }) => block);
      await writeZeroEntries(context, volume, map, blocks, true);
      if (dropped.length > 0) {
        await this.makeDurable(context, volume);
        // Before anybody may take the blocks for committed: once the lock is given up, another node may make objects of these names.
        await deleteDropped(context, volume, dropped);
      }
      this.#notes?.drop(volume.name, blocks);
      for (const block of blocks) volume.zeroed.delete(block);
    });
  }

  /** What was written of the map survives a power cut. */
  async makeDurable({ maps }: MapperContext, { touched }: Volume): Promise<void> {
    await maps.flush(touched);
  }
}

/** The own objects of blocks that are zero, once no stored entry names them any more. */
export async function droppedBy(map: StoredMap, blocks: readonly ZeroedBlock[]): Promise<string[]> {
  const names = new Set<string>();
  for (const { block, dropped, isAdopted } of blocks) {
    if (dropped !== null) names.add(dropped);
    // What an earlier mapper noted does not tell names that the volume had before it was renamed.
    const stored = isAdopted ? await map.storedOwn(block) : null;
    if (stored !== null) names.add(stored);
  }
  return [...names];
}

/** Blocks [first, end) that are zero, of which the stored map says otherwise. */
export const zeroedAmong = ({ zeroed }: Volume, first: number, end: number): ZeroedBlock[] =>
  zeroed.size === 0 ? [] : [...zeroed.values()].filter(({ block }) => block >= first && block < end);

/** The epoch in the name of an own object; 0: it has none, or another volume's name. */
function epochOf(volume: string, block: number, object: string | null): number {
  if (object === null || !object.startsWith(`${volume}_`)) return 0;
  const epoch = Number.parseInt(object.slice(volume.length + 1, volume.length + 17), 16);
  return object === newObjectName(volume, epoch, block) ? epoch : 0;
}
