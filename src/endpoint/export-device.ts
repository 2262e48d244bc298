/**
 * A volume as the NBD library's block device: every Io is one request to the composer, with the library's buffer as its data. The hot
 * path: nothing is copied and nothing allocated.
 */

import {
  BASE_ALLOCATION,
  type BlockDevice,
  type DeviceInfo,
  type Io,
  type IoBuffer,
  IoCommand,
  type Throttle,
} from '../nbd/index.js';
import { decodeExtents, EXTENT_BYTES } from '../requests/extents.js';
import { Flag, Op } from '../requests/ops.js';
import type { VolumeInfo } from '../requests/structs.js';
import { errnoOf, errnos, messageOf } from '../sys/errno.js';
import type { Port, Request } from '../xseg/index.js';
import { type Abandonment, NOBODY } from './abandonment.js';
import type { SegmentBuffer, SegmentBuffers } from './buffers.js';
import { type ContextRequests, FIXED_CONTEXTS } from './contexts.js';
import { DirectIo } from './direct-io.js';
import type { Hearing } from './hearing.js';
import type { Leftovers } from './leftovers.js';
import type { Parking } from './parking.js';
import type { VolumeThrottle } from './throttle/volume-throttle.js';
import type { VolumeAddress } from './volumes.js';

/** Longer reads and writes come in pieces: receiving one piece goes on while another is stored. */
const MAX_IO = 1 << 20;
/** Largest payload of one request, in bytes. */
const MAX_PAYLOAD = 32 << 20;
const STATUS_BUFFER = 64 << 10;

const isChange = ({ command }: Io): boolean =>
  command === IoCommand.WRITE || command === IoCommand.TRIM || command === IoCommand.WRITE_ZEROES;

const operations: Record<number, number> = {
  [IoCommand.READ]: Op.READ,
  [IoCommand.WRITE]: Op.WRITE,
  [IoCommand.FLUSH]: Op.FLUSH,
  [IoCommand.TRIM]: Op.TRIM,
  [IoCommand.WRITE_ZEROES]: Op.WRITE_ZEROES,
  [IoCommand.BLOCK_STATUS]: Op.BLOCK_STATUS,
};

/** What else than the volume decides what an export can do. */
export interface ExportTraits {
  /** Canonical name of the export; absent: the name that the client used. */
  readonly name?: string;
  readonly readOnly: boolean;
  readonly allowResize: boolean;
  readonly description: string | null;
}

/** What an export of this volume can do. */
export function deviceInfo(info: VolumeInfo, traits: ExportTraits): DeviceInfo {
  const closed = traits.readOnly || info.readOnly;
  return {
    name: traits.name,
    readOnly: closed,
    canFlush: true,
    canFua: true,
    canTrim: !closed,
    canWriteZeroes: !closed,
    canFastZero: !closed,
    canCache: true,
    canResize: traits.allowResize && !closed,
    multiConn: true,
    rotational: false,
    blockSize: { minimum: 1, preferred: 4096, maximum: MAX_PAYLOAD },
    metaContexts: FIXED_CONTEXTS,
    description: traits.description,
  };
}

/** What all devices share. */
export interface DeviceHost {
  readonly port: Port;
  readonly composerPort: number;
  readonly mapperPort: number;
  readonly buffers: SegmentBuffers;
  readonly abandonment: Abandonment;
  readonly parking: Parking;
  readonly leftovers: Leftovers;
}

/** What one device serves, and whom it tells. */
export interface DeviceOptions {
  readonly volume: VolumeAddress;
  readonly info: DeviceInfo;
  /** Bytes. */
  readonly size: number;
  /** What the mapper is asked for each meta context but base:allocation. */
  readonly contexts: ContextRequests;
  /** Every write is durable before its answer. */
  readonly writeThrough: boolean;
  /** These two are the volume's, for all its devices. */
  readonly throttle: VolumeThrottle;
  readonly hearing: Hearing;
  /** Makes the volume of all devices that serve it `size` bytes long. */
  readonly resize: (size: number) => Promise<void>;
  readonly closed: (device: ExportDevice) => Promise<void>;
}

export class ExportDevice implements BlockDevice {
  readonly info: DeviceInfo;
  readonly maxIo = MAX_IO;
  /** Bytes; the endpoint changes it when the volume is resized. */
  size: number;
  readonly volume: VolumeAddress;
  readonly #port: Port;
  readonly #host: DeviceHost;
  readonly #options: DeviceOptions;
  readonly #name: Uint8Array;
  readonly #direct: DirectIo;
  readonly #flags: number;
  /** Flags of what changes the volume. */
  readonly #writeFlags: number;
  /** The composer's handle for the volume: it finds it again without the name. */
  #hint = 0;
  /** Which requests are this device's, by their records; shared with all others. */
  readonly #senders: Int32Array;
  readonly #id: number;
  #abandoned = false;
  /** The client has said goodbye. */
  #leaving = false;
  /** And all that it sent was submitted. */
  #left = false;
  /** What a client that has left sent and nobody has read yet: it may be about any bytes. */
  readonly #unread = { offset: 0, length: Number.MAX_SAFE_INTEGER };
  readonly #starved: Io[] = [];
  #listening = false;
  readonly #onReply = (request: Request): void => this.#answered(request);

  constructor(host: DeviceHost, options: DeviceOptions) {
    const { volume } = options;
    this.#host = host;
    this.#port = host.port;
    this.#options = options;
    this.#senders = host.abandonment.senders;
    this.#id = host.abandonment.join();
    this.volume = volume;
    this.#name = Buffer.from(volume.name, 'utf8');
    this.#direct = new DirectIo(host.port, host.composerPort, this.#name);
    this.#flags = volume.assumeV0 ? Flag.ASSUMEV0 : 0;
    this.#writeFlags = this.#flags | Flag.MAY_PARK | (options.writeThrough ? Flag.FUA : 0);
    this.info = options.info;
    this.size = options.size;
  }

  get volumeName(): string {
    return this.volume.name;
  }

  get throttle(): Throttle | null {
    const { throttle } = this.#options;
    return throttle.active ? throttle : null;
  }

  allocate(length: number): SegmentBuffer | null {
    return this.#host.buffers.allocate(length);
  }

  release(buffer: IoBuffer): void {
    this.#host.buffers.release(buffer);
  }

  whenAvailable(callback: () => void): void {
    this.#port.segment.whenAvailable(callback);
  }

  submit(io: Io): void {
    // Caching ahead is a hint that the page cache makes pointless.
    if (io.command === IoCommand.CACHE) io.complete(0);
    else if (io.command === IoCommand.RESIZE) this.#resize(io);
    // Read from the socket after it was known that the client had left: it may have sent it again by another connection, and gone on.
    else if (this.#abandoned && isChange(io)) io.complete(errnos.ECANCELED, 'the client is gone');
    else if (this.#host.leftovers.isUsed && this.#host.leftovers.holds(this.volume.name, this, io)) return;
    else if (this.#starved.length > 0 || !(this.#isServed(io) || this.#send(io))) this.#starve(io);
  }

  /** Serves what needs no request and no waiting; false: it is to be sent. */
  #isServed(io: Io): boolean {
    const { parking } = this.#host;
    // Answers to requests are what tells those who wait for a lock that it is there; a map of v0 is asked for by more than its name.
    if (this.#abandoned || this.#leaving || parking.isUsed || this.volume.assumeV0) return false;
    if (this.#options.writeThrough && io.command === IoCommand.WRITE) return false;
    if (!this.#direct.serve(io, this.#hint)) return false;
    if (io.command === IoCommand.WRITE) this.#options.hearing.changed();
    io.complete(0);
    return true;
  }

  /** Composer and data blocker in this process do their part at once. */
  kick(): void {
    this.#port.segment.settle();
  }

  #resize(io: Io): void {
    this.#options.resize(io.offset).then(
      () => io.complete(0),
      (error: unknown) => io.complete(errnoOf(error), messageOf(error)),
    );
  }

  /** Sends one Io; false when there is no request record (or no buffer for extents) now. */
  #send(io: Io): boolean {
    if (io.command === IoCommand.BLOCK_STATUS) return this.#sendStatus(io);
    const request = this.#port.getRequest();
    if (!request) return false;
    const { command } = io;
    if (io.buffer) request.setData((io.buffer as SegmentBuffer).offset, io.length);
    request.op = operations[command];
    if (command !== IoCommand.READ) io.tag = this.#options.hearing.now;
    if (command === IoCommand.READ) request.flags = this.#flags | (io.mayBeHole ? Flag.MAY_BE_HOLE : 0);
    else if (command === IoCommand.FLUSH) request.flags = this.#flags | (io.alone === true ? Flag.ALONE : 0);
    else {
      request.flags =
        this.#writeFlags |
        (io.fua ? Flag.FUA : 0) |
        (io.noHole ? Flag.NO_HOLE : 0) |
        (io.fastZero ? Flag.FAST_ZERO : 0);
    }
    request.hint = this.#hint;
    return this.#submit(io, request, this.#host.composerPort);
  }

  /** Block status is the composer's where it is about holes, the mapper's where it is about the map. */
  #sendStatus(io: Io): boolean {
    const ofHoles = io.context === BASE_ALLOCATION;
    const asked = ofHoles ? null : this.#options.contexts.get(io.context);
    if (asked === undefined) {
      io.complete(errnos.EINVAL, `the meta context ${io.context} was not chosen`);
      return true;
    }
    const request = this.#port.getRequest();
    if (!request) return false;
    const extents = this.#port.allocate(STATUS_BUFFER);
    if (extents < 0) {
      this.#port.putRequest(request);
      return false;
    }
    // One extent is asked for by room for no more, where the question needs none.
    request.setData(extents, io.reqOne ? Math.max(EXTENT_BYTES, asked?.length ?? 0) : STATUS_BUFFER);
    if (asked !== null) {
      request.data.set(asked);
      // The answer is written over it.
      request.wantResend();
    }
    request.op = ofHoles ? Op.BLOCK_STATUS : Op.MAPSTATUS;
    request.flags = this.#flags;
    request.hint = ofHoles ? this.#hint : 0;
    return this.#submit(io, request, ofHoles ? this.#host.composerPort : this.#host.mapperPort);
  }

  #submit(io: Io, request: Request, to: number): boolean {
    request.offset = io.offset;
    request.size = io.length;
    if (this.volume.assumeV0) request.v0Size = this.volume.v0Size;
    request.setTargetBytes(this.#name);
    request.onReply = this.#onReply;
    request.context = io;
    if (to === this.#host.composerPort) this.#senders[request.index] = this.#id;
    try {
      this.#port.submit(request, to);
    } catch (error) {
      this.#senders[request.index] = NOBODY;
      if (io.command === IoCommand.BLOCK_STATUS) this.#port.free(request.dataOffset);
      this.#port.putRequest(request);
      if (errnoOf(error) === errnos.EAGAIN) return false;
      this.#complete(io, errnoOf(error), messageOf(error));
    }
    if (this.#abandoned || this.#left) this.#host.abandonment.tell(this.#id);
    return true;
  }

  /**
   * The client is gone: what waits for a lock, or for what others left, ends, nothing of it is written later. What runs goes on, and what
   * waits for a record is sent first: the client may have closed its side only, and read on.
   */
  abandon(): void {
    this.#abandoned = true;
    const { abandonment, leftovers, parking } = this.#host;
    const { name } = this.volume;
    const waiting = [...parking.take(name, this), ...leftovers.take(name, this)];
    for (const io of this.#running()) if (isChange(io)) leftovers.leave(name, io);
    leftovers.done(name, this.#unread);
    abandonment.tell(this.#id);
    for (const io of waiting) this.#complete(io, errnos.ECANCELED, 'nobody waits for it any more');
  }

  /**
   * The client has said goodbye: what it asked for is done, before what others ask for that did not leave earlier; only what waits for a lock ends, of which nobody knows
   * who has written under it until then.
   */
  leave(isRead: boolean): void {
    const { abandonment, leftovers, parking } = this.#host;
    const { name } = this.volume;
    this.#leaving = true;
    this.#left = isRead;
    if (!isRead) leftovers.leave(name, this.#unread, this);
    const waiting = parking.take(name, this);
    for (const io of [...this.#running(), ...leftovers.heldBy(name, this)])
      if (isChange(io)) leftovers.leave(name, io, this);
    if (isRead) leftovers.done(name, this.#unread);
    abandonment.tell(this.#id);
    for (const io of waiting) this.#complete(io, errnos.ECANCELED, 'nobody waits for it any more');
  }

  /** What is in the composer or waits for a record. */
  #running(): Io[] {
    const ios = [...this.#starved];
    for (const [index, id] of this.#senders.entries()) {
      if (id === this.#id) ios.push(this.#port.segment.request(index).context as Io);
    }
    return ios;
  }

  /** Ends an Io that was sent, or was to be. */
  #complete(io: Io, errno: number, message: string): void {
    const { leftovers } = this.#host;
    if (leftovers.isUsed) leftovers.done(this.volume.name, io);
    io.complete(errno, message);
  }

  /** Takes an Io back that was parked or held. */
  unpark(io: Io): void {
    this.submit(io);
  }

  /** Ends one that was parked. */
  fail(io: Io, errno: number, message: string): void {
    this.#complete(io, errno, message);
  }

  #starve(io: Io): void {
    this.#starved.push(io);
    this.#listen();
  }

  /** Has the segment call once when there may be records and buffers again. */
  #listen(): void {
    if (this.#listening) return;
    this.#listening = true;
    this.whenAvailable(() => {
      this.#listening = false;
      this.#resume();
    });
  }

  #resume(): void {
    while (this.#starved.length > 0) {
      if (!this.#send(this.#starved[0])) {
        this.#listen();
        return;
      }
      this.#starved.shift();
    }
  }

  #answered(request: Request): void {
    const io = request.context as Io;
    this.#senders[request.index] = NOBODY;
    if (request.mustResend) {
      this.#port.free(request.dataOffset);
      this.#port.putRequest(request);
      this.#starve(io);
      return;
    }
    const { served, errno, op } = request;
    const message = served ? '' : request.message;
    if (op !== Op.MAPSTATUS) this.#hint = request.hint;
    if (io.command === IoCommand.BLOCK_STATUS) {
      if (served) io.extents = decodeExtents(request.data.subarray(0, request.serviced));
      this.#port.free(request.dataOffset);
    } else if (io.mayBeHole && served && (request.flags & Flag.HOLE) !== 0) io.hole = true;
    const parked = !served && errno === errnos.EAGAIN && (request.flags & Flag.PARKED) !== 0;
    this.#port.putRequest(request);
    if (this.#starved.length > 0) this.#resume();
    const { parking } = this.#host;
    if (parked) {
      if (this.#abandoned || this.#left) this.#complete(io, errnos.ECANCELED, message);
      else parking.park(this.volume.name, this, io);
      return;
    }
    if (served) {
      if (isChange(io)) this.#options.hearing.changed();
    } else if (errno === errnos.EIO && !this.#abandoned && !this.#leaving && this.#tells(io)) {
      this.#options.hearing.failed(io.tag as number);
    }
    this.#complete(io, served ? 0 : errno, message);
    if (parking.isUsed && op !== Op.READ && op !== Op.FLUSH)
      parking.answered(this.volume.name, served ? 0 : errno, message);
  }

  /** Its failure tells of all that was written before. Where every write is durable before its answer, there is nothing but itself to tell of. */
  #tells(io: Io): boolean {
    return io.command === IoCommand.FLUSH || (this.#options.writeThrough && isChange(io));
  }

  close(): Promise<void> {
    const { leftovers } = this.#host;
    if (leftovers.isUsed) leftovers.done(this.volume.name, this.#unread);
    return this.#options.closed(this);
  }
}
