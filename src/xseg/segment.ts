/**
 * A segment as one process sees it: the mapping, the ports that the process bound, and what it does for them. Where things are is
 * tables.ts, delivery is dispatch.ts, cleaning up is recovery.ts.
 */
import fs from 'node:fs';
import { errnos, SystemError } from '../sys/errno.js';
import { BufferCache } from './buffers.js';
import type { DirectServer } from './direct.js';
import { Dispatcher } from './dispatch.js';
import { Doorbell } from './doorbell.js';
import { attach, create, unlinkSegment } from './file.js';
import type { Heap } from './heap.js';
import { Housekeeping } from './housekeeping.js';
import { type Geometry, H, P, PORT_NAME_BYTES, PortState } from './layout.js';
import { lock, unlock } from './lock.js';
import type { SegmentMemory } from './memory.js';
import { self } from './owner.js';
import { Port } from './port.js';
import type { RecoverPortOptions, RecoveryResult } from './recovery.js';
import type { Request } from './request.js';
import { leftBy, orphansAt, PATIENCE_MS } from './settling.js';
import { parseSpec, type SegmentSpec } from './spec.js';
import { type PortOwner, Tables } from './tables.js';

export type { PortOwner } from './tables.js';

/** How often waiters for memory look again, for what other processes free. */
const AVAILABLE_POLL_MS = 5;

export interface BindOptions {
  /** Shown in reports, e.g. the role. */
  readonly name?: string;
  /** Share of the heap the port may hold, 0..1. */
  readonly heapShare?: number;
}

export class Segment {
  readonly name: string;
  readonly memory: SegmentMemory;
  readonly geometry: Geometry;
  readonly heap: Heap;
  readonly tables: Tables;
  /** Called with what a handler threw (the request fails with EIO) and with mistakes of peers in this process. Default: stderr. */
  onError: (error: unknown, where: string) => void = (error, where) => {
    process.stderr.write(`xseg: ${where}: ${error instanceof Error ? error.stack : String(error)}\n`);
  };
  readonly #dispatcher: Dispatcher;
  #housekeeping: Housekeeping | null = null;
  #waiters: (() => void)[] = [];
  #waitTimer: NodeJS.Timeout | null = null;
  #refs = 0;
  #pressureSeen = 0;

  private constructor(name: string, memory: SegmentMemory, geometry: Geometry) {
    this.name = name;
    this.memory = memory;
    this.geometry = geometry;
    this.tables = new Tables(memory, geometry);
    this.heap = this.tables.heap;
    this.#dispatcher = new Dispatcher(this.tables, name, (error, where) => this.onError(error, where));
    this.#pressureSeen = memory.u32[H.PRESSURE];
  }

  /**
   * Creates a segment and joins it.
   * @throws SystemError EEXIST, EINVAL (too small, bad spec), ENOSPC (/dev/shm is too small)
   */
  static create(spec: string | SegmentSpec): Segment {
    const parsed = typeof spec === 'string' ? parseSpec(spec) : spec;
    const { memory, geometry } = create(parsed);
    const segment = new Segment(parsed.name, memory, geometry);
    segment.tables.pool.rebuild(-1);
    segment.heap.rebuild(-1);
    Atomics.store(memory.i32, H.READY, 1);
    return segment;
  }

  /** Joins an existing segment. @throws SystemError ENOENT, EPROTO (foreign, other version, damaged), EACCES */
  static join(spec: string | SegmentSpec): Segment {
    const parsed = typeof spec === 'string' ? parseSpec(spec) : spec;
    const { memory, geometry } = attach(parsed.name);
    return new Segment(parsed.name, memory, geometry);
  }

  /** Removes a segment's name and doorbells; who has joined it keeps it until closing. @throws SystemError ENOENT, EACCES */
  static destroy(spec: string | SegmentSpec): void {
    unlinkSegment((typeof spec === 'string' ? parseSpec(spec) : spec).name);
  }

  /** Does a segment of this name exist? */
  static exists(spec: string | SegmentSpec): boolean {
    return fs.existsSync(`/dev/shm/${(typeof spec === 'string' ? parseSpec(spec) : spec).name}`);
  }

  /**
   * Binds a port. What dead peers left is cleaned up first, so a dead owner's port can be taken.
   * @param number the port, or 'dynamic' for any free dynamic one
   * @throws SystemError EADDRINUSE naming the owner; EINVAL beyond the port table; ENOSPC no dynamic port is free
   */
  bind(number: number | 'dynamic', options: BindOptions = {}): Port {
    this.#housekeeping ??= new Housekeeping(this, (error) => this.onError(error, 'housekeeping'));
    return this.#withPorts(() => {
      this.#releaseDead();
      return this.#bindAt(number === 'dynamic' ? this.#freeDynamic() : number, options);
    });
  }

  #freeDynamic(): number {
    const { ports, firstDynamic } = this.geometry;
    for (let number = firstDynamic; number < ports; number++) if (!this.tables.owner(number)) return number;
    throw new SystemError(errnos.ENOSPC, `all ${ports - firstDynamic} dynamic ports of segment ${this.name} are taken`);
  }

  #bindAt(number: number, options: BindOptions): Port {
    const { memory, geometry } = this;
    if (!this.tables.hasPort(number)) {
      throw new SystemError(errnos.EINVAL, `port ${number} is not below SEGMENT_PORTS, ${geometry.ports}`);
    }
    const owner = this.tables.owner(number);
    if (owner) {
      throw new SystemError(
        errnos.EADDRINUSE,
        `port ${number} is taken by ${owner.name || 'a peer'} (process ${owner.pid})`,
      );
    }
    const word = this.tables.portWord(number);
    const name = options.name ?? '';
    const limit = Math.max(1, Math.floor(geometry.heapPages * (options.heapShare ?? 0.5)));
    const bell = new Doorbell(this.name, number, () => this.#dispatcher.wake());
    if (this.#refs === 0) bell.unref();
    Atomics.add(memory.i32, word + P.GENERATION, 1);
    memory.u32[word + P.PID] = self.pid;
    memory.u32[word + P.START] = self.start;
    memory.u32[word + P.HEAP_PAGES] = 0;
    memory.u32[word + P.HEAP_LIMIT] = limit;
    memory.u32[word + P.REQUESTS] = 0;
    // Not all of a small table, and never more than a reply ring has slots.
    memory.u32[word + P.REQUEST_LIMIT] = Math.min(geometry.queueCapacity, geometry.requests >> 1);
    memory.f64.fill(0, (word + P.SUBMITTED) / 2, (word + P.RECEIVED) / 2 + 1);
    const nameByte = (word + P.NAME) * 4;
    memory.bytes.fill(0, nameByte, nameByte + PORT_NAME_BYTES);
    memory.bytes.write(name, nameByte, PORT_NAME_BYTES);
    const buffers = new BufferCache(this.heap, memory, number, word, limit, geometry.heapPages, () =>
      this.#askForSpare(),
    );
    const port = new Port(this, number, name, buffers);
    this.#dispatcher.attach(port, bell);
    Atomics.store(memory.i32, word + P.STATE, PortState.BOUND);
    return port;
  }

  /** Port.close calls this. */
  unbind(port: Port): void {
    if (!this.#dispatcher.isLocal(port)) return;
    this.#withPorts(() => {
      const ours = this.#dispatcher.owns(port);
      this.#dispatcher.detach(port);
      if (ours) this.#dispatcher.recovery.release(new Set([port.number]));
    });
  }

  /** Closes all ports this process bound. */
  close(): void {
    for (const port of this.#dispatcher.ports) port.close();
    this.#dispatcher.close();
    this.#housekeeping?.stop();
    this.#housekeeping = null;
    // They find their port closed.
    this.#wakeWaiters();
  }

  /**
   * Closes the segment and gives its memory back, for a process that joins many in its life (tests, simulators). No system call of
   * another thread may be at work on a buffer, and nothing of the segment may be used afterwards: it would see zeros.
   */
  unmap(): void {
    this.close();
    this.memory.unmap();
  }

  /** Runs under the port table's lock. */
  #withPorts<T>(work: () => T): T {
    // Whatever its dead owner was at is begun anew: releasing a port may be done twice.
    lock(this.memory, H.PORTS_LOCK, -1);
    try {
      return work();
    } finally {
      unlock(this.memory, H.PORTS_LOCK);
    }
  }

  #releaseDead(): void {
    const dead = this.#dispatcher.recovery.deadPorts();
    if (dead.size === 0) return;
    this.#dispatcher.recovery.recoverLocks();
    this.#dispatcher.recovery.release(dead);
  }

  /** Cleans up after all dead peers: ports, requests, buffers, locks. */
  reap(): void {
    if (this.#dispatcher.recovery.deadPorts().size === 0) return;
    this.#withPorts(() => this.#releaseDead());
  }

  /** Delivers now, within this call, what peers of this process have for each other. */
  settle(): void {
    this.#dispatcher.settle();
  }

  /** Port.directTo. */
  directTo(number: number): DirectServer | null {
    return this.#dispatcher.directTo(number);
  }

  /** Who owns a port; null when it is free. */
  portOwner(number: number): PortOwner | null {
    return this.tables.owner(number);
  }

  /** Does a living peer own the port? */
  isServed(number: number): boolean {
    return this.tables.isServed(number);
  }

  /** @throws SystemError ECONNREFUSED when no living peer owns the port */
  requireAlive(number: number): void {
    if (this.isServed(number)) return;
    throw new SystemError(
      errnos.ECONNREFUSED,
      `no peer serves port ${number} of segment ${this.name}; is the node running? (archipelago status)`,
    );
  }

  /** The one object of this process for a request record. */
  request(index: number): Request {
    return this.#dispatcher.request(index);
  }

  takeRequests(port: number, into: number[]): boolean {
    const word = this.tables.portWord(port);
    const before = into.length;
    if (!this.tables.pool.take(port, word, into)) {
      if (this.memory.u32[H.FREE_REQUEST_COUNT] > 0) return false;
      this.#askForSpare();
      if (!this.tables.pool.take(port, word, into)) return false;
    }
    for (let i = before; i < into.length; i++) this.request(into[i]).spare = true;
    return true;
  }

  returnRequests(port: number, indices: number[]): void {
    if (indices.length === 0) return;
    this.tables.pool.giveBack(port, this.tables.portWord(port), indices);
  }

  /** Port.submit. */
  submit(port: Port, request: Request, dst: number): void {
    this.#dispatcher.submit(port, request, dst);
  }

  /** Takes a request back that its server has not accepted yet; false when it has. */
  withdraw(request: Request): boolean {
    return this.#dispatcher.withdraw(request);
  }

  /** Port.serve. */
  startServing(port: Port): void {
    this.#dispatcher.startServing(port);
  }

  /** Port.settled. */
  settled(port: Port): Promise<void> {
    return this.#dispatcher.settled(port);
  }

  /** Port.isSettling. */
  isSettling(port: Port): boolean {
    return this.#dispatcher.isSettling(port);
  }

  /** Does a port of this process serve? */
  get isServing(): boolean {
    return this.#dispatcher.isServing;
  }

  /** Is there work that nobody rang for? */
  get isOverdue(): boolean {
    return this.#dispatcher.isOverdue;
  }

  /** Looks at all rings of this process. */
  wake(): void {
    this.#dispatcher.wake();
  }

  /** Calls back once memory or records may be free again. */
  whenAvailable(callback: () => void): void {
    this.#waiters.push(callback);
    this.#waitTimer ??= setTimeout(() => this.#wakeWaiters(), AVAILABLE_POLL_MS);
  }

  notifyAvailable(): void {
    if (this.#waiters.length > 0) queueMicrotask(() => this.#wakeWaiters());
    if (this.memory.u32[H.PRESSURE] !== this.#pressureSeen) this.relieve();
  }

  #wakeWaiters(): void {
    if (this.#waitTimer) clearTimeout(this.#waitTimer);
    this.#waitTimer = null;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter();
  }

  /** Somebody found no memory: gives back what the ports of this process keep spare. */
  relieve(): void {
    const pressure = this.memory.u32[H.PRESSURE];
    if (pressure === this.#pressureSeen) return;
    this.#pressureSeen = pressure;
    for (const port of this.#dispatcher.ports) port.giveBackSpare();
  }

  /** Has everybody give back what they keep spare: this process now, others within moments. */
  #askForSpare(): void {
    Atomics.add(this.memory.i32, H.PRESSURE, 1);
    this.relieve();
  }

  /** While counted up, the process stays alive for replies to come. Servers hold one reference all their life. */
  ref(): void {
    if (this.#refs++ === 0) this.#dispatcher.ref();
  }

  unref(): void {
    if (--this.#refs === 0) this.#dispatcher.unref();
  }

  /**
   * Cleans up after a port's dead owner.
   * @throws SystemError EBUSY when the owner lives; EINVAL beyond the port table
   */
  recoverPort(number: number, options: RecoverPortOptions = {}): RecoveryResult {
    if (!this.tables.hasPort(number)) {
      throw new SystemError(errnos.EINVAL, `segment ${this.name} has no port ${number}`);
    }
    return this.#withPorts(() => {
      const owner = this.tables.owner(number);
      if (owner?.alive) {
        throw new SystemError(
          errnos.EBUSY,
          `port ${number} belongs to ${owner.name || 'a peer'} (process ${owner.pid}), which is alive`,
        );
      }
      this.#dispatcher.recovery.recoverLocks();
      return this.#dispatcher.recovery.release(new Set([number]), options);
    });
  }

  /** Makes a port's owner look at everything that waits for it. */
  forceScan(number: number): void {
    this.#dispatcher.notify(number);
  }

  /**
   * How many requests that dead owners of a port (and of other ports of their processes) had sent are still being worked on by living
   * peers: a write among them may land at any moment.
   * @param except what is worked on at this port does not count, e.g. the caller's own
   */
  leftBy(number: number, except = -1): number {
    // What the dead had sent is known as theirs once they are cleaned up after.
    if (!this.isServed(number)) this.reap();
    return leftBy(this.tables, number, except);
  }

  /** How many requests for a target, of whatever dead port, are still being worked on at `dst`. */
  orphansAt(dst: number, target: string): number {
    this.reap();
    return orphansAt(this.tables, dst, Buffer.from(target, 'utf8'));
  }

  /** Resolves when leftBy is 0. @throws SystemError ETIMEDOUT when a peer does not get on with it for a minute; EINVAL no such port */
  async nothingLeftBy(number: number, except = -1): Promise<void> {
    if (!this.tables.hasPort(number)) {
      throw new SystemError(errnos.EINVAL, `segment ${this.name} has no port ${number}`);
    }
    const deadline = Date.now() + PATIENCE_MS;
    for (let left = this.leftBy(number, except); left > 0; left = this.leftBy(number, except)) {
      if (Date.now() > deadline) {
        throw new SystemError(
          errnos.ETIMEDOUT,
          `${left} requests of the last owner of port ${number} are still being worked on; see xseg reportall`,
        );
      }
      await new Promise((resolve) => setTimeout(resolve, AVAILABLE_POLL_MS));
    }
  }

  /**
   * Makes anew what can be made from the states of records and pages: the free lists, the entries of damaged queues, buffers that are
   * nobody's any more. On a sound segment nothing changes.
   */
  rebuild(): void {
    this.#withPorts(() => {
      this.tables.pool.rebuild(-1);
      this.heap.rebuild(-1);
      this.#dispatcher.recovery.release(new Set());
      for (let port = 0; port < this.geometry.ports; port++) {
        const { requests, replies } = this.tables.queues(port);
        if (this.isServed(port)) {
          // Its owner empties them when it looks.
          if (requests.isDamaged || replies.isDamaged) this.#dispatcher.notify(port);
        } else for (const queue of [requests, replies]) if (queue.isDamaged) queue.empty();
      }
    });
  }

  /** Releases segment locks of dead owners (of one port, or all), and repairs what they guard. Returns how many. */
  recoverLocks(number?: number): number {
    return this.#dispatcher.recovery.recoverLocks(number);
  }
}
