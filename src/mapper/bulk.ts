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
/** Entries that are kept between looking at a map and writing it, in bytes: those of a volume of 2 TiB. */
const KEEP = 64 << 20;

/** The entries of a run as a snapshot or a clone has them. */
export interface SharedRun {
  readonly bytes: Buffer;
  /** Some entry of the map is writable. */
  readonly writable: boolean;
}

/** Reads the entries of a map run by run, checked and shared (shareBytes). The map must not change meanwhile. */
export class SharedRuns {
  readonly #map: StoredMap;
  readonly #kept = new Map<number, SharedRun>();
  #bytesKept = 0;

  constructor(map: StoredMap) {
    this.#map = map;
  }

  /** Looks at every entry. @returns whether any is writable. @throws SystemError EIO that says which entry is unusable, and why */
  async survey(): Promise<boolean> {
    let writable = false;
    const { blocks, header, stored } = this.#map;
    await forEachObject(blocks, header.blockSize, async (first, count) => {
      for (const run of v2.entryRuns(stored, header.blockSize, first, count, CHUNK_ENTRIES)) {
        const shared = await this.#read(run);
        if (shared.writable) writable = true;
        if (this.#bytesKept + shared.bytes.length > KEEP) continue;
        this.#kept.set(run.first, shared);
        this.#bytesKept += shared.bytes.length;
      }
    });
    return writable;
  }

  /** The entries of a run, which must begin where entryRuns with CHUNK_ENTRIES has it begin; they are the caller's from then on. */
  async take(run: v2.EntryRun): Promise<SharedRun> {
    const kept = this.#kept.get(run.first);
    if (!kept) return this.#read(run);
    this.#kept.delete(run.first);
    return kept;
  }

  async #read(run: v2.EntryRun): Promise<SharedRun> {
    const map = this.#map;
    let bytes = await map.readRun(run);
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
 * @param make the bytes of a run
 */
export async function writeRuns(
  maps: MapStore,
  stored: string,
  blockSize: number,
  blocks: number,
  make: (run: v2.EntryRun) => Promise<Buffer>,
): Promise<void> {
  await forEachObject(blocks, blockSize, async (first, count) => {
    const touched = new Set<string>();
    for (const run of v2.entryRuns(stored, blockSize, first, count, CHUNK_ENTRIES)) {
      await maps.writeRun(run, await make(run), touched);
    }
    await maps.flush(touched);
  });
}
