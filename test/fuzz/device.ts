/** The devices under the fuzzed server: memory disks that fail where they are told to and answer later, in any order, when they are told to. */
import {
  type BlockDevice,
  type DeviceInfo,
  type ExportProvider,
  type Io,
  type IoBuffer,
  IoCommand,
} from '../../src/nbd/device.js';
import { errnos, SystemError } from '../../src/sys/errno.js';
import { Random } from './random.js';
import type { Export } from './world.js';

/** A memory disk has to provide what NO_HOLE asks for; so much of it would only be slow. */
const MAX_PROVISIONED = 1024 * 1024;
const CHANGES: readonly number[] = [IoCommand.WRITE, IoCommand.TRIM, IoCommand.WRITE_ZEROES];

/** An operation that is done at once, while its end is told later. */
class Done implements Io {
  readonly command;
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
  readonly noHole: boolean;
  readonly fastZero: boolean;
  readonly context: string;
  readonly reqOne: boolean;
  readonly buffer: IoBuffer | null;
  readonly mayBeHole: boolean;
  hole = false;
  extents: Io['extents'] = null;
  tag: unknown = null;
  errno = 0;

  constructor(io: Io) {
    this.command = io.command;
    this.offset = io.offset;
    this.length = io.length;
    this.fua = io.fua;
    this.noHole = io.noHole && io.length <= MAX_PROVISIONED;
    this.fastZero = io.fastZero;
    this.context = io.context;
    this.reqOne = io.reqOne;
    this.buffer = io.buffer;
    this.mayBeHole = io.mayBeHole;
  }

  complete(errno: number): void {
    this.errno = errno;
  }
}

class FuzzedDevice implements BlockDevice {
  readonly #inner: BlockDevice;
  readonly #export: Export;
  readonly #lag: Random | null;
  readonly #closed: () => void;
  #waiting: (() => void)[] = [];

  constructor(target: Export, lag: Random | null, closed: () => void) {
    this.#inner = target.disk.open();
    this.#export = target;
    this.#lag = lag;
    this.#closed = closed;
  }

  get info(): DeviceInfo {
    return this.#inner.info;
  }
  get size(): number {
    return this.#inner.size;
  }
  get maxIo(): number {
    return this.#inner.maxIo;
  }
  allocate(length: number): IoBuffer | null {
    return this.#inner.allocate(length);
  }
  release(buffer: IoBuffer): void {
    this.#inner.release(buffer);
  }
  whenAvailable(callback: () => void): void {
    this.#inner.whenAvailable(callback);
  }

  submit(io: Io): void {
    const { bad, asked } = this.#export;
    if (io.command === IoCommand.FLUSH) asked.flushes++;
    else if (io.fua && CHANGES.includes(io.command)) asked.fua += io.length;
    if (bad !== null && io.offset < bad.end && io.offset + io.length > bad.start) {
      this.#end(() => io.complete(errnos.EIO, 'a bad place'));
      return;
    }
    if (this.#lag === null && !(io.noHole && io.length > MAX_PROVISIONED)) {
      this.#inner.submit(io);
      return;
    }
    const done = new Done(io);
    this.#inner.submit(done);
    this.#end(() => {
      io.hole = done.hole;
      io.extents = done.extents;
      io.complete(done.errno);
    });
  }

  #end(complete: () => void): void {
    if (this.#lag === null) complete();
    else if (this.#waiting.push(complete) === 1) setImmediate(this.#turn);
  }

  /** Ends some of the operations, in any order. */
  readonly #turn = (): void => {
    const lag = this.#lag as Random;
    for (let i = 1 + lag.below(this.#waiting.length); i > 0; i--) {
      const [complete] = this.#waiting.splice(lag.below(this.#waiting.length), 1);
      complete();
    }
    if (this.#waiting.length > 0) setImmediate(this.#turn);
  };

  async close(): Promise<void> {
    this.#closed();
  }
}

export class FuzzedProvider implements ExportProvider {
  readonly exports: ReadonlyMap<string, Export>;
  /** Devices that were opened and are not closed. */
  opened = 0;
  /** Seed of the order in which devices opened now complete; null: at once, in order. */
  lag: number | null = null;

  constructor(exports: ReadonlyMap<string, Export>) {
    this.exports = exports;
  }

  #find(name: string): Export {
    const found = this.exports.get(name);
    if (found === undefined) throw new SystemError(errnos.ENOENT, `there is no export ${JSON.stringify(name)}`);
    return found;
  }

  async list(): Promise<{ name: string; description?: string }[]> {
    return [...this.exports].map(([name, { info }]) => ({ name, description: info.description ?? undefined }));
  }

  async describe(name: string): Promise<{ info: DeviceInfo; size: number }> {
    return this.#find(name);
  }

  async open(name: string): Promise<BlockDevice> {
    const target = this.#find(name);
    this.opened++;
    return new FuzzedDevice(target, this.lag === null ? null : new Random(this.lag), () => {
      this.opened--;
    });
  }
}
