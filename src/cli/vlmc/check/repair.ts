/**
 * The repair: it deletes orphans and finishes interrupted deletions, and nothing else.
 *
 * Once no map names an object, only a first write of the volume in its name can make it wanted again, and only under the volume's present
 * epoch. So an orphan goes when its volume is not open anywhere, it was not touched lately, and
 *  - the volume's epoch has passed the object's (epochs never go back, also over deletion), or nothing writes to it; or
 *  - the epoch is the present one, and meanwhile we hold the volume's lease, as a composer would to write: nobody else does then. Each
 *    deletion carries the lease's deadline, so that none is done late: another node may have broken the lock and made the object anew.
 * All of it only if no volume was made, renamed, snapshotted or removed while the maps were read, and only for objects that have a volume's
 * name pattern: what is content-addressed, or called by others, is never touched.
 *
 * A deletion that was begun is finished by asking for it again, for the very volume whose map has the marks, by its id: one of the same name
 * may have been made meanwhile.
 */
import type { VolumeListEntry } from '../../../requests/json.js';
import type { LeaseReply } from '../../../requests/lease.js';
import type { ObjectClient } from '../../../requests/object-client.js';
import { encodeNote } from '../../../requests/once.js';
import { Flag, Op } from '../../../requests/ops.js';
import { errnoOf, errnos, messageOf } from '../../../sys/errno.js';
import type { Request } from '../../../xseg/index.js';
import { StoreSilent } from '../../common/patience.js';
import type { Session } from '../../common/session.js';
import { mapOf } from '../entries.js';
import { lockState } from '../lock-state.js';
import { usedBy } from '../mapped.js';
import type { Findings } from './findings.js';
import { RemovalMarks } from './marks.js';
import { parseObjectName } from './name-set.js';
import { scanMap } from './scan.js';
import { readHeader } from './stored.js';

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
  /** Until when the lease is good, ms of the monotonic clock. */
  #until = 0;
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
    const remains = await this.#remains(name);
    if (typeof remains === 'string') return remains;
    try {
      const note = encodeNote(remains);
      if (!this.#options.dryRun) await client.call('composer', { op: Op.DELETE, target: name, note });
    } catch (error) {
      if (error instanceof StoreSilent) throw error;
      return messageOf(error);
    }
    await this.#findings.markRemoved(name);
    return null;
  }

  /** Which volume of that name is half deleted, by its id; or why that is not certain. */
  async #remains(name: string): Promise<{ id: string; epoch: number } | string> {
    const changed = 'the volume changed meanwhile; run the check again';
    const before = await readHeader(this.#session, name);
    const volume = this.#volumes.get(name);
    if (!before || !volume) return changed;
    const { lineage, epoch } = before.header;
    if (!lineage) return `nothing in it tells it from a new volume of its name: vlmc remove ${name} when it is to go`;
    const marks = new RemovalMarks(volume.blockSize);
    let damaged = false;
    const pieces = scanMap(this.#session, volume, () => {
      damaged = true;
    });
    for await (const piece of pieces) for (const entry of piece) marks.note(entry);
    if (damaged) return 'not all of its map can be read';
    if (marks.odd !== null) {
      return (
        `block ${marks.odd} is not marked as a removal of this node would have left it, so its map may be damaged: look at it; ` +
        `vlmc remove ${name} only when it is to go`
      );
    }
    // The marks were read while the name stood for this volume.
    const after = await readHeader(this.#session, name);
    if (marks.count === 0 || after?.header.lineage?.id !== lineage.id) return changed;
    return { id: lineage.id, epoch };
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
    // What names something else by now is to be on the disk before what it named is not: first writes are committed without a flush.
    if (byVolume.size > 0 && !this.#options.dryRun) await this.#session.client.objects('maps').flush(null);
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
    const { lock, open, lost } = await lockState(this.#session, name);
    if (lock) return `the volume is open: locked by ${lock.owner}`;
    if (open !== null) return `the volume is open here (${open})`;
    if (lost) return `this node has lost the lock of the volume; vlmc close ${name} first`;
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
    this.#until = lease.until ?? 0;
    try {
      if (lease.epoch !== volume.epoch) return 'the volume changed meanwhile; run the check again';
      const map = mapOf(client, name, lease, { flags: 0, v0Size: -1 });
      const blocks = client.objects('blocks').withDeadline(() => this.#until);
      for (const { object, index, epoch } of orphans) {
        if (this.#revoked.has(name)) return 'the volume was opened meanwhile; run the check again';
        if (epoch > lease.epoch) continue;
        let named = false;
        for await (const [entry] of map.pieces(index, 1)) named = entry.object === object;
        if (!named && !this.#revoked.has(name)) await this.#delete(object, blocks);
      }
      const beyond = orphans.find(({ epoch }) => epoch > lease.epoch);
      return beyond ? `the volume will use names of epoch ${beyond.epoch}, it is at ${lease.epoch} now` : null;
    } catch (error) {
      if (errnoOf(error) !== errnos.ETIME) throw error;
      return 'the mapper did not say in time that the volume is still locked by this node; run the check again';
    } finally {
      await this.#giveBack(name);
    }
  }

  /** As the last client does: what open and lock asked for on this node stays, and so does a lost lock, for somebody else's sake. */
  async #giveBack(name: string): Promise<void> {
    const { lost } = await lockState(this.#session, name);
    if (lost) return;
    try {
      await this.#session.client.call('mapper', { op: Op.CLOSE, target: name, flags: Flag.IMPLICIT });
    } catch (error) {
      // Clients have the volume open: the last of them closes it.
      if (errnoOf(error) !== errnos.EBUSY) throw error;
    }
  }

  async #delete(object: string, blocks: ObjectClient = this.#session.client.objects('blocks')): Promise<void> {
    const work = (async (): Promise<void> => {
      try {
        if (!this.#options.dryRun) await blocks.delete(object);
      } catch (error) {
        if (errnoOf(error) !== errnos.ENOENT) throw error;
      }
      await this.#findings.markDeleted(object);
    })();
    this.#running = work.catch(() => {});
    await work;
  }

  /** REVOKE: somebody else wants the volume. RENEW: it is this node's a while longer. */
  #serve(request: Request): void {
    if (request.op === Op.RENEW) {
      this.#until = Math.max(this.#until, request.offset);
      request.succeed(0);
      return;
    }
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
