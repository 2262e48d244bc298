/**
 * Finding, reading and writing maps in the maps store: which format an object has, where a volume's map is, and the writes that
 * change it. Reading never writes. Nothing is locked or cached here.
 */

import { type ObjectClient, PIECE } from '../requests/object-client.js';
import { CHUNK_ENTRIES, ResolvedMap } from '../requests/resolved-map.js';
import { errnoOf, errnos, SystemError } from '../sys/errno.js';
import { damaged, HEADER_READ, type MapHeader } from './formats/header.js';
import * as v0 from './formats/v0.js';
import * as v1 from './formats/v1.js';
import * as v2 from './formats/v2.js';
import { LEGACY_PREFIX } from './names.js';
import { type MapReader, StoredMap } from './stored-map.js';

/** How a request wants a map without any signature read. */
export interface OpenOptions {
  assumeV0: boolean;
  /** Volume size in bytes for a v0 map, -1 when not given. */
  v0Size: number;
}

export const noV0: OpenOptions = { assumeV0: false, v0Size: -1 };

/** What is stored under a volume's name. */
export interface Lookup {
  /** The live map, or null. */
  map: StoredMap | null;
  /** The header a deleted volume of that name left, or null. */
  tombstone: MapHeader | null;
}

/** Writes one entry at `at` of `out`, which is zero there. */
export type EntryEncoder = (i: number, out: Buffer, at: number) => void;

const allZero = (bytes: Buffer): boolean => bytes.every((byte) => byte === 0);

/** Runs before each change of a map: whether it may be changed. */
export type ChangeGuard = () => Promise<void>;

export class MapStore {
  readonly objects: ObjectClient;
  readonly #guard: ChangeGuard | null;
  readonly #flushing: WeakMap<Set<string>, Promise<void>>;

  /**
   * @param guard awaited before each change
   * @param family a store over the same objects: flushes of one set follow each other whichever of the two runs them
   */
  constructor(objects: ObjectClient, guard: ChangeGuard | null = null, family?: MapStore) {
    this.objects = objects;
    this.#guard = guard;
    this.#flushing = family ? family.#flushing : new WeakMap();
  }

  /**
   * Looks a volume up by its name, then by its legacy name.
   * @param reader by which the map is read, now and later
   * @throws SystemError EINVAL (not a map), EIO (damaged), EOPNOTSUPP (unknown version)
   */
  async lookup(volume: string, options: OpenOptions, reader: MapReader = this.objects): Promise<Lookup> {
    const plain = await this.open(volume, options, reader);
    if (plain && !plain.header.deleted) return { map: plain, tombstone: null };
    const tombstone = plain?.header ?? null;
    if (volume.startsWith(LEGACY_PREFIX)) return { map: null, tombstone };
    const legacy = await this.open(LEGACY_PREFIX + volume, options, reader);
    return { map: legacy && !legacy.header.deleted ? legacy : null, tombstone };
  }

  /** The map whose header object is called so, deleted or not; null when there is none or its creation was cut short. */
  async open(stored: string, options: OpenOptions, reader: MapReader = this.objects): Promise<StoredMap | null> {
    let head: Buffer;
    let length: number;
    let modified: number | undefined;
    try {
      head = await reader.read(stored, 0, HEADER_READ);
      ({ size: length, modified } = await reader.info(stored));
    } catch (error) {
      if (errnoOf(error) === errnos.ENOENT) return null;
      throw error;
    }
    const legacy = stored.startsWith(LEGACY_PREFIX);
    if (v2.isV2(head)) {
      const header = v2.decodeHeader(stored, head.subarray(0, Math.min(length, HEADER_READ)));
      return new StoredMap(reader, stored, header, { legacy, modified });
    }
    if (v1.isV1(head, length)) {
      return new StoredMap(reader, stored, v1.decodeHeader(stored, head), { legacy, modified });
    }
    // A crash can leave the object without its content; no map is like that.
    if (length <= HEADER_READ && allZero(head)) return null;
    if (options.assumeV0) return this.#openV0(reader, stored, length, options.v0Size, legacy, modified);
    if (v1.startsLikeV1(head)) throw damaged(stored, `${length} bytes are not a v1 map of the size that it says`);
    throw new SystemError(
      errnos.EINVAL,
      `object ${stored} is not a map (a v0 map of Pithos must be opened with --assume_v0)`,
    );
  }

  async #openV0(
    reader: MapReader,
    stored: string,
    length: number,
    v0Size: number,
    legacy: boolean,
    modified?: number,
  ): Promise<StoredMap> {
    v0.checkLength(stored, length);
    const pieces: Buffer[] = [];
    let count = 0;
    for (let at = 0; at < length; at += PIECE) {
      const piece = await reader.read(stored, at, Math.min(PIECE, length - at));
      pieces.push(piece);
      const found = v0.countEntries(piece);
      count += found.count;
      if (found.ended) break;
    }
    const entries = new ResolvedMap(count);
    const perPiece = PIECE / v0.ENTRY_SIZE;
    for (let i = 0; i < count; i++) {
      v0.decodeEntry(entries, i, pieces[Math.floor(i / perPiece)], (i % perPiece) * v0.ENTRY_SIZE);
    }
    const header = v0.makeHeader(stored, count, v0Size);
    return new StoredMap(reader, stored, header, { legacy, v0Size, modified, entries });
  }

  /** Writes a v2 header in place, durably: with its lineage it is one sector, so the old or the new one is there after a crash. */
  async writeHeader(stored: string, header: MapHeader): Promise<void> {
    await this.#guard?.();
    await this.objects.write(stored, 0, v2.encodeHeader(header));
    await this.objects.flush([stored]);
  }

  /**
   * Writes entries in place, in pieces of at most 512 KiB. Not durable before a flush of the objects it adds to `touched`.
   * @param before called before each piece, to have what encode needs
   * @param guarded the caller has made sure that the map may be changed
   */
  async writeEntries(
    stored: string,
    blockSize: number,
    first: number,
    count: number,
    encode: EntryEncoder,
    touched: Set<string>,
    before?: (first: number, count: number) => Promise<void>,
    guarded = false,
  ): Promise<void> {
    for (const run of v2.entryRuns(stored, blockSize, first, count, CHUNK_ENTRIES)) {
      await before?.(run.first, run.count);
      const bytes = Buffer.alloc(run.count * v2.ENTRY_SIZE);
      for (let k = 0; k < run.count; k++) encode(run.first + k, bytes, k * v2.ENTRY_SIZE);
      await this.writeRun(run, bytes, touched, guarded);
    }
  }

  /** Writes the bytes of entries in place. Not durable before a flush of `touched`, to which the object is added. @param guarded see writeEntries */
  async writeRun(run: v2.EntryRun, bytes: Buffer, touched: Set<string>, guarded = false): Promise<void> {
    if (!guarded) await this.#guard?.();
    // Before, because a write that fails may have changed something; after, because a flush that came between did not cover it.
    touched.add(run.object);
    try {
      await this.objects.write(run.object, run.offset, bytes);
    } finally {
      touched.add(run.object);
    }
  }

  /**
   * Makes what is in `touched` durable and empties it; on failure it stays. Flushes of one set follow each other, so that none
   * returns while what it should cover is still on its way in another.
   */
  flush(touched: Set<string>): Promise<void> {
    const before = this.#flushing.get(touched) ?? Promise.resolve();
    const flushed = before.catch(() => {}).then(() => this.#flushNow(touched));
    this.#flushing.set(touched, flushed);
    return flushed;
  }

  async #flushNow(touched: Set<string>): Promise<void> {
    const names = [...touched];
    if (names.length === 0) return;
    touched.clear();
    try {
      await this.objects.flush(names);
    } catch (error) {
      for (const name of names) touched.add(name);
      throw error;
    }
  }

  /** Writes a complete new map: entries first, then the header, each durable. */
  async writeMap(
    stored: string,
    header: MapHeader,
    blocks: number,
    encode: EntryEncoder,
    before?: (first: number, count: number) => Promise<void>,
  ): Promise<void> {
    const touched = new Set<string>();
    await this.writeEntries(stored, header.blockSize, 0, blocks, encode, touched, before);
    await this.flush(touched);
    await this.writeHeader(stored, header);
  }

  /** Removes the map-data objects of a map of so many blocks; missing ones are fine. */
  async removeMapData(stored: string, header: MapHeader, blocks: number): Promise<void> {
    const objects = Math.ceil(blocks / v2.entriesPerObject(header.blockSize));
    for (let id = 0; id < objects; id++) await removeObject(this.objects, v2.mapDataName(stored, id));
  }
}

/** Deletes an object that may be missing. */
export async function removeObject(objects: ObjectClient, name: string): Promise<void> {
  try {
    await objects.delete(name);
  } catch (error) {
    if (errnoOf(error) !== errnos.ENOENT) throw error;
  }
}
