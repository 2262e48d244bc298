/** What a check found, told as it is found. */
import { paint, print } from '../../common/io.js';
import type { Session } from '../../common/session.js';

/**
 * error: data is lost, in danger, or cannot be looked at. orphan: an object that no map names, which only takes space.
 * note: worth knowing; nothing of a volume that is wanted is in danger.
 */
export type Severity = 'error' | 'orphan' | 'note';

export interface Finding {
  readonly severity: Severity;
  /** What kind, for programs: the table in docs/tools.md has all of them. */
  readonly kind: string;
  /** Null: of no volume that is known. */
  readonly volume: string | null;
  /** The first block it is about. */
  readonly block?: number;
  /** How many blocks or objects, where it is about more than one. */
  readonly count?: number;
  readonly object?: string;
  readonly message: string;
}

type Kept = Finding & { repaired?: boolean };

export class Findings {
  readonly #session: Session;
  readonly #all: Kept[] = [];
  /** Those that a repair may end: orphans by object, interrupted deletions by volume. */
  readonly #repairable = new Map<string, Kept>();
  readonly counts: Record<Severity, number> = { error: 0, orphan: 0, note: 0 };
  /** What the repair did, or with --dry-run would have done. */
  repaired = 0;
  #orphansGone = 0;
  readonly #dryRun: boolean;

  constructor(session: Session, dryRun = false) {
    this.#session = session;
    this.#dryRun = dryRun;
  }

  async add(finding: Finding): Promise<void> {
    this.counts[finding.severity]++;
    // Only the JSON document needs them all at the end.
    if (this.#session.json) {
      const kept = { ...finding };
      this.#all.push(kept);
      if (finding.severity === 'orphan' && finding.object !== undefined) this.#repairable.set(finding.object, kept);
      else if (finding.volume !== null) this.#repairable.set(`${finding.kind} ${finding.volume}`, kept);
      return;
    }
    this.#session.progress.clear();
    const { io } = this.#session;
    const colour = { error: 'red', orphan: 'yellow', note: 'green' } as const;
    const word = paint(io, io.stdout, colour[finding.severity], finding.severity.toUpperCase().padEnd(6));
    const volume = finding.volume === null ? '' : `${finding.volume}: `;
    await print(io, `${word} ${volume}${finding.message}\n`);
  }

  /** Something that is about no one volume, and fine. */
  note(kind: string, message: string, volume: string | null = null): Promise<void> {
    return this.add({ severity: 'note', kind, volume, message });
  }

  /** An orphan was deleted, or would have been. */
  async markDeleted(object: string): Promise<void> {
    if (!this.#dryRun) this.#orphansGone++;
    await this.#mark(object, `DELETE${this.#dryRun ? '' : 'D'} ${object}`);
  }

  /** An interrupted deletion of a volume was finished, or would have been. */
  async markRemoved(volume: string): Promise<void> {
    await this.#mark(`interrupted-deletion ${volume}`, `REMOVE${this.#dryRun ? '' : 'D'} ${volume}`);
  }

  async #mark(key: string, text: string): Promise<void> {
    this.repaired++;
    if (this.#session.json) {
      const finding = this.#repairable.get(key);
      if (finding && !this.#dryRun) finding.repaired = true;
    } else {
      this.#session.progress.clear();
      await print(this.#session.io, `${this.#dryRun ? 'WOULD ' : ''}${text}\n`);
    }
  }

  /** Is there nothing that somebody should act on? */
  get good(): boolean {
    return this.counts.error === 0 && this.counts.orphan === this.#orphansGone;
  }

  /** Ends the report. */
  async end(checked: { volumes: readonly string[]; objects: number }): Promise<void> {
    const { error, orphan, note } = this.counts;
    const { repaired } = this;
    const gone = this.#orphansGone > 0 ? ` (${this.#orphansGone} deleted)` : '';
    const text =
      `${count(checked.volumes.length, 'volume')}, ${count(checked.objects, 'object')} checked: ` +
      `${count(error, 'error')}, ${count(orphan, 'orphan')}${gone}, ${count(note, 'note')}`;
    const outcome = this.#dryRun ? { repaired: 0, wouldRepair: repaired } : { repaired };
    const summary = { errors: error, orphans: orphan, notes: note, ...outcome };
    await this.#session.result({ ...checked, ...summary, good: this.good, findings: this.#all }, text);
  }
}

/** `1 object`, `2 objects`. */
export const count = (n: number, what: string): string => `${n} ${what}${n === 1 ? '' : 's'}`;
