/**
 * Epochs: a new object of a volume is called after the volume's present epoch, so no map but the volume's own may name an object of that epoch
 * or a later one. Where one does, a write would go into an object that somebody else reads.
 */
import type { VolumeListEntry } from '../../../requests/json.js';
import type { MapEntry } from '../entries.js';
import { count, type Findings } from './findings.js';
import { parseObjectName } from './name-set.js';

interface Suspicion {
  readonly volume: string;
  /** After which the objects are called. */
  readonly maker: string;
  readonly own: boolean;
  count: number;
  epoch: number;
  block: number;
  object: string;
}

interface Limits {
  /** Highest epoch in the names of objects that others may name; -1: not known. */
  readonly shared: number;
  /** … and that the volume itself may name. */
  readonly own: number;
}

export class Epochs {
  readonly #limits: ReadonlyMap<string, Limits>;
  readonly #suspicions = new Map<string, Suspicion>();

  /** @param volumes all of them, deleted ones too */
  constructor(volumes: readonly VolumeListEntry[]) {
    this.#limits = limitsOf(volumes);
  }

  /** Looks at an entry of a volume's map. */
  note(volume: VolumeListEntry, entry: MapEntry): void {
    const parsed = parseObjectName(entry.object);
    if (!parsed) return;
    const limits = this.#limits.get(parsed.volume);
    if (!limits) return;
    const own = parsed.volume === volume.name;
    if (parsed.epoch <= (own ? limits.own : limits.shared)) return;
    const key = `${volume.name}/${parsed.volume}`;
    const known = this.#suspicions.get(key);
    if (!known) {
      const { epoch } = parsed;
      const { index: block, object } = entry;
      this.#suspicions.set(key, { volume: volume.name, maker: parsed.volume, own, count: 1, epoch, block, object });
      return;
    }
    known.count++;
    if (parsed.epoch > known.epoch)
      Object.assign(known, { epoch: parsed.epoch, block: entry.index, object: entry.object });
  }

  /** Tells what is so by what the headers say now: a snapshot that was taken during the check has raised an epoch. */
  async tell(findings: Findings, now: readonly VolumeListEntry[]): Promise<void> {
    const limits = limitsOf(now);
    const live = new Set(now.filter((volume) => !volume.deleted).map((volume) => volume.name));
    for (const suspicion of this.#suspicions.values()) {
      const { volume, maker, own, epoch, block, object } = suspicion;
      const limit = limits.get(maker);
      if (!limit || !live.has(volume) || epoch <= (own ? limit.own : limit.shared)) continue;
      const objects = `${count(suspicion.count, 'object')} of epoch ${epoch} (block ${block}: ${object})`;
      const message = own
        ? `the map names ${objects}, its header is only at epoch ${limit.own}: after snapshots new objects would take the names of old ones`
        : `the map names ${objects} of ${maker}, which may yet write to objects of that name: take a snapshot of ${maker} first, it raises the epoch`;
      await findings.add({
        severity: 'error',
        kind: own ? 'epoch-ahead' : 'epoch-behind',
        volume,
        block,
        object,
        count: suspicion.count,
        message,
      });
    }
  }
}

function limitsOf(volumes: readonly VolumeListEntry[]): Map<string, Limits> {
  const limits = new Map<string, Limits>();
  const twice = new Set<string>();
  for (const { name, epoch, readOnly, deleted, error } of volumes) {
    if (limits.has(name)) twice.add(name);
    if (epoch === undefined || error !== undefined) continue;
    limits.set(name, { own: epoch, shared: readOnly || deleted ? epoch : epoch - 1 });
  }
  // A name that stands for two maps (one of an old version beside a deleted one) has no one epoch.
  for (const name of twice) limits.delete(name);
  return limits;
}
