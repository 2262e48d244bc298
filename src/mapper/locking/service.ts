/**
 * Everything about locks between nodes, put together: taking and checking them, their loss, mail, breaking, handing over, and what an
 * earlier mapper left.
 */
import type { LockInfo } from '../../requests/json.js';
import type { LockClient } from '../../requests/lock-client.js';
import type { LockNews } from '../../requests/locks.js';
import type { ObjectClient } from '../../requests/object-client.js';
import { forOnce, type Once } from '../../requests/once.js';
import { errnoOf, errnos, SystemError } from '../../sys/errno.js';
import { withAlone } from '../alone.js';
import type { Clock } from '../clock.js';
import type { MapperLog } from '../context.js';
import type { Leases } from '../leases.js';
import { Locks } from '../locks.js';
import { MapStore } from '../map-store.js';
import { flushOwnData } from '../own-data.js';
import type { NotedVolume } from '../provisional/noted.js';
import type { StoredMap } from '../stored-map.js';
import type { Volume, Volumes } from '../volume.js';
import { Adoption } from './adoption.js';
import { Breaking, DONE, type UnlockReply } from './breaking.js';
import { LockChecks } from './checks.js';
import { FencedObjects } from './fenced.js';
import { type FenceTarget, Fencing } from './fencing.js';
import { HandOver } from './hand-over.js';
import { Losses } from './losses.js';
import { LostLock } from './lost.js';
import { Mailbox } from './mailbox.js';
import { News } from './news.js';
import type { LockRegistry } from './registry.js';
import { LockWaits } from './waiting.js';
import { LockWatch } from './watch.js';

export interface LockingOptions {
  readonly client: LockClient;
  /** Stores that are asked to refuse a node which does not answer. */
  readonly fences: readonly FenceTarget[];
  /** This node's owner string. */
  readonly owner: string;
  readonly maps: ObjectClient;
  readonly blocks: ObjectClient;
  readonly volumes: Volumes;
  readonly leases: Leases;
  readonly registry: LockRegistry;
  /** Blocks that an earlier mapper left provisional, by volume. */
  readonly noted: ReadonlyMap<string, NotedVolume>;
  readonly clock: Clock;
  readonly log: MapperLog;
  /** The volume's map. @throws SystemError ENOENT */
  readonly mapOf: (volume: Volume) => Promise<StoredMap>;
  /** How long a lease for writing waits for a lock of another node, in ms. */
  readonly patienceMs: number;
  /** Called some times a second while locks are held. */
  readonly looking: () => void;
}

export class Locking {
  readonly #options: LockingOptions;
  readonly checks: LockChecks;
  readonly locks: Locks;
  readonly losses: Losses;
  readonly waits: LockWaits;
  /** The maps store without fences. */
  readonly maps: MapStore;
  readonly #watch: LockWatch;
  readonly #news: News;
  readonly #breaking: Breaking;
  /** Names of locks that this mapper has had, where no registry tells of those that the earlier one had. */
  readonly #known = new Set<string>();
  #ready: Promise<void> = Promise.resolve();
  #predecessorFlushed: Promise<void> | null = null;
  #adoption: Adoption | null = null;

  constructor(options: LockingOptions) {
    const { client, owner, volumes, leases, registry, clock, log, blocks } = options;
    this.#options = options;
    const note = (volume: Volume): Promise<void> => this.locks.note(volume);
    this.losses = new Losses({ volumes, leases, clock, log, note });
    const mailbox = new Mailbox({
      volumes,
      owner,
      client,
      checks: () => this.checks,
      want: (name) => handOver.want(name),
      gone: (volume, id) => this.#breaking.gone(volume, id),
      ready: () => this.#ready,
      isOpen: (volume) => leases.isUnanswered(volume),
    });
    this.checks = new LockChecks(client, clock, {
      lost: (volume, holder) => this.losses.lose(volume, holder),
      mail: (mail) => mailbox.receive(mail),
    });
    this.maps = new MapStore(new FencedObjects(options.maps, [], this.checks, clock));
    const isTold = (): boolean => this.#news.works;
    this.#watch = new LockWatch({
      volumes,
      checks: this.checks,
      leases,
      clock,
      log,
      isTold,
      looking: options.looking,
    });
    this.#news = new News({
      client,
      clock,
      isWanted: () => this.#watch.isNeeded || this.waits.count > 0,
      told: (news) => this.#told(news),
    });
    const wake = (): void => {
      this.#watch.wake();
      this.#news.wake();
    };
    this.locks = new Locks({
      maps: this.maps,
      client,
      owner,
      checks: this.checks,
      volumes,
      registry,
      clock,
      log,
      forget: async () => {
        await Promise.all([options.maps.forget(), blocks.forget()]);
      },
      taken: ({ name }) => {
        if (!registry.isSound) this.#known.add(name);
        options.looking();
        wake();
      },
    });
    const isOurs = (name: string): Promise<boolean> => this.checks.isOurs(name);
    const fencing = new Fencing(options.fences, clock, log);
    this.#breaking = new Breaking({ client, volumes, owner, clock, log, note, fencing, isOurs, begun: wake });
    this.waits = new LockWaits({ client, owner, clock, log, patienceMs: options.patienceMs, begun: wake, isTold });
    const handOver = new HandOver({
      context: { volumes, leases, locks: this.locks },
      clock,
      log,
      settle: (volume, flushed) => this.settle(volume, flushed && volume.writers.size > 0 && !volume.strangers),
    });
  }

  /** Resolves when nobody goes on by leases of an earlier mapper: then new ones may be granted. */
  get ready(): Promise<void> {
    return this.#ready;
  }

  /** Takes over from an earlier mapper, and looks after the locks from now on. Requests may be served at once. */
  start(): void {
    const { volumes, leases, registry, clock, log } = this.#options;
    const adoption = new Adoption({
      context: { volumes, leases, locks: this.locks },
      registry,
      noted: this.#options.noted,
      breaking: this.#breaking,
      losses: this.losses,
      clock,
      log,
      flushAll: () => this.#options.blocks.flush(null),
      flushData: async (volume, whole) => {
        await this.#flushData(volume, whole);
        await this.flushPredecessor();
      },
    });
    adoption.begin();
    this.#watch.start();
    this.#news.start();
    this.#ready = adoption.reclaim();
    this.#adoption = adoption;
    void this.#ready.then(() => adoption.finish());
  }

  stop(): void {
    this.#adoption?.stop();
    this.#watch.stop();
    this.#news.stop();
  }

  /** The store says by itself that there is something to look at. */
  #told({ changed, mail }: LockNews): void {
    const held: string[] = [];
    for (const name of changed) {
      const volume = this.#options.volumes.get(name);
      if (!volume) continue;
      if (volume.locked) held.push(name);
      this.waits.changed(volume);
    }
    if (mail || held.length > 0) this.#watch.now(held);
  }

  /** A mapper before this one may have died with map entries written and not flushed: the first flush covers everything. */
  flushPredecessor(): Promise<void> {
    this.#predecessorFlushed ??= this.#options.maps.flush(null).catch((error) => {
      this.#predecessorFlushed = null;
      throw error;
    });
    return this.#predecessorFlushed;
  }

  /**
   * For a port that says it wrote to a volume that this mapper does not hold: it can only have done so under an earlier mapper, if this one
   * never took the lock. The lock must still be this node's then, or that one's registry would tell that it was given up.
   * @throws LostLock, and the volume counts as lost from then on
   */
  async verifyInherited(volume: Volume, port: number): Promise<void> {
    const { leases, registry } = this.#options;
    const { name } = volume;
    if (registry.isSound || this.#known.has(name) || !leases.hadBefore(port)) return;
    if ((await this.checks.isOurs(name)) || this.#known.has(name)) return;
    const lock = await this.holder(name);
    if (!volume.lost) this.losses.mark(volume, { holder: lock?.owner ?? null, at: Date.now() });
    throw new LostLock(volume);
  }

  /** Makes durable what was written of the volume. @param flushed its data is */
  async settle(volume: Volume, flushed = false): Promise<void> {
    await this.flushPredecessor();
    await this.#options.volumes.committer.commit(volume);
    if (volume.written && !flushed) await this.#flushData(volume);
    await this.maps.flush(volume.touched);
  }

  #flushData(volume: Volume, whole?: () => Promise<void>): Promise<void> {
    const { blocks, mapOf } = this.#options;
    return flushOwnData(blocks, () => mapOf(volume), whole);
  }

  /** Who holds the lock of that name in the store. */
  holder(name: string): Promise<LockInfo | null> {
    return this.#options.client.holder(name);
  }

  /**
   * Flushes and gives the lock back if this mapper has it. The caller is alone on the volume.
   * @throws LostLock when it was not this node's any more at the end: what was written until then may be gone
   */
  async letGo(volume: Volume): Promise<void> {
    if (!volume.locked) return;
    await this.settle(volume);
    await this.locks.verify(volume);
    await this.locks.release(volume);
  }

  /**
   * Releases the lock; with `force` breaks another node's, and waits until nothing of that one can reach the store.
   * @param once of the request: delivered again it never breaks the lock of somebody who took it after it was done
   * @throws SystemError ENOENT when nobody holds it; EPERM naming the holder
   */
  async unlock(name: string, force: boolean, once: Once = forOnce()): Promise<UnlockReply> {
    const own: UnlockReply = { holder: null, confirmed: true, waitedMs: 0, fenced: null };
    return this.#options.volumes.use(name, async (volume) => {
      // Whether the lock is still this node's must be known first; if not, the loss is noted.
      if (volume.locked) await this.locks.verify(volume).catch(ignoreLoss);
      if (!volume.locked && volume.breaking) return this.#breaking.run(volume, once);
      if (volume.locked || (await this.checks.isOurs(name))) {
        once.note = DONE;
        return (await this.#giveBack(name)) ? own : this.#breaking.run(volume, once);
      }
      if (once.note === DONE) return own;
      if (force) return this.#breaking.run(volume, once);
      await volume.locking.exclusive(async () => {
        // Says that nobody has it, or who; unless a lease or a break has taken it meanwhile.
        if (!volume.locked && !volume.breaking) await this.#options.client.release(name, false);
      });
      if (volume.breaking) return this.#breaking.run(volume, once);
      if (volume.locked) await this.#giveBack(name);
      return own;
    });
  }

  /**
   * Releases a lock of this node; nothing keeps the volume open here any more.
   * @returns whether that was done: not where the lock turned out to be one that is just being broken, and whose time is not over
   */
  async #giveBack(name: string): Promise<boolean> {
    const { client, volumes } = this.#options;
    const work = async ([volume]: Volume[]): Promise<boolean> => {
      if (volume.locked) await this.letGo(volume);
      else {
        // An earlier mapper left it: whoever wrote under it was asked to end, and what was written must be there for the next holder.
        await this.#flushData(volume);
        await this.flushPredecessor();
        const isBreaking = await volume.locking.exclusive(async () => {
          if (!volume.breaking) await client.release(name, false);
          return volume.breaking !== null;
        });
        if (isBreaking) return false;
        this.#known.add(name);
      }
      await this.locks.end(volume);
      return true;
    };
    return withAlone(this.#options, [name], [], work, { before: (volume) => volumes.committer.conclude(volume, true) });
  }
}

function ignoreLoss(error: unknown): void {
  if (!(error instanceof SystemError) || errnoOf(error) !== errnos.EIO) throw error;
}
