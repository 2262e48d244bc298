/** `vlmc check`: do maps and objects agree? Reads only, unless --repair. */
import type { Command } from 'commander';
import type { VolumeListEntry } from '../../../requests/json.js';
import { errnos } from '../../../sys/errno.js';
import { attempt, CliError } from '../../common/exit.js';
import { Problems } from '../../common/program.js';
import type { Session } from '../../common/session.js';
import { volumes } from '../info.js';
import { checkName } from '../names.js';
import { Findings } from './findings.js';
import { NameSet, parseObjectName } from './name-set.js';
import { checkObjects } from './objects.js';
import { listCandidates, tellStrayMaps } from './orphans.js';
import { Repair } from './repair.js';
import { MapSurvey } from './scan.js';

const HELP = `
What is checked: every map can be read; every object that it names exists (a missing own object reads as zeros, a missing shared one is
an error) and is no longer than a block; no object that one map writes in place is named by another; no object of a volume's name pattern
is left that no map names (an orphan: it only takes space).

--repair deletes orphans of volumes that are not open anywhere, and changes nothing else.

Examples:
  vlmc check web-root
  vlmc check --all --repair
  vlmc --json check --all

Exit status: 255 when there are errors or orphans left.`;

export function addCheckCommand(program: Command, session: Session): void {
  program
    .command('check [name]')
    .description('check that maps and objects agree, of one volume or all')
    .option('--all', 'all volumes and snapshots')
    .option('--repair', 'delete orphans where that is safe')
    .addHelpText('after', HELP)
    .action((name: string | undefined, options: CheckOptions) => check(session, name, options));
}

interface CheckOptions {
  readonly all?: boolean;
  readonly repair?: boolean;
}

async function check(session: Session, name: string | undefined, options: CheckOptions): Promise<void> {
  if ((name === undefined) !== (options.all === true)) throw new CliError('give the name of a volume, or --all');
  if (name !== undefined) checkName(name);
  const findings = new Findings(session);
  await attempt('vlmc check failed', () => new Check(session, findings, name ?? null).run(options.repair === true));
  if (!findings.good) throw new Problems();
}

class Check {
  readonly #session: Session;
  readonly #findings: Findings;
  /** The one volume to check, or null: all. */
  readonly #only: string | null;
  #objects = 0;

  constructor(session: Session, findings: Findings, only: string | null) {
    this.#session = session;
    this.#findings = findings;
    this.#only = only;
  }

  async run(repair: boolean): Promise<void> {
    const candidates = await listCandidates(this.#session, this.#only);
    const before = await this.#list();
    const readable = before.filter((volume) => !volume.deleted && !volume.error);
    const survey = new MapSurvey(this.#session, this.#findings);
    survey.incomplete = await this.#tellUnreadable(before);
    const chosen = this.#choose(before);
    await this.#survey(survey, readable, candidates);
    if ((await tellStrayMaps(this.#session, this.#findings, before)) > 0) survey.incomplete = true;
    await survey.tellConflicts(readable);
    const after = await this.#list();
    const steady = fingerprint(before) === fingerprint(after);
    if (!steady) await this.#note('volumes-changed', 'volumes were made, changed or removed during the check');
    await this.#tellOrphans(candidates);
    if (repair && candidates.size > 0) {
      if (steady && !survey.incomplete) await new Repair(this.#session, this.#findings, after).run(candidates);
      else await this.#note('not-repaired', 'orphans are kept: not every map could be read as it is now');
    }
    this.#session.progress.clear();
    await this.#findings.end({ volumes: chosen.map((volume) => volume.name), objects: this.#objects });
  }

  async #list(): Promise<VolumeListEntry[]> {
    const all: VolumeListEntry[] = [];
    for await (const volume of volumes(this.#session, true)) all.push(volume);
    return all;
  }

  #choose(all: readonly VolumeListEntry[]): readonly VolumeListEntry[] {
    const live = all.filter((volume) => !volume.deleted);
    if (this.#only === null) return live;
    const one = live.filter((volume) => volume.name === this.#only);
    if (one.length === 0) throw new CliError(`vlmc check failed: there is no volume ${this.#only}`, errnos.ENOENT);
    return one;
  }

  async #tellUnreadable(all: readonly VolumeListEntry[]): Promise<boolean> {
    const bad = all.filter((volume) => volume.error !== undefined);
    for (const { name, error } of bad) {
      // With one volume chosen, the state of others matters only for what can be said about orphans.
      const severity = this.#only === null || this.#only === name ? 'error' : 'note';
      const message = `the map cannot be read: ${error}`;
      await this.#findings.add({ severity, kind: 'map-unreadable', volume: name, message });
    }
    return bad.length > 0;
  }

  /** Reads all maps: those to check first, so that of the others only what they share is looked at. */
  async #survey(survey: MapSurvey, all: readonly VolumeListEntry[], candidates: NameSet): Promise<void> {
    const mine = (volume: VolumeListEntry): boolean => this.#only === null || volume.name === this.#only;
    const focus = new NameSet();
    for (const volume of all.filter(mine)) {
      await survey.read(volume, 'error', async (entries) => {
        for (const entry of entries) {
          candidates.delete(entry.object);
          if (this.#only !== null) focus.add(entry.object);
          survey.note(volume, entry);
        }
        await checkObjects(this.#session, this.#findings, volume, entries);
        this.#objects += entries.length;
      });
    }
    for (const volume of all.filter((v) => !mine(v))) {
      await survey.read(volume, 'note', (entries) => {
        for (const entry of entries) {
          candidates.delete(entry.object);
          if (focus.has(entry.object)) survey.note(volume, entry);
        }
      });
    }
  }

  async #tellOrphans(candidates: NameSet): Promise<void> {
    const locked = new Map<string, boolean>();
    for (const object of candidates) {
      const volume = parseObjectName(object)?.volume ?? null;
      if (volume !== null && !locked.has(volume)) {
        locked.set(volume, (await this.#session.client.objects('maps').lockHolder(volume)) !== null);
      }
      // A volume in use makes an object before its map names it.
      const open = volume !== null && locked.get(volume) === true;
      const message = `object ${object} is named by no map${open ? '; the volume is open, it may be about to be' : ''}`;
      const kind = open ? 'perhaps-orphan' : 'orphan';
      await this.#findings.add({ severity: open ? 'note' : 'orphan', kind, volume, object, message });
      if (open) candidates.delete(object);
    }
  }

  #note(kind: string, message: string): Promise<void> {
    return this.#findings.add({ severity: 'note', kind, volume: null, message });
  }
}

/** What changes with every change of the set of maps; first writes of a volume's own blocks do not count. */
function fingerprint(all: readonly VolumeListEntry[]): string {
  const rows = all.map((v) => JSON.stringify([v.name, v.size, v.version, v.readOnly, v.epoch, v.deleted, v.error]));
  return rows.sort().join('\n');
}
