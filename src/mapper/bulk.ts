/**
 * Whole maps at a time: reading, changing and writing the entries of a snapshot, a clone or a new volume as bytes. Map-data objects are worked
 * on side by side, and each is made durable as soon as it is complete, so that the disk writes one while the next is put together.
 */
import { CHUNK_ENTRIES } from '../requests/resolved-map.js';
import * as v2 from './formats/v2.js';
import { type SharedBytes, shareBytes } from './formats/v2-bytes.js';
import { forEachLimited } from './gate.js';
import type { MapStore } from './map-store.js';
import type { StoredMap } from './stored-map.js';

/** Map-data objects worked on at the same time. */
const OBJECTS = 4;

/** The entries of a run as a snapshot or a clone has them. */
export interface SharedRun {
  readonly bytes: Buffer;
  /** Some entry of the run is writable. */
  readonly writable: boolean;
}

/** Reads the entries of a v2 map run by run, checked and shared (shareBytes). The map must not change meanwhile. */
export class SharedRuns {
  readonly #map: StoredMap;

  constructor(map: StoredMap) {
    this.#map = map;
  }

  /**
   * The entries of a run.
   * @param room memory for them (runRoom), of which they may be a part: they stay until it is used again
   * @throws SystemError EIO that says which entry is unusable, and why
   */
  async take(run: v2.EntryRun, room: Buffer): Promise<SharedRun> {
    const map = this.#map;
    let bytes = await map.readRun(run, room);
    // What is in memory is what counts: it is what requests were served by.
    if (!bytes || !map.entries.agrees(run.first, bytes, v2.ENTRY_SIZE)) {
      await map.check(run.first, run.count);
      bytes = Buffer.alloc(run.count * v2.ENTRY_SIZE);
      for (let k = 0; k < run.count; k++) v2.encodeEntry(map.entries, run.first + k, bytes, k * v2.ENTRY_SIZE);
    }
    const { damaged, writable }: SharedBytes = shareBytes(bytes);
    if (damaged >= 0) throw await map.explain(run.first + damaged);
    return { bytes, writable };
  }
}

/** Memory for the entries of one run after the other. To take new memory for each would cost more than to copy them. */
export const runRoom = (): Buffer => Buffer.allocUnsafeSlow(CHUNK_ENTRIES * v2.ENTRY_SIZE);

/** Calls `work` with the blocks and the number of each map-data object, some at the same time. */
export async function forEachObject(
  blocks: number,
  blockSize: number,
  work: (first: number, count: number, id: number) => Promise<void>,
): Promise<void> {
  const per = v2.entriesPerObject(blockSize);
  const objects = Array.from({ length: Math.ceil(blocks / per) }, (_, id) => id);
  await forEachLimited(objects, OBJECTS, (id) => work(id * per, Math.min(per, blocks - id * per), id));
}

/**
 * Writes the entries of blocks [0, blocks) of a new map, durably.
 * @param make the bytes of a run, for which there is `room`
 */
export async function writeRuns(
  maps: MapStore,
  stored: string,
  blockSize: number,
  blocks: number,
  make: (run: v2.EntryRun, room: Buffer) => Promise<Buffer>,
): Promise<void> {
  await forEachObject(blocks, blockSize, async (first, count) => {
    const touched = new Set<string>();
    const room = runRoom();
    for (const run of v2.entryRuns(stored, blockSize, first, count, CHUNK_ENTRIES)) {
      await maps.writeRun(run, await make(run, room), touched);
    }
    await maps.flush(touched);
  });
}
