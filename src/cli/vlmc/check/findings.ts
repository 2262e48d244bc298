/** What a check found, told as it is found. */
import { paint, print } from '../../common/io.js';
import type { Session } from '../../common/session.js';

/**
 * error: data is lost, in danger, or cannot be looked at. orphan: an object that no map names, which only takes space.
 * note: worth knowing, and fine.
 */
export type Severity = 'error' | 'orphan' | 'note';

export interface Finding {
  readonly severity: Severity;
  /** What kind, for programs: missing-object, object-too-long, two-writers, map-unreadable … */
  readonly kind: string;
  /** Null: of no volume that is known. */
  readonly volume: string | null;
  readonly block?: number;
  readonly object?: string;
  readonly message: string;
}

export class Findings {
  readonly #session: Session;
  readonly #all: (Finding & { repaired?: boolean })[] = [];
  readonly #orphans = new Map<string, Finding & { repaired?: boolean }>();
  readonly counts: Record<Severity, number> = { error: 0, orphan: 0, note: 0 };
  repaired = 0;

  constructor(session: Session) {
    this.#session = session;
  }

  async add(finding: Finding): Promise<void> {
    this.counts[finding.severity]++;
    // Only the JSON document needs them all at the end.
    if (this.#session.json) {
      const kept = { ...finding };
      this.#all.push(kept);
      if (finding.severity === 'orphan' && finding.object !== undefined) this.#orphans.set(finding.object, kept);
      return;
    }
    this.#session.progress.clear();
    const { io } = this.#session;
    const colour = { error: 'red', orphan: 'yellow', note: 'green' } as const;
    const word = paint(io, io.stdout, colour[finding.severity], finding.severity.toUpperCase().padEnd(6));
    const volume = finding.volume === null ? '' : `${finding.volume}: `;
    await print(io, `${word} ${volume}${finding.message}\n`);
  }

  /** An orphan was deleted. */
  async markRepaired(object: string): Promise<void> {
    this.repaired++;
    if (this.#session.json) {
      const finding = this.#orphans.get(object);
      if (finding) finding.repaired = true;
    } else {
      await print(this.#session.io, `DELETED ${object}\n`);
    }
  }

  /** Is there nothing that somebody should act on? */
  get good(): boolean {
    return this.counts.error === 0 && this.counts.orphan === this.repaired;
  }

  /** Ends the report. */
  async end(checked: { volumes: readonly string[]; objects: number }): Promise<void> {
    const { error, orphan, note } = this.counts;
    const { repaired } = this;
    const gone = repaired > 0 ? ` (${repaired} deleted)` : '';
    const text =
      `${count(checked.volumes.length, 'volume')}, ${count(checked.objects, 'object')} checked: ` +
      `${count(error, 'error')}, ${count(orphan, 'orphan')}${gone}, ${count(note, 'note')}`;
    const summary = { errors: error, orphans: orphan, repaired, notes: note };
    await this.#session.result({ ...checked, ...summary, good: this.good, findings: this.#all }, text);
  }
}

const count = (n: number, what: string): string => `${n} ${what}${n === 1 ? '' : 's'}`;
