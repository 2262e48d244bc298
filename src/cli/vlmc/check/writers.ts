/** Which objects are written in place through one map and named by another: then two volumes share what only one knows it shares. */
import type { VolumeListEntry } from '../../../requests/json.js';
import type { Session } from '../../common/session.js';
import { EntryFlag, type MapEntry } from '../entries.js';
import type { Findings } from './findings.js';
import { NameSet } from './name-set.js';
import { scanMap } from './scan.js';

/** How often maps that change meanwhile are read again before it is left at a note. */
const ATTEMPTS = 3;

/**
 * Is the entry's object written through this map? Nothing is through a snapshot, whatever its entries say; a map of an old version is
 * read-only here, but not for the original, nor once it is upgraded.
 */
function writesInPlace(volume: VolumeListEntry, entry: Pick<MapEntry, 'flags'>): boolean {
  return (entry.flags & EntryFlag.WRITABLE) !== 0 && !(volume.readOnly && volume.version === 2);
}

export class Writers {
  readonly #session: Session;
  readonly #findings: Findings;
  readonly #writable = new NameSet();
  readonly #shared = new NameSet();
  readonly #conflicts = new NameSet();

  constructor(session: Session, findings: Findings) {
    this.#session = session;
    this.#findings = findings;
  }

  /** Notes who may write an object. */
  note(volume: VolumeListEntry, entry: MapEntry): void {
    const { object } = entry;
    const writes = writesInPlace(volume, entry);
    if (this.#writable.has(object) || (writes && this.#shared.has(object))) this.#conflicts.add(object);
    (writes ? this.#writable : this.#shared).add(object);
  }

  /**
   * Reads the maps again to tell who the two are. There is nothing to do as long as all is well. Maps are not read at one moment: what
   * counts is what is found while no volume was made, snapshotted or renamed.
   * @param list the volumes as they are now
   * @param same whether two lists say that nothing happened in between
   */
  async tell(
    list: () => Promise<readonly VolumeListEntry[]>,
    same: (a: readonly VolumeListEntry[], b: readonly VolumeListEntry[]) => boolean,
  ): Promise<void> {
    if (this.#conflicts.size === 0) return;
    let before = await list();
    for (let attempt = 1; ; attempt++) {
      const found = await this.#find(before);
      if (found.size === 0) return;
      const after = await list();
      if (same(before, after)) return this.#tellAll(found);
      if (attempt === ATTEMPTS) {
        const message = `${found.size} objects seem to be written by one map and named by another, but maps keep changing: check again`;
        return this.#findings.note('perhaps-two-writers', message);
      }
      before = after;
    }
  }

  async #find(volumes: readonly VolumeListEntry[]): Promise<Map<string, string[]>> {
    const users = new Map<string, { list: string[]; writers: number }>();
    for (const volume of volumes.filter(({ deleted, error }) => !deleted && error === undefined)) {
      for await (const piece of scanMap(this.#session, volume, () => {})) {
        for (const { object, flags, index } of piece) {
          if (!this.#conflicts.has(object)) continue;
          const user = users.get(object) ?? { list: [], writers: 0 };
          users.set(object, user);
          const writes = writesInPlace(volume, { flags });
          user.writers += writes ? 1 : 0;
          user.list.push(`${volume.name} block ${index}${writes ? ' (writable)' : ''}`);
        }
      }
    }
    const real = new Map<string, string[]>();
    for (const [object, { list, writers }] of users) if (list.length > 1 && writers > 0) real.set(object, list);
    return real;
  }

  async #tellAll(found: ReadonlyMap<string, readonly string[]>): Promise<void> {
    for (const [object, list] of found) {
      await this.#findings.add({
        severity: 'error',
        kind: 'two-writers',
        volume: null,
        object,
        count: list.length,
        message: `object ${object} is written in place by one map and named by another: ${list.join(', ')}`,
      });
    }
  }
}
