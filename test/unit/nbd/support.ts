/** What the NBD tests share: a server on a socket of its own, devices that a test steers, raw sockets, a transport without I/O. */
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import type { Duplex } from 'node:stream';
import { expect, onTestFinished } from 'vitest';
import type { BlockDevice, DeviceInfo, ExportProvider, Io, IoBuffer } from '../../../src/nbd/device.js';
import type { Log } from '../../../src/nbd/log.js';
import { MemoryDisk, type MemoryDiskOptions, MemoryProvider } from '../../../src/nbd/memory-device.js';
import { NbdServer, type NbdServerOptions } from '../../../src/nbd/server.js';
import type { Transport, TransportEvents } from '../../../src/nbd/transport.js';
import { HEADERS_SIZE, STAGE_SIZE, STAGE_START } from '../../../src/nbd/wire-memory.js';

export const transports = ['raw', 'stream'] as const;

/** A directory that goes with the test. */
export function temporaryDirectory(): string {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'nbd-test-'));
  onTestFinished(() => fs.rmSync(directory, { recursive: true, force: true }));
  return directory;
}

export class RecordingLog implements Log {
  readonly lines: string[] = [];
  debug(message: string): void {
    this.lines.push(`debug ${message}`);
  }
  info(message: string): void {
    this.lines.push(`info ${message}`);
  }
  warn(message: string): void {
    this.lines.push(`warn ${message}`);
  }
  error(message: string): void {
    this.lines.push(`error ${message}`);
  }
}

/** A server that goes with the test, on a unix socket. */
export async function serve(
  provider: ExportProvider,
  options: NbdServerOptions = {},
): Promise<{ server: NbdServer; path: string }> {
  const server = new NbdServer(provider, options);
  const socket = path.join(temporaryDirectory(), 's');
  onTestFinished(() => server.close());
  await server.listen({ path: socket });
  return { server, path: socket };
}

/** A server of one memory disk, as the default export and as "disk". */
export async function serveMemory(
  disk: Partial<MemoryDiskOptions> = {},
  options: NbdServerOptions = {},
): Promise<{ server: NbdServer; path: string; disk: MemoryDisk }> {
  const memory = new MemoryDisk({ size: 16 * 1024 * 1024, ...disk });
  const provider = new MemoryProvider([
    ['', memory],
    ['disk', memory],
  ]);
  return { ...(await serve(provider, options)), disk: memory };
}

/** A device over a memory disk whose operations a test may hold, fail, or watch. */
export class SteeredDevice implements BlockDevice {
  readonly #inner: BlockDevice;
  readonly submitted: { command: number; offset: number; length: number; fua: boolean; noHole: boolean }[] = [];
  /** Decides what happens to an operation: true when the hook takes it over (and completes it itself, now or later). */
  hook: (io: Io) => boolean = () => false;
  closed = 0;
  abandoned = 0;
  inFlight = 0;
  constructor(disk: MemoryDisk) {
    this.#inner = disk.open();
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
    const { command, offset, length, fua, noHole } = io;
    this.submitted.push({ command, offset, length, fua, noHole });
    if (!this.hook(io)) this.#inner.submit(io);
  }
  /** Runs an operation the hook has taken over. */
  run(io: Io): void {
    this.#inner.submit(io);
  }
  abandon(): void {
    this.abandoned++;
  }
  async close(): Promise<void> {
    this.closed++;
  }
}

/** Exports one steered device per connection, and counts. */
export class SteeredProvider implements ExportProvider {
  readonly devices: SteeredDevice[] = [];
  described = 0;
  readonly #disk: MemoryDisk;
  readonly #prepare: (device: SteeredDevice) => void;
  constructor(disk: MemoryDisk, prepare: (device: SteeredDevice) => void = () => {}) {
    this.#disk = disk;
    this.#prepare = prepare;
  }
  async list(): Promise<{ name: string }[]> {
    return [{ name: 'disk' }];
  }
  async describe(): Promise<{ info: DeviceInfo; size: number }> {
    this.described++;
    return { info: this.#disk.info, size: this.#disk.size };
  }
  async open(): Promise<BlockDevice> {
    const device = new SteeredDevice(this.#disk);
    this.#prepare(device);
    this.devices.push(device);
    return device;
  }
}

/** A socket that speaks bytes. */
export class RawPeer {
  readonly socket: net.Socket;
  /** What came and was not taken; put together only when it is: payloads of megabytes come in hundreds of chunks. */
  #chunks: Buffer[] = [];
  #length = 0;
  #ended = false;
  #wake: () => void = () => {};

  private constructor(socket: net.Socket) {
    this.socket = socket;
    socket.on('data', (chunk) => {
      this.#chunks.push(chunk);
      this.#length += chunk.length;
      this.#wake();
    });
    const over = () => {
      this.#ended = true;
      this.#wake();
    };
    socket.on('end', over);
    socket.on('close', over);
    socket.on('error', over);
  }

  static async connect(target: string | net.NetConnectOpts): Promise<RawPeer> {
    const where = typeof target === 'string' ? { path: target } : target;
    const socket = net.connect({ ...where, allowHalfOpen: true });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    onTestFinished(() => {
      socket.destroy();
    });
    return new RawPeer(socket);
  }

  /** Of a socket that is connected. */
  static over(socket: net.Socket): RawPeer {
    return new RawPeer(socket);
  }

  send(bytes: Uint8Array): void {
    this.socket.write(bytes);
  }

  /** Exactly `length` bytes. @throws Error when the server closes before */
  async take(length: number): Promise<Buffer> {
    while (this.#length < length) {
      if (this.#ended) throw new Error(`the server closed after ${this.#length} of ${length} bytes`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const received = this.#received();
    this.#chunks = [received.subarray(length)];
    this.#length -= length;
    return received.subarray(0, length);
  }

  /** Resolves when the server has closed, to what it said before. */
  async closed(): Promise<Buffer> {
    while (!this.#ended) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#received();
  }

  #received(): Buffer {
    return this.#chunks.length === 1 ? this.#chunks[0] : Buffer.concat(this.#chunks);
  }
}

/** An expectation that is asked again until it holds; a busy machine has all the time of the test. */
export function eventually<T>(read: () => T) {
  return expect.poll(read, { timeout: 25_000, interval: 2 });
}

/** Resolves when the condition holds; it is asked again after each turn of the event loop. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}

/** A transport without I/O: a test feeds it in chunks of its choice and reads what was sent. */
export class FakeTransport implements Transport {
  events!: TransportEvents;
  readonly peer = 'fake';
  readonly stage = Buffer.alloc(STAGE_START + STAGE_SIZE);
  readonly stageView = new DataView(this.stage.buffer, this.stage.byteOffset, this.stage.length);
  readonly #headers = Buffer.alloc(HEADERS_SIZE);
  readonly headersView = new DataView(this.#headers.buffer, this.#headers.byteOffset, HEADERS_SIZE);
  readonly pollable = false;
  readonly sendsFiles = false;
  #used = 0;
  #batch: Buffer[] = [];
  readonly #incoming: Buffer[] = [];
  #paused = true;
  #delivering = false;
  sent = Buffer.alloc(0);
  isEnded = false;

  /** Each chunk arrives on its own. */
  feed(...chunks: Uint8Array[]): void {
    this.#incoming.push(...chunks.filter((chunk) => chunk.length > 0).map((chunk) => Buffer.from(chunk)));
    this.#deliver();
  }

  #deliver(): void {
    if (this.#delivering) return;
    this.#delivering = true;
    while (!this.#paused && !this.isEnded && this.#incoming.length > 0) {
      const chunk = this.#incoming.shift() as Buffer;
      chunk.copy(this.stage, STAGE_START);
      this.events.readable(chunk.length);
      // As when a completion or a sent batch makes the server look again between two receives.
      this.events.drained();
    }
    this.#delivering = false;
  }

  receiveStage(_limit: number): number {
    return 0;
  }
  receiveInto(_buffer: IoBuffer, _at: number, _length: number): number {
    return 0;
  }
  copyStaged(from: number, buffer: IoBuffer, at: number, length: number): void {
    this.stage.copy(buffer.bytes, at, from, from + length);
  }
  pause(): void {
    this.#paused = true;
  }
  resume(): void {
    this.#paused = false;
    setImmediate(() => this.#deliver());
  }
  reserve(length: number): number {
    if (this.#used + length > HEADERS_SIZE) return -1;
    this.#used += length;
    this.#batch.push(this.#headers.subarray(this.#used - length, this.#used));
    return this.#used - length;
  }
  appendPayload(buffer: IoBuffer, length: number): boolean {
    this.#batch.push(buffer.bytes.subarray(0, length));
    return true;
  }
  appendFile(): boolean {
    throw new Error('a fake transport sends no files');
  }
  appendBytes(bytes: Buffer): void {
    this.#batch.push(bytes);
  }
  send(): boolean {
    this.sent = Buffer.concat([this.sent, ...this.#batch]);
    this.#batch = [];
    this.#used = 0;
    return true;
  }
  hasLeft(): boolean {
    return this.isEnded;
  }
  unread(): Buffer | null {
    return null;
  }
  mustBeSilent(): boolean {
    return false;
  }
  hasUnread(): boolean {
    return this.#incoming.length > 0;
  }
  detach(): Duplex {
    throw new Error('a fake transport has no stream under it');
  }
  end(): void {
    this.destroy();
  }
  destroy(error?: Error): void {
    if (this.isEnded) return;
    this.isEnded = true;
    setImmediate(() => this.events.closed(error ?? null));
  }
}
