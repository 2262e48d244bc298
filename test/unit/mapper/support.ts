/** A mapper on stores in this process, and a client that reads and writes volumes through it the way the composer does. */
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { onTestFinished } from 'vitest';
import type { Driver } from '../../../src/blockers/driver.js';
import { FileDriver } from '../../../src/blockers/file/index.js';
import { MemoryDriver, MemoryStore } from '../../../src/blockers/memory/index.js';
import { ZERO_NAME } from '../../../src/mapper/formats/header.js';
import type { EndpointsSeen } from '../../../src/mapper/leases.js';
import type { OpenOptions } from '../../../src/mapper/map-store.js';
import { Mapper, type MapperOptions } from '../../../src/mapper/mapper.js';
import type { LockClient } from '../../../src/requests/lock-client.js';
import type { LockMail } from '../../../src/requests/locks.js';
import type { ObjectClient } from '../../../src/requests/object-client.js';
import type { MapSegment } from '../../../src/requests/structs.js';
import { monotonicMs } from '../../../src/sys/clock.js';
import { errnoName, errnoOf, errnos, SystemError } from '../../../src/sys/errno.js';
import { allocateMemory, freeMemory } from '../../../src/sys/libc.js';

/** A driver as a client, without requests in between. */
export class DriverClient implements ObjectClient {
  /** Called before each operation; may throw to make it fail. */
  before: (operation: string, name: string) => void | Promise<void> = () => {};
  readonly driver: Driver;
  /** The clock that deadlines are of. */
  now: () => number = monotonicMs;

  constructor(driver: Driver) {
    this.driver = driver;
  }

  /** Runs a hot operation on memory that native calls reach, too. Returns what is in it afterwards. */
  async #io(
    method: 'read' | 'write' | 'trim' | 'writeZeroes',
    name: string,
    offset: number,
    data: Uint8Array | number,
  ) {
    await this.before(method, name);
    const length = typeof data === 'number' ? data : data.length;
    const memory = allocateMemory(length);
    const bytes = memory.bytes.subarray(0, length);
    if (typeof data !== 'number') bytes.set(data);
    try {
      await new Promise<void>((resolve, reject) => {
        this.driver[method]({
          name,
          hint: 0,
          isNamed: (other) => Buffer.from(name).equals(other),
          offset,
          length,
          address: memory.address,
          bytes,
          fua: false,
          noHole: false,
          uncached: false,
          deadline: 0,
          complete: (errno) =>
            errno === 0 ? resolve() : reject(new SystemError(errno, `${method} ${name}: ${errnoName(errno)}`)),
        });
      });
      return Buffer.from(bytes);
    } finally {
      freeMemory(memory);
    }
  }

  read(name: string, offset: number, length: number): Promise<Buffer> {
    return this.#io('read', name, offset, length);
  }
  async write(name: string, offset: number, bytes: Uint8Array): Promise<void> {
    await this.#io('write', name, offset, bytes);
  }
  async trim(name: string, offset: number, length: number): Promise<void> {
    await this.#io('trim', name, offset, length);
  }
  async writeZeroes(name: string, offset: number, length: number): Promise<void> {
    await this.#io('writeZeroes', name, offset, length);
  }
  async reset(names: readonly string[], durable: boolean): Promise<void> {
    const each = async (name: string): Promise<void> => {
      await this.before('reset', name);
      await this.driver.reset(name, durable);
    };
    for (const outcome of await Promise.allSettled(names.map(each))) {
      if (outcome.status === 'rejected') throw outcome.reason;
    }
  }
  async copy(source: string, target: string, size: number, options: { durable: boolean; exclusive?: boolean }) {
    await this.before('copy', target);
    await this.driver.copy(source, target, size, { exclusive: false, ...options });
  }
  async delete(name: string): Promise<void> {
    await this.before('delete', name);
    await this.driver.delete(name);
  }
  async info(name: string) {
    await this.before('info', name);
    return this.driver.info(name);
  }
  async truncate(name: string, size: number): Promise<void> {
    await this.before('truncate', name);
    await this.driver.truncate(name, size);
  }
  async hash(name: string, size: number): Promise<string> {
    return this.driver.hash(name, size);
  }
  async list(cursor: string | null, limit: number) {
    await this.before('list', '');
    return this.driver.list(cursor, limit);
  }
  async flush(names: readonly string[] | null): Promise<void> {
    await this.before('flush', names?.join(' ') ?? '*');
    await this.driver.flush(names);
  }
  async forget(): Promise<void> {
    await this.before('forget', '');
    this.driver.forget();
  }
  withDeadline(deadline: () => number): ObjectClient {
    return new DeadlineClient(this, deadline);
  }
  async acquire(target: string): Promise<void> {
    await this.before('acquire', target);
    await this.driver.acquire(target);
  }
  async release(target: string, force: boolean): Promise<void> {
    await this.before('release', target);
    await this.driver.release(target, force);
  }
  async lockHolder(target: string) {
    return this.driver.lockHolder(target);
  }
}

/** A client whose requests are refused when they are begun too late, as a blocker does. */
class DeadlineClient extends DriverClient {
  constructor(parent: DriverClient, deadline: () => number) {
    super(parent.driver);
    this.before = async (operation, name) => {
      const until = deadline();
      await parent.before(operation, name);
      if (until !== 0 && parent.now() >= until) throw new SystemError(errnos.ETIME, `${operation} ${name}: too late`);
    };
  }
}

/** A driver's locks as a client. */
export class DriverLocks implements LockClient {
  /** Called before each operation; may throw to make it fail. */
  before: (operation: string, name: string) => void | Promise<void> = () => {};
  readonly #objects: DriverClient;

  constructor(objects: DriverClient) {
    this.#objects = objects;
  }

  async #do<T>(operation: string, name: string, work: (driver: Driver) => Promise<T>): Promise<T> {
    await this.before(operation, name);
    await this.#objects.before(operation, name);
    return work(this.#objects.driver);
  }

  acquire(target: string): Promise<void> {
    return this.#do('acquire', target, (driver) => driver.acquire(target));
  }
  release(target: string, force: boolean): Promise<void> {
    return this.#do('release', target, (driver) => driver.release(target, force));
  }
  holder(target: string) {
    return this.#do('holder', target, (driver) => driver.lockHolder(target));
  }
  check(names: readonly string[], poll = false) {
    return this.#do(poll ? 'poll' : 'check', names.join(' '), (driver) => driver.checkLocks(names, poll));
  }
  break(target: string) {
    return this.#do('break', target, (driver) => driver.breakLock(target));
  }
  mail(to: string, mail: LockMail) {
    return this.#do(`mail ${mail.kind}`, mail.name, (driver) => driver.sendMail(to, mail));
  }
  list(cursor: string | null, limit: number) {
    return this.#do('list locks', '', (driver) => driver.listLocks(cursor, limit));
  }
  news(ms: number) {
    return this.#do('news', '', async (driver) => {
      if (!driver.nextNews) throw new SystemError(errnos.EOPNOTSUPP, 'the store tells nothing');
      return driver.nextNews(ms);
    });
  }
  fence(owner: string) {
    return this.#do('fence', owner, async (driver) => {
      if (!driver.fence) throw new SystemError(errnos.EOPNOTSUPP, 'the store refuses nobody');
      return driver.fence(owner);
    });
  }
}

export interface Node {
  mapper: Mapper;
  locks: DriverLocks;
  maps: DriverClient;
  blocks: DriverClient;
  warnings: string[];
  /** What REVOKE does; a port without an entry is dead. */
  holders: Map<number, (volume: string, flags: number) => Promise<void>>;
  /** Volumes that a client of an endpoint has open. */
  used: Set<string>;
  /** What endpoints say to that. */
  isUsed: (volume: string) => Promise<boolean>;
  /** What the next looks at the endpoints find. */
  endpoints: EndpointsSeen[];
  /** Until when each port's exclusive leases are good, as it was told last. */
  renewed: Map<number, number>;
}

export interface Stores {
  maps: MemoryStore;
  blocks: MemoryStore;
}

export const memoryStores = (): Stores => ({ maps: new MemoryStore(), blocks: new MemoryStore() });

export function makeNode(
  maps: DriverClient,
  blocks: DriverClient,
  inherited: number[] = [],
  lockWaitMs = 0,
  more: Partial<MapperOptions> = {},
): Node {
  const warnings: string[] = [];
  const renewed = new Map<number, number>();
  const used = new Set<string>();
  const endpoints: EndpointsSeen[] = [];
  const locks = new DriverLocks(maps);
  const holders: Node['holders'] = new Map();
  const mapper = new Mapper({
    maps,
    blocks,
    locks,
    fences: [
      { store: 'maps', client: locks },
      { store: 'blocks', client: new DriverLocks(blocks) },
    ],
    owner: 'node1_1002',
    lockWaitMs,
    ...more,
    log: { warn: (message) => warnings.push(message), info: () => {} },
    holders: {
      inherited,
      isUsed: (volume) => node.isUsed(volume),
      lookAtEndpoints: () => endpoints.splice(0)[0] ?? { replaced: false, gone: false },
      alive: (port) => holders.has(port),
      renew: (port, until) => renewed.set(port, until),
      revoke: async (port, volume, flags) => {
        const holder = holders.get(port);
        if (!holder) throw new SystemError(errnos.ECONNREFUSED, `nobody at port ${port}`);
        await holder(volume, flags);
      },
    },
  });
  const isUsed = async (volume: string): Promise<boolean> => used.has(volume);
  const node: Node = { mapper, locks, maps, blocks, warnings, holders, used, isUsed, endpoints, renewed };
  return node;
}

/** A node on stores in memory. @param owner its name in locks */
export function memoryNode(
  stores: Stores = memoryStores(),
  owner = 'node1_1002',
  inherited: number[] = [],
  more: Partial<MapperOptions> = {},
): Node {
  return makeNode(
    new DriverClient(new MemoryDriver(owner, stores.maps)),
    new DriverClient(new MemoryDriver(owner, stores.blocks)),
    inherited,
    more.lockWaitMs ?? 0,
    { owner, ...more },
  );
}

export function temporaryDirectory(): string {
  const directory = mkdtempSync(path.join(tmpdir(), 'mapper-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** A node on a tree of files. */
export async function fileNode(root: string, lockDir: string | null = null): Promise<Node> {
  const open = async (part: string): Promise<DriverClient> => {
    const driver = new FileDriver({ root: path.join(root, part), lockDir, uniqueStr: 'node1_1002' });
    await driver.open();
    onTestFinished(() => driver.close());
    return new DriverClient(driver);
  };
  return makeNode(await open('maps'), await open('blocks'));
}

/** Reads a piece; a missing object is zeros only for the own blocks of a volume, as the composer has it. */
async function readSegment(node: Node, segment: MapSegment): Promise<Buffer> {
  if (segment.zero) return Buffer.alloc(segment.size);
  return node.blocks.read(segment.target, segment.offset, segment.size);
}

export async function readVolume(
  node: Node,
  name: string,
  offset: number,
  size: number,
  options?: OpenOptions,
): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for (const segment of await node.mapper.mapRead(name, offset, size, options))
    pieces.push(await readSegment(node, segment));
  return Buffer.concat(pieces);
}

export async function writeVolume(node: Node, name: string, offset: number, bytes: Buffer, port = 500): Promise<void> {
  let at = 0;
  for (const segment of await node.mapper.mapWrite(name, offset, bytes.length, port)) {
    await node.blocks.write(segment.target, segment.offset, bytes.subarray(at, at + segment.size));
    at += segment.size;
  }
}

/** SHA-256 of a whole volume, read in pieces. */
export async function hashVolume(node: Node, name: string, size: number, options?: OpenOptions): Promise<string> {
  const hash = createHash('sha256');
  const piece = 1 << 22;
  for (let at = 0; at < size; at += piece) {
    hash.update(await readVolume(node, name, at, Math.min(piece, size - at), options));
  }
  return hash.digest('hex');
}

/** Makes a volume of zeros with small blocks, so that tests need little data. */
export async function createSmall(node: Node, name: string, size: number, blockSize: number): Promise<void> {
  await node.mapper.createFromObjects(name, size, {
    blockSize,
    readOnly: false,
    objects: Array.from({ length: Math.ceil(size / blockSize) }, () => ({ name: ZERO_NAME, readOnly: false })),
  });
}

/** Matches a SystemError by its code and a part of its message. */
export const failure = (code: string, part = ''): { asymmetricMatch(other: unknown): boolean } => ({
  asymmetricMatch: (other: unknown): boolean =>
    errnoName(errnoOf(other)) === code && other instanceof Error && other.message.includes(part),
});
