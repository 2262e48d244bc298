/** A disk in memory, sparse: for tests, benchmarks, and as the shortest example of a device. */
import { errnos, SystemError } from '../sys/errno.js';
import { BufferPool } from './buffer-pool.js';
import { BASE_ALLOCATION, STATE_HOLE, STATE_ZERO } from './constants.js';
import type { BlockDevice, DeviceInfo, ExportProvider, Extent, Io, IoBuffer } from './device.js';
import { IoCommand } from './device.js';
import { MiB } from './limits.js';

const CHUNK = 64 * 1024;

/** What a memory disk is like. */
export interface MemoryDiskOptions {
  /** Bytes. */
  readonly size: number;
  /** Over what a memory disk can do (everything). */
  readonly info?: Partial<DeviceInfo>;
  /** Bytes of one read or write, default 1 MiB. */
  readonly maxIo?: number;
  /** Buffers of maxIo bytes, for all connections together, default 64. */
  readonly buffers?: number;
}

/** The bytes and the buffers; any number of connections have devices over them. */
export class MemoryDisk {
  size: number;
  readonly info: DeviceInfo;
  readonly maxIo: number;
  readonly pool: BufferPool;
  /** Chunks that were written; a missing one is a hole. */
  readonly #chunks = new Map<number, Buffer>();

  constructor(options: MemoryDiskOptions) {
    this.size = options.size;
    this.maxIo = options.maxIo ?? MiB;
    this.pool = new BufferPool(this.maxIo, options.buffers ?? 64);
    this.info = {
      readOnly: false,
      canFlush: true,
      canFua: true,
      canTrim: true,
      canWriteZeroes: true,
      canFastZero: true,
      canCache: true,
      canResize: false,
      multiConn: true,
      rotational: false,
      blockSize: { minimum: 1, preferred: 4096, maximum: 64 * MiB },
      metaContexts: [BASE_ALLOCATION],
      description: null,
      ...options.info,
    };
  }

  /** A device for one connection. */
  open(): BlockDevice {
    return new MemoryDevice(this);
  }

  read(target: Buffer, offset: number, length: number): void {
    this.#eachPart(offset, length, (index, start, end, done) => {
      const chunk = this.#chunks.get(index);
      if (chunk === undefined) target.fill(0, done, done + end - start);
      else chunk.copy(target, done, start, end);
    });
  }

  write(source: Buffer, offset: number, length: number): void {
    this.#eachPart(offset, length, (index, start, end, done) => {
      source.copy(this.#chunk(index), start, done, done + end - start);
    });
  }

  /** @param keep whole chunks stay (or become) allocated */
  zero(offset: number, length: number, keep: boolean): void {
    if (keep) {
      this.#eachPart(offset, length, (index, start, end) => this.#chunk(index).fill(0, start, end));
      return;
    }
    for (const index of this.#written(offset, length)) {
      const start = Math.max(0, offset - index * CHUNK);
      const end = Math.min(CHUNK, offset + length - index * CHUNK);
      if (end - start === CHUNK) this.#chunks.delete(index);
      else this.#chunks.get(index)?.fill(0, start, end);
    }
  }

  /** Whether nothing of the range is allocated. */
  isHole(offset: number, length: number): boolean {
    return this.#written(offset, length).length === 0;
  }

  /** What is cut off is forgotten: when the disk grows again it reads as zeros. @param size bytes */
  resize(size: number): void {
    const kept = Math.ceil(size / CHUNK);
    for (const index of this.#chunks.keys()) if (index >= kept) this.#chunks.delete(index);
    if (size % CHUNK !== 0) this.#chunks.get(kept - 1)?.fill(0, size % CHUNK);
    this.size = size;
  }

  /** Holes and data of a range, neighbours merged. */
  extents(offset: number, length: number): Extent[] {
    const extents: Extent[] = [];
    const add = (to: number, flags: number): void => {
      if (to <= at) return;
      const previous = extents.at(-1);
      if (previous?.flags === flags) previous.length += to - at;
      else extents.push({ length: to - at, flags });
      at = to;
    };
    const end = offset + length;
    let at = offset;
    for (const index of this.#written(offset, length)) {
      add(index * CHUNK, STATE_HOLE | STATE_ZERO);
      add(Math.min(end, (index + 1) * CHUNK), 0);
    }
    add(end, STATE_HOLE | STATE_ZERO);
    return extents;
  }

  /** Indexes of the range's chunks that exist, in order: the work follows what was written, not the length of the range. */
  #written(offset: number, length: number): number[] {
    const first = Math.floor(offset / CHUNK);
    const last = Math.floor((offset + length - 1) / CHUNK);
    const found: number[] = [];
    if (last - first < this.#chunks.size) {
      for (let index = first; index <= last; index++) if (this.#chunks.has(index)) found.push(index);
      return found;
    }
    for (const index of this.#chunks.keys()) if (index >= first && index <= last) found.push(index);
    return found.sort((a, b) => a - b);
  }

  #chunk(index: number): Buffer {
    let chunk = this.#chunks.get(index);
    if (chunk === undefined) {
      chunk = Buffer.alloc(CHUNK);
      this.#chunks.set(index, chunk);
    }
    return chunk;
  }

  #eachPart(
    offset: number,
    length: number,
    visit: (index: number, start: number, end: number, done: number) => void,
  ): void {
    for (let done = 0; done < length; ) {
      const index = Math.floor((offset + done) / CHUNK);
      const start = (offset + done) % CHUNK;
      const end = Math.min(CHUNK, start + length - done);
      visit(index, start, end, done);
      done += end - start;
    }
  }
}

class MemoryDevice implements BlockDevice {
  readonly #disk: MemoryDisk;
  constructor(disk: MemoryDisk) {
    this.#disk = disk;
  }
  get info(): DeviceInfo {
    return this.#disk.info;
  }
  get size(): number {
    return this.#disk.size;
  }
  get maxIo(): number {
    return this.#disk.maxIo;
  }
  allocate(): IoBuffer | null {
    return this.#disk.pool.allocate();
  }
  release(buffer: IoBuffer): void {
    this.#disk.pool.release(buffer);
  }
  whenAvailable(callback: () => void): void {
    this.#disk.pool.whenAvailable(callback);
  }
  submit(io: Io): void {
    const disk = this.#disk;
    // It was within when it was judged: another connection may have cut the disk since.
    if (io.command !== IoCommand.RESIZE && io.offset + io.length > disk.size) {
      io.complete(errnos.ENOSPC, 'the disk is shorter by now');
      return;
    }
    switch (io.command) {
      case IoCommand.READ:
        if (io.mayBeHole && disk.isHole(io.offset, io.length)) io.hole = true;
        else if (io.buffer !== null) disk.read(io.buffer.bytes, io.offset, io.length);
        break;
      case IoCommand.WRITE:
        if (io.buffer !== null) disk.write(io.buffer.bytes, io.offset, io.length);
        break;
      case IoCommand.TRIM:
        disk.zero(io.offset, io.length, false);
        break;
      case IoCommand.WRITE_ZEROES:
        disk.zero(io.offset, io.length, io.noHole);
        break;
      case IoCommand.BLOCK_STATUS:
        io.extents = disk.extents(io.offset, io.length);
        break;
      case IoCommand.RESIZE:
        disk.resize(io.offset);
        break;
    }
    io.complete(0);
  }
  async close(): Promise<void> {}
}

/** Exports memory disks by name. */
export class MemoryProvider implements ExportProvider {
  readonly disks: Map<string, MemoryDisk>;

  constructor(disks: Iterable<[string, MemoryDisk]>) {
    this.disks = new Map(disks);
  }

  async list(): Promise<{ name: string; description?: string }[]> {
    return [...this.disks].map(([name, disk]) => ({ name, description: disk.info.description ?? undefined }));
  }

  async open(name: string): Promise<BlockDevice> {
    return this.#find(name).open();
  }

  async describe(name: string): Promise<{ info: DeviceInfo; size: number }> {
    const { info, size } = this.#find(name);
    return { info, size };
  }

  #find(name: string): MemoryDisk {
    const disk = this.disks.get(name);
    if (disk === undefined) throw new SystemError(errnos.ENOENT, `there is no export ${JSON.stringify(name)}`);
    return disk;
  }
}
