/**
 * A node over a modelled disk: blockers with the real file driver, mapper, composer and a client's port, all in this process. Segments
 * are used again, since making one takes longer than most lives here.
 */
import pino from 'pino';
import type { Driver } from '../../src/blockers/driver.js';
import { FileDriver } from '../../src/blockers/file/index.js';
import { Blocker } from '../../src/blockers/server.js';
import { Composer } from '../../src/composer/composer.js';
import type { Config, MapperSettings } from '../../src/config/types.js';
import { start as startMapper } from '../../src/mapper/peer.js';
import type { RunningRole } from '../../src/peer/role.js';
import { XsegObjectClient } from '../../src/requests/object-client.js';
import { Flag, Op } from '../../src/requests/ops.js';
import { decodeInfo, encodeClone, encodeCreate, encodeName } from '../../src/requests/structs.js';
import { errnoOf, errnos } from '../../src/sys/errno.js';
import { type Port, Segment } from '../../src/xseg/index.js';
import type { SimulatedSystem } from './system.js';

const ZERO = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';
const PORTS = { composer: 500, blockerb: 1000, mapper: 1001, blockerm: 1002, client: 1 } as const;

export const BLOCKS_ROOT = '/blocks';
export const MAPS_ROOT = '/maps';

export interface NodeSettings {
  /** Files that each store keeps open. */
  readonly fdcache: number;
  readonly writeThrough: boolean;
  /** Breaks a driver on purpose, before it is used. */
  readonly sabotage?: (driver: Driver, store: 'blocks' | 'maps') => void;
}

const free: Segment[] = [];
let made = 0;

function takeSegment(): Segment {
  const segment = free.pop() ?? Segment.create(`posix:sim-${process.pid}-${made++}:1200:1100:16:12`);
  segment.ref();
  return segment;
}

/** Removes the segments that are not in use; at the end of a process. */
export function destroySegments(): void {
  for (const segment of free.splice(0)) {
    segment.close();
    Segment.destroy(`posix:${segment.name}:`);
  }
}

export class Node {
  readonly client: Port;
  readonly maps: XsegObjectClient;
  readonly blocks: XsegObjectClient;
  readonly #segment: Segment;
  readonly #blockers: Blocker[];
  readonly #mapper: RunningRole;
  readonly #composer: Composer;
  readonly #composerPort: Port;

  private constructor(
    segment: Segment,
    parts: { blockers: Blocker[]; mapper: RunningRole; composer: Composer; composerPort: Port },
  ) {
    this.#segment = segment;
    this.#blockers = parts.blockers;
    this.#mapper = parts.mapper;
    this.#composer = parts.composer;
    this.#composerPort = parts.composerPort;
    this.client = segment.bind(PORTS.client, { name: 'client' });
    this.maps = new XsegObjectClient(this.client, PORTS.blockerm);
    this.blocks = new XsegObjectClient(this.client, PORTS.blockerb);
  }

  static async start(system: SimulatedSystem, settings: NodeSettings): Promise<Node> {
    const segment = takeSegment();
    const log = pino({ level: 'silent' });
    const stores = [
      { root: BLOCKS_ROOT, number: PORTS.blockerb, name: 'blockerb' },
      { root: MAPS_ROOT, number: PORTS.blockerm, name: 'blockerm' },
    ];
    const blockers: Blocker[] = [];
    for (const { root, number, name } of stores) {
      const { fdcache } = settings;
      const driver = new FileDriver({ root, uniqueStr: `sim_${number}`, fdcache, dirtyFiles: fdcache, system });
      settings.sabotage?.(driver, root === MAPS_ROOT ? 'maps' : 'blocks');
      await driver.open();
      const blocker = new Blocker({ port: segment.bind(number, { name }), driver, nrOps: 64, log });
      blocker.start();
      blockers.push(blocker);
    }
    const mapper = await startMapper({
      name: 'mapperd',
      settings: {
        type: 'mapperd',
        name: 'mapperd',
        nrOps: 64,
        blockerbPort: PORTS.blockerb,
        blockermPort: PORTS.blockerm,
        lockWait: 1,
      } as MapperSettings,
      config: { roles: [] } as unknown as Config,
      segment,
      ports: { first: PORTS.mapper, last: PORTS.mapper },
      log,
    });
    const composerPort = segment.bind(PORTS.composer, { name: 'vlmcd' });
    const composer = new Composer({
      port: composerPort,
      blockerPort: PORTS.blockerb,
      mapperPort: PORTS.mapper,
      nrOps: 32,
      writeThrough: settings.writeThrough,
    });
    composerPort.serve((request) => composer.handle(request));
    return new Node(segment, { blockers, mapper, composer, composerPort });
  }

  /** An orderly end. */
  async stop(): Promise<void> {
    this.client.close();
    await this.#composer.drain();
    this.#composerPort.close();
    await this.#mapper.stop();
    for (const blocker of this.#blockers) await blocker.stop();
    this.#segment.unref();
    free.push(this.#segment);
  }

  /** Bytes of a volume; null: there is none. */
  async sizeOf(name: string): Promise<number | null> {
    try {
      return decodeInfo((await this.client.call(PORTS.mapper, { op: Op.INFO, target: name, capacity: 8 })).data).size;
    } catch (error) {
      if (errnoOf(error) === errnos.ENOENT) return null;
      throw error;
    }
  }

  /** A blank volume with any block size, the way image services make them. */
  async create(name: string, size: number, blockSize: number): Promise<void> {
    const objects = Array.from({ length: Math.ceil(size / blockSize) }, () => ({ name: ZERO, readOnly: true }));
    const data = encodeCreate({ blockSize, readOnly: false, objects });
    await this.client.call(PORTS.mapper, { op: Op.CREATE, target: name, size, data });
  }

  /** As create, with the usual block size and the whole of the operation in the mapper. */
  async createBlank(name: string, size: number): Promise<void> {
    await this.clone(name, '', size);
  }

  async clone(name: string, parent: string, size = 0): Promise<void> {
    await this.client.call(PORTS.mapper, { op: Op.CLONE, target: name, data: encodeClone({ parent, size }) });
  }

  async snapshot(name: string, target: string): Promise<void> {
    await this.client.call(PORTS.composer, { op: Op.SNAPSHOT, target: name, data: encodeName(target) });
  }

  async rename(name: string, target: string): Promise<void> {
    await this.client.call(PORTS.mapper, { op: Op.RENAME, target: name, data: encodeName(target) });
  }

  async resize(name: string, size: number): Promise<void> {
    await this.client.call(PORTS.mapper, { op: Op.TRUNCATE, target: name, offset: size, flags: Flag.FORCE });
  }

  async upgrade(name: string): Promise<void> {
    await this.client.call(PORTS.mapper, { op: Op.UPDATE, target: name });
  }

  async remove(name: string): Promise<void> {
    await this.client.call(PORTS.composer, { op: Op.DELETE, target: name });
  }

  async close(name: string): Promise<void> {
    await this.client.call(PORTS.composer, { op: Op.CLOSE, target: name });
  }

  async flush(name: string): Promise<void> {
    await this.client.call(PORTS.composer, { op: Op.FLUSH, target: name, size: 0 });
  }

  async read(name: string, offset: number, length: number): Promise<Buffer> {
    const init = { op: Op.READ, target: name, offset, size: length, capacity: length };
    return (await this.client.call(PORTS.composer, init)).data;
  }

  async write(name: string, offset: number, data: Uint8Array, flags: number): Promise<void> {
    await this.client.call(PORTS.composer, { op: Op.WRITE, target: name, offset, data, flags });
  }

  async trim(name: string, offset: number, length: number, flags: number): Promise<void> {
    await this.client.call(PORTS.composer, { op: Op.TRIM, target: name, offset, size: length, flags });
  }

  async writeZeroes(name: string, offset: number, length: number, flags: number): Promise<void> {
    await this.client.call(PORTS.composer, { op: Op.WRITE_ZEROES, target: name, offset, size: length, flags });
  }
}
