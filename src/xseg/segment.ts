/**
 * A segment as one process sees it: the mapping, its ports, and the delivery of requests and replies. Within the process delivery is
 * direct (a list worked off in the same turn); between processes it goes through the port's ring and, when its owner sleeps, its
 * doorbell.
 */
import fs from 'node:fs';
import { errnos, messageOf, SystemError } from '../sys/errno.js';
import { BufferCache } from './buffers.js';
import { Doorbell, Ringer } from './doorbell.js';
import { attach, create, unlinkSegment } from './file.js';
import { Heap } from './heap.js';
import {
  type Geometry,
  H,
  P,
  PORT_NAME_BYTES,
  PORT_WORDS,
  PortState,
  R,
  REQUEST_WORDS,
  RequestState,
} from './layout.js';
import { lock, unlock } from './lock.js';
import type { SegmentMemory } from './memory.js';
import { isAlive, self } from './owner.js';
import { Port } from './port.js';
import { Queue } from './queue.js';
import { type RecoverPortOptions, Recovery, type RecoveryResult } from './recovery.js';
import { Request, type RequestHost } from './request.js';
import { RequestPool } from './request-pool.js';
import { parseSpec, type SegmentSpec } from './spec.js';

const REQUEST = 0;
const REPLY = 1;
/** How often waiters for memory look again, for what other processes free. */
const AVAILABLE_POLL_MS = 5;

export interface BindOptions {
  /** Shown in reports, e.g. the role. */
  readonly name?: string;
  /** Share of the heap the port may hold, 0..1. */
  readonly heapShare?: number;
}

export interface PortOwner {
  readonly pid: number;
  readonly name: string;
  readonly alive: boolean;
}

interface Local {
  readonly port: Port;
  readonly bell: Doorbell;
  readonly requests: Queue;
  readonly replies: Queue;
}

export class Segment implements RequestHost {
  readonly name: string;
  readonly memory: SegmentMemory;
  readonly geometry: Geometry;
  readonly heap: Heap;
  /** Called with what a handler threw; the request fails with EIO. Default: stderr. */
  onError: (error: unknown, where: string) => void = (error, where) => {
    process.stderr.write(`xseg: ${where}: ${error instanceof Error ? error.stack : String(error)}\n`);
  };
  readonly #pool: RequestPool;
  readonly #requests: Request[];
  readonly #queues = new Map<number, { requests: Queue; replies: Queue }>();
  readonly #ringer: Ringer;
  readonly #local: (Local | undefined)[];
  readonly #pending: Int32Array;
  #pendingHead = 0;
  #pendingTail = 0;
  #scheduled = false;
  #draining = false;
  #waiters: (() => void)[] = [];
  #waitTimer: NodeJS.Timeout | null = null;
  #refs = 0;
  readonly #drainBound = (): void => this.drain();

  private constructor(name: string, memory: SegmentMemory, geometry: Geometry) {
    this.name = name;
    this.memory = memory;
    this.geometry = geometry;
    this.heap = new Heap(memory, geometry);
    this.#pool = new RequestPool(memory, geometry);
    this.#requests = new Array(geometry.requests);
    this.#local = new Array(geometry.ports);
    this.#ringer = new Ringer(name);
    this.#pending = new Int32Array(geometry.requests * 4);
  }

  /**
   * Creates a segment and joins it.
   * @throws SystemError EEXIST, EINVAL (too small, bad spec), ENOSPC (/dev/shm is too small)
   */
  static create(spec: string | SegmentSpec): Segment {
    const parsed = typeof spec === 'string' ? parseSpec(spec) : spec;
    const { memory, geometry } = create(parsed);
    const segment = new Segment(parsed.name, memory, geometry);
    segment.#pool.rebuild(-1);
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

  /** Removes a segment's name and doorbells; who has joined it keeps it until closing. @throws SystemError ENOENT */
  static destroy(spec: string | SegmentSpec): void {
    unlinkSegment((typeof spec === 'string' ? parseSpec(spec) : spec).name);
  }

  /** Does a segment of this name exist? */
  static exists(spec: string | SegmentSpec): boolean {
    return fs.existsSync(`/dev/shm/${(typeof spec === 'string' ? parseSpec(spec) : spec).name}`);
  }

  /**
   * Binds a port. A dead owner's port is recovered first.
   * @param number the port, or 'dynamic' for any free dynamic one
   * @throws SystemError EADDRINUSE naming the owner; EINVAL beyond the port table; ENOSPC no dynamic port is free
   */
  bind(number: number | 'dynamic', options: BindOptions = {}): Port {
    const recovered = lock(this.memory, H.PORTS_LOCK, -1);
    try {
      if (recovered) this.onError(new Error('the port table was locked by a dead process'), 'bind');
      return number === 'dynamic' ? this.#bindDynamic(options) : this.#bindAt(number, options);
    } finally {
      unlock(this.memory, H.PORTS_LOCK);
    }
  }

  #bindDynamic(options: BindOptions): Port {
    const { ports, firstDynamic } = this.geometry;
    for (let number = firstDynamic; number < ports; number++) {
      if (!this.portOwner(number)?.alive) return this.#bindAt(number, options);
    }
    throw new SystemError(errnos.ENOSPC, `all ${ports - firstDynamic} dynamic ports of segment ${this.name} are taken`);
  }

  #bindAt(number: number, options: BindOptions): Port {
    const { memory } = this;
    if (!Number.isInteger(number) || number < 0 || number >= this.geometry.ports) {
      throw new SystemError(errnos.EINVAL, `port ${number} is not below SEGMENT_PORTS, ${this.geometry.ports}`);
    }
    const owner = this.portOwner(number);
    if (owner?.alive) {
      throw new SystemError(
        errnos.EADDRINUSE,
        `port ${number} is taken by ${owner.name || 'a peer'} (process ${owner.pid})`,
      );
    }
    const recovery = new Recovery(this);
    if (owner) recovery.recoverPort(number, {});
    const word = this.portWord(number);
    const name = options.name ?? '';
    const limit = Math.max(1, Math.floor(this.geometry.heapPages * (options.heapShare ?? 0.5)));
    memory.u32[word + P.PID] = self.pid;
    memory.u32[word + P.START] = self.start;
    memory.u32[word + P.GENERATION]++;
    memory.u32[word + P.HEAP_PAGES] = 0;
    memory.u32[word + P.HEAP_LIMIT] = limit;
    memory.u32[word + P.REQUESTS] = 0;
    memory.u32[word + P.REQUEST_LIMIT] = this.geometry.queueCapacity;
    memory.f64.fill(0, (word + P.SUBMITTED) / 2, (word + P.RECEIVED) / 2 + 1);
    const nameByte = (word + P.NAME) * 4;
    memory.bytes.fill(0, nameByte, nameByte + PORT_NAME_BYTES);
    memory.bytes.write(name, nameByte, PORT_NAME_BYTES);
    const port = new Port(this, number, name, new BufferCache(this.heap, memory, number, word, limit));
    const bell = new Doorbell(this.name, number, () => this.wake(port));
    if (this.#refs === 0) bell.unref();
    const queues = this.#queuesOf(number);
    this.#local[number] = { port, bell, ...queues };
    // What is in the ring was sent to the predecessor or while nobody was there; what it had accepted is found by the scan.
    Atomics.store(memory.i32, word + P.SCAN, 1);
    Atomics.store(memory.i32, word + P.SLEEPING, 1);
    Atomics.store(memory.i32, word + P.STATE, PortState.BOUND);
    return port;
  }

  /** Port.close calls this. */
  unbind(port: Port): void {
    const local = this.#local[port.number];
    if (local?.port !== port) return;
    this.#local[port.number] = undefined;
    local.bell.close();
    const word = this.portWord(port.number);
    new Recovery(this).releasePort(port.number);
    Atomics.store(this.memory.i32, word + P.STATE, PortState.FREE);
    this.memory.u32[word + P.PID] = 0;
  }

  /** Closes all ports this process bound. */
  close(): void {
    for (const local of this.#local) local?.port.close();
    this.#ringer.close();
    if (this.#waitTimer) clearTimeout(this.#waitTimer);
  }

  /** Who owns a port; null when it is free. */
  portOwner(number: number): PortOwner | null {
    if (number < 0 || number >= this.geometry.ports) return null;
    const word = this.portWord(number);
    const { u32, bytes } = this.memory;
    if (u32[word + P.STATE] !== PortState.BOUND) return null;
    const pid = u32[word + P.PID];
    const nameByte = (word + P.NAME) * 4;
    const name = bytes.toString('utf8', nameByte, nameByte + PORT_NAME_BYTES).replace(/\0.*$/s, '');
    return { pid, name, alive: isAlive(pid, u32[word + P.START]) };
  }

  /** @throws SystemError ECONNREFUSED when no living peer owns the port */
  requireAlive(number: number): void {
    if (this.portOwner(number)?.alive) return;
    throw new SystemError(
      errnos.ECONNREFUSED,
      `no peer serves port ${number} of segment ${this.name}; is the node running? (archipelago status)`,
    );
  }

  /** The one object of this process for a request record. */
  request(index: number): Request {
    this.#requests[index] ??= new Request(this, index, this.geometry.requestTable);
    return this.#requests[index];
  }

  isDataInHeap(offset: number, length: number): boolean {
    return this.heap.contains(offset, length);
  }

  takeRequests(port: number, into: number[]): boolean {
    return this.#pool.take(port, this.portWord(port), into);
  }

  returnRequests(port: number, indices: number[]): void {
    this.#pool.giveBack(port, this.portWord(port), indices);
  }

  /** Frees a record whose asker is gone. */
  discard(request: Request): void {
    this.#pool.giveBack(-1, -1, [request.index]);
  }

  /** Port.submit. */
  submit(port: Port, request: Request, dst: number): void {
    const { memory } = this;
    if (dst < 0 || dst >= this.geometry.ports) {
      throw new SystemError(
        errnos.ENXIO,
        `segment ${this.name} has no port ${dst}, only 0 to ${this.geometry.ports - 1}`,
      );
    }
    const word = this.requestWord(request.index);
    const src = this.portWord(port.number);
    const { u32 } = memory;
    u32[word + R.STATUS] = 0;
    u32[word + R.DST] = dst;
    u32[word + R.SRC_GENERATION] = u32[src + P.GENERATION];
    Atomics.store(memory.i32, word + R.STATE, RequestState.SUBMITTED);
    memory.f64[(src + P.SUBMITTED) / 2]++;
    if (this.#local[dst]?.port.serving) {
      this.#deliver(request.index, REQUEST);
      return;
    }
    if (!this.#queuesOf(dst).requests.push(request.index, port.number)) {
      Atomics.store(memory.i32, word + R.STATE, RequestState.HELD);
      throw new SystemError(errnos.EAGAIN, `the request queue of port ${dst} is full (${this.geometry.queueCapacity})`);
    }
    this.#ring(dst);
  }

  /** Request.succeed and Request.fail. */
  respond(request: Request): void {
    const { memory } = this;
    const word = this.requestWord(request.index);
    const { dst, src } = request;
    request.serving = null;
    memory.f64[(this.portWord(dst) + P.REPLIED) / 2]++;
    const srcWord = this.portWord(src);
    if (
      memory.u32[word + R.ORPHAN] === 1 ||
      memory.u32[word + R.SRC_GENERATION] !== memory.u32[srcWord + P.GENERATION]
    ) {
      this.discard(request);
      new Recovery(this).sweepOrphans();
      return;
    }
    Atomics.store(memory.i32, word + R.STATE, RequestState.REPLIED);
    if (this.#local[src]) {
      this.#deliver(request.index, REPLY);
      return;
    }
    // A port may hold no more requests than its ring has slots; should stale entries fill it all the same, the asker scans.
    if (!this.#queuesOf(src).replies.push(request.index, dst)) Atomics.store(memory.i32, srcWord + P.SCAN, 1);
    this.#ring(src);
  }

  /** The asker gives up on a submitted request: it is freed by whoever ends it. */
  abandon(request: Request): void {
    request.onReply = null;
    request.context = null;
    this.memory.u32[this.requestWord(request.index) + R.ORPHAN] = 1;
  }

  #ring(dst: number): void {
    const sleeping = this.portWord(dst) + P.SLEEPING;
    if (Atomics.exchange(this.memory.i32, sleeping, 0) === 1) this.#ringer.ring(dst);
  }

  #deliver(index: number, kind: number): void {
    const mask = this.#pending.length - 1;
    this.#pending[this.#pendingTail++ & mask] = (index << 1) | kind;
    if (this.#scheduled || this.#draining) return;
    this.#scheduled = true;
    queueMicrotask(this.#drainBound);
  }

  /** Works off what was delivered within this process, until nothing is left. */
  drain(): void {
    this.#scheduled = false;
    if (this.#draining) return;
    this.#draining = true;
    const mask = this.#pending.length - 1;
    while (this.#pendingHead !== this.#pendingTail) {
      const entry = this.#pending[this.#pendingHead++ & mask];
      const request = this.request(entry >>> 1);
      if ((entry & 1) === REPLY) this.#receive(request);
      else this.#acceptLocal(request);
    }
    this.#draining = false;
  }

  #acceptLocal(request: Request): void {
    const local = this.#local[request.dst];
    if (local?.port.serving) {
      this.#accept(local.port, request);
      return;
    }
    // The port was closed after the submit: the next owner finds the request in the ring.
    if (!this.#queuesOf(request.dst).requests.push(request.index, request.src)) {
      request.fail(errnos.EAGAIN, `the request queue of port ${request.dst} is full`);
      return;
    }
    this.#ring(request.dst);
  }

  #accept(port: Port, request: Request): void {
    const word = this.requestWord(request.index);
    const { memory } = this;
    if (
      Atomics.compareExchange(memory.i32, word + R.STATE, RequestState.SUBMITTED, RequestState.ACCEPTED) !==
      RequestState.SUBMITTED
    ) {
      return;
    }
    memory.f64[(this.portWord(port.number) + P.ACCEPTED) / 2]++;
    try {
      port.accept(request);
    } catch (error) {
      this.onError(error, `port ${port.number} (${port.name})`);
      // A handler that threw before it answered; one that threw afterwards has answered already.
      if (memory.i32[word + R.STATE] === RequestState.ACCEPTED) request.fail(errnos.EIO, messageOf(error));
    }
  }

  #receive(request: Request): void {
    const word = this.requestWord(request.index);
    const { memory } = this;
    if (
      Atomics.compareExchange(memory.i32, word + R.STATE, RequestState.REPLIED, RequestState.HELD) !==
      RequestState.REPLIED
    ) {
      return;
    }
    memory.f64[(this.portWord(request.src) + P.RECEIVED) / 2]++;
    const onReply = request.onReply;
    if (!onReply) {
      this.discard(request);
      return;
    }
    try {
      onReply(request);
    } catch (error) {
      this.onError(error, `reply to port ${request.src}`);
    }
  }

  /** Looks at a port's rings: when its bell rang, and when it starts to serve. */
  wake(port: Port): void {
    const local = this.#local[port.number];
    if (local?.port !== port) return;
    const { i32 } = this.memory;
    const word = this.portWord(port.number);
    do {
      if (Atomics.exchange(i32, word + P.SCAN, 0) === 1) this.#scan(local);
      for (let index = local.replies.pop(); index >= 0; index = local.replies.pop()) this.#deliver(index, REPLY);
      if (port.serving) {
        for (let index = local.requests.pop(); index >= 0; index = local.requests.pop()) this.#deliver(index, REQUEST);
      }
      Atomics.store(i32, word + P.SLEEPING, 1);
    } while (local.replies.length > 0 || (port.serving && local.requests.length > 0));
    this.drain();
  }

  /** Takes from the request table what belongs to a port whatever its rings say. Entries met twice are dropped by their state. */
  #scan(local: Local): void {
    const { u32 } = this.memory;
    for (let index = 0; index < this.geometry.requests; index++) {
      const word = this.requestWord(index);
      const state = u32[word + R.STATE];
      if (state === RequestState.REPLIED && u32[word + R.SRC] === local.port.number) this.#deliver(index, REPLY);
      if (state !== RequestState.SUBMITTED || u32[word + R.DST] !== local.port.number) continue;
      if (local.port.serving) this.#deliver(index, REQUEST);
      else Atomics.store(this.memory.i32, this.portWord(local.port.number) + P.SCAN, 1);
    }
  }

  /** Calls back once memory or records may be free again. */
  whenAvailable(callback: () => void): void {
    this.#waiters.push(callback);
    this.#waitTimer ??= setTimeout(() => {
      this.#waitTimer = null;
      this.#wakeWaiters();
    }, AVAILABLE_POLL_MS);
  }

  notifyAvailable(): void {
    if (this.#waiters.length > 0) queueMicrotask(() => this.#wakeWaiters());
  }

  #wakeWaiters(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter();
  }

  /** While counted up, the process stays alive for replies to come. Servers hold one reference all their life. */
  ref(): void {
    if (this.#refs++ === 0) for (const local of this.#local) local?.bell.ref();
  }

  unref(): void {
    if (--this.#refs === 0) for (const local of this.#local) local?.bell.unref();
  }

  /**
   * Cleans up after a port's dead owner.
   * @throws SystemError EBUSY when the owner lives
   */
  recoverPort(number: number, options: RecoverPortOptions = {}): RecoveryResult {
    const owner = this.portOwner(number);
    if (owner?.alive) {
      throw new SystemError(
        errnos.EBUSY,
        `port ${number} belongs to ${owner.name} (process ${owner.pid}), which is alive`,
      );
    }
    lock(this.memory, H.PORTS_LOCK, -1);
    try {
      return new Recovery(this).recoverPort(number, options);
    } finally {
      unlock(this.memory, H.PORTS_LOCK);
    }
  }

  /** Releases segment locks of dead owners (of one port, or all), and repairs what they guard. Returns how many. */
  recoverLocks(number?: number): number {
    return new Recovery(this).recoverLocks(number);
  }

  /** Rebuilds the list of free request records. For recovery. */
  rebuildRequests(): void {
    this.#pool.rebuild(-1);
  }

  /** Tells the owner of a port to look at everything. For recovery. */
  forceScan(number: number): void {
    Atomics.store(this.memory.i32, this.portWord(number) + P.SCAN, 1);
    this.#ringer.ring(number);
  }

  portWord(number: number): number {
    return this.geometry.portTable / 4 + number * PORT_WORDS;
  }

  requestWord(index: number): number {
    return this.geometry.requestTable / 4 + index * REQUEST_WORDS;
  }

  queueLengths(number: number): { requests: number; replies: number } {
    const queues = this.#queuesOf(number);
    return { requests: queues.requests.length, replies: queues.replies.length };
  }

  clearQueues(number: number): void {
    const queues = this.#queuesOf(number);
    queues.requests.clear();
    queues.replies.clear();
  }

  #queuesOf(number: number): { requests: Queue; replies: Queue } {
    let queues = this.#queues.get(number);
    if (!queues) {
      const { queueCapacity, queues: start } = this.geometry;
      const ring = start / 4 + number * 2 * queueCapacity;
      const word = this.portWord(number);
      queues = {
        requests: new Queue(this.memory, word, 'request', ring, queueCapacity),
        replies: new Queue(this.memory, word, 'reply', ring + queueCapacity, queueCapacity),
      };
      this.#queues.set(number, queues);
    }
    return queues;
  }
}
