/** An endpoint on a whole stack: what peer.ts puts together, with every piece in reach, and Ios without a network. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import pino from 'pino';
import { Control } from '../../../src/endpoint/control.js';
import { Exports } from '../../../src/endpoint/exports.js';
import { Registry } from '../../../src/endpoint/registry.js';
import { Volumes } from '../../../src/endpoint/volumes.js';
import { type BlockDevice, type Extent, type Io, type IoBuffer, IoCommand, NbdServer } from '../../../src/nbd/index.js';
import { decodeJson, encodeJson } from '../../../src/requests/json.js';
import { Op } from '../../../src/requests/ops.js';
import { SystemError } from '../../../src/sys/errno.js';
import type { Port } from '../../../src/xseg/index.js';
import { PORTS, Stack } from '../composer/stack.js';

export const ENDPOINT = 1030;

export class Endpoint {
  readonly stack: Stack;
  readonly directory: string;
  readonly registry: Registry;
  readonly port: Port;
  readonly volumes: Volumes;
  readonly exports: Exports;
  readonly server: NbdServer;
  readonly warnings: string[] = [];

  private constructor(stack: Stack, offer: 'all' | 'mapped', directory: string) {
    this.stack = stack;
    this.directory = directory;
    this.registry = Registry.load(directory);
    this.port = stack.segment.bind(ENDPOINT, { name: 'nbd' });
    this.volumes = new Volumes(this.port, PORTS.composer, PORTS.mapper);
    const log = pino({ level: 'warn' }, { write: (line: string) => void this.warnings.push(line) });
    const { port, volumes, registry } = this;
    this.exports = new Exports({ port, composerPort: PORTS.composer, volumes, registry, offer, log });
    this.server = new NbdServer(this.exports, {});
    const { server, exports } = this;
    const urisOf = (name: string): string[] => [`nbd+unix:///${name}?socket=/there`];
    const control = new Control({ server, exports, registry, volumes, urisOf, status: () => ({ fine: true }) });
    port.serve((request) => control.handle(request));
  }

  static async start(offer: 'all' | 'mapped' = 'all'): Promise<Endpoint> {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'endpoint-'));
    return new Endpoint(await Stack.start(), offer, directory);
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
}

export interface IoResult {
  readonly data: Buffer;
  readonly extents: Extent[] | null;
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
      context: 'base:allocation',
      reqOne: false,
      mayBeHole: false,
      hole: false,
      buffer,
      extents: null,
      tag: null,
      complete(errno, text = '') {
        if (completed) throw new Error('an Io was completed twice');
        completed = true;
        const result = { data: Buffer.from(buffer?.bytes.subarray(0, length) ?? []), extents: io.extents };
        if (buffer) device.release(buffer);
        if (errno === 0) resolve(result);
        else reject(new SystemError(errno, text));
      },
    };
    device.submit(io);
  });
}
