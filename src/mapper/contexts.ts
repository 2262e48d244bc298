/** The stores as the operations on given volumes see them: fenced by those volumes' locks. */
import type { ObjectClient } from '../requests/object-client.js';
import type { Clock } from './clock.js';
import type { MapperContext } from './context.js';
import type { LockChecks } from './locking/checks.js';
import { FencedObjects } from './locking/fenced.js';
import { MapStore } from './map-store.js';
import { zeroedAmong } from './provisional/zeroes.js';
import type { MapReader } from './stored-map.js';
import type { Volume } from './volume.js';

export class Contexts {
  readonly #base: Omit<MapperContext, 'maps' | 'blocks' | 'holds' | 'reader'>;
  readonly #maps: ObjectClient;
  readonly #blocks: ObjectClient;
  readonly #family: MapStore;
  readonly #checks: LockChecks;
  readonly #clock: Clock;
  readonly #single = new WeakMap<Volume, { losses: number; context: MapperContext }>();
  /** For what concerns no volume in particular: nothing is fenced. */
  readonly none: MapperContext;
  readonly #readers = new WeakMap<Volume, MapReader>();

  /** @param family the unfenced map store */
  constructor(
    base: Omit<MapperContext, 'maps' | 'blocks' | 'holds' | 'reader'>,
    stores: { maps: ObjectClient; blocks: ObjectClient; family: MapStore },
    checks: LockChecks,
    clock: Clock,
  ) {
    this.#base = base;
    this.#maps = stores.maps;
    this.#blocks = stores.blocks;
    this.#family = stores.family;
    this.#checks = checks;
    this.#clock = clock;
    this.none = this.#make([]);
  }

  /** For an operation that works on these volumes, and on these only. */
  of(volumes: readonly Volume[]): MapperContext {
    if (volumes.length !== 1) return this.#make(volumes);
    const [volume] = volumes;
    let single = this.#single.get(volume);
    // What was begun before a loss keeps its own, which refuses everything.
    if (single?.losses !== volume.losses) {
      single = { losses: volume.losses, context: this.#make(volumes) };
      this.#single.set(volume, single);
    }
    return single.context;
  }

  #make(volumes: readonly Volume[]): MapperContext {
    const maps = new FencedObjects(this.#maps, volumes, this.#checks, this.#clock);
    const blocks = new FencedObjects(this.#blocks, volumes, this.#checks, this.#clock);
    return {
      ...this.#base,
      maps: new MapStore(maps, () => maps.verify(), this.#family),
      blocks,
      holds: () => blocks.holds(),
      reader: (volume) => this.#readerOf(volume),
    };
  }

  #readerOf(volume: Volume): MapReader {
    let reader = this.#readers.get(volume);
    if (!reader) {
      reader = {
        read: (name, offset, length, { into } = {}) =>
          this.#maps.read(name, offset, length, { uncached: !volume.locked, into }),
        info: (name) => this.#maps.info(name),
        overlay: async (header, first, count) => {
          if (volume.adopted !== null) await this.#base.volumes.committer.confirm(volume, header);
          return overlayOf(volume, first, count);
        },
      };
      this.#readers.set(volume, reader);
    }
    return reader;
  }
}

function overlayOf(volume: Volume, first: number, count: number): Map<number, number | null> | null {
  const { provisional, zeroed } = volume;
  if (provisional.size + zeroed.size === 0) return null;
  const known = new Map<number, number | null>();
  for (const { block, epoch } of provisional.values()) {
    if (block >= first && block < first + count) known.set(block, epoch);
  }
  for (const { block } of zeroedAmong(volume, first, first + count)) known.set(block, null);
  return known;
}
