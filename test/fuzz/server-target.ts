/**
 * One input against a server: sends it, follows the answers with the oracle, then looks at what is left: the disks hold what the model
 * holds, nothing is kept of the connection, nobody complained, and another client is served.
 */
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import type { Duplex } from 'node:stream';
import type { ExportProvider } from '../../src/nbd/device.js';
import { NbdServer } from '../../src/nbd/server.js';
import { FuzzedProvider } from './device.js';
import { validSession } from './generate.js';
import { bytesOf, type Input } from './input.js';
import { type Ending, Inconclusive, Violation, type Want } from './oracle.js';
import { Handshake } from './oracle-handshake.js';
import { world } from './oracle-transmission.js';
import { pair } from './pair.js';
import { Random } from './random.js';
import { type Export, LIMITS, makeExports, readSnapshot } from './world.js';

/** Milliseconds a server has for anything before it counts as hanging; inputs take a few. */
const HANG_MS = 20_000;

export interface ServerTargetOptions {
  /** Puts something between server and devices, to show that the fuzzer would see it. */
  readonly wrapProvider?: (provider: ExportProvider) => ExportProvider;
  /** Puts something between client and server: called with the server's end, returns what the server is given. */
  readonly wrapStream?: (stream: Duplex) => Duplex;
  readonly hangMs?: number;
}

export class ServerTarget {
  readonly #exports = makeExports();
  readonly #provider = new FuzzedProvider(this.#exports);
  readonly #complaints: string[] = [];
  readonly #servers: { readonly stream: NbdServer; readonly raw: NbdServer };
  readonly #directory = fs.mkdtempSync(path.join(os.tmpdir(), 'nbd-fuzz-'));
  readonly #options: ServerTargetOptions;
  readonly #probeRandom = new Random(1);
  #listening = false;
  #rounds = 0;
  /** Inputs whose answers could not be judged. */
  inconclusive = 0;

  constructor(options: ServerTargetOptions = {}) {
    this.#options = options;
    const error = (message: string) => this.#complaints.push(message);
    const log = { debug() {}, info() {}, warn() {}, error };
    const provider = options.wrapProvider?.(this.#provider) ?? this.#provider;
    const make = (transport: 'raw' | 'stream') =>
      new NbdServer(provider, { transport, limits: LIMITS, busyPollUs: 0, log });
    this.#servers = { stream: make('stream'), raw: make('raw') };
  }

  get #socket(): string {
    return path.join(this.#directory, 's');
  }

  async #connect(transport: string): Promise<Duplex> {
    if (transport === 'raw') {
      if (!this.#listening) await this.#servers.raw.listen({ path: this.#socket });
      this.#listening = true;
      const socket = net.connect({ path: this.#socket, allowHalfOpen: true });
      await new Promise((resolve, reject) => {
        socket.once('connect', resolve);
        socket.once('error', reject);
      });
      return socket;
    }
    const [client, server] = pair();
    // A duplex stream is all that the stream transport needs of a socket.
    this.#servers.stream.serve((this.#options.wrapStream?.(server) ?? server) as net.Socket);
    return client;
  }

  /** @throws Violation, or whatever the server let fall */
  async run(input: Input): Promise<void> {
    const lag = input.settings.get('lag');
    this.#provider.lag = lag === undefined ? null : Number(lag);
    world.reorders = lag !== undefined;
    try {
      await this.#session(input);
    } catch (error) {
      if (!(error instanceof Inconclusive)) throw error;
      this.inconclusive++;
      for (const { model, size } of this.#disks()) model.forget(0, size);
    }
    await this.#settled();
    this.#rounds++;
    this.#compareDisks();
    this.#provider.lag = null;
    world.reorders = false;
    await this.#probe();
    await this.#settled();
    this.#reset();
  }

  async #session(input: Input): Promise<void> {
    const stream = await this.#connect(input.settings.get('transport') ?? 'stream');
    const bytes = bytesOf(input);
    const follower = new Follower(stream, new Handshake(bytes, this.#exports).walk(), this.#options.hangMs ?? HANG_MS);
    const slow = input.settings.has('slow');
    if (slow) stream.pause();
    const cut = Number(input.settings.get('cut') ?? 0);
    if (cut > 0) {
      // No more than some hundred pieces: the head, where the messages are, in small ones.
      const step = Math.max(cut, Math.ceil(bytes.length / 300));
      for (let at = 0; at < bytes.length; at += step) {
        stream.write(bytes.subarray(at, at + step));
        await new Promise((resolve) => setImmediate(resolve));
      }
    } else if (bytes.length > 0) stream.write(bytes);
    if (input.settings.has('vanish')) {
      for (const { model, size } of this.#disks()) model.forget(0, size);
      follower.forgive();
      stream.destroy();
      return;
    }
    if (slow) {
      for (let i = 0; i < 10; i++) await new Promise((resolve) => setImmediate(resolve));
      stream.resume();
    }
    try {
      await follower.finish();
    } finally {
      stream.destroy();
    }
  }

  /** A client that does nothing wrong: everything it asks for must be answered. */
  async #probe(): Promise<void> {
    const random = this.#probeRandom;
    const messages = validSession(random, 'disk', random.pick(['simple', 'structured']), 3);
    const settings = new Map([['transport', random.oneIn(5) ? 'raw' : 'stream']]);
    try {
      await this.#session({ target: 'server', settings, messages });
    } catch (error) {
      if (error instanceof Violation) throw new Violation(`another client afterwards: ${error.message}`);
      throw error;
    }
  }

  #disks(): Set<Export> {
    return new Set(this.#exports.values());
  }

  /** Nothing is left of the connections. */
  async #settled(): Promise<void> {
    const { stream, raw } = this.#servers;
    const left = (): string[] => [
      ...(stream.connections().length + raw.connections().length > 0 ? ['a connection'] : []),
      ...(this.#provider.opened !== 0 ? [`${this.#provider.opened} open devices`] : []),
      ...[...this.#disks()].filter(({ disk }) => disk.pool.inUse !== 0).map(({ name }) => `buffers of ${name}`),
    ];
    const until = Date.now() + (this.#options.hangMs ?? HANG_MS);
    while (left().length > 0) {
      if (Date.now() > until) throw new Violation(`left behind: ${left().join(', ')}`);
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (this.#complaints.length > 0)
      throw new Violation(`the server complains: ${this.#complaints.splice(0).join('; ')}`);
  }

  /** What the model knows of a disk is what is on it. */
  #compareDisks(): void {
    for (const target of this.#disks()) {
      const { name, disk, model, size } = target;
      const pages = model.snapshot();
      const compare = (offset: number, length: number): void => {
        if (!model.knows(offset, length)) return;
        const actual = Buffer.alloc(length);
        disk.read(actual, offset, length);
        if (!actual.equals(readSnapshot(pages, offset, length))) {
          throw new Violation(`the disk ${name} does not hold what was written at ${offset}`);
        }
      };
      for (const page of model.touched()) compare(page * 4096, Math.min(4096, size - page * 4096));
      const { asked, due } = target;
      if (model.unknown.length === 0 && (asked.fua !== due.fua || asked.flushes !== due.flushes)) {
        throw new Violation(
          `the disk ${name} was asked for ${asked.fua} bytes with FUA and ${asked.flushes} flushes, not ${due.fua} and ${due.flushes}`,
        );
      }
      if (size < 2 ** 20 && this.#rounds % 16 === 0)
        for (let at = 0; at < size; at += 4096) compare(at, Math.min(4096, size - at));
    }
  }

  #reset(): void {
    for (const { disk, model, size, asked, due } of this.#disks()) {
      Object.assign(asked, { fua: 0, flushes: 0 });
      Object.assign(due, { fua: 0, flushes: 0 });
      if (model.touched().length === 0 && model.unknown.length === 0) continue;
      disk.zero(0, size, false);
      model.reset();
    }
  }

  async close(): Promise<void> {
    await Promise.all([this.#servers.stream.close(), this.#servers.raw.close()]);
    fs.rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** Feeds the oracle with what the server says, and knows when both are done. */
class Follower {
  readonly #stream: Duplex;
  readonly #walk: Generator<Want, Ending, Buffer>;
  readonly #hangMs: number;
  #want: Want | null = null;
  #ending: Ending | null = null;
  #chunks: Buffer[] = [];
  #buffered = 0;
  #closed = false;
  #error: Error | null = null;
  #forgiven = false;
  #reset = false;
  #wake: () => void = () => {};

  constructor(stream: Duplex, walk: Generator<Want, Ending, Buffer>, hangMs: number) {
    this.#stream = stream;
    this.#walk = walk;
    this.#hangMs = hangMs;
    this.#step();
    stream.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#buffered += chunk.length;
      this.#pump();
    });
    const closed = (): void => {
      this.#closed = true;
      this.#wake();
    };
    stream
      .on('end', closed)
      .on('close', closed)
      .on('error', () => {
        // A socket that was written to after the server closed it may lose what it had not read.
        this.#reset = true;
        closed();
      });
  }

  /** The client goes away: what comes is not looked at any more. */
  forgive(): void {
    this.#forgiven = true;
  }

  #step(bytes?: Buffer): void {
    try {
      const next = bytes === undefined ? this.#walk.next() : this.#walk.next(bytes);
      if (next.done) {
        this.#ending = next.value;
        this.#want = null;
      } else this.#want = next.value;
    } catch (error) {
      this.#error = error as Error;
      this.#want = null;
    }
  }

  #pump(): void {
    if (this.#forgiven) return;
    while (this.#want !== null && this.#buffered >= this.#want.bytes) {
      const { bytes } = this.#want;
      const all = this.#chunks.length === 1 ? this.#chunks[0] : Buffer.concat(this.#chunks);
      this.#chunks = [all.subarray(bytes)];
      this.#buffered -= bytes;
      this.#step(all.subarray(0, bytes));
    }
    this.#wake();
  }

  async #until(condition: () => boolean, what: string): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const hang = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Violation(`hang: ${what}`)), this.#hangMs);
    });
    try {
      while (!condition()) {
        await Promise.race([
          hang,
          new Promise<void>((resolve) => {
            this.#wake = resolve;
          }),
        ]);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  /** Waits for the last answer, then for the end of the connection, which the client brings about unless the server has to. */
  async finish(): Promise<void> {
    const answered = () => this.#error !== null || this.#ending !== null || this.#closed;
    await this.#until(answered, 'a request is not answered and the connection stays open');
    if (this.#error !== null) throw this.#error;
    if (this.#ending === null) {
      if (this.#want?.mayClose && this.#buffered === 0) return;
      if (this.#reset) throw new Inconclusive();
      throw new Violation(`the server closed the connection where ${this.#want?.bytes} bytes of an answer were due`);
    }
    if (this.#ending === 'open') {
      // What the server does unasked it does soon after the answers.
      for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve));
      if (this.#closed) throw new Violation('the server closed the connection of a client that has done nothing wrong');
    }
    if (this.#ending !== 'closed') this.#stream.end();
    await this.#until(() => this.#closed, 'the server does not close the connection');
    if (this.#buffered > 0) {
      throw new Violation(
        `${this.#buffered} bytes that are no answer: ${Buffer.concat(this.#chunks).toString('hex').slice(0, 80)}`,
      );
    }
  }
}
