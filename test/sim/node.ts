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
import { startWith as startMapper } from '../../src/mapper/peer.js';
import type { NoteStore } from '../../src/mapper/provisional/notes.js';
import type { RunningRole } from '../../src/peer/role.js';
import { XsegObjectClient } from '../../src/requests/object-client.js';
import { Flag, Op } from '../../src/requests/ops.js';
import { type Port, Segment } from '../../src/xseg/index.js';
import { ownSegment, removeLeft } from '../support/own.js';
import { PORTS, VolumeClient } from '../unit/composer/volume-client.js';
import { ShortWay } from './short-way.js';
import type { SimulatedSystem } from './system.js';

export const BLOCKS_ROOT = '/blocks';
export const MAPS_ROOT = '/maps';

export interface NodeSettings {
  /** Files that each store keeps open. */
  readonly fdcache: number;
  readonly writeThrough: boolean;
  /** Copies are partial. */
  readonly partials: boolean;
  /** Breaks a driver on purpose, before it is used. */
  readonly sabotage?: (driver: Driver, store: 'blocks' | 'maps') => void;
}

const free: Segment[] = [];
let made = false;

function takeSegment(): Segment {
  if (!made) removeLeft();
  made = true;
  const segment = free.pop() ?? Segment.create(`posix:${ownSegment('sim')}:1200:1100:16:12`);
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

export class Node extends VolumeClient {
  readonly client: Port;
  readonly maps: XsegObjectClient;
  readonly blocks: XsegObjectClient;
  readonly shortWay: ShortWay;
  readonly #segment: Segment;
  readonly #blockers: Blocker[];
  readonly #mapper: RunningRole;
  readonly #composer: Composer;
  readonly #composerPort: Port;

  private constructor(
    segment: Segment,
    parts: {
      blockers: Blocker[];
      mapper: RunningRole;
      composer: Composer;
      composerPort: Port;
      hints: ReadonlyMap<string, number>;
    },
  ) {
    super();
    this.#segment = segment;
    this.#blockers = parts.blockers;
    this.#mapper = parts.mapper;
    this.#composer = parts.composer;
    this.#composerPort = parts.composerPort;
    this.client = segment.bind(PORTS.client, { name: 'client' });
    this.shortWay = new ShortWay(this.client, parts.hints);
    this.maps = new XsegObjectClient(this.client, PORTS.blockerm);
    this.blocks = new XsegObjectClient(this.client, PORTS.blockerb);
  }

  /** @param notes of first writes, null: none are kept @param boot which start of the machine this is */
  static async start(
    system: SimulatedSystem,
    settings: NodeSettings,
    notes: NoteStore | null,
    boot: string,
  ): Promise<Node> {
    const segment = takeSegment();
    const log = pino({ level: 'silent' });
    const stores = [
      { root: BLOCKS_ROOT, number: PORTS.blockerb, name: 'blockerb' },
      { root: MAPS_ROOT, number: PORTS.blockerm, name: 'blockerm' },
    ];
    const blockers: Blocker[] = [];
    for (const { root, number, name } of stores) {
      const { fdcache, partials } = settings;
      // Modes that need no chmod, whatever the mask of this process: files are then made on the driver's own thread, if at all.
      const files = { root, uniqueStr: `sim_${number}`, fdcache, dirtyFiles: fdcache, umask: 0o777 };
      const driver = new FileDriver({ ...files, partialCopies: partials, partialLeast: 0, system });
      settings.sabotage?.(driver, root === MAPS_ROOT ? 'maps' : 'blocks');
      await driver.open();
      const blocker = new Blocker({ port: segment.bind(number, { name }), driver, nrOps: 64, log });
      blocker.start();
      blockers.push(blocker);
    }
    const role = {
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
    };
    const mapper = await startMapper(role, notes, boot);
    const composerPort = segment.bind(PORTS.composer, { name: 'vlmcd' });
    const composer = new Composer({
      port: composerPort,
      blockerPort: PORTS.blockerb,
      mapperPort: PORTS.mapper,
      nrOps: 32,
      writeThrough: settings.writeThrough,
    });
    const hints = new Map<string, number>();
    composerPort.serve(
      (request) => {
        const name = request.target;
        composer.handle(request);
        // What an answer tells; another request's by now, perhaps: then it is declined, as it is of another name.
        hints.set(name, request.hint);
      },
      (request) => composer.direct(request),
    );
    return new Node(segment, { blockers, mapper, composer, composerPort, hints });
  }

  /** An orderly end. @param expected errors that do not keep the rest from ending */
  async stop(expected: (error: unknown) => boolean = () => false): Promise<void> {
    const end = async (work: Promise<void>): Promise<void> => {
      try {
        await work;
      } catch (error) {
        if (!expected(error)) throw error;
      }
    };
    this.client.close();
    await this.#composer.drain();
    this.#composerPort.close();
    await end(this.#mapper.stop());
    for (const blocker of this.#blockers) await end(blocker.stop());
    this.#segment.unref();
    free.push(this.#segment);
  }

  /** As create, with the usual block size and the whole of the operation in the mapper. */
  async createBlank(name: string, size: number): Promise<void> {
    await this.clone(name, '', size);
  }

  async upgrade(name: string): Promise<void> {
    await this.client.call(PORTS.mapper, { op: Op.UPDATE, target: name });
  }

  /** @param alone nothing else is under way, as far as the client knows */
  override async flush(name: string, alone = false): Promise<void> {
    const flags = alone ? Flag.ALONE : 0;
    await this.client.call(PORTS.composer, { op: Op.FLUSH, target: name, size: 0, flags });
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
