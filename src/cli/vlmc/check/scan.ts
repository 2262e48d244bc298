/** Reading maps for a check: whatever cannot be read is told and stepped over, so that one damaged piece hides nothing else. */
import type { VolumeListEntry } from '../../../requests/json.js';
import { Flag, NO_V0_SIZE } from '../../../requests/ops.js';
import { CHUNK_ENTRIES } from '../../../requests/resolved-map.js';
import { messageOf } from '../../../sys/errno.js';
import { isOutage } from '../../common/patience.js';
import type { Session } from '../../common/session.js';
import { EntryFlag, type MapEntry, mapOf } from '../entries.js';
import { count, type Findings, type Severity } from './findings.js';
import { lostLock } from './lost.js';
import { explainDamage, readHeader, type StoredHeader } from './stored.js';

/** Bytes of a map entry: map-data objects are as long as a block, so they hold this much less entries than a block has bytes. */
const ENTRY_BYTES = 128;
/** What the mapper calls the object of an entry that it could not decode. */
const UNDECODED = '(damaged map entry)';

/** How a volume's map is asked for. */
export const versionOf = (volume: VolumeListEntry): { flags: number; v0Size: number } => ({
  flags: volume.version === 0 ? Flag.ASSUMEV0 : 0,
  v0Size: NO_V0_SIZE,
});

/**
 * The entries of a volume's map, in pieces of at most 4096.
 * @param onDamage called for blocks whose entries cannot be read
 */
export async function* scanMap(
  session: Session,
  volume: VolumeListEntry,
  onDamage: (first: number, last: number, error: unknown) => void,
): AsyncGenerator<MapEntry[]> {
  const map = mapOf(session.client, volume.name, volume, versionOf(volume));
  const unit = Math.min(CHUNK_ENTRIES, Math.max(1, volume.blockSize / ENTRY_BYTES));
  for (let at = 0; at < map.blockCount; ) {
    const end = Math.min((Math.floor(at / CHUNK_ENTRIES) + 1) * CHUNK_ENTRIES, map.blockCount);
    const piece: MapEntry[] = [];
    try {
      for await (const entries of map.pieces(at, end - at)) piece.push(...entries);
      at = end;
    } catch (error) {
      if (isOutage(error)) throw error;
      const bad = at + piece.length;
      at = Math.min((Math.floor(bad / unit) + 1) * unit, end);
      onDamage(bad, at - 1, error);
    }
    session.progress.update(`reading the map of ${volume.name}`, at, map.blockCount);
    if (piece.length > 0) yield piece;
  }
}

/** Blocks that follow each other, and why their entries cannot be used. */
interface Damage {
  readonly first: number;
  last: number;
  /** undefined: the mapper did not say. */
  readonly error?: unknown;
}

/** What reading a map met besides entries. */
interface Trouble {
  readonly damage: Damage[];
  /** Entries that a deletion has marked: how many, and the first block. */
  marked: number;
  markedBlock: number;
}

/** Reads maps and keeps what was wrong with them. */
export class MapReader {
  readonly #session: Session;
  readonly #findings: Findings;
  /** Something could not be read: what no map seems to name may be named there. */
  incomplete = false;
  /** Volumes whose deletion was begun and not finished. */
  readonly halfDeleted = new Set<string>();

  constructor(session: Session, findings: Findings) {
    this.#session = session;
    this.#findings = findings;
  }

  /**
   * Reads a volume's map.
   * @param severity of what cannot be read
   * @param onPiece sees the entries that have an object, those that a deletion has marked among them
   */
  async read(
    volume: VolumeListEntry,
    severity: Severity,
    onPiece: (entries: MapEntry[]) => Promise<void> | void,
  ): Promise<void> {
    const trouble: Trouble = { damage: [], marked: 0, markedBlock: 0 };
    const onDamage = (first: number, last: number, error?: unknown): void => {
      const before = trouble.damage.at(-1);
      const same = before && before.last + 1 === first && messageOf(before.error) === messageOf(error);
      if (same) before.last = last;
      else trouble.damage.push({ first, last, error });
    };
    for await (const piece of scanMap(this.#session, volume, onDamage)) {
      await onPiece(piece.filter((entry) => sound(entry, trouble, onDamage)));
    }
    if (trouble.damage.length > 0 || trouble.marked > 0) await this.#tell(volume, severity, trouble);
  }

  /** Looks again before it tells: the volume may have been removed, resized or made anew while its map was read. */
  async #tell(volume: VolumeListEntry, severity: Severity, { damage, marked, markedBlock }: Trouble): Promise<void> {
    const { name } = volume;
    const stored = volume.version === 2 ? await readHeader(this.#session, name) : null;
    if (volume.version === 2 && !stored) {
      this.incomplete = true;
      return this.#findings.note('volume-gone', 'was removed during the check', name);
    }
    if (stored && (stored.header.size !== volume.size || (volume.readOnly && stored.header.epoch !== volume.epoch))) {
      this.incomplete = true;
      return this.#findings.note('volume-changed', 'was resized or made anew during the check: check it again', name);
    }
    // The mapper tells nothing of a volume that it lost.
    if (damage.length > 0 && (await lostLock(this.#session, name))) {
      this.incomplete = true;
      return this.#findings.note('map-not-read', 'its map is not read: this node has lost the lock', name);
    }
    for (const range of damage) await this.#tellDamage(volume, severity, stored, range);
    if (marked === 0) return;
    const running = (await this.#session.client.objects('maps').lockHolder(name)) !== null;
    if (!running) this.halfDeleted.add(name);
    const blocks = `${count(marked, 'block')} (from block ${markedBlock}) are marked deleted`;
    const message = running
      ? `${blocks}: it is being removed just now, or its removal was cut short`
      : `${blocks}: its removal was cut short, reads of them fail; vlmc remove ${name} finishes it`;
    const kind = running ? 'deletion-running' : 'interrupted-deletion';
    await this.#findings.add({ severity: 'note', kind, volume: name, block: markedBlock, count: marked, message });
  }

  async #tellDamage(
    volume: VolumeListEntry,
    severity: Severity,
    stored: StoredHeader | null,
    { first, last, error }: Damage,
  ): Promise<void> {
    const why = stored ? await explainDamage(this.#session, stored, first) : null;
    // Read well now: it was just being written.
    if (stored && !why && error === undefined) return;
    this.incomplete = true;
    const blocks = first === last ? `block ${first}` : `blocks ${first}-${last}`;
    const reason = why?.message ?? (error === undefined ? 'its entry is damaged' : messageOf(error));
    await this.#findings.add({
      severity,
      kind: why?.kind ?? 'map-unreadable',
      volume: volume.name,
      block: first,
      count: last - first + 1,
      ...(why ? { object: why.object } : {}),
      message: `the map of ${blocks} cannot be read: ${reason}`,
    });
  }
}

/** Has the entry an object? What it has instead is counted. */
function sound(entry: MapEntry, trouble: Trouble, onDamage: (first: number, last: number) => void): boolean {
  if ((entry.flags & EntryFlag.DELETED) === 0) return entry.object !== '';
  if (entry.object === UNDECODED) {
    onDamage(entry.index, entry.index);
    return false;
  }
  if (trouble.marked++ === 0) trouble.markedBlock = entry.index;
  return entry.object !== '';
}
