/**
 * A volume as the NBD library's block device: every Io is one request to the composer, with the library's buffer as its data. The hot
 * path: nothing is copied and nothing allocated.
 */

import { BASE_ALLOCATION, type BlockDevice, type DeviceInfo, type Io, type IoBuffer, IoCommand } from '../nbd/index.js';
import { decodeExtents } from '../requests/extents.js';
import { Flag, Op } from '../requests/ops.js';
import type { VolumeInfo } from '../requests/structs.js';
import { errnoOf, errnos, messageOf } from '../sys/errno.js';
import type { Port, Request } from '../xseg/index.js';
import type { SegmentBuffer, SegmentBuffers } from './buffers.js';
import type { VolumeAddress } from './volumes.js';

/** Longer reads and writes come in pieces: receiving one piece goes on while another is stored. */
const MAX_IO = 1 << 20;
/** Largest payload of one request, in bytes. */
const MAX_PAYLOAD = 32 << 20;
const STATUS_BUFFER = 64 << 10;

const operations: Record<number, number> = {
  [IoCommand.READ]: Op.READ,
  [IoCommand.WRITE]: Op.WRITE,
  [IoCommand.FLUSH]: Op.FLUSH,
  [IoCommand.TRIM]: Op.TRIM,
  [IoCommand.WRITE_ZEROES]: Op.WRITE_ZEROES,
  [IoCommand.BLOCK_STATUS]: Op.BLOCK_STATUS,
};

/** What an export of this volume can do. */
export function deviceInfo(info: VolumeInfo, readOnly: boolean, description: string | null): DeviceInfo {
  const closed = readOnly || info.readOnly;
  return {
    readOnly: closed,
    canFlush: true,
    canFua: true,
    canTrim: !closed,
    canWriteZeroes: !closed,
    canFastZero: !closed,
    canCache: true,
    canResize: false,
    multiConn: true,
    rotational: false,
    blockSize: { minimum: 1, preferred: 4096, maximum: MAX_PAYLOAD },
    metaContexts: [BASE_ALLOCATION],
    description,
  };
}

export class ExportDevice implements BlockDevice {
  readonly info: DeviceInfo;
  readonly maxIo = MAX_IO;
  /** Bytes; the endpoint changes it when the volume is resized. */
  size: number;
  readonly #port: Port;
  readonly #composer: number;
  readonly #volume: VolumeAddress;
  readonly #name: Uint8Array;
  readonly #buffers: SegmentBuffers;
  readonly #closed: (device: ExportDevice) => Promise<void>;
  readonly #flags: number;
  /** The composer's handle for the volume: it finds it again without the name. */
  #hint = 0;
  readonly #starved: Io[] = [];
  #listening = false;
  readonly #onReply = (request: Request): void => this.#answered(request);

  constructor(
    port: Port,
    composerPort: number,
    volume: VolumeAddress,
    description: { info: DeviceInfo; size: number },
    buffers: SegmentBuffers,
    closed: (device: ExportDevice) => Promise<void>,
  ) {
    this.#port = port;
    this.#composer = composerPort;
    this.#volume = volume;
    this.#name = Buffer.from(volume.name, 'utf8');
    this.#buffers = buffers;
    this.#closed = closed;
    this.#flags = volume.assumeV0 ? Flag.ASSUMEV0 : 0;
    this.info = description.info;
    this.size = description.size;
  }

  get volumeName(): string {
    return this.#volume.name;
  }

  allocate(length: number): SegmentBuffer | null {
    return this.#buffers.allocate(length);
  }

  release(buffer: IoBuffer): void {
    this.#buffers.release(buffer);
  }

  whenAvailable(callback: () => void): void {
    this.#port.segment.whenAvailable(callback);
  }

  submit(io: Io): void {
    // Caching ahead is a hint that the page cache makes pointless.
    if (io.command === IoCommand.CACHE) io.complete(0);
    else if (this.#starved.length > 0 || !this.#send(io)) this.#starve(io);
  }

  /** Composer and data blocker in this process do their part at once. */
  kick(): void {
    this.#port.segment.settle();
  }

  /** Sends one Io; false when there is no request record (or no buffer for extents) now. */
  #send(io: Io): boolean {
    const request = this.#port.getRequest();
    if (!request) return false;
    if (io.command === IoCommand.BLOCK_STATUS) {
      const extents = this.#port.allocate(STATUS_BUFFER);
      if (extents < 0) {
        this.#port.putRequest(request);
        return false;
      }
      request.setData(extents, STATUS_BUFFER);
    } else if (io.buffer) request.setData((io.buffer as SegmentBuffer).offset, io.length);
    request.op = operations[io.command];
    request.flags =
      this.#flags | (io.fua ? Flag.FUA : 0) | (io.noHole ? Flag.NO_HOLE : 0) | (io.fastZero ? Flag.FAST_ZERO : 0);
    request.offset = io.offset;
    request.size = io.length;
    request.hint = this.#hint;
    if (this.#volume.assumeV0) request.v0Size = this.#volume.v0Size;
    request.setTargetBytes(this.#name);
    request.onReply = this.#onReply;
    request.context = io;
    try {
      this.#port.submit(request, this.#composer);
    } catch (error) {
      if (request.op === Op.BLOCK_STATUS) this.#port.free(request.dataOffset);
      this.#port.putRequest(request);
      if (errnoOf(error) === errnos.EAGAIN) return false;
      io.complete(errnoOf(error), messageOf(error));
    }
    return true;
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
    this.#hint = request.hint;
    const { served, errno, op } = request;
    const message = served ? '' : request.message;
    if (op === Op.BLOCK_STATUS) {
      if (served) io.extents = decodeExtents(request.data.subarray(0, request.serviced));
      this.#port.free(request.dataOffset);
    }
    this.#port.putRequest(request);
    if (this.#starved.length > 0) this.#resume();
    io.complete(served ? 0 : errno, message);
  }

  close(): Promise<void> {
    return this.#closed(this);
  }
}
