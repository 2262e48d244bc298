/**
 * The composer (vlmcd): takes requests for volumes and makes them requests for objects. This file dispatches; what a request needs
 * of the map is leases.ts and mapper-client.ts, data moves in transfer.ts, zeros in zeroing.ts, durability is flush.ts, holes are told by
 * block-status.ts.
 */

import { EXTENT_BYTES } from '../requests/extents.js';
import { encodeJson } from '../requests/json.js';
import { Flag, Op, opName } from '../requests/ops.js';
import { errnoName, errnoOf, errnos, messageOf } from '../sys/errno.js';
import type { Port, Request } from '../xseg/index.js';
import { BlockStatus } from './block-status.js';
import { Flusher } from './flush.js';
import { Leases } from './leases.js';
import { MapperClient } from './mapper-client.js';
import { type Operation, returnOperation, takeOperation } from './operation.js';
import { Transfer } from './transfer.js';
import { UncachedReads } from './uncached.js';
import { keyText, plainKey, Volume, type VolumeKey } from './volume.js';
import { leaveWrites, Zeroing } from './zeroing.js';

export interface ComposerOptions {
  readonly port: Port;
  /** Ports of the data blocker and the mapper. */
  readonly blockerPort: number;
  readonly mapperPort: number;
  /** Operations at a time; more wait. */
  readonly nrOps: number;
  /** Every write is durable before its reply. */
  readonly writeThrough: boolean;
}

export class Composer {
  readonly #port: Port;
  readonly #options: ComposerOptions;
  readonly #mapper: MapperClient;
  readonly #leases: Leases;
  readonly #transfer: Transfer;
  readonly #zeroing: Zeroing;
  readonly #flusher: Flusher;
  readonly #uncached: UncachedReads;
  readonly #blockStatus: BlockStatus;
  readonly #volumes = new Map<string, Volume>();
  readonly #byHandle = new Map<number, Volume>();
  readonly #backlog: Request[] = [];
  readonly #counters = { reads: 0, writes: 0, flushes: 0, trims: 0, failed: 0 };
  #nextHandle = 1;
  #active = 0;
  #servingBacklog = false;
  #onIdle: (() => void) | null = null;
  readonly #finishBound = (operation: Operation): void => this.#finish(operation);

  constructor(options: ComposerOptions) {
    this.#options = options;
    this.#port = options.port;
    this.#mapper = new MapperClient(options.port, options.mapperPort);
    this.#leases = new Leases(this.#mapper, {
      dispatch: (request) => this.handle(request),
      unused: (volume, gone) => this.#forgetIdle(volume, gone),
    });
    this.#transfer = new Transfer(options.port, options.blockerPort, this.#mapper, this.#finishBound);
    this.#zeroing = new Zeroing(options.port, options.blockerPort, this.#mapper, this.#transfer);
    this.#flusher = new Flusher(options.port, options.blockerPort, this.#mapper);
    this.#uncached = new UncachedReads(options.port, options.blockerPort, this.#mapper);
    this.#blockStatus = new BlockStatus(this.#transfer, this.#finishBound);
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
        this.#forward(request);
        break;
      case Op.SNAPSHOT:
      case Op.CLOSE:
        this.#flushThenForward(request);
        break;
      case Op.REVOKE:
        this.#revoke(request);
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

  /** Resolves when nothing is in flight and everything is flushed. @throws SystemError the first error of a flush, after all were tried */
  async drain(): Promise<void> {
    if (this.#active > 0) {
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve;
      });
    }
    const flushes = [...this.#volumes.values()].map((volume) => this.#flusher.flush(volume));
    for (const result of await Promise.allSettled(flushes)) if (result.status === 'rejected') throw result.reason;
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
    const write = op === Op.WRITE || op === Op.TRIM || op === Op.WRITE_ZEROES;
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
    const changes = request.op === Op.WRITE || request.op === Op.TRIM || request.op === Op.WRITE_ZEROES;
    if (changes && (request.flags & Flag.FUA) !== 0 && this.#flusher.owesMap(volume) && operation.errno === 0) {
      this.#flusher.flushMap(volume).then(
        () => this.#answer(operation),
        (error: unknown) => {
          operation.failed(errnoOf(error), messageOf(error));
          this.#answer(operation);
        },
      );
      return;
    }
    this.#answer(operation);
  }

  #answer(operation: Operation): void {
    const { volume, request, errno, message, length } = operation;
    returnOperation(operation);
    if (errno === 0) request.succeed(request.op === Op.BLOCK_STATUS ? request.size : length);
    else {
      this.#counters.failed++;
      request.fail(errno, message || `volume ${volume.key.name}: ${errnoName(errno)}`);
    }
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
    this.#counters.flushes++;
    const volume = this.#volumeOf(request);
    this.#flusher.flush(volume).then(
      () => request.succeed(0),
      (error: unknown) => request.fail(errnoOf(error), messageOf(error)),
    );
  }

  #flushThenForward(request: Request): void {
    const volume = this.#volumes.get(keyText(plainKey(request.target)));
    if (!volume) {
      this.#forward(request);
      return;
    }
    this.#flusher.flush(volume).then(
      () => this.#forward(request),
      (error: unknown) => request.fail(errnoOf(error), messageOf(error)),
    );
  }

  /** Passes a request on to the mapper with its own buffer, and its answer back. */
  #forward(request: Request): void {
    const sub = this.#port.getRequest();
    if (!sub) {
      this.#port.segment.whenAvailable(() => this.#forward(request));
      return;
    }
    sub.op = request.op;
    sub.target = request.target;
    sub.offset = request.offset;
    sub.size = request.size;
    sub.flags = request.flags;
    sub.v0Size = request.v0Size;
    sub.setData(request.dataOffset, request.dataLength);
    sub.onReply = (): void => {
      const { served, serviced, errno, message } = sub;
      this.#port.putRequest(sub);
      if (served && (request.op === Op.CLOSE || request.op === Op.DELETE)) {
        for (const volume of this.#formsOf(request.target)) this.#forgetIdle(volume, request.op === Op.DELETE);
      }
      if (served) request.succeed(serviced);
      else request.fail(errno, message, serviced);
    };
    try {
      this.#port.submit(sub, this.#options.mapperPort);
    } catch (error) {
      this.#port.putRequest(sub);
      if (errnoOf(error) === errnos.EAGAIN) this.#port.segment.whenAvailable(() => this.#forward(request));
      else request.fail(errnoOf(error), messageOf(error));
    }
  }

  /**
   * The mapper takes a volume's leases back: all forms under which the volume was asked for. Without a target it means all volumes:
   * a mapper that starts does not know what its predecessor granted.
   */
  #revoke(request: Request): void {
    const name = request.target;
    const volumes = name === '' ? [...this.#volumes.values()] : this.#formsOf(name);
    let left = volumes.length;
    if (left === 0) request.succeed(0);
    for (const volume of volumes) {
      this.#leases.revoke(volume, () => {
        if (--left === 0) request.succeed(0);
        this.#forgetIdle(volume, false);
      });
    }
  }

  /** A volume under all forms in which it was asked for. */
  #formsOf(name: string): Volume[] {
    return [...this.#volumes.values()].filter((volume) => volume.key.name === name);
  }

  /** A volume that nobody uses and that owes nothing is forgotten, so that memory follows use. @param gone it exists no more */
  #forgetIdle(volume: Volume, gone: boolean): void {
    if (!volume.idle || volume.state !== 'none') return;
    if (!gone && (volume.dirtyNames.size > 0 || (volume.changed && volume.mapDirty))) return;
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

interface Refusal {
  readonly errno: number;
  readonly message: string;
}

/** Checks a request against the volume before anything of it is done. */
function refuse(volume: Volume, request: Request, write: boolean): Refusal | null {
  const { offset, size, op } = request;
  const { name } = volume.key;
  const lease = volume.lease!;
  if (offset + size > volume.size || offset < 0 || size < 0) {
    return {
      errno: op === Op.WRITE ? errnos.ENOSPC : errnos.EINVAL,
      message: `${opName(op)} at ${offset} of ${size} bytes is past the end of volume ${name} (${volume.size} bytes)`,
    };
  }
  if (write && lease.readOnly) {
    return {
      errno: errnos.EROFS,
      message: lease.readOnlyReason ?? `volume ${name} is read-only (a snapshot or image)`,
    };
  }
  if (op === Op.BLOCK_STATUS && (request.dataLength < EXTENT_BYTES || !request.hasValidData)) {
    return { errno: errnos.EINVAL, message: `BLOCK_STATUS with a data buffer of ${request.dataLength} bytes` };
  }
  if ((op === Op.READ || op === Op.WRITE) && (request.dataLength < size || !request.hasValidData) && size > 0) {
    return {
      errno: errnos.EINVAL,
      message: `${opName(op)} of ${size} bytes with a data buffer of ${request.dataLength}`,
    };
  }
  return null;
}
