/**
 * One stored map in memory: its header, and its entries as far as they were read. Entries come in chunks when first needed;
 * one that cannot be decoded is kept as a deleted one of a name that no object has, so that a damaged map-data object fails only
 * the blocks it describes, here and with those who lease the map.
 */

import type { ObjectClient } from '../requests/object-client.js';
import { CHUNK_ENTRIES, EntryFlag, ResolvedMap } from '../requests/resolved-map.js';
import { errnoOf, errnos, SystemError } from '../sys/errno.js';
import { blockCount, damaged, HEADER_READ, type MapHeader } from './formats/header.js';
import * as v1 from './formats/v1.js';
import * as v2 from './formats/v2.js';

/** In place of the object name of an entry that cannot be decoded. */
const DAMAGED_NAME = '(damaged map entry)';

/** What reading a map needs of the maps store. */
export interface MapReader extends Pick<ObjectClient, 'read' | 'info'> {
  /** What the stored entries of the blocks [first, first + count) do not tell yet: the epochs of own objects, null: that the block is zero. */
  overlay?(header: MapHeader, first: number, count: number): Promise<ReadonlyMap<number, number | null> | null>;
}

export class StoredMap {
  /** Name of the header object; differs from the volume's for legacy names. */
  readonly stored: string;
  readonly legacy: boolean;
  /** The size a v0 map was opened with, else -1. */
  readonly v0Size: number;
  /** When the header object was changed last, ms since the epoch; null when the store does not tell. */
  readonly modified: number | null;
  header: MapHeader;
  readonly entries: ResolvedMap;
  readonly #objects: MapReader;
  /** Numbers of the chunks that were read. */
  readonly #loaded = new Set<number>();
  /** Some entries of chunks that were read may be missing. */
  #hasDoubts = false;
  #learning: Promise<void> = Promise.resolve();
  readonly #loading = new Map<number, Promise<void>>();

  /**
   * @param objects the maps store; what is read of a map that nothing keeps others from changing must not be kept by it
   * @param entries complete, for a v0 map
   */
  constructor(
    objects: MapReader,
    stored: string,
    header: MapHeader,
    options: { legacy?: boolean; v0Size?: number; modified?: number; entries?: ResolvedMap } = {},
  ) {
    this.#objects = objects;
    this.stored = stored;
    this.header = header;
    this.legacy = options.legacy ?? false;
    this.v0Size = options.v0Size ?? -1;
    this.modified = options.modified ?? null;
    this.entries = options.entries ?? new ResolvedMap(blockCount(header.size, header.blockSize));
    if (options.entries) for (let c = 0; c * CHUNK_ENTRIES < this.blocks; c++) this.#loaded.add(c);
  }

  /** Number of blocks. */
  get blocks(): number {
    return this.entries.blockCount;
  }

  /** Nothing may change this map but an upgrade: why, as the end of a sentence for the user; null when it may be changed. */
  get frozenReason(): string | null {
    const { version } = this.header;
    if (version < 2) return `it is a v${version} map`;
    return this.legacy ? 'it has its name of before version 0.4' : null;
  }

  /** Writes are refused: a snapshot, an image, or frozen. The entries never change then. */
  get immutable(): boolean {
    return this.header.readOnly || this.frozenReason !== null;
  }

  /** When it was made, ms since the epoch. A read-only map without lineage: when its header was written. Null: nothing tells. */
  get created(): number | null {
    const { lineage, readOnly } = this.header;
    if (lineage) return lineage.created;
    return readOnly ? this.modified : null;
  }

  /** What it was made from, by the name it had then; null when there is none or nothing tells. */
  get parent(): string | null {
    return this.header.lineage?.parentName ?? null;
  }

  /** Bytes of block `i` that are inside of the volume. */
  blockLength(i: number): number {
    return Math.min(this.header.blockSize, this.header.size - i * this.header.blockSize);
  }

  /**
   * Reads the entries of these blocks if they were not, by whole chunks.
   * @throws SystemError of the store; damaged entries are no error here (see check)
   */
  async load(first: number, count: number): Promise<void> {
    if (count <= 0) return;
    const last = Math.floor((first + count - 1) / CHUNK_ENTRIES);
    for (let c = Math.floor(first / CHUNK_ENTRIES); c <= last; c++) if (!this.#loaded.has(c)) await this.#loadChunk(c);
    if (this.#hasDoubts) await this.#learn(first, count);
  }

  /** It is not known what is stored of these entries, after a write that failed: they are read anew before anybody goes by them. */
  doubt(first: number, count: number): void {
    this.#hasDoubts = true;
    this.entries.forget(first, count);
  }

  /** Reads entries in doubt, and no others: what is known of those may be newer than what is read. One after another, for the same reason. */
  async #learn(first: number, count: number): Promise<void> {
    const turn = this.#learning.then(async () => {
      const end = Math.min(first + count, this.blocks);
      for (let from = first; from < end; from++) {
        if (this.entries.has(from)) continue;
        const chunkEnd = (Math.floor(from / CHUNK_ENTRIES) + 1) * CHUNK_ENTRIES;
        let to = from + 1;
        while (to < Math.min(chunkEnd, this.blocks) && !this.entries.has(to)) to++;
        await this.#read(from, to - from);
        from = to - 1;
      }
    });
    this.#learning = turn.catch(() => {});
    await turn;
  }

  /** load, and every entry must be usable. @throws SystemError EIO that says which is not, and why */
  async check(first: number, count: number): Promise<void> {
    await this.load(first, count);
    await this.#assertUsable(first, count);
  }

  /**
   * The stored bytes of entries that lie in one map-data object, of a v2 map; null when that is missing, and when they are not all that
   * is known of the blocks. Nothing is checked, nor kept: whoever has read all he needs of a snapshot makes sure that it was one snapshot (assertSame).
   * @param into memory for them, which may be what is returned
   */
  async readRun(run: v2.EntryRun, into?: Buffer): Promise<Buffer | null> {
    const overlay = (await this.#objects.overlay?.(this.header, run.first, run.count)) ?? null;
    return overlay && overlay.size > 0 ? null : this.#readStored(run, into);
  }

  async #readStored(run: v2.EntryRun, into?: Buffer): Promise<Buffer | null> {
    try {
      return await this.#objects.read(run.object, run.offset, run.count * v2.ENTRY_SIZE, { into });
    } catch (error) {
      if (errnoOf(error) !== errnos.ENOENT) throw error;
      return null;
    }
  }

  /** The own object that the stored entry of block `i` names, whatever else is known of the block; null: it names none. */
  async storedOwn(i: number): Promise<string | null> {
    const [run] = v2.entryRuns(this.stored, this.header.blockSize, i, 1, 1);
    const bytes = await this.#readStored(run);
    const entry = new ResolvedMap(this.blocks);
    if (bytes === null || v2.decodeEntry(entry, i, bytes, 0) !== null) return null;
    const own = EntryFlag.WRITABLE | EntryFlag.ARCHIP;
    return (entry.flags(i) & (own | EntryFlag.ZERO)) === own ? entry.objectName(i) : null;
  }

  /** Like load for a map that is not kept: reads just these entries instead of their chunks. */
  async loadOnly(first: number, count: number): Promise<void> {
    for (let i = first; i < first + count; i++) {
      if (!this.entries.has(i)) {
        await this.#read(i, first + count - i);
        break;
      }
    }
  }

  /** loadOnly, and every entry must be usable. @throws SystemError EIO that says which is not, and why */
  async checkOnly(first: number, count: number): Promise<void> {
    await this.loadOnly(first, count);
    await this.#assertUsable(first, count);
  }

  /** Whether block `i` can be used: its entry was read, and is not of an interrupted deletion. */
  usable(i: number): boolean {
    return this.entries.has(i) && (this.entries.flags(i) & EntryFlag.DELETED) === 0;
  }

  /** Gives back the memory of these entries; they are read again when needed. */
  unload(first: number, count: number): void {
    if (this.header.version === 0) return;
    for (let c = Math.ceil(first / CHUNK_ENTRIES); (c + 1) * CHUNK_ENTRIES <= first + count; c++) {
      this.#loaded.delete(c);
      this.entries.forget(c * CHUNK_ENTRIES, CHUNK_ENTRIES);
    }
  }

  /** The map has so many blocks from now on; new ones become zero blocks. Memory only. */
  resize(size: number): void {
    const before = this.blocks;
    this.header = { ...this.header, size };
    const after = blockCount(size, this.header.blockSize);
    this.entries.resize(after);
    for (let i = before; i < after; i++) {
      const c = Math.floor(i / CHUNK_ENTRIES);
      // The rest of the old last chunk, if that was read; whole new chunks are read from the store like any other.
      if (c * CHUNK_ENTRIES >= before) break;
      if (this.#loaded.has(c)) this.entries.setZero(i);
    }
    for (const c of this.#loaded) if (c * CHUNK_ENTRIES >= after) this.#loaded.delete(c);
  }

  async #loadChunk(c: number): Promise<void> {
    let running = this.#loading.get(c);
    if (!running) {
      const first = c * CHUNK_ENTRIES;
      running = this.#read(first, Math.min(CHUNK_ENTRIES, this.blocks - first))
        .then(() => void this.#loaded.add(c))
        .finally(() => this.#loading.delete(c));
      this.#loading.set(c, running);
    }
    await running;
  }

  async #read(first: number, count: number): Promise<void> {
    if (this.header.version === 1) {
      const bytes = await this.#objects.read(this.stored, v1.entryOffset(first), count * v1.ENTRY_SIZE);
      for (let k = 0; k < count; k++) v1.decodeEntry(this.entries, first + k, bytes, k * v1.ENTRY_SIZE);
      return;
    }
    for (const run of v2.entryRuns(this.stored, this.header.blockSize, first, count, CHUNK_ENTRIES)) {
      // As it is before the entries are read: what is stored meanwhile may not be among them.
      const overlay = (await this.#objects.overlay?.(this.header, run.first, run.count)) ?? null;
      const bytes = (await this.#readStored(run)) ?? Buffer.alloc(run.count * v2.ENTRY_SIZE);
      for (let k = 0; k < run.count; k++) {
        const i = run.first + k;
        if (v2.decodeEntry(this.entries, i, bytes, k * v2.ENTRY_SIZE) !== null) {
          this.entries.set(i, EntryFlag.DELETED, DAMAGED_NAME);
        }
        const epoch = overlay?.get(i);
        if (epoch === null) this.entries.setZero(i);
        else if (epoch !== undefined) {
          this.entries.setOwn(i, EntryFlag.WRITABLE | EntryFlag.ARCHIP, this.stored, epoch);
        }
      }
    }
    try {
      await this.assertSame();
    } catch (error) {
      this.entries.forget(first, count);
      throw error;
    }
  }

  /**
   * No lock keeps other nodes from removing a snapshot and making another under its name, whose entries lie in the same objects: those
   * just read must not be mixed with the ones from before. Epochs of one name are never used again.
   * @throws SystemError ENOENT
   */
  async assertSame(): Promise<void> {
    if (!this.header.readOnly || this.header.version !== 2) return;
    const head = await this.#objects.read(this.stored, 0, HEADER_READ).catch((error) => {
      if (errnoOf(error) !== errnos.ENOENT) throw error;
      return null;
    });
    const now = head && v2.isV2(head) ? v2.decodeHeader(this.stored, head) : null;
    // Marked before anything of the next one is written.
    if (now && now.epoch === this.header.epoch && now.deleted === this.header.deleted) return;
    throw new SystemError(errnos.ENOENT, `${this.stored} was removed, and perhaps another made under that name`);
  }

  async #assertUsable(first: number, count: number): Promise<void> {
    for (let i = first; i < first + count; i++) if (!this.usable(i)) throw await this.explain(i);
  }

  /** Reads one entry again to say what is wrong with it. */
  async explain(i: number): Promise<SystemError> {
    const [run] = v2.entryRuns(this.stored, this.header.blockSize, i, 1, 1);
    try {
      const bytes = await this.#objects.read(run.object, run.offset, v2.ENTRY_SIZE);
      const what = v2.decodeEntry(new ResolvedMap(this.blocks), i, bytes, 0);
      if (what !== null) return damaged(run.object, `entry of block ${i}: ${what}`);
      return new SystemError(
        errnos.EIO,
        `volume ${this.stored}: block ${i} is marked deleted, by a deletion that was interrupted; remove the volume again`,
      );
    } catch (error) {
      if (errnoOf(error) === errnos.ENOENT) return damaged(run.object, `it is missing (block ${i} of ${this.stored})`);
      return new SystemError(errnoOf(error), `map object ${run.object}: ${(error as Error).message}`, { cause: error });
    }
  }
}
