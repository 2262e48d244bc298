/**
 * The mapper: every operation on volumes, with who may run at the same time as whom (alone.ts, granting.ts). It knows two object
 * stores and how to reach those who lease maps; requests and ports are requests.ts and peer.ts.
 */

import type { ListRequest, LockState, MapStatusRequest, VolumeListReply, VolumeStat } from '../requests/json.js';
import type { LeaseReply, LeaseRequest } from '../requests/lease.js';
import type { LockClient } from '../requests/lock-client.js';
import type { ObjectClient } from '../requests/object-client.js';
import { forOnce, type Once } from '../requests/once.js';
import type { CreateData, MapSegment, VolumeInfo } from '../requests/structs.js';
import { errnos, messageOf, SystemError } from '../sys/errno.js';
import { type AloneOptions, withAlone } from './alone.js';
import { type Clock, realClock } from './clock.js';
import { Closing } from './closing.js';
import { type MapperContext, type MapperLog, mapOf, ownMap } from './context.js';
import { Contexts } from './contexts.js';
import { makeWritable, makeZero } from './copy-up.js';
import { grant, keeping, writableMap } from './granting.js';
import { type LeaseHolders, Leases } from './leases.js';
import type { UnlockReply } from './locking/breaking.js';
import type { FenceTarget } from './locking/fencing.js';
import { LostLock, refuseLost } from './locking/lost.js';
import { LockRegistry } from './locking/registry.js';
import { Locking } from './locking/service.js';
import { Abandoned } from './locking/waiting.js';
import { noV0, type OpenOptions } from './map-store.js';
import { checkNewName, checkTarget, LEGACY_PREFIX, plainName } from './names.js';
import { clone, createBlank, createFromObjects } from './operations/create.js';
import { list, stat } from './operations/inspect.js';
import { checkEpoch, mapStatus, type Subject } from './operations/map-status.js';
import { remove } from './operations/remove.js';
import { rename } from './operations/rename.js';
import { resize } from './operations/resize.js';
import { snapshot } from './operations/snapshot.js';
import { listSnapshots } from './operations/snapshots.js';
import { upgrade } from './operations/upgrade.js';
import { Orphans } from './orphans.js';
import { Commits } from './provisional/commits.js';
import type { NotedVolume } from './provisional/noted.js';
import type { Notes } from './provisional/notes.js';
import { SpoiledError } from './provisional/spoiling.js';
import { zeroedAmong } from './provisional/zeroes.js';
import { blocksOf, runsOfBlocks, segmentsOf } from './ranges.js';
import { SnapshotIndex } from './snapshot-index.js';
import { type LockWait, type Volume, Volumes } from './volume.js';

export interface MapperOptions {
  /** The maps store and the blocks store. */
  maps: ObjectClient;
  blocks: ObjectClient;
  /** Locks and messages between nodes, in the maps store. */
  locks: LockClient;
  /** Stores that are asked to refuse a node which does not answer; default: the maps store. */
  fences?: readonly FenceTarget[];
  /** This node's owner string in locks. */
  owner: string;
  holders: LeaseHolders;
  log: MapperLog;
  /** How long a lease for writing waits for a lock of another node, in milliseconds. */
  lockWaitMs: number;
  /** What outlives the mapper of its locks; default: nothing does. */
  registry?: LockRegistry;
  /** What outlives it of first writes, and what an earlier one left; default: nothing does, so each is durable before its answer. */
  notes?: { readonly notes: Notes; readonly found: ReadonlyMap<string, NotedVolume> } | null;
  /** What is acknowledged by both stores is durable, and users may rely on that for each write; default: not so. */
  isDurableOnAck?: boolean;
  clock?: Clock;
}

export interface MapperStatus {
  volumes: number;
  locked: number;
  lost: number;
  leases: number;
  waits: number;
  /** Blocks of which the stored entries do not tell yet. */
  provisional: number;
  checkedMsAgo: number | null;
}

export class Mapper {
  readonly #contexts: Contexts;
  readonly #log: MapperLog;
  readonly #clock: Clock;
  readonly #volumes = new Volumes();
  readonly #leases: Leases;
  readonly #locking: Locking;
  readonly #commits: Commits;
  readonly #closing: Closing;
  readonly #orphans: Orphans;

  constructor(options: MapperOptions) {
    const { maps, blocks, log, owner, clock = realClock, registry = LockRegistry.volatile(), notes = null } = options;
    const volumes = this.#volumes;
    const leases = new Leases(options.holders);
    const locking = new Locking({
      client: options.locks,
      fences: options.fences ?? [{ store: 'maps', client: options.locks }],
      owner,
      maps,
      blocks,
      volumes,
      leases,
      registry,
      noted: notes?.found ?? new Map(),
      mapOf: (volume) => mapOf(this.#contexts.of([volume]), volume, noV0),
      clock,
      log,
      patienceMs: options.lockWaitMs,
      looking: () => this.#orphans.look(),
    });
    const snapshots = new SnapshotIndex(locking.maps);
    const base = { locks: locking.locks, leases, volumes, snapshots, log };
    this.#contexts = new Contexts(base, { maps, blocks, family: locking.maps }, locking.checks, clock);
    const context = (volume: Volume): MapperContext => this.#contexts.of([volume]);
    const { isDurableOnAck = false } = options;
    const recovered = (volume: Volume): void => this.#closing.again(volume);
    const lose = (volume: Volume): void => locking.losses.lose(volume, null);
    this.#commits = new Commits({ notes: notes?.notes ?? null, isDurableOnAck, context, lose, recovered, clock, log });
    volumes.committer = this.#commits;
    this.#closing = new Closing({ context: this.#contexts.none, locking, clock });
    const close = (volume: Volume): Promise<void> => this.#closing.abandon(volume);
    this.#orphans = new Orphans({ volumes, leases, clock, close });
    this.#log = log;
    this.#clock = clock;
    this.#leases = leases;
    this.#locking = locking;
  }

  /**
   * Takes over from an earlier mapper, and looks after the locks from now on. Requests may come at once. Without it nothing happens that
   * is not asked for: lost locks are noticed where they matter, messages are not read.
   */
  start(): void {
    this.#locking.start();
  }

  /** Makes a volume of `size` bytes of zeros. @throws SystemError EINVAL, ENAMETOOLONG, EEXIST, EBUSY */
  async create(name: string, size: number, once: Once = forOnce()): Promise<void> {
    checkNewName(name);
    return this.#change([name], ([volume], context) => createBlank(context, volume, size, once));
  }

  /** X_CREATE: makes a map of objects that exist. */
  async createFromObjects(name: string, size: number, data: CreateData, once: Once = forOnce()): Promise<void> {
    checkNewName(name);
    return this.#change([name], ([volume], context) => createFromObjects(context, volume, size, data, once));
  }

  /** Makes a volume with the content of a snapshot. @param size bytes, 0 = the parent's */
  async clone(
    name: string,
    parent: string,
    size: number,
    options: OpenOptions = noV0,
    once: Once = forOnce(),
  ): Promise<void> {
    checkNewName(name);
    checkTarget(parent);
    if (name === parent) throw new SystemError(errnos.EINVAL, `volume ${name} cannot be its own parent`);
    return this.#change(
      [name],
      ([volume, parentVolume], context) => clone(context, volume, parentVolume, size, options, once),
      [parent],
    );
  }

  /** Makes `target` a read-only copy of the volume as it is now. */
  async snapshot(name: string, target: string, options: OpenOptions = noV0, once: Once = forOnce()): Promise<void> {
    checkNewName(target);
    return this.#change([name, target], ([volume, to], context) => snapshot(context, volume, to, options, once));
  }

  async remove(name: string, options: OpenOptions = noV0, once: Once = forOnce()): Promise<void> {
    // What was first written to a block needs no entry any more, and may never get one.
    const before = (): Promise<void> => Promise.resolve();
    return this.#change([name], ([volume], context) => remove(context, volume, options, once), [], { before });
  }

  async rename(name: string, target: string, options: OpenOptions = noV0, once: Once = forOnce()): Promise<void> {
    checkNewName(target);
    return this.#change([name, target], ([volume, to], context) => rename(context, volume, to, options, once));
  }

  async resize(name: string, size: number, force: boolean, options: OpenOptions = noV0): Promise<void> {
    return this.#change([name], ([volume], context) => resize(context, volume, size, force, options));
  }

  /** Makes a v0 or v1 map, or one with a legacy name, a v2 map; the only operation that changes such maps besides remove. */
  async upgrade(name: string, options: OpenOptions = noV0): Promise<void> {
    return this.#change([name], ([volume], context) => upgrade(context, volume, options));
  }

  /**
   * Opens the volume on this node until close. Exclusive: takes the lock at once and keeps it; a map that must be upgraded first needs none.
   * Shared: takes no lock, and gives one that is held to another node that asks for it.
   * @throws LockedElsewhere when another node holds it (exclusive); SystemError ENOENT
   */
  async open(name: string, options: OpenOptions = noV0, shared = false): Promise<void> {
    checkTarget(name);
    await this.#volumes.use(name, async (volume) => {
      const context = this.#contexts.of([volume]);
      const { frozenReason } = await mapOf(context, volume, options);
      if (frozenReason !== null) return;
      const { losses } = this.#locking;
      const lost = await losses.forgive(volume);
      try {
        await volume.gate.shared(() =>
          volume.leasing.exclusive(async () => {
            if (!shared) await this.#hold(volume, () => ownMap(this.#contexts.of([volume]), volume, options));
            const before = volume.open;
            volume.open = shared ? 'shared' : 'exclusive';
            if (!shared) return;
            // From now on another node sees what was written when that is answered.
            await this.#commits.commit(volume).catch((error) => {
              volume.open = before;
              throw error;
            });
          }),
        );
      } catch (error) {
        // Whoever used it before must not go on because somebody else's attempt failed.
        if (lost && !volume.lost && !volume.locked) losses.mark(volume, lost);
        throw error;
      }
      this.#closing.forget(volume);
      losses.tellForgiven(volume, lost);
      await this.#locking.locks.note(volume);
    });
  }

  /** Takes the lock, or makes sure that it is held. */
  async #hold(volume: Volume, work: () => Promise<unknown>): Promise<void> {
    const { locks } = this.#locking;
    const taken = await locks.acquire(volume);
    if (!taken) await locks.verify(volume);
    await keeping(this.#contexts.of([volume]), volume, taken, work);
  }

  /** See Closing.close. @param implicit the last client of an endpoint is gone: what open asked for stays */
  async close(name: string, implicit = false, isHeard = false): Promise<void> {
    checkTarget(name);
    return this.#closing.close(name, implicit, isHeard);
  }

  /** Takes the lock of that name, which need not be a volume's, and keeps it until unlock or close. @throws LockedElsewhere */
  async lock(name: string): Promise<void> {
    checkTarget(name);
    await this.#volumes.use(name, async (volume) => {
      await volume.gate.shared(() => volume.leasing.exclusive(() => this.#hold(volume, async () => {})));
      volume.byHand = true;
      await this.#locking.locks.note(volume);
    });
  }

  /**
   * Releases the lock of that name, after a flush of what was written under it; with `force` breaks another node's, and waits until nothing
   * of that node can reach the store.
   * @throws SystemError ENOENT when nobody holds it; EPERM naming the holder
   */
  async unlock(name: string, force: boolean, once: Once = forOnce()): Promise<UnlockReply> {
    checkTarget(name);
    return this.#locking.unlock(name, force, once);
  }

  /** LOCKINFO: who holds the lock of that name, and how it is used here. No map is read: there need not be one. */
  async lockState(name: string): Promise<LockState> {
    checkTarget(name);
    const lock = await this.#locking.locks.holder(name);
    const { open = null, byHand = false, lost = null, unclosed = null } = this.#volumes.get(name) ?? {};
    return { lock, open, byHand, lost, unclosed };
  }

  /** Nobody waits any more for the lock of the volume on behalf of the port. */
  abandon(name: string, port: number): void {
    const volume = this.#volumes.get(name);
    if (volume) this.#locking.waits.abandon(volume, port);
  }

  /** What INFO tells: size, block size, format and lineage, from the header alone. @throws SystemError ENOENT */
  async describe(name: string, options: OpenOptions = noV0): Promise<VolumeInfo> {
    checkTarget(name);
    return this.#read(name, async (volume) => {
      const map = await mapOf(this.#contexts.of([volume]), volume, options);
      const { created, parent, immutable: readOnly } = map;
      const { size, blockSize, version, epoch, lineage } = map.header;
      return { size, blockSize, readOnly, version, epoch, created, parent, id: lineage?.id ?? null };
    });
  }

  async stat(name: string, options: OpenOptions = noV0, allocated = false): Promise<VolumeStat> {
    checkTarget(name);
    return this.#read(name, (volume) => stat(this.#contexts.of([volume]), volume, options, allocated));
  }

  /** LIST. @throws SystemError ENOENT when there is no volume of which the snapshots are asked for */
  async list(request: ListRequest): Promise<VolumeListReply> {
    const { snapshotsOf } = request;
    if (snapshotsOf !== undefined) {
      checkTarget(snapshotsOf);
      const { header } = await this.#read(snapshotsOf, (volume) => mapOf(this.#contexts.of([volume]), volume, noV0));
      // Finding them may take long in a large store: whoever changes the volume does not wait for that.
      return listSnapshots(this.#base, snapshotsOf, header, request);
    }
    return list(this.#base, request.cursor, request.limit, request.deleted ?? false);
  }

  /**
   * Grants the port the use of the volume's map (requests/lease.ts). Waits while an operation changes the map, and with `write`
   * for a lock that another node holds.
   * @param isGone whether nobody waits for the answer any more: a successor of the asker waits for what it left to end
   * @throws SystemError ENOENT; EBUSY naming the holder when waiting did not help
   */
  async lease(
    name: string,
    request: LeaseRequest,
    port: number,
    options: OpenOptions = noV0,
    isGone: () => boolean = () => false,
  ): Promise<LeaseReply> {
    checkTarget(name);
    const { ready, waits } = this.#locking;
    await ready;
    return this.#volumes.use(name, async (volume) => {
      let granted: LeaseReply | null = null;
      const attempt = async (wait: LockWait): Promise<unknown> => {
        if (wait.abandoned) throw new Abandoned(name);
        const { reply, busy, taken } = await volume.intent.shared(() =>
          volume.leasing.exclusive(() => grant(this.#contexts.of([volume]), volume, port, options)),
        );
        if (wait.abandoned) {
          if (taken) this.#closing.giveUp(volume);
          throw new Abandoned(name);
        }
        if (reply.granted === 'none' && request.write) return busy;
        granted = reply;
        if (reply.granted !== 'none') this.#closing.forget(volume);
        return null;
      };
      await waits.during(volume, port, attempt, isGone);
      if (granted === null) throw new SystemError(errnos.EIO, `volume ${name}: no lease, and no reason`);
      return granted;
    });
  }

  /**
   * MAPR: which objects hold these bytes.
   * @param most blocks the answer has room for
   * @throws SystemError EINVAL past the end, EIO for damaged entries; TooManyBlocks
   */
  async mapRead(
    name: string,
    offset: number,
    size: number,
    options: OpenOptions = noV0,
    most = Number.POSITIVE_INFINITY,
  ): Promise<MapSegment[]> {
    checkTarget(name);
    return this.#read(name, async (volume) => {
      const map = await mapOf(this.#contexts.of([volume]), volume, options);
      refuseLost(volume);
      const { first, end } = blocksOf(volume.name, map, offset, size, most);
      if (volume.map === map) await map.check(first, end - first);
      else await map.checkOnly(first, end - first);
      return segmentsOf(map, offset, size);
    });
  }

  /**
   * MAPW: makes the blocks of these bytes writable in place and tells their objects.
   * @param most blocks the answer has room for
   * @throws SystemError EINVAL, EROFS, EBUSY, EIO, ENOSPC; TooManyBlocks, and then nothing was done
   */
  async mapWrite(
    name: string,
    offset: number,
    size: number,
    port: number,
    options: OpenOptions = noV0,
    most = Number.POSITIVE_INFINITY,
  ): Promise<MapSegment[]> {
    checkTarget(name);
    return this.#read(name, async (volume) => {
      const context = this.#contexts.of([volume]);
      const map = await writableMap(context, volume, port, options);
      const { first, end } = blocksOf(volume.name, map, offset, size, most);
      await makeWritable(context, volume, map, [{ first, end }]);
      return segmentsOf(map, offset, size);
    });
  }

  /**
   * MAPOWN: as mapWrite, for blocks anywhere in the volume; a whole block each, in the order asked for. All become writable, or it fails: some may
   * be then.
   * @param most blocks the answer has room for
   * @throws SystemError EINVAL for a block that there is not, EAGAIN when one has just been trimmed, and as mapWrite
   */
  async mapOwn(
    name: string,
    blocks: readonly number[],
    port: number,
    options: OpenOptions = noV0,
    most = Number.POSITIVE_INFINITY,
  ): Promise<MapSegment[]> {
    checkTarget(name);
    return this.#read(name, async (volume) => {
      const context = this.#contexts.of([volume]);
      const map = await writableMap(context, volume, port, options);
      const runs = runsOfBlocks(name, map, blocks, most);
      // What waits for the commit of a trim is asked for by itself, and the others do not wait with it.
      if (runs.some(({ first, end }) => zeroedAmong(volume, first, end).length > 0)) {
        throw new SystemError(errnos.EAGAIN, `volume ${name}: one of the blocks has just been trimmed`);
      }
      await makeWritable(context, volume, map, runs);
      return blocks.flatMap((block) => segmentsOf(map, block * map.header.blockSize, map.blockLength(block)));
    });
  }

  /** MAPZERO: makes whole blocks (or the partial last one) zero blocks. @throws SystemError EINVAL for parts of blocks, EROFS, EBUSY */
  async mapZero(name: string, offset: number, size: number, port: number, options: OpenOptions = noV0): Promise<void> {
    checkTarget(name);
    await this.#read(name, async (volume) => {
      const context = this.#contexts.of([volume]);
      const map = await writableMap(context, volume, port, options);
      const { first, end } = blocksOf(volume.name, map, offset, size);
      const { blockSize, size: volumeSize } = map.header;
      const stop = offset + size;
      if (offset % blockSize !== 0 || (stop % blockSize !== 0 && stop !== volumeSize)) {
        throw new SystemError(errnos.EINVAL, `volume ${name}: bytes ${offset} to ${stop} are not whole blocks`);
      }
      await makeZero(context, volume, map, first, end);
    });
  }

  /**
   * MAPFETCH: entries of blocks from `first` on as a piece for ResolvedMap.setChunk, perhaps fewer than asked: the piece ends at the
   * end of a chunk, or where `limit` bytes are full. An entry that cannot be read is in it as a deleted one.
   * @throws SystemError EINVAL (no such block), ERANGE (limit)
   */
  async mapFetch(
    name: string,
    first: number,
    count: number,
    limit: number,
    options: OpenOptions = noV0,
  ): Promise<Buffer> {
    checkTarget(name);
    return this.#read(name, async (volume) => {
      const map = await mapOf(this.#contexts.of([volume]), volume, options);
      refuseLost(volume);
      if (!(first >= 0 && first < map.blocks && count > 0)) {
        throw new SystemError(errnos.EINVAL, `volume ${name}: block ${first} of ${map.blocks}`);
      }
      await map.load(first, 1);
      return map.entries.serialiseChunk(first, count, limit);
    });
  }

  /**
   * MAPSTATUS: extents of a property of the volume from `offset` on, packed (requests/extents.ts), perhaps of less than `size` bytes.
   * @param room bytes for the answer
   * @throws SystemError ENOENT (the volume, or what it is compared with); EINVAL, ERANGE, EIO: see operations/map-status.ts
   */
  async mapStatus(
    name: string,
    request: MapStatusRequest,
    offset: number,
    size: number,
    room: number,
    options: OpenOptions = noV0,
  ): Promise<Buffer> {
    checkTarget(name);
    const subject = async (volume: Volume, opened = options): Promise<Subject> => ({
      volume,
      map: await mapOf(this.#contexts.of([volume]), volume, opened),
    });
    if (request.what !== 'diff' || request.from === name) {
      return this.#read(name, async (volume) => {
        refuseLost(volume);
        return mapStatus(await subject(volume), request.what, null, offset, size, room);
      });
    }
    checkTarget(request.from);
    // A size that the request gives is that of the volume itself.
    const fromOptions = { ...options, v0Size: -1 };
    return withAlone(this.#base, [], [name, request.from], async ([volume, from]) => {
      refuseLost(volume);
      const reference = await subject(from, fromOptions);
      checkEpoch(reference, request.epoch);
      return mapStatus(await subject(volume), 'diff', reference, offset, size, room);
    });
  }

  /**
   * FLUSH: what was written of the volume's map survives a power cut afterwards.
   * @param written the asker has changed the volume, its map or just its data, so the lock must still be this node's
   * @param port of the asker
   * @throws LostLock
   */
  async flush(name: string, written = false, port?: number): Promise<void> {
    checkTarget(name);
    const { locks, maps } = this.#locking;
    await this.#locking.flushPredecessor();
    await this.#volumes.use(name, async (volume) => {
      refuseLost(volume);
      const { losses } = volume;
      const changed = written || volume.written;
      await this.#commits.commit(volume).catch((error) => {
        // What is asked for while the port gives its lease back may be no client's.
        if (error instanceof SpoiledError && !volume.revoking.has(port ?? -1)) this.#commits.tell(volume);
        throw error;
      });
      await maps.flush(volume.touched);
      // A lock that is not held was given up in order, after a flush of everything: then there is nothing to lose. Of what an earlier
      // mapper granted and did not leave word of, only the store knows.
      if (changed && volume.locked) await locks.verify(volume);
      else if (written && port !== undefined) await this.#locking.verifyInherited(volume, port);
      if (volume.losses !== losses) throw new LostLock(volume);
    });
  }

  /** Ends the waiting for locks, with Stopping: what waits is for the next mapper. */
  endWaiting(): void {
    this.#locking.waits.stop();
  }

  /**
   * Flushes everything and releases the locks, but those that are kept, and those of volumes that a living composer goes on using without
   * this mapper: the next one takes them over. What cannot be flushed is logged and stays locked.
   */
  async stop(): Promise<void> {
    this.#closing.stop();
    this.#orphans.stop();
    const letGo = (volume: Volume): Promise<void> =>
      volume.kept || this.#leases.inUse(volume)
        ? this.#commits.commit(volume).then(() => this.#locking.maps.flush(volume.touched))
        : this.#locking.letGo(volume);
    for (const { name } of this.#volumes.all()) {
      await this.#volumes
        .use(name, (volume) => volume.gate.exclusive(() => letGo(volume)))
        .catch((error) => this.#log.warn(`volume ${name} stays locked: ${messageOf(error)}`));
    }
    this.#commits.stop();
    this.#locking.stop();
  }

  /** Counts for STATUS; checkedMsAgo: since when the store last said whether the locks are this node's, null: never. */
  status(): MapperStatus {
    const all = this.#volumes.all();
    const { answeredAt } = this.#locking.checks;
    return {
      volumes: all.length,
      locked: all.filter((volume) => volume.locked).length,
      lost: all.filter((volume) => volume.lost).length,
      leases: all.reduce((sum, volume) => sum + volume.leases.size, 0),
      waits: this.#locking.waits.count,
      provisional: all.reduce((sum, volume) => sum + volume.provisional.size + volume.zeroed.size, 0),
      checkedMsAgo: Number.isFinite(answeredAt) ? Math.round(this.#clock.now() - answeredAt) : null,
    };
  }

  /** For what concerns no volume in particular, or many. */
  get #base(): MapperContext {
    return this.#contexts.none;
  }

  #read<T>(name: string, work: (volume: Volume) => Promise<T>): Promise<T> {
    return this.#volumes.use(name, (volume) => volume.gate.shared(() => work(volume)));
  }

  /** An operation that changes maps. @param names of the maps it changes @param read names of maps it reads, given after them */
  async #change<T>(
    names: string[],
    work: (volumes: Volume[], context: MapperContext) => Promise<T>,
    read: string[] = [],
    alone: AloneOptions = {},
  ): Promise<T> {
    for (const name of names) {
      checkTarget(name);
      if (name.startsWith(LEGACY_PREFIX)) {
        const plain = plainName(name);
        throw new SystemError(errnos.EINVAL, `${name} is how volume ${plain} is stored: use the name ${plain}`);
      }
    }
    if (new Set(names).size < names.length) {
      throw new SystemError(errnos.EINVAL, `volume ${names[0]}: both names are the same`);
    }
    const changing = (volumes: Volume[]): Promise<T> =>
      work(volumes, this.#contexts.of(volumes.slice(0, names.length)));
    return withAlone(this.#base, names, read, changing, alone);
  }
}
