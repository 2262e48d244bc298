/**
 * The mapper: every operation on volumes, with who may run at the same time as whom (alone.ts, granting.ts). It knows two object
 * stores and how to reach those who lease maps; requests and ports are requests.ts and peer.ts.
 */

import type { ListRequest, MapStatusRequest, VolumeListReply, VolumeStat } from '../requests/json.js';
import type { LeaseReply, LeaseRequest } from '../requests/lease.js';
import type { ObjectClient } from '../requests/object-client.js';
import type { CreateData, MapSegment, VolumeInfo } from '../requests/structs.js';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import { withAlone } from './alone.js';
import { type MapperContext, type MapperLog, mapOf, ownMap } from './context.js';
import { makeWritable, makeZero } from './copy-up.js';
import { grant, lockAnd, writableMap } from './granting.js';
import { type LeaseHolders, Leases } from './leases.js';
import { Locks } from './locks.js';
import { MapStore, noV0, type OpenOptions } from './map-store.js';
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
import { blocksOf, segmentsOf } from './ranges.js';
import { SnapshotIndex } from './snapshot-index.js';
import { type Volume, Volumes } from './volume.js';

/** How often a lease that waits for a lock tries to get it. */
const LOCK_POLL_MS = 500;

export interface MapperOptions {
  /** The maps store and the blocks store. */
  maps: ObjectClient;
  blocks: ObjectClient;
  holders: LeaseHolders;
  log: MapperLog;
  /** How long a lease for writing waits for a lock of another node, in milliseconds. */
  lockWaitMs: number;
}

/** Why a request was given up unanswered: the mapper stops. */
export class Stopping extends SystemError {
  constructor() {
    super(errnos.ECANCELED, 'the mapper is stopping');
    this.name = 'Stopping';
  }
}

export class Mapper {
  readonly #context: MapperContext;
  readonly #lockWaitMs: number;
  readonly #volumes = new Volumes();
  readonly #stopping = new AbortController();
  #predecessorFlushed: Promise<void> | null = null;

  constructor(options: MapperOptions) {
    const maps = new MapStore(options.maps);
    this.#context = {
      maps,
      blocks: options.blocks,
      locks: new Locks(maps),
      leases: new Leases(options.holders),
      volumes: this.#volumes,
      snapshots: new SnapshotIndex(maps),
      log: options.log,
    };
    this.#lockWaitMs = options.lockWaitMs;
  }

  /** Makes a volume of `size` bytes of zeros. @throws SystemError EINVAL, ENAMETOOLONG, EEXIST, EBUSY */
  async create(name: string, size: number): Promise<void> {
    checkNewName(name);
    return this.#change([name], ([volume]) => createBlank(this.#context, volume, size));
  }

  /** X_CREATE: makes a map of objects that exist. */
  async createFromObjects(name: string, size: number, data: CreateData): Promise<void> {
    checkNewName(name);
    return this.#change([name], ([volume]) => createFromObjects(this.#context, volume, size, data));
  }

  /** Makes a volume with the content of a snapshot. @param size bytes, 0 = the parent's */
  async clone(name: string, parent: string, size: number, options: OpenOptions = noV0): Promise<void> {
    checkNewName(name);
    checkTarget(parent);
    if (name === parent) throw new SystemError(errnos.EINVAL, `volume ${name} cannot be its own parent`);
    return this.#change([name], ([volume, parentVolume]) => clone(this.#context, volume, parentVolume, size, options), [
      parent,
    ]);
  }

  /** Makes `target` a read-only copy of the volume as it is now. */
  async snapshot(name: string, target: string, options: OpenOptions = noV0): Promise<void> {
    checkNewName(target);
    return this.#change([name, target], ([volume, to]) => snapshot(this.#context, volume, to, options));
  }

  async remove(name: string, options: OpenOptions = noV0): Promise<void> {
    return this.#change([name], ([volume]) => remove(this.#context, volume, options));
  }

  async rename(name: string, target: string, options: OpenOptions = noV0): Promise<void> {
    checkNewName(target);
    return this.#change([name, target], ([volume, to]) => rename(this.#context, volume, to, options));
  }

  async resize(name: string, size: number, force: boolean, options: OpenOptions = noV0): Promise<void> {
    return this.#change([name], ([volume]) => resize(this.#context, volume, size, force, options));
  }

  /** Makes a v0 or v1 map, or one with a legacy name, a v2 map; the only operation that changes such maps besides remove. */
  async upgrade(name: string, options: OpenOptions = noV0): Promise<void> {
    return this.#change([name], ([volume]) => upgrade(this.#context, volume, options));
  }

  /** Takes the volume's lock for this node and keeps it until close; a map that must be upgraded first needs none. */
  async open(name: string, options: OpenOptions = noV0): Promise<void> {
    checkTarget(name);
    await this.#volumes.use(name, (volume) =>
      volume.gate.shared(() =>
        volume.leasing.exclusive(async () => {
          const { frozenReason } = await mapOf(this.#context, volume, options);
          if (frozenReason !== null) return;
          await lockAnd(this.#context, volume, () => ownMap(this.#context, volume, options));
          volume.opened = true;
        }),
      ),
    );
  }

  /**
   * Flushes, gives the lock back if this mapper has it, and forgets the volume. Never touches another node's lock.
   * @param implicit the last client is gone: what open asked for stays
   */
  async close(name: string, implicit = false): Promise<void> {
    checkTarget(name);
    return withAlone(this.#context, [name], [], async ([volume]) => {
      if (implicit && volume.opened) await this.#context.maps.flush(volume.touched);
      else await this.#letGo(volume);
    });
  }

  /** What INFO tells: size, block size, format and lineage, from the header alone. @throws SystemError ENOENT */
  async describe(name: string, options: OpenOptions = noV0): Promise<VolumeInfo> {
    checkTarget(name);
    return this.#read(name, async (volume) => {
      const map = await mapOf(this.#context, volume, options);
      const { size, blockSize, version, epoch } = map.header;
      return { size, blockSize, readOnly: map.immutable, version, epoch, created: map.created, parent: map.parent };
    });
  }

  async stat(name: string, options: OpenOptions = noV0, allocated = false): Promise<VolumeStat> {
    checkTarget(name);
    return this.#read(name, (volume) => stat(this.#context, volume, options, allocated));
  }

  /** LIST. @throws SystemError ENOENT when there is no volume of which the snapshots are asked for */
  async list(request: ListRequest): Promise<VolumeListReply> {
    const { snapshotsOf } = request;
    if (snapshotsOf !== undefined) {
      checkTarget(snapshotsOf);
      const { header } = await this.#read(snapshotsOf, (volume) => mapOf(this.#context, volume, noV0));
      // Finding them may take long in a large store: whoever changes the volume does not wait for that.
      return listSnapshots(this.#context, snapshotsOf, header, request);
    }
    return list(this.#context, request.cursor, request.limit, request.deleted ?? false);
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
    const deadline = Date.now() + this.#lockWaitMs;
    for (;;) {
      const { reply, busy } = await this.#volumes.use(name, (volume) =>
        volume.intent.shared(() => volume.leasing.exclusive(() => grant(this.#context, volume, port, options))),
      );
      if (reply.granted !== 'none' || !request.write) return reply;
      const left = deadline - Date.now();
      // Only a holder may let go in time; a full or read-only store is the answer now.
      if (left <= 0 || isGone() || errnoOf(busy) !== errnos.EBUSY) throw busy;
      await this.#pause(Math.min(left, LOCK_POLL_MS));
    }
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
      const map = await mapOf(this.#context, volume, options);
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
      const map = await writableMap(this.#context, volume, port, options);
      const { first, end } = blocksOf(volume.name, map, offset, size, most);
      await makeWritable(this.#context, volume, map, first, end);
      return segmentsOf(map, offset, size);
    });
  }

  /** MAPZERO: makes whole blocks (or the partial last one) zero blocks. @throws SystemError EINVAL for parts of blocks, EROFS, EBUSY */
  async mapZero(name: string, offset: number, size: number, port: number, options: OpenOptions = noV0): Promise<void> {
    checkTarget(name);
    await this.#read(name, async (volume) => {
      const map = await writableMap(this.#context, volume, port, options);
      const { first, end } = blocksOf(volume.name, map, offset, size);
      const { blockSize, size: volumeSize } = map.header;
      const stop = offset + size;
      if (offset % blockSize !== 0 || (stop % blockSize !== 0 && stop !== volumeSize)) {
        throw new SystemError(errnos.EINVAL, `volume ${name}: bytes ${offset} to ${stop} are not whole blocks`);
      }
      await makeZero(this.#context, volume, map, first, end);
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
      const map = await mapOf(this.#context, volume, options);
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
      map: await mapOf(this.#context, volume, opened),
    });
    if (request.what !== 'diff' || request.from === name) {
      return this.#read(name, async (volume) =>
        mapStatus(await subject(volume), request.what, null, offset, size, room),
      );
    }
    checkTarget(request.from);
    // A size that the request gives is that of the volume itself.
    const fromOptions = { ...options, v0Size: -1 };
    return withAlone(this.#context, [], [name, request.from], async ([volume, from]) => {
      const reference = await subject(from, fromOptions);
      checkEpoch(reference, request.epoch);
      return mapStatus(await subject(volume), 'diff', reference, offset, size, room);
    });
  }

  /** FLUSH: what was written of the volume's map survives a power cut afterwards. */
  async flush(name: string): Promise<void> {
    checkTarget(name);
    await this.#flushPredecessor();
    await this.#volumes.use(name, (volume) => this.#context.maps.flush(volume.touched));
  }

  /** A mapper before this one may have died with map entries written and not flushed: the first flush covers everything. */
  #flushPredecessor(): Promise<void> {
    this.#predecessorFlushed ??= this.#context.maps.objects.flush(null).catch((error) => {
      this.#predecessorFlushed = null;
      throw error;
    });
    return this.#predecessorFlushed;
  }

  /** Waits, unless the mapper stops. @throws Stopping */
  async #pause(ms: number): Promise<void> {
    const { signal } = this.#stopping;
    await new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      signal.addEventListener('abort', done);
      if (signal.aborted) done();
    });
    if (signal.aborted) throw new Stopping();
  }

  /** Ends the waiting for locks, with Stopping: what waits is for the next mapper. */
  endWaiting(): void {
    this.#stopping.abort();
  }

  /**
   * Flushes everything and releases the locks, but those of volumes that a living composer goes on using without this mapper: the
   * next one takes them over. What cannot be flushed is logged and stays locked.
   */
  async stop(): Promise<void> {
    const letGo = (volume: Volume): Promise<void> =>
      this.#context.leases.inUse(volume) ? this.#context.maps.flush(volume.touched) : this.#letGo(volume);
    for (const { name } of this.#volumes.all()) {
      await this.#volumes
        .use(name, (volume) => volume.gate.exclusive(() => letGo(volume)))
        .catch((error) => this.#context.log.warn(`volume ${name} stays locked: ${messageOf(error)}`));
    }
  }

  /** Counts for STATUS. */
  status(): { volumes: number; locked: number; leases: number } {
    const all = this.#volumes.all();
    const leases = all.reduce((sum, volume) => sum + volume.leases.size, 0);
    return { volumes: all.length, locked: all.filter((volume) => volume.locked).length, leases };
  }

  async #letGo(volume: Volume): Promise<void> {
    if (!volume.locked) return;
    await this.#flushPredecessor();
    if (volume.written) await this.#context.blocks.flush(null);
    await this.#context.locks.release(volume);
  }

  #read<T>(name: string, work: (volume: Volume) => Promise<T>): Promise<T> {
    return this.#volumes.use(name, (volume) => volume.gate.shared(() => work(volume)));
  }

  /** An operation that changes maps. @param names of the maps it changes @param read names of maps it reads, given after them */
  async #change<T>(names: string[], work: (volumes: Volume[]) => Promise<T>, read: string[] = []): Promise<T> {
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
    return withAlone(this.#context, names, read, work);
  }
}
