/**
 * The repair: it deletes orphans and finishes interrupted deletions, and nothing else.
 *
 * Once no map names an object, only a first write of the volume in its name can make it wanted again, and only under the volume's present
 * epoch. So an orphan goes when its volume is not open anywhere, it was not touched lately, and
 *  - the volume's epoch has passed the object's (epochs never go back, also over deletion), or nothing writes to it; or
 *  - the epoch is the present one, and meanwhile we hold the volume's lease, as a composer would to write: nobody else does then.
 * All of it only if no volume was made, renamed, snapshotted or removed while the maps were read, and only for objects that have a volume's
 * name pattern: what is content-addressed, or called by others, is never touched.
 *
 * A deletion that was begun is finished by asking for it again: its marks in the map are made by nothing else.
 */
import type { VolumeListEntry } from '../../../requests/json.js';
import type { LeaseReply } from '../../../requests/lease.js';
import { Op } from '../../../requests/ops.js';
import { errnoOf, errnos, messageOf } from '../../../sys/errno.js';
import type { Request } from '../../../xseg/index.js';
import type { Session } from '../../common/session.js';
import { mapOf } from '../entries.js';
import { usedBy } from '../mapped.js';
import type { Findings } from './findings.js';
import { parseObjectName } from './name-set.js';

export interface RepairOptions {
  /** Only tell what would be done. */
  readonly dryRun: boolean;
  /** Objects that were changed within so many milliseconds are kept. */
  readonly ageMs: number;
}

interface Orphan {
  readonly object: string;
  readonly epoch: number;
  readonly index: number;
}

export class Repair {
  readonly #session: Session;
  readonly #findings: Findings;
  readonly #volumes: ReadonlyMap<string, VolumeListEntry>;
  readonly #options: RepairOptions;
  /** Volumes whose lease was taken back from us. */
  readonly #revoked = new Set<string>();
  /** The deletion that runs: a revocation waits for it. */
  #running: Promise<void> = Promise.resolve();

  /** @param volumes all of them, deleted ones too, as they are now */
  constructor(session: Session, findings: Findings, volumes: readonly VolumeListEntry[], options: RepairOptions) {
    this.#session = session;
    this.#findings = findings;
    this.#options = options;
    const byName = new Map<string, VolumeListEntry>();
    const twice = new Set<string>();
    for (const volume of volumes) {
      if (byName.has(volume.name)) twice.add(volume.name);
      byName.set(volume.name, volume);
    }
    // A name that stands for two maps (one of an old version beside a deleted one) has no one epoch.
    for (const name of twice) byName.delete(name);
    this.#volumes = byName;
    session.client.port.serve((request) => this.#serve(request));
  }

  /** Finishes the deletions of these volumes. */
  async finishDeletions(names: Iterable<string>): Promise<void> {
    for (const name of names) {
      const kept = await this.#finishDeletion(name);
      if (kept !== null) await this.#findings.note('deletion-kept', `its deletion is not finished: ${kept}`, name);
    }
  }

  /** @returns why not, or null */
  async #finishDeletion(name: string): Promise<string | null> {
    const { client } = this.#session;
    const use = await usedBy(this.#session, name);
    if (use) return `it is ${use}`;
    const holder = await client.objects('maps').lockHolder(name);
    if (holder) return `it is open: locked by ${holder.owner}`;
    try {
      if (!this.#options.dryRun) await client.call('composer', { op: Op.DELETE, target: name });
    } catch (error) {
      return messageOf(error);
    }
    await this.#findings.markRemoved(name);
    return null;
  }

  /** Deletes the orphans that may be deleted; what may not is told with the reason. */
  async deleteOrphans(orphans: Iterable<string>): Promise<void> {
    const byVolume = new Map<string, Orphan[]>();
    for (const object of orphans) {
      const parsed = parseObjectName(object);
      if (!parsed) continue;
      const list = byVolume.get(parsed.volume) ?? [];
      byVolume.set(parsed.volume, list);
      list.push({ object, epoch: parsed.epoch, index: parsed.index });
    }
    for (const [name, list] of byVolume) {
      const kept = await this.#repairVolume(name, list);
      if (kept !== null) await this.#findings.note('orphans-kept', `orphans kept: ${kept}`, name);
    }
  }

  /** @returns why some were kept, or null */
  async #repairVolume(name: string, all: readonly Orphan[]): Promise<string | null> {
    const volume = this.#volumes.get(name);
    if (volume?.epoch === undefined) {
      return `there is no header that says which names ${name} may use again; if the volume is gone for good, delete them with xseg`;
    }
    const holder = await this.#session.client.objects('maps').lockHolder(name);
    if (holder) return `the volume is open: locked by ${holder.owner}`;
    const old = await this.#oldEnough(all);
    const young = old.length === all.length ? null : this.#tooYoung(all.length - old.length);
    const passed = volume.deleted || volume.readOnly ? volume.epoch : volume.epoch - 1;
    for (const orphan of old) if (orphan.epoch <= passed) await this.#delete(orphan.object);
    const present = old.filter((orphan) => orphan.epoch > passed);
    if (present.length === 0) return young;
    if (volume.deleted || volume.readOnly) return `a new volume ${name} would use their names`;
    return (await this.#underLease(volume, present)) ?? young;
  }

  #tooYoung(count: number): string {
    return `${count} changed within the last ${this.#options.ageMs / 1000} s (--age)`;
  }

  /** Those that nobody has changed lately. A store that does not tell when has none of them. */
  async #oldEnough(orphans: readonly Orphan[]): Promise<Orphan[]> {
    const { ageMs } = this.#options;
    if (ageMs === 0) return [...orphans];
    const blocks = this.#session.client.objects('blocks');
    const old: Orphan[] = [];
    let looked = 0;
    for (const orphan of orphans) {
      this.#session.progress.update('looking at orphans', ++looked, orphans.length);
      try {
        const { modified } = await blocks.info(orphan.object);
        if (modified === undefined || Date.now() - modified >= ageMs) old.push(orphan);
      } catch (error) {
        // Gone already: deleting it says so, too.
        if (errnoOf(error) !== errnos.ENOENT) throw error;
        old.push(orphan);
      }
    }
    return old;
  }

  async #underLease(volume: VolumeListEntry, orphans: readonly Orphan[]): Promise<string | null> {
    const { name } = volume;
    const { client } = this.#session;
    if (this.#options.dryRun) {
      // Taking the lease would be a change; what it would be refused for is not known.
      for (const { object, epoch } of orphans) if (epoch <= (volume.epoch ?? 0)) await this.#delete(object);
      return null;
    }
    const lease = await client.json<LeaseReply>('mapper', Op.LEASE, name, { write: false });
    if (lease.granted !== 'exclusive') return `the volume is open: ${lease.holder ?? 'another node has it'}`;
    try {
      if (lease.epoch !== volume.epoch) return 'the volume changed meanwhile; run the check again';
      const map = mapOf(client, name, lease, { flags: 0, v0Size: -1 });
      for (const { object, index, epoch } of orphans) {
        if (this.#revoked.has(name)) return 'the volume was opened meanwhile; run the check again';
        if (epoch > lease.epoch) continue;
        let named = false;
        for await (const [entry] of map.pieces(index, 1)) named = entry.object === object;
        if (!named && !this.#revoked.has(name)) await this.#delete(object);
      }
      const beyond = orphans.find(({ epoch }) => epoch > lease.epoch);
      return beyond ? `the volume will use names of epoch ${beyond.epoch}, it is at ${lease.epoch} now` : null;
    } finally {
      await client.call('mapper', { op: Op.CLOSE, target: name });
    }
  }

  async #delete(object: string): Promise<void> {
    const work = (async (): Promise<void> => {
      try {
        if (!this.#options.dryRun) await this.#session.client.objects('blocks').delete(object);
      } catch (error) {
        if (errnoOf(error) !== errnos.ENOENT) throw error;
      }
      await this.#findings.markDeleted(object);
    })();
    this.#running = work.catch(() => {});
    await work;
  }

  /** REVOKE: somebody else wants the volume. */
  #serve(request: Request): void {
    if (request.op !== Op.REVOKE) {
      request.fail(errnos.EOPNOTSUPP, 'vlmc serves no requests');
      return;
    }
    this.#revoked.add(request.target);
    this.#running.then(
      () => request.succeed(0),
      (error) => request.fail(errnos.EIO, messageOf(error)),
    );
  }
}
