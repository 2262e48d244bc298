/**
 * What the mapper keeps of a volume that is in use: its gates, whether this node holds its lock, the cached map, who leases it.
 * A volume is kept while somebody works on it, it is locked, or it is leased; without lock or lease nothing is cached.
 */
import { Gate, RangeLocks } from './gate.js';
import type { OpenOptions } from './map-store.js';
import type { StoredMap } from './stored-map.js';

export class Volume {
  readonly name: string;
  /** Shared: granting leases. Exclusive: an operation that changes the map, from before it revokes leases to its end. */
  readonly intent = new Gate();
  /** Shared: reads, copy-up, zeroing, flush. Exclusive: the work of an operation that changes the map. */
  readonly gate = new Gate();
  /** One at a time: taking the lock, granting and revoking. */
  readonly leasing = new Gate();
  /** Copy-up and zeroing of overlapping blocks wait for each other. */
  readonly blocks = new RangeLocks();
  /** One epoch bump at a time. */
  readonly bumping = new Gate();
  /** This mapper holds the volume's lock in the store. */
  locked = false;
  /** Somebody asked for the lock by OPEN: it is kept when the last client goes, until CLOSE. */
  opened = false;
  /** The map, good as long as the volume is locked or the map is immutable. */
  map: StoredMap | null = null;
  /** Ports that lease the map. */
  readonly leases = new Map<number, 'exclusive' | 'shared'>();
  /** Ports being asked to give their lease back, and by how many: they may finish what they have begun. */
  readonly revoking = new Map<number, number>();
  /** Ports that gave back what leases they had of an earlier mapper. */
  readonly asked = new Set<number>();
  /** Objects of the maps store that were written and not flushed. */
  readonly touched = new Set<string>();
  /** Data may have been written since the volume was locked. */
  written = false;
  /** Changes with every change that a lease must not outlive. */
  generation = 0;
  users = 0;

  constructor(name: string) {
    this.name = name;
  }

  /** The cached map, if it is what a request with these options means. */
  cached(options: OpenOptions): StoredMap | null {
    const { map } = this;
    if (map === null || map.header.version !== 0) return map;
    return options.assumeV0 && options.v0Size === map.v0Size ? map : null;
  }

  get idle(): boolean {
    return this.users === 0 && !this.locked && this.leases.size === 0 && this.touched.size === 0;
  }
}

/** All volumes in use. */
export class Volumes {
  readonly #volumes = new Map<string, Volume>();
  #generation = Date.now();

  /** Works on a volume; it is kept for at least that long. */
  async use<T>(name: string, work: (volume: Volume) => Promise<T>): Promise<T> {
    let volume = this.#volumes.get(name);
    if (!volume) {
      volume = new Volume(name);
      volume.generation = this.#generation++;
      this.#volumes.set(name, volume);
    }
    volume.users++;
    try {
      return await work(volume);
    } finally {
      volume.users--;
      if (volume.leases.size === 0 && !volume.locked) volume.map = null;
      if (volume.idle && this.#volumes.get(name) === volume) this.#volumes.delete(name);
    }
  }

  /** A number no volume had as its generation. */
  newGeneration(): number {
    return this.#generation++;
  }

  /** The volumes in use now. */
  all(): Volume[] {
    return [...this.#volumes.values()];
  }
}
