/**
 * Which read-only maps there are and what each tells of its parent, so that the snapshots of a volume are found without reading every
 * header of the store each time.
 *
 * It is made by a walk over the whole maps store and good for twenty times as long as that walk took: looking for snapshots costs at
 * most a twentieth of the store's time, and what other nodes make is missed for at most that long (what this node makes never is).
 * It only proposes names: whoever uses one reads its header again.
 */
import { errnoOf, errnos } from '../sys/errno.js';
import { PARALLEL } from './context.js';
import { HEADER_READ, type MapHeader } from './formats/header.js';
import type { Lineage } from './formats/lineage.js';
import * as v2 from './formats/v2.js';
import { forEachLimited } from './gate.js';
import type { MapStore } from './map-store.js';
import { LEGACY_PREFIX, mayBeHeader } from './names.js';
import { StoredMap } from './stored-map.js';

/** What a read-only map tells of where it comes from. */
export interface Descent {
  readonly lineage: Lineage | null;
  /** Without lineage: the volume that the first named object is of; null when nothing tells. */
  readonly prefix: string | null;
  /** A map of the same name, epoch and size is the same map. */
  readonly epoch: number;
  readonly size: number;
}

/** For how many times the walk's own time its result is used. */
const REUSE = 20;
/** Names asked for at once. */
const PAGE = 4096;
/** Most maps that are remembered: some 40 MB. With more, every search walks. */
const MAX_KNOWN = 200_000;
/** Entries that are read of a map without lineage to find a named object, a few first. */
const LOOK_AT = [16, 256, 4096];

const unreadable: ReadonlySet<number> = new Set([errnos.ENOENT, errnos.EIO, errnos.EINVAL, errnos.EOPNOTSUPP]);

export class SnapshotIndex {
  readonly #maps: MapStore;
  readonly #now: () => number;
  readonly #most: number;
  /** By name; null: a map that was made since the walk. */
  #known = new Map<string, Descent | null>();
  /** Made while a walk is on its way. */
  readonly #recent = new Set<string>();
  #goodUntil = Number.NEGATIVE_INFINITY;
  #complete = true;
  #walking: Promise<void> | null = null;

  /** @param now a clock that never goes back, in milliseconds */
  constructor(maps: MapStore, now: () => number = () => performance.now(), most = MAX_KNOWN) {
    this.#maps = maps;
    this.#now = now;
    this.#most = most;
  }

  /** This node made a map of this name: whatever was known of the name is void. */
  made(name: string): void {
    if (this.#walking) this.#recent.add(name);
    // Otherwise the next search walks anyway.
    if (this.#now() < this.#goodUntil) this.#known.set(name, null);
  }

  /** Names of maps of which `wanted` holds, or of which nothing is known yet; in the order of names. */
  async candidates(wanted: (descent: Descent) => boolean): Promise<string[]> {
    if (this.#now() >= this.#goodUntil) {
      this.#walking ??= this.#refresh().finally(() => {
        this.#walking = null;
      });
      await this.#walking;
    }
    const found = new Set<string>();
    for (const [name, descent] of this.#known) if (descent === null || wanted(descent)) found.add(name);
    if (!this.#complete) {
      await this.#walk((name, descent) => {
        if (wanted(descent)) found.add(name);
      });
    }
    return [...found].sort();
  }

  async #refresh(): Promise<void> {
    const from = this.#now();
    const known = new Map<string, Descent | null>();
    this.#recent.clear();
    let complete = true;
    await this.#walk((name, descent) => {
      if (known.size < this.#most) known.set(name, descent);
      else complete = false;
    });
    for (const name of this.#recent) known.set(name, null);
    this.#known = known;
    this.#complete = complete;
    const until = this.#now();
    this.#goodUntil = until + REUSE * (until - from);
  }

  /** Looks at the header of every map. One that cannot be read cannot be opened either. */
  async #walk(visit: (name: string, descent: Descent) => void): Promise<void> {
    let cursor: string | null = null;
    do {
      const page = await this.#maps.objects.list(cursor, PAGE);
      const names = page.names.filter((name) => mayBeHeader(name) && !name.startsWith(LEGACY_PREFIX));
      await forEachLimited(names, PARALLEL, async (name) => {
        const descent = await this.#look(name);
        if (descent) visit(name, descent);
      });
      cursor = page.cursor;
    } while (cursor !== null);
  }

  async #look(name: string): Promise<Descent | null> {
    try {
      const head = await this.#maps.objects.read(name, 0, HEADER_READ);
      if (!v2.isV2(head)) return null;
      const header = v2.decodeHeader(name, head);
      if (!header.readOnly || header.deleted) return null;
      const { lineage, epoch, size } = header;
      if (lineage) return { lineage, prefix: null, epoch, size };
      const before = this.#known.get(name);
      if (before && !before.lineage && before.epoch === epoch && before.size === size) return before;
      return { lineage, prefix: await this.#firstPrefix(name, header), epoch, size };
    } catch (error) {
      if (unreadable.has(errnoOf(error))) return null;
      throw error;
    }
  }

  async #firstPrefix(name: string, header: MapHeader): Promise<string | null> {
    const map = new StoredMap(this.#maps.objects, name, header);
    let from = 0;
    for (const most of LOOK_AT) {
      const end = Math.min(most, map.blocks);
      await map.loadOnly(from, end - from);
      for (; from < end; from++) {
        const prefix = map.usable(from) ? map.entries.namePrefix(from) : null;
        if (prefix !== null) return prefix;
      }
    }
    return null;
  }
}
