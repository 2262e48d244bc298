/** The work of `vlmc check`. Reads only, unless --repair. */
import type { VolumeListEntry } from '../../../requests/json.js';
import { Op } from '../../../requests/ops.js';
import { errnoOf, errnos } from '../../../sys/errno.js';
import { attempt, CliError } from '../../common/exit.js';
import { Problems } from '../../common/program.js';
import type { Session } from '../../common/session.js';
import { volumes } from '../info.js';
import { checkName } from '../names.js';
import type { CheckOptions } from './check.js';
import { Epochs } from './epochs.js';
import { Findings } from './findings.js';
import { tellLost } from './lost.js';
import { listLeftovers, lockedForNew, protectNamed, tellLeftovers } from './maps-store.js';
import { NameSet, parseObjectName } from './name-set.js';
import { checkObjects } from './objects.js';
import { dropMissing, listObjects, tellHashes } from './orphans.js';
import { Repair, type RepairOptions } from './repair.js';
import { MapReader, scanMap } from './scan.js';
import { tellTwins } from './twins.js';
import { protectStored } from './uncommitted.js';
import { protectUncovered } from './uncovered.js';
import { Writers } from './writers.js';

/** @throws Problems when what was found is bad; CliError */
export async function check(session: Session, name: string | undefined, options: CheckOptions): Promise<void> {
  if ((name === undefined) !== (options.all === true)) throw new CliError('give the name of a volume, or --all');
  if (name !== undefined) checkName(name);
  const dryRun = options.dryRun === true;
  if (dryRun && !options.repair) throw new CliError('--dry-run goes with --repair');
  // It may take long, and a repair is asked to give leases back.
  await session.client.join();
  const findings = new Findings(session, dryRun);
  const repair = options.repair ? { dryRun, ageMs: options.age * 1000 } : null;
  await attempt('vlmc check failed', () => new Check(session, findings, name ?? null).run(repair));
  if (!findings.good) throw new Problems();
}

class Check {
  readonly #session: Session;
  readonly #findings: Findings;
  /** The one volume to check, or null: all. */
  readonly #only: string | null;
  readonly #reader: MapReader;
  readonly #writers: Writers;
  #objects = 0;
  /** A name that is locked although there is no volume of that name. */
  #lockedForNew: string | null = null;

  constructor(session: Session, findings: Findings, only: string | null) {
    this.#session = session;
    this.#findings = findings;
    this.#only = only;
    this.#reader = new MapReader(session, findings);
    this.#writers = new Writers(session, findings);
  }

  async run(repair: RepairOptions | null): Promise<void> {
    await this.#lookAfresh();
    // Objects are listed before maps are read: what is made later is not looked at, and what a map names by then is no orphan.
    const objects = await listObjects(this.#session, this.#only);
    await tellHashes(this.#findings, objects);
    const { candidates } = objects;
    const before = await this.#list();
    this.#reader.incomplete = await this.#tellUnreadable(before);
    const chosen = this.#choose(before);
    const epochs = new Epochs(before);
    await this.#readMaps(before, candidates, epochs);
    const leftovers = await listLeftovers(this.#session, before);
    if (!(await protectNamed(this.#session, leftovers, candidates))) this.#reader.incomplete = true;
    await this.#writers.tell(() => this.#list(), steady);
    await tellTwins(this.#session, this.#findings, before, this.#only);
    if (this.#only === null) await tellLeftovers(this.#session, this.#findings, leftovers);
    await tellLost(this.#session, this.#findings, chosen);
    await this.#tellOrphans(candidates);
    const after = await this.#list();
    await epochs.tell(this.#findings, after);
    const quiet = steady(before, after);
    if (!quiet) await this.#findings.note('volumes-changed', 'volumes were made, changed or removed during the check');
    if (repair) await this.#repair(repair, candidates, after, quiet);
    this.#session.progress.clear();
    await this.#findings.end({ volumes: chosen.map((volume) => volume.name), objects: this.#objects });
  }

  /** What blockers keep of the stores may be from before another node changed them. */
  async #lookAfresh(): Promise<void> {
    for (const store of ['blocks', 'maps'] as const) {
      try {
        await this.#session.client.call(store, { op: Op.FORGET, target: '' });
      } catch (error) {
        if (errnoOf(error) !== errnos.EOPNOTSUPP) throw error;
      }
    }
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
  async #readMaps(all: readonly VolumeListEntry[], candidates: NameSet, epochs: Epochs): Promise<void> {
    const mine = (volume: VolumeListEntry): boolean => this.#only === null || volume.name === this.#only;
    const focus = new NameSet();
    for (const volume of all.filter(isReadable).filter(mine)) {
      await this.#reader.read(volume, 'error', async (entries) => {
        for (const entry of entries) {
          candidates.delete(entry.object);
          if (this.#only !== null) focus.add(entry.object);
          epochs.note(volume, entry);
          this.#writers.note(volume, entry);
        }
        await checkObjects(this.#session, this.#findings, volume, entries);
        this.#objects += entries.length;
      });
    }
    for (const volume of all.filter(isReadable).filter((v) => !mine(v))) {
      await this.#reader.read(volume, 'note', (entries) => {
        for (const entry of entries) {
          candidates.delete(entry.object);
          if (focus.has(entry.object)) this.#writers.note(volume, entry);
          if (entry.object.startsWith(`${this.#only}_`)) epochs.note(volume, entry);
        }
      });
    }
  }

  /**
   * What no map named is looked for again in maps as they are now: a volume may have written its entry, or been snapshotted, since. That it is
   * not open comes first: then nobody is about to name the object.
   */
  async #tellOrphans(candidates: NameSet): Promise<void> {
    const locked = await this.#holders(candidates);
    if (candidates.size > 0) await this.#secondLook(candidates);
    for (const object of candidates) {
      const volume = parseObjectName(object)?.volume ?? null;
      const open = volume !== null && locked.has(volume);
      const perhaps = open
        ? '; the volume is open, it may be about to be'
        : this.#reader.incomplete
          ? ' that could be read'
          : null;
      const severity = perhaps === null ? 'orphan' : 'note';
      const kind = perhaps === null ? 'orphan' : 'perhaps-orphan';
      const message = `object ${object} is named by no map${perhaps ?? ''}`;
      await this.#findings.add({ severity, kind, volume, object, message });
      if (open) candidates.delete(object);
    }
  }

  /** Volumes of the candidates that are open. */
  async #holders(candidates: NameSet): Promise<ReadonlySet<string>> {
    const locked = new Set<string>();
    for (const volume of candidates.volumes()) {
      if ((await this.#session.client.objects('maps').lockHolder(volume)) !== null) locked.add(volume);
    }
    return locked;
  }

  async #secondLook(candidates: NameSet): Promise<void> {
    await this.#lookAfresh();
    const now = await this.#list();
    const onDamage = (): void => {
      this.#reader.incomplete = true;
    };
    for (const volume of now.filter(isReadable)) {
      for await (const piece of scanMap(this.#session, volume, onDamage)) {
        for (const { object } of piece) if (object !== '') candidates.delete(object);
      }
    }
    const leftovers = await listLeftovers(this.#session, now);
    if (!(await protectNamed(this.#session, leftovers, candidates))) this.#reader.incomplete = true;
    await dropMissing(this.#session, candidates);
    const { mapData } = leftovers;
    if (!(await protectUncovered(this.#session, this.#findings, now, mapData, candidates)))
      this.#reader.incomplete = true;
    if (!(await protectStored(this.#session, now, mapData, candidates))) this.#reader.incomplete = true;
    if (candidates.size > 0) this.#lockedForNew = await lockedForNew(this.#session, leftovers, now);
  }

  async #repair(
    options: RepairOptions,
    orphans: NameSet,
    now: readonly VolumeListEntry[],
    quiet: boolean,
  ): Promise<void> {
    const { halfDeleted, incomplete } = this.#reader;
    if (orphans.size === 0 && halfDeleted.size === 0) return;
    const repair = new Repair(this.#session, this.#findings, now, options);
    if (orphans.size > 0) {
      const making = this.#lockedForNew;
      if (making !== null) {
        const why = `${making} is locked and there is no such volume: it may be in the making. If not: vlmc unlock ${making}, there`;
        await this.#findings.note('not-repaired', `orphans are kept: ${why}`);
      } else if (quiet && !incomplete) await repair.deleteOrphans(orphans);
      else await this.#findings.note('not-repaired', 'orphans are kept: not every map could be read as it is now');
    }
    await repair.finishDeletions([...halfDeleted].filter((name) => this.#only === null || name === this.#only));
  }
}

const isReadable = (volume: VolumeListEntry): boolean => !volume.deleted && !volume.error;

/** Has no volume been made, changed or removed between the lists? First writes of a volume's own blocks do not count. */
function steady(before: readonly VolumeListEntry[], after: readonly VolumeListEntry[]): boolean {
  return fingerprint(before) === fingerprint(after);
}

function fingerprint(all: readonly VolumeListEntry[]): string {
  const rows = all.map((v) => JSON.stringify([v.name, v.size, v.version, v.readOnly, v.epoch, v.deleted, v.error]));
  return rows.sort().join('\n');
}
