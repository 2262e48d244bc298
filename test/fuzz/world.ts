/** What the fuzzed servers export, and what the fuzzer knows of it: the same disks a second time, kept by the simplest possible code. */
import type { DeviceInfo } from '../../src/nbd/device.js';
import { MemoryDisk } from '../../src/nbd/memory-device.js';

const KiB = 1024;
const PAGE = 4 * KiB;
/** Bytes of one read or write of the devices: small, so that requests are cut. */
export const MAX_IO = 16 * KiB;

/** Limits of the fuzzed servers: small, so that inputs reach them. */
export const LIMITS = {
  payload: 128 * KiB,
  optionLength: 64 * KiB,
  optionSkip: 1024 * KiB,
  options: 32,
  inFlight: 8,
  inFlightBytes: 64 * KiB,
  gatherBytes: 256 * KiB,
};

/** Content at one moment: pages are never changed, only replaced. */
export type Snapshot = ReadonlyMap<number, Uint8Array>;

/** A disk as the model sees it. */
export class ModelDisk {
  #pages = new Map<number, Uint8Array>();
  /** Ranges whose content is not known any more: a write that failed or was cut off half-way. */
  unknown: { start: number; end: number }[] = [];

  snapshot(): Snapshot {
    return new Map(this.#pages);
  }

  touched(): number[] {
    return [...this.#pages.keys()];
  }

  write(offset: number, data: Uint8Array): void {
    for (let done = 0; done < data.length; ) {
      const index = Math.floor((offset + done) / PAGE);
      const start = (offset + done) % PAGE;
      const count = Math.min(PAGE - start, data.length - done);
      const page = Uint8Array.from(this.#pages.get(index) ?? new Uint8Array(PAGE));
      page.set(data.subarray(done, done + count), start);
      this.#pages.set(index, page);
      done += count;
    }
  }

  zero(offset: number, length: number): void {
    for (const [index, page] of this.#pages) {
      const start = Math.max(0, offset - index * PAGE);
      const end = Math.min(PAGE, offset + length - index * PAGE);
      if (start >= end) continue;
      const copy = Uint8Array.from(page);
      copy.fill(0, start, end);
      this.#pages.set(index, copy);
    }
  }

  forget(offset: number, length: number): void {
    if (length > 0) this.unknown.push({ start: offset, end: offset + length });
  }

  knows(offset: number, length: number): boolean {
    return this.unknown.every(({ start, end }) => offset >= end || offset + length <= start);
  }

  reset(): void {
    this.#pages = new Map();
    this.unknown = [];
  }
}

export function readSnapshot(pages: Snapshot, offset: number, length: number): Buffer {
  const out = Buffer.alloc(length);
  for (let done = 0; done < length; ) {
    const start = (offset + done) % PAGE;
    const count = Math.min(PAGE - start, length - done);
    const page = pages.get(Math.floor((offset + done) / PAGE));
    if (page !== undefined) out.set(page.subarray(start, start + count), done);
    done += count;
  }
  return out;
}

/** Whether a range is all zeros; ranges of any length. */
export function isZero(pages: Snapshot, offset: number, length: number): boolean {
  for (const [index, page] of pages) {
    const start = Math.max(0, offset - index * PAGE);
    const end = Math.min(PAGE, offset + length - index * PAGE);
    if (start < end && page.subarray(start, end).some((byte) => byte !== 0)) return false;
  }
  return true;
}

/** What durability was asked of a disk: bytes that were changed with FUA, and FLUSHes. */
export interface Durability {
  fua: number;
  flushes: number;
}

export interface Export {
  readonly name: string;
  /** As its devices were asked, and as the client asked. */
  readonly asked: Durability;
  readonly due: Durability;
  readonly size: number;
  readonly info: DeviceInfo;
  readonly disk: MemoryDisk;
  readonly model: ModelDisk;
  /** Operations that touch these bytes fail with EIO. */
  readonly bad: { readonly start: number; readonly end: number } | null;
}

const nothing = {
  canFlush: false,
  canFua: false,
  canTrim: false,
  canWriteZeroes: false,
  canFastZero: false,
  canCache: false,
  multiConn: false,
  metaContexts: [],
};

function makeExport(name: string, size: number, info: Partial<DeviceInfo>, bad: Export['bad'] = null): Export {
  const disk = new MemoryDisk({ size, info, maxIo: MAX_IO, buffers: 8 });
  const durability = { asked: { fua: 0, flushes: 0 }, due: { fua: 0, flushes: 0 } };
  return { name, size, info: disk.info, disk, model: new ModelDisk(), bad, ...durability };
}

/** Every kind of export a client can meet. The first is the default export too. */
export function makeExports(): Map<string, Export> {
  const metaContexts = ['base:allocation', 'x-fuzz:one', 'x-fuzz:two'];
  const disk = makeExport('disk', 300_077, { metaContexts, description: 'a disk' });
  const exports = [
    disk,
    makeExport('ro', 64 * KiB, { readOnly: true }),
    makeExport('4k', 256 * KiB, { blockSize: { minimum: 4096, preferred: 4096, maximum: 128 * KiB } }),
    makeExport('bare', 100_000, nothing),
    makeExport('large', 2 ** 33 + 4096, {}),
    makeExport('faulty', 200 * KiB, {}, { start: 64 * KiB + 100, end: 64 * KiB + 700 }),
  ];
  return new Map([['', disk], ...exports.map((item): [string, Export] => [item.name, item])]);
}
