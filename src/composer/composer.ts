/**
 * The composer (vlmcd): takes requests for volumes and makes them requests for objects. This file dispatches; what a request needs
 * of the map is leases.ts and mapper-client.ts, data moves in transfer.ts, zeros in zeroing.ts, durability is flush.ts, holes are told by
 * block-status.ts.
 */

import { encodeJson } from '../requests/json.js';
import type { LockLook } from '../requests/lock-look.js';
import { Flag, Op, opName } from '../requests/ops.js';
import { errnoName, errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import type { DirectRequest, Port, Request } from '../xseg/index.js';
import { markAbandoned } from './abandoned.js';
import { BlockStatus } from './block-status.js';
import { DirectTransfer } from './direct.js';
import { Flusher } from './flush.js';
import { Forwarder } from './forward.js';
import { Leases } from './leases.js';
import { MapperClient } from './mapper-client.js';
import { type Operation, returnOperation, takeOperation } from './operation.js';
import { refuse } from './refusal.js';
import type { Done } from './rounds.js';
import { Transfer } from './transfer.js';
import { UncachedReads } from './uncached.js';
import { Halt, keyText, plainKey, Volume, type VolumeKey } from './volume.js';
import { leaveWrites, Zeroing } from './zeroing.js';

/** How long a composer that stops waits for others; less than its process allows it (STOP_LIMIT_MS of peer/process.ts). */
const DRAIN_LIMIT_MS = 10_000;

export interface ComposerOptions {
  readonly port: Port;
  /** Ports of the data blocker and the mapper. */
  readonly blockerPort: number;
  readonly mapperPort: number;
  /** Operations at a time; more wait. */
  readonly nrOps: number;
  /** Every write is durable before its reply. */
  readonly writeThrough: boolean;
  /** Looks at locks without asking the mapper; null, the default: the mapper is asked before each flush. */
  readonly lockLook?: LockLook | null;
}

export class Composer {
  readonly #options: ComposerOptions;
  readonly #mapper: MapperClient;
  readonly #leases: Leases;
  readonly #transfer: Transfer;
  readonly #direct: DirectTransfer;
  readonly #zeroing: Zeroing;
  readonly #flusher: Flusher;
  readonly #uncached: UncachedReads;
  readonly #blockStatus: BlockStatus;
  readonly #forwarder: Forwarder;
  readonly #volumes = new Map<string, Volume>();
  readonly #byHandle = new Map<number, Volume>();
  readonly #backlog: Request[] = [];
  readonly #counters = { reads: 0, writes: 0, flushes: 0, trims: 0, failed: 0, expired: 0 };
  #nextHandle = 1;
  #active = 0;
  #servingBacklog = false;
  #onIdle: (() => void) | null = null;
  readonly #finishBound = (operation: Operation): void => this.#finish(operation);

  constructor(options: ComposerOptions) {
    this.#options = options;
    this.#mapper = new MapperClient(options.port, options.mapperPort);
    this.#leases = new Leases(this.#mapper, {
      dispatch: (request) => this.handle(request),
      unused: (volume, gone) => this.#forgetIdle(volume, gone ? 'gone' : 'idle'),
      flushData: (volume) => settled((done) => this.#flusher.flushData(volume, done)),
      halted: (volume) => this.#transfer.halted(volume),
    });
    this.#transfer = new Transfer(options.port, options.blockerPort, this.#mapper, this.#finishBound);
    this.#direct = new DirectTransfer(options.port, options.blockerPort);
    this.#zeroing = new Zeroing(options.port, options.blockerPort, this.#mapper, this.#transfer);
    this.#flusher = new Flusher(options.port, options.blockerPort, this.#mapper, options.lockLook ?? null);
    this.#uncached = new UncachedReads(options.port, options.blockerPort, this.#mapper);
    this.#blockStatus = new BlockStatus(this.#transfer, this.#finishBound);
    this.#forwarder = new Forwarder(options.port, options.mapperPort, (op, name) => this.#forwarded(op, name));
  }

  /** The short way for askers of this process: a read or a write that can be done at once; false: it is to come as a request. */
  direct(request: DirectRequest): boolean {
    const { nrOps, writeThrough } = this.#options;
    const write = request.op === Op.WRITE;
    if (this.#active >= nrOps || this.#backlog.length > 0 || (write && writeThrough)) return false;
    const volume = this.#byHandle.get(request.hint);
    if (!volume || !DirectTransfer.isReady(volume, request) || !this.#direct.serve(volume, request)) return false;
    if (write) this.#counters.writes++;
    else this.#counters.reads++;
    return true;
  }

  /** Takes a request that came to the port; answers it now or later. */
  handle(request: Request): void {
    switch (request.op) {
      case Op.READ:
      case Op.WRITE:
      case Op.TRIM:
      case Op.WRITE_ZEROES:
      case Op.BLOCK_STATUS:
        this.#io(request);
        break;
      case Op.FLUSH:
        this.#flush(request);
        break;
      case Op.OPEN:
      case Op.INFO:
      case Op.DELETE:
        this.#forwarder.forward(request);
        break;
      case Op.SNAPSHOT:
        this.#flushThenForward(request);
        break;
      case Op.CLOSE:
        this.#close(request);
        break;
      case Op.REVOKE:
        this.#revoke(request);
        break;
      case Op.RENEW:
        for (const volume of this.#volumes.values()) this.#leases.renew(volume, request.offset);
        request.succeed(0);
        break;
      case Op.ABANDON:
        markAbandoned(this.#options.port, request);
        for (const volume of this.#volumes.values()) this.#leases.abandonWaiting(volume);
        break;
      case Op.PING:
        request.succeed(0);
        break;
      case Op.STATUS:
        this.#status(request);
        break;
      default:
        request.fail(errnos.EOPNOTSUPP, `the composer does not serve ${opName(request.op)}`);
    }
  }

  /**
   * Resolves when nothing is in flight and everything is flushed, or cannot be: to sentences about what is left, for the log. It never
   * rejects, and does not wait for a mapper or blocker that is gone.
   * @param limitMs for all of it
   */
  async drain(limitMs = DRAIN_LIMIT_MS): Promise<string[]> {
    const left: string[] = [];
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      const message = `not done within ${limitMs / 1000} s`;
      timer = setTimeout(() => reject(new SystemError(errnos.ETIMEDOUT, message)), limitMs);
    });
    const within = async (what: string, work: Promise<void>): Promise<void> => {
      try {
        await Promise.race([work, late]);
      } catch (error) {
        left.push(`${what}: ${messageOf(error)}`);
      }
    };
    const idle = new Promise<void>((resolve) => {
      this.#onIdle = resolve;
    });
    if (this.#active > 0) await within('operations that run are left to the next composer', idle);
    const owing = [...this.#volumes.values()].filter(
      (volume) => volume.lost === null && volume.changed && (volume.owesFlush || volume.mapDirty),
    );
    const flushes = owing.map((volume) =>
      within(
        `what was written to volume ${volume.key.name} since its last flush may not be durable`,
        settled((done) => this.#flusher.flush(volume, done)),
      ),
    );
    await Promise.all(flushes);
    clearTimeout(timer);
    return left;
  }

  status(): object {
    return {
      ...this.#counters,
      active: this.#active,
      waiting: this.#backlog.length,
      volumes: [...this.#volumes.values()].map((volume) => ({
        name: volume.key.name,
        lease: volume.lease?.granted ?? null,
        inFlight: volume.inFlight,
        mapBytes: volume.map?.memoryUsage ?? 0,
      })),
    };
  }

  #volumeOf(request: Request): Volume {
    // A hint may be another process's, or from before a restart: it only counts with the name it stands for.
    const known = this.#byHandle.get(request.hint);
    if (known && !known.key.assumeV0 && (request.flags & Flag.ASSUMEV0) === 0 && request.hasTarget(known.nameBytes)) {
      return known;
    }
    const name = request.target;
    let volume = this.#volumeFor(
      request.flags & Flag.ASSUMEV0 ? { name, assumeV0: true, v0Size: request.v0Size } : plainKey(name),
    );
    if (volume.hasHeader) volume = this.#volumeFor(plainKey(name));
    request.hint = volume.handle;
    return volume;
  }

  #volumeFor(key: VolumeKey): Volume {
    const text = keyText(key);
    let volume = this.#volumes.get(text);
    if (!volume) {
      volume = new Volume(key, this.#nextHandle++);
      this.#volumes.set(text, volume);
      this.#byHandle.set(volume.handle, volume);
    }
    return volume;
  }

  #io(request: Request): void {
    if (this.#active >= this.#options.nrOps) {
      this.#backlog.push(request);
      return;
    }
    const { op } = request;
    const volume = this.#volumeOf(request);
    const write = isChange(op);
    if (!this.#leases.admit(volume, request, write)) return;
    const { offset, size } = request;
    const refusal = refuse(volume, request, write);
    if (refusal) {
      this.#counters.failed++;
      request.fail(refusal.errno, refusal.message);
      return;
    }
    if (size === 0) {
      if (request.flags & (Flag.FUA | Flag.FLUSH)) this.#flush(request);
      else request.succeed(0);
      return;
    }
    if (write && this.#options.writeThrough) request.flags |= Flag.FUA;
    if (write) volume.changed = true;
    const operation = takeOperation().reset(request, volume, offset, size);
    operation.counted = true;
    volume.inFlight++;
    this.#active++;
    this.#begin(operation);
  }

  #begin(operation: Operation): void {
    const { request, volume } = operation;
    switch (request.op) {
      case Op.READ:
        this.#counters.reads++;
        // One that is delivered again, because a composer died between its answer and the asker's hearing of it, has it still.
        if (request.flags & Flag.HOLE) request.flags &= ~Flag.HOLE;
        if (volume.map) this.#transfer.start(operation);
        else this.#uncached.start(operation, this.#finishBound);
        break;
      case Op.WRITE:
        this.#counters.writes++;
        this.#transfer.start(operation);
        break;
      case Op.BLOCK_STATUS:
        this.#blockStatus.start(operation);
        break;
      default:
        this.#counters.trims++;
        if (request.flags & Flag.NO_HOLE) this.#zeroInPlace(operation);
        else this.#zeroing.start(operation, this.#finishBound);
    }
  }

  /** WRITE_ZEROES that keeps the space: the objects are made and zeroed like a write. */
  #zeroInPlace(operation: Operation): void {
    if (operation.request.flags & Flag.FAST_ZERO) {
      operation.failed(errnos.EOPNOTSUPP, 'keeping the space allocated is not faster than writing');
      this.#finish(operation);
      return;
    }
    this.#transfer.start(operation);
  }

  #finish(operation: Operation): void {
    const { volume, request } = operation;
    if (operation.barrier >= 0) {
      leaveWrites(volume, operation.barrier);
      operation.barrier = -1;
    }
    if (volume.halt === Halt.LOST) operation.failed(errnos.EIO, volume.lost ?? '');
    if (operation.expired) {
      this.#giveBack(operation);
      return;
    }
    if (isChange(request.op)) {
      if ((request.flags & Flag.FUA) !== 0 && operation.errno === 0) {
        this.#flusher.flushChange(volume, (error) => {
          if (error !== null) operation.failed(errnoOf(error), messageOf(error));
          this.#answer(operation);
        });
        return;
      }
      volume.written = true;
    }
    this.#answer(operation);
  }

  /**
   * The lease ran out before all of the operation was begun. What was done of it is done again: it is not acknowledged, so nobody knows the
   * difference. When the mapper has renewed the lease meanwhile it goes on where it stopped.
   */
  #giveBack(operation: Operation): void {
    const { volume, request } = operation;
    this.#counters.expired++;
    if (isChange(request.op)) volume.written = true;
    if (volume.state === 'held' && volume.until !== 0 && !volume.isOver) {
      operation.resume();
      this.#begin(operation);
      return;
    }
    this.#leases.expire(volume);
    // It came before those that wait.
    volume.waiting.unshift(request);
    this.#end(operation);
  }

  #answer(operation: Operation): void {
    const { volume, request, errno, message, length } = operation;
    if (errno === 0) request.succeed(request.op === Op.BLOCK_STATUS ? request.size : length);
    else {
      this.#counters.failed++;
      request.fail(errno, message || `volume ${volume.key.name}: ${errnoName(errno)}`);
    }
    this.#end(operation);
  }

  #end(operation: Operation): void {
    const { volume } = operation;
    returnOperation(operation);
    this.#active--;
    this.#leases.release(volume);
    this.#serveBacklog();
    if (this.#active === 0) this.#onIdle?.();
  }

  /** Starts what waited for its turn. A request may be answered within its start, so this must not call itself. */
  #serveBacklog(): void {
    if (this.#servingBacklog) return;
    this.#servingBacklog = true;
    try {
      while (this.#active < this.#options.nrOps) {
        const next = this.#backlog.shift();
        if (!next) break;
        this.handle(next);
      }
    } finally {
      this.#servingBacklog = false;
    }
  }

  #flush(request: Request): void {
    const volume = this.#volumeOf(request);
    if (this.#needsLease(volume, request)) return;
    this.#counters.flushes++;
    const alone = (request.flags & Flag.ALONE) !== 0 && this.#active === 0;
    this.#flusher.flush(
      volume,
      (error) => {
        if (error !== null) {
          request.fail(errnoOf(error), messageOf(error));
          return;
        }
        this.#forgetIdle(volume, 'idle');
        request.succeed(0);
      },
      alone,
    );
  }

  /**
   * What was written under a lease that was given back is vouched for under one of now: else nobody could tell a volume that was closed
   * from one whose lock was lost while no mapper ran.
   */
  #needsLease(volume: Volume, request: Request): boolean {
    if (volume.state !== 'none' || volume.lost !== null || !volume.changed || !volume.owesFlush) return false;
    this.#leases.wait(volume, request);
    return true;
  }

  #flushThenForward(request: Request): void {
    const volume = this.#volumes.get(keyText(plainKey(request.target)));
    if (!volume) {
      this.#forwarder.forward(request);
      return;
    }
    if (this.#needsLease(volume, request)) return;
    this.#flusher.flush(volume, (error) => {
      if (error === null) this.#forwarder.forward(request);
      else request.fail(errnoOf(error), messageOf(error));
    });
  }

  /**
   * CLOSE: the mapper flushes the map, since it lets go of the lock. Of a volume whose lock was lost nothing is flushed: closing it is the
   * way to go on with it.
   */
  #close(request: Request): void {
    const volume = this.#volumes.get(keyText(plainKey(request.target)));
    if (!volume || volume.lost !== null) {
      this.#forwarder.forward(request);
      return;
    }
    // When nobody is there any more who could flush again, or who asks was told, the mapper is to know all the same: it makes durable what is to
    // be kept, flushes the whole store before it lets go, and refuses the close when that fails.
    const isImplicit = (request.flags & Flag.IMPLICIT) !== 0;
    const isTold = volume.closeRefused;
    this.#flusher.flushData(volume, (error) => {
      volume.closeRefused &&= error !== null;
      const isPassedOn = isImplicit || (isTold && errnoOf(error) === errnos.EIO);
      if (error === null || volume.lost !== null || isPassedOn) {
        // To the mapper the close that was refused is a flush.
        if (isTold && !isImplicit) request.flags |= Flag.HEARD;
        this.#forwarder.forward(request);
        return;
      }
      this.#flusher.refused(volume, error, () => {
        volume.closeRefused ||= errnoOf(error) === errnos.EIO;
        request.fail(errnoOf(error), messageOf(error));
      });
    });
  }

  /** The mapper has done what was passed on. */
  #forwarded(op: number, name: string): void {
    if (op !== Op.CLOSE && op !== Op.DELETE && op !== Op.OPEN) return;
    for (const volume of this.#formsOf(name)) {
      volume.forgetLoss();
      if (op !== Op.OPEN) this.#forgetIdle(volume, op === Op.DELETE ? 'gone' : 'closed');
    }
  }

  /**
   * The mapper takes a volume's leases back: all forms under which the volume was asked for. Without a target it means all volumes:
   * a mapper that starts does not know what its predecessor granted.
   */
  #revoke(request: Request): void {
    const name = request.target;
    const volumes = name === '' ? [...this.#volumes.values()] : this.#formsOf(name);
    const lost = (request.flags & Flag.LOST) !== 0;
    const reason = lost ? lossReason(request) : '';
    let left = volumes.length;
    let failure: unknown = null;
    const done = (volume: Volume, error: unknown): void => {
      failure ??= error;
      if (--left === 0) {
        if (failure === null) request.succeed(0);
        else request.fail(errnoOf(failure), (failure as Partial<Error>).message ?? '');
      }
      this.#forgetIdle(volume, 'idle');
    };
    if (left === 0) request.succeed(0);
    for (const volume of volumes) {
      if (lost) this.#leases.lose(volume, reason, () => done(volume, null));
      else this.#leases.revoke(volume, (request.flags & Flag.FLUSH) !== 0, (error) => done(volume, error));
    }
  }

  /** A volume under all forms in which it was asked for. */
  #formsOf(name: string): Volume[] {
    return [...this.#volumes.values()].filter((volume) => volume.key.name === name);
  }

  /**
   * A volume that nobody uses and that owes nothing is forgotten, so that memory follows use.
   * @param why closed: the mapper has flushed the map; gone: it exists no more
   */
  #forgetIdle(volume: Volume, why: 'idle' | 'closed' | 'gone'): void {
    if (!volume.idle || volume.state !== 'none' || this.#flusher.isRunning(volume)) return;
    const owesMap = volume.changed && (volume.written || volume.mapDirty);
    const owesData = volume.dirtyNames.size > 0 || volume.lost !== null || volume.lossUntold !== null;
    if ((why === 'idle' && owesMap) || (why !== 'gone' && owesData)) return;
    this.#byHandle.delete(volume.handle);
    const text = keyText(volume.key);
    if (this.#volumes.get(text) === volume) this.#volumes.delete(text);
  }

  #status(request: Request): void {
    const json = encodeJson(this.status());
    if (json.length > request.dataLength) {
      request.fail(errnos.ERANGE, 'the buffer is too small for the status', json.length);
      return;
    }
    request.data.set(json);
    request.succeed(json.length);
  }
}

/** Resolves, or rejects, as `work` ends. */
function settled(work: (done: Done) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    work((error) => (error === null ? resolve() : reject(error)));
  });
}

const isChange = (op: number): boolean => op === Op.WRITE || op === Op.TRIM || op === Op.WRITE_ZEROES;

/** What the mapper says of a lost lock: text in the data of REVOKE, or nothing. */
function lossReason(request: Request): string {
  const { target, size } = request;
  if (size > 0 && size <= request.dataLength) return request.data.toString('utf8', 0, size);
  return (
    `the lock of volume ${target} was taken by another node: what was written here since the last flush may be lost; ` +
    `close it (all clients disconnect, or vlmc close ${target}) and open it again`
  );
}
