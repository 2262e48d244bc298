/** Reading maps for a check: whatever cannot be read is told and stepped over, so that one damaged piece hides nothing else. */
import type { VolumeListEntry } from '../../../requests/json.js';
import { Flag, NO_V0_SIZE } from '../../../requests/ops.js';
import { CHUNK_ENTRIES } from '../../../requests/resolved-map.js';
import { errnoOf, errnos, messageOf } from '../../../sys/errno.js';
import type { Session } from '../../common/session.js';
import { EntryFlag, type MapEntry, mapOf } from '../entries.js';
import type { Findings, Severity } from './findings.js';
import { NameSet } from './name-set.js';

/** Bytes of a map entry: map-data objects are as long as a block, so they hold this much less entries than a block has bytes. */
const ENTRY_BYTES = 128;

/**
 * The entries of a volume's map, in pieces of at most 4096.
 * @param onDamage called for blocks whose entries cannot be read
 */
export async function* scanMap(
  session: Session,
  volume: VolumeListEntry,
  onDamage: (first: number, last: number, error: unknown) => Promise<void>,
): AsyncGenerator<MapEntry[]> {
  const version = { flags: volume.version === 0 ? Flag.ASSUMEV0 : 0, v0Size: NO_V0_SIZE };
  const map = mapOf(session.client, volume.name, volume, version);
  const unit = Math.min(CHUNK_ENTRIES, Math.max(1, volume.blockSize / ENTRY_BYTES));
  for (let at = 0; at < map.blockCount; ) {
    const end = Math.min((Math.floor(at / CHUNK_ENTRIES) + 1) * CHUNK_ENTRIES, map.blockCount);
    const piece: MapEntry[] = [];
    try {
      for await (const entries of map.pieces(at, end - at)) piece.push(...entries);
      at = end;
    } catch (error) {
      const bad = at + piece.length;
      at = Math.min((Math.floor(bad / unit) + 1) * unit, end);
      await onDamage(bad, at - 1, error);
    }
    session.progress.update(`reading the map of ${volume.name}`, at, map.blockCount);
    if (piece.length > 0) yield piece;
  }
}

/**
 * Is the entry's object written through this map? Nothing is through a snapshot, whatever its entries say; a map of an old version is
 * read-only here, but not for the original, nor once it is upgraded.
 */
function writesInPlace(volume: VolumeListEntry, entry: Pick<MapEntry, 'flags'>): boolean {
  return (entry.flags & EntryFlag.WRITABLE) !== 0 && !(volume.readOnly && volume.version === 2);
}

/** What names the maps of all volumes hold, and the names that are in danger. */
export class MapSurvey {
  readonly #session: Session;
  readonly #findings: Findings;
  readonly #writable = new NameSet();
  readonly #shared = new NameSet();
  readonly #conflicts = new NameSet();
  /** Something could not be read: what no map seems to name may be named there. */
  incomplete = false;

  constructor(session: Session, findings: Findings) {
    this.#session = session;
    this.#findings = findings;
  }

  /**
   * Reads a volume's map.
   * @param severity of what cannot be read
   * @param onPiece sees the entries that have an object
   */
  async read(
    volume: VolumeListEntry,
    severity: Severity,
    onPiece: (entries: MapEntry[]) => Promise<void> | void,
  ): Promise<void> {
    let gone = false;
    const onDamage = async (first: number, last: number, error: unknown): Promise<void> => {
      if (gone) return;
      gone = errnoOf(error) === errnos.ENOENT;
      this.incomplete = true;
      const blocks = first === last ? `block ${first}` : `blocks ${first}-${last}`;
      await this.#findings.add(
        gone
          ? { severity: 'note', kind: 'volume-gone', volume: volume.name, message: 'was removed during the check' }
          : {
              severity,
              kind: 'map-unreadable',
              volume: volume.name,
              block: first,
              message: `the map of ${blocks} cannot be read: ${messageOf(error)}`,
            },
      );
    };
    for await (const piece of scanMap(this.#session, volume, onDamage)) {
      await onPiece(piece.filter((entry) => entry.object !== ''));
    }
  }

  /** Notes who may write an object. @returns false when two maps name it and one of them writes in place */
  note(volume: VolumeListEntry, entry: MapEntry): boolean {
    const writes = writesInPlace(volume, entry);
    const fine = !this.#writable.has(entry.object) && !(writes && this.#shared.has(entry.object));
    (writes ? this.#writable : this.#shared).add(entry.object);
    if (!fine) this.#conflicts.add(entry.object);
    return fine;
  }

  /** Reads the maps again to tell who the two are. There is nothing to do as long as all is well. */
  async tellConflicts(volumes: readonly VolumeListEntry[]): Promise<void> {
    if (this.#conflicts.size === 0) return;
    const users = new Map<string, string[]>();
    for (const volume of volumes) {
      for await (const piece of scanMap(this.#session, volume, async () => {})) {
        for (const { object, flags, index } of piece) {
          if (!this.#conflicts.has(object)) continue;
          const list = users.get(object) ?? [];
          users.set(object, list);
          list.push(`${volume.name} block ${index}${writesInPlace(volume, { flags }) ? ' (writable)' : ''}`);
        }
      }
    }
    for (const [object, list] of users) {
      await this.#findings.add({
        severity: 'error',
        kind: 'two-writers',
        volume: null,
        object,
        message: `object ${object} is written in place by one map and named by another: ${list.join(', ')}`,
      });
    }
  }
}
