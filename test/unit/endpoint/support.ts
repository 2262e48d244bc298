/** An endpoint on a whole stack: what peer.ts puts together, with every piece in reach, and Ios without a network. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import pino from 'pino';
import { Control } from '../../../src/endpoint/control.js';
import { Exports } from '../../../src/endpoint/exports.js';
import { Registry } from '../../../src/endpoint/registry.js';
import { VolumeSockets } from '../../../src/endpoint/sockets.js';
import { NO_LIMITS } from '../../../src/endpoint/throttle/rates.js';
import { LimitsStore } from '../../../src/endpoint/throttle/store.js';
import { VolumeLimits } from '../../../src/endpoint/throttle/volume-limits.js';
import { Volumes } from '../../../src/endpoint/volumes.js';
import {
  type BlockDevice,
  type Client,
  type DeviceInfo,
  type Extent,
  type Io,
  type IoBuffer,
  IoCommand,
  NbdServer,
} from '../../../src/nbd/index.js';
import { decodeJson, encodeJson } from '../../../src/requests/json.js';
import { Op } from '../../../src/requests/ops.js';
import { SystemError } from '../../../src/sys/errno.js';
import type { Port } from '../../../src/xseg/index.js';
import { PORTS, Stack } from '../composer/stack.js';

export const ENDPOINT = 1030;

/** A connection of somebody. */
export const someone = (): Client => ({ peer: 'unix', tls: null });

export interface EndpointOptions {
  readonly offer?: 'all' | 'mapped';
  readonly allowResize?: boolean;
  /** How long a write waits for another node's lock, in s. */
  readonly lockWait?: number;
}

export class Endpoint {
  readonly stack: Stack;
  readonly directory: string;
  readonly registry: Registry;
  readonly port: Port;
  readonly volumes: Volumes;
  readonly limits: VolumeLimits;
  readonly exports: Exports;
  readonly server: NbdServer;
  readonly sockets: VolumeSockets;
  readonly messages: string[] = [];
  readonly warnings: string[] = [];

  private constructor(stack: Stack, options: EndpointOptions, directory: string) {
    const { offer = 'all', allowResize = false } = options;
    this.stack = stack;
    this.directory = directory;
    this.registry = Registry.load(directory);
    this.port = stack.segment.bind(ENDPOINT, { name: 'nbd' });
    this.volumes = new Volumes(this.port, PORTS.composer, PORTS.mapper);
    const write = (line: string): void => {
      const { level, msg } = JSON.parse(line) as { level: number; msg: string };
      if (level >= pino.levels.values.warn) this.warnings.push(line);
      else this.messages.push(msg);
    };
    const log = pino({ level: 'info' }, { write });
    const { port, volumes, registry } = this;
    const { composer: composerPort, mapper: mapperPort } = PORTS;
    this.limits = new VolumeLimits(new LimitsStore(path.join(directory, 'limits.json')), NO_LIMITS);
    const { limits } = this;
    this.exports = new Exports({ port, composerPort, mapperPort, volumes, registry, limits, offer, allowResize, log });
    this.server = new NbdServer(this.exports, {});
    const { server, exports } = this;
    this.sockets = new VolumeSockets({ server, exports, runDir: directory, log });
    const { sockets } = this;
    const urisOf = ({ name }: { name: string }): string[] => [`nbd+unix:///${name}?socket=/there`];
    const control = new Control({
      server,
      exports,
      registry,
      limits,
      volumes,
      sockets,
      urisOf,
      status: () => ({ fine: true }),
    });
    port.serve((request) => control.handle(request));
  }

  static async start(options: 'all' | 'mapped' | EndpointOptions = {}): Promise<Endpoint> {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'endpoint-'));
    const given = typeof options === 'string' ? { offer: options } : options;
    return new Endpoint(await Stack.start({ lockWait: given.lockWait }), given, directory);
  }

  /** Opens an export for a connection of somebody. */
  open(name: string, client: Client = someone()): Promise<BlockDevice> {
    return this.exports.open(name, client);
  }

  describe(name: string, client: Client = someone()): Promise<{ info: DeviceInfo; size: number }> {
    return this.exports.describe(name, client);
  }

  /** The contexts that a query of LIST_META_CONTEXT (or SET_META_CONTEXT) finds. */
  contexts(name: string, query: string | null, set = false, client: Client = someone()): Promise<readonly string[]> {
    return this.exports.metaContexts(name, query, set, client);
  }

  async stop(): Promise<string[]> {
    await this.server.close();
    this.port.close();
    fs.rmSync(this.directory, { recursive: true });
    return this.stack.stop();
  }

  /** A control request with a JSON body; its JSON reply. */
  async ask(op: number, body: object = {}, capacity = 65536): Promise<Record<string, unknown>> {
    const init = { op, data: encodeJson(body), capacity };
    const { data, serviced } = await this.stack.client.call(ENDPOINT, init);
    return decodeJson(data.subarray(0, serviced), 'reply') ?? {};
  }

  /** The size that the endpoint tells when asked to look at a volume again. */
  async refresh(name: string): Promise<number> {
    const reply = await this.stack.client.call(ENDPOINT, { op: Op.INFO, target: name, capacity: 8 });
    return Number(reply.data.readBigUInt64LE());
  }

  /** Names of the volumes that the mapper has locked or leased. */
  async mapper(): Promise<{ locked: number; leases: number }> {
    const { data, serviced } = await this.stack.client.call(PORTS.mapper, { op: Op.STATUS, capacity: 65536 });
    return decodeJson(data.subarray(0, serviced), 'STATUS') as unknown as { locked: number; leases: number };
  }
}

export interface IoOptions {
  readonly offset?: number;
  readonly length?: number;
  readonly data?: Uint8Array;
  readonly fua?: boolean;
  readonly noHole?: boolean;
  readonly fastZero?: boolean;
  readonly context?: string;
  readonly reqOne?: boolean;
  readonly mayBeHole?: boolean;
}

export interface IoResult {
  readonly data: Buffer;
  readonly extents: Extent[] | null;
  readonly hole: boolean;
}

/** One Io on a device, as a promise. @throws SystemError with the Io's errno and text */
export function run(device: BlockDevice, command: IoCommand, options: IoOptions = {}): Promise<IoResult> {
  const { offset = 0, data } = options;
  const length = data?.length ?? options.length ?? 0;
  const moves = command === IoCommand.READ || command === IoCommand.WRITE;
  let buffer: IoBuffer | null = null;
  if (moves) {
    buffer = device.allocate(length);
    if (!buffer) return Promise.reject(new Error('no buffer'));
    if (data) buffer.bytes.set(data);
    else buffer.bytes.fill(0xa5, 0, length);
  }
  return new Promise((resolve, reject) => {
    let completed = false;
    const io: Io = {
      command,
      offset,
      length,
      fua: options.fua ?? false,
      noHole: options.noHole ?? false,
      fastZero: options.fastZero ?? false,
      context: options.context ?? 'base:allocation',
      reqOne: options.reqOne ?? false,
      mayBeHole: options.mayBeHole ?? false,
      hole: false,
      buffer,
      extents: null,
      tag: null,
      complete(errno, text = '') {
        if (completed) throw new Error('an Io was completed twice');
        completed = true;
        const { extents, hole } = io;
        const result = { data: Buffer.from(buffer?.bytes.subarray(0, length) ?? []), extents, hole };
        if (buffer) device.release(buffer);
        if (errno === 0) resolve(result);
        else reject(new SystemError(errno, text));
      },
    };
    device.submit(io);
  });
}
