/** A whole stack in this process on a segment of its own: memory blockers, mapper, composer, and a client's port. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import pino from 'pino';
import type { Driver } from '../../../src/blockers/driver.js';
import { FileDriver } from '../../../src/blockers/file/index.js';
import { FileLockLook } from '../../../src/blockers/file/lock-look.js';
import { MemoryDriver, MemoryStore } from '../../../src/blockers/memory/index.js';
import { Blocker } from '../../../src/blockers/server.js';
import { Composer } from '../../../src/composer/composer.js';
import type { Config, MapperSettings } from '../../../src/config/types.js';
import { start as startMapper } from '../../../src/mapper/peer.js';
import type { RunningRole } from '../../../src/peer/role.js';
import { decodeExtents, type PackedExtent } from '../../../src/requests/extents.js';
import { encodeMapStatus } from '../../../src/requests/json.js';
import { Flag, Op } from '../../../src/requests/ops.js';
import { type Port, Segment, verify } from '../../../src/xseg/index.js';
import { ownSegment } from '../../support/own.js';
import { PORTS, VolumeClient } from './volume-client.js';

export { PORTS };

export interface SparseRead {
  readonly hole: boolean;
  readonly data: Buffer;
}

export interface StackOptions {
  /** Where objects are kept; default memory. */
  readonly store?: 'memory' | 'file';
  /** Instead of that: drivers that the caller made. */
  readonly drivers?: { readonly blocks: Driver; readonly maps: Driver };
  readonly writeThrough?: boolean;
  readonly nrOps?: number;
  readonly lockWait?: number;
  /** Of the segment. Its memory stays until the process ends (see xseg/memory.ts): tests of many stacks take little ones. */
  readonly sizeMiB?: number;
}

export class Stack extends VolumeClient {
  readonly segment: Segment;
  readonly blocks: Driver;
  readonly maps: Driver;
  readonly client: Port;
  readonly #mapStore: MemoryStore;
  readonly #roles: { stop(): Promise<void> }[];

  private constructor(
    segment: Segment,
    stores: { blocks: Driver; maps: Driver; mapStore: MemoryStore },
    client: Port,
    roles: { stop(): Promise<void> }[],
  ) {
    super();
    this.segment = segment;
    this.blocks = stores.blocks;
    this.maps = stores.maps;
    this.#mapStore = stores.mapStore;
    this.client = client;
    this.#roles = roles;
  }

  static async start(options: StackOptions = {}): Promise<Stack> {
    const segment = Segment.create(`posix:${ownSegment('stack')}:1200:1100:${options.sizeMiB ?? 64}:12`);
    segment.ref();
    const log = pino({ level: 'silent' });
    const directory = options.store === 'file' ? fs.mkdtempSync(path.join(os.tmpdir(), 'stack-')) : null;
    const mapStore = new MemoryStore();
    const { blocks, maps } = options.drivers ?? {
      blocks: makeDriver(directory, 'blocks', 'test_1000', new MemoryStore()),
      maps: makeDriver(directory, 'maps', 'test_1002', mapStore),
    };
    const blockers = await Promise.all(
      [
        { driver: blocks, number: PORTS.blockerb, role: 'blockerb' },
        { driver: maps, number: PORTS.blockerm, role: 'blockerm' },
      ].map(async ({ driver, number, role }) => {
        await driver.open();
        const blocker = new Blocker({ port: segment.bind(number, { name: role }), driver, nrOps: 128, log });
        blocker.start();
        return blocker;
      }),
    );
    const settings = {
      type: 'mapperd',
      name: 'mapperd',
      nrOps: 128,
      blockerbPort: PORTS.blockerb,
      blockermPort: PORTS.blockerm,
      lockWait: options.lockWait ?? 1,
    } as MapperSettings;
    const mapper: RunningRole = await startMapper({
      name: 'mapperd',
      settings,
      config: { roles: [] } as unknown as Config,
      segment,
      ports: { first: PORTS.mapper, last: PORTS.mapper },
      log,
    });
    const lockLook =
      directory === null || options.drivers
        ? null
        : new FileLockLook({ root: path.join(directory, 'maps'), directory: null, owner: 'test_1002' });
    const port = segment.bind(PORTS.composer, { name: 'vlmcd' });
    const composer = new Composer({
      port,
      blockerPort: PORTS.blockerb,
      mapperPort: PORTS.mapper,
      nrOps: options.nrOps ?? 64,
      writeThrough: options.writeThrough ?? false,
      lockLook,
    });
    port.serve(
      (request) => composer.handle(request),
      (request) => composer.direct(request),
    );
    const client = segment.bind(PORTS.client, { name: 'client' });
    const stopComposer = {
      stop: async (): Promise<void> => {
        await composer.drain();
        port.close();
      },
    };
    const cleanUp = {
      stop: async (): Promise<void> => {
        if (directory) fs.rmSync(directory, { recursive: true });
      },
    };
    return new Stack(segment, { blocks, maps, mapStore }, client, [stopComposer, mapper, ...blockers, cleanUp]);
  }

  /** The maps store as another node sees it (memory stores only). */
  rivalMaps(): Driver {
    return new MemoryDriver('rival_1002', this.#mapStore);
  }

  /** Stops everything; returns what `verify` says of the segment afterwards. */
  async stop(): Promise<string[]> {
    this.client.close();
    for (const role of this.#roles) await role.stop();
    const problems = verify(this.segment);
    this.segment.close();
    Segment.destroy(`posix:${this.segment.name}:`);
    return problems;
  }

  /** A read that may be answered with a hole. The buffer holds 0xa5 before, so that a hole that is none shows. */
  sparseRead(name: string, offset: number, length: number, flags: number = Flag.MAY_BE_HOLE): Promise<SparseRead> {
    const { client } = this;
    const request = client.getRequest()!;
    const at = client.allocate(length);
    request.setData(at, length);
    request.data.fill(0xa5);
    request.op = Op.READ;
    request.target = name;
    request.offset = offset;
    request.size = length;
    request.flags = flags;
    return new Promise((resolve, reject) => {
      request.onReply = () => {
        const { served, message } = request;
        const answer = { hole: (request.flags & Flag.HOLE) !== 0, data: Buffer.from(request.data) };
        client.free(at);
        client.putRequest(request);
        if (served) resolve(answer);
        else reject(new Error(message));
      };
      client.submit(request, PORTS.composer);
    });
  }

  /** Where a volume differs from a read-only map: extents from its start to its end, with flags 1 or 0. */
  async diff(name: string, from: string, size: number): Promise<PackedExtent[]> {
    const extents: PackedExtent[] = [];
    for (let offset = 0; offset < size; ) {
      const data = Buffer.concat([encodeMapStatus({ what: 'diff', from })], 256);
      const init = { op: Op.MAPSTATUS, target: name, offset, size: size - offset, data };
      const reply = await this.client.call(PORTS.mapper, init);
      for (const extent of decodeExtents(reply.data.subarray(0, reply.serviced))) {
        extents.push(extent);
        offset += extent.length;
      }
    }
    return extents;
  }

  async write(name: string, offset: number, data: Uint8Array, flags = 0): Promise<void> {
    await this.client.call(PORTS.composer, { op: Op.WRITE, target: name, offset, data, flags });
  }

  async trim(name: string, offset: number, length: number, flags = 0): Promise<void> {
    await this.client.call(PORTS.composer, { op: Op.TRIM, target: name, offset, size: length, flags });
  }

  async writeZeroes(name: string, offset: number, length: number, flags = 0): Promise<void> {
    await this.client.call(PORTS.composer, { op: Op.WRITE_ZEROES, target: name, offset, size: length, flags });
  }

  async extents(name: string, offset: number, length: number): Promise<PackedExtent[]> {
    const init = { op: Op.BLOCK_STATUS, target: name, offset, size: length, capacity: 65536 };
    const reply = await this.client.call(PORTS.composer, init);
    return decodeExtents(reply.data.subarray(0, reply.serviced));
  }
}

function makeDriver(directory: string | null, name: string, owner: string, store: MemoryStore): Driver {
  if (directory === null) return new MemoryDriver(owner, store);
  const root = path.join(directory, name);
  fs.mkdirSync(root);
  return new FileDriver({ root, uniqueStr: owner });
}

/** `length` bytes that tell where and by whom they were written. */
export function pattern(length: number, seed: number): Buffer {
  const out = Buffer.alloc(length);
  for (let i = 0; i < length; i++) out[i] = ((i * 131 + seed * 7919) % 255) + 1;
  return out;
}
