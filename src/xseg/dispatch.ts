/**
 * Delivery: requests to servers and answers to askers. Within the process it is direct (a list worked off in the same turn);
 * between processes it goes through the port's ring and, when its owner sleeps, its doorbell.
 *
 * The hot path makes no objects: records, their Request objects and the list of deliveries are used again.
 */
import { errnos, messageOf, SystemError } from '../sys/errno.js';
import type { DirectServer } from './direct.js';
import { type Doorbell, Ringer } from './doorbell.js';
import { P, PORT_WORDS, R, REQUEST_WORDS, RequestState } from './layout.js';
import type { Port } from './port.js';
import type { Queue } from './queue.js';
import { Recovery } from './recovery.js';
import { Request, type RequestHost } from './request.js';
import { Settling } from './settling.js';
import type { Tables } from './tables.js';

const REQUEST = 0;
const REPLY = 1;
/** Deliveries in one go; then the event loop gets a turn, so that peers of one process that talk without end starve nobody. */
const DELIVERIES_PER_TURN = 1024;
/** How often a port looks whether its predecessor's requests are over. */
const SETTLE_POLL_MS = 5;

/** A port of this process. */
interface Local {
  readonly port: Port;
  readonly number: number;
  readonly word: number;
  /** The port's generation while it is ours. */
  readonly generation: number;
  readonly bell: Doorbell;
  readonly requests: Queue;
  readonly replies: Queue;
  settling: Settling | null;
  /** Requests that wait until it settled. */
  held: number[];
}

export class Dispatcher implements RequestHost {
  readonly memory: Tables['memory'];
  // Copies of what the hot path needs of the tables.
  readonly #u32: Uint32Array;
  readonly #i32: Int32Array;
  readonly #f64: Float64Array;
  readonly #portCount: number;
  readonly #portTable: number;
  readonly #requestTable: number;
  /** Takes what handlers threw, and mistakes of this process. */
  readonly #report: (error: unknown, where: string) => void;
  readonly #tables: Tables;
  readonly #recovery: Recovery;
  readonly #ringer: Ringer;
  readonly #requests: Request[];
  readonly #byNumber: (Local | undefined)[];
  readonly #locals: Local[] = [];
  /** Deliveries within the process: index << 1 | kind, a ring. */
  #pending: Int32Array;
  #mask: number;
  #head = 0;
  #tail = 0;
  #drainScheduled = false;
  #draining = false;
  #delivered = 0;
  /** The process looks at its rings by itself; nobody needs to ring. */
  #awake = false;
  #pollScheduled = false;
  #serial = 0;
  readonly #drainBound = (): void => {
    this.#drainScheduled = false;
    this.#drain();
  };
  readonly #yieldBound = (): void => {
    this.#drainScheduled = false;
    this.#delivered = 0;
    this.#drain();
  };
  readonly #pollBound = (): void => {
    this.#pollScheduled = false;
    this.#poll();
  };

  constructor(tables: Tables, segmentName: string, report: (error: unknown, where: string) => void) {
    this.#tables = tables;
    this.memory = tables.memory;
    this.#u32 = tables.memory.u32;
    this.#i32 = tables.memory.i32;
    this.#f64 = tables.memory.f64;
    this.#portCount = tables.geometry.ports;
    this.#portTable = tables.portWord(0);
    this.#requestTable = tables.requestWord(0);
    this.#report = report;
    this.#recovery = new Recovery(tables, this);
    this.#ringer = new Ringer(segmentName);
    this.#requests = new Array(tables.geometry.requests);
    this.#byNumber = new Array(tables.geometry.ports);
    this.#pending = new Int32Array(powerOfTwoAbove(tables.geometry.requests * 2));
    this.#mask = this.#pending.length - 1;
  }

  get recovery(): Recovery {
    return this.#recovery;
  }

  /** Ports of this process. */
  get ports(): Port[] {
    return this.#locals.map((local) => local.port);
  }

  get isServing(): boolean {
    return this.#locals.some((local) => local.port.serving);
  }

  isLocal(port: Port): boolean {
    return this.#byNumber[port.number]?.port === port;
  }

  /** Is the port still ours in the segment? Else somebody took us for dead, and what it holds is another's by now. */
  owns(port: Port): boolean {
    const local = this.#byNumber[port.number];
    return local?.port === port && this.#u32[local.word + P.GENERATION] === local.generation;
  }

  /** Takes up a port that was just bound. Delivery to it begins. */
  attach(port: Port, bell: Doorbell): void {
    const number = port.number;
    const word = this.#portTable + number * PORT_WORDS;
    const settling = Settling.of(this.#tables, number);
    const generation = this.#u32[word + P.GENERATION];
    const local: Local = {
      port,
      number,
      word,
      generation,
      bell,
      ...this.#tables.queues(number),
      settling,
      held: [],
    };
    this.#byNumber[number] = local;
    this.#locals.push(local);
    this.#u32[word + P.SETTLING] = settling ? 1 : 0;
    if (settling) this.#settleLater(local);
    Atomics.store(this.#i32, word + P.SLEEPING, this.#awake ? 0 : 1);
  }

  /** Ends delivery to a port. What it had accepted it may not answer any more. */
  detach(port: Port): void {
    const local = this.#byNumber[port.number];
    if (local?.port !== port) return;
    this.#byNumber[port.number] = undefined;
    this.#locals.splice(this.#locals.indexOf(local), 1);
    for (const request of this.#requests) if (request?.owed && request.dst === port.number) request.owed = false;
    local.settling?.finish();
    local.bell.close();
  }

  ref(): void {
    for (const local of this.#locals) local.bell.ref();
  }

  unref(): void {
    for (const local of this.#locals) local.bell.unref();
  }

  close(): void {
    this.#ringer.close();
  }

  /** The one object of this process for a request record. */
  request(index: number): Request {
    this.#requests[index] ??= new Request(this, index, this.#tables.geometry.requestTable);
    return this.#requests[index];
  }

  isDataInHeap(offset: number, length: number): boolean {
    return this.#tables.heap.contains(offset, length);
  }

  complain(message: string): void {
    this.#report(new SystemError(errnos.EALREADY, message), 'answer');
  }

  /** Port.submit. */
  submit(port: Port, request: Request, dst: number): void {
    const u32 = this.#u32;
    const i32 = this.#i32;
    const f64 = this.#f64;
    const { word } = request;
    if (dst >>> 0 !== dst || dst >= this.#portCount) {
      throw new SystemError(errnos.ENXIO, `there is no port ${dst}, only 0 to ${this.#portCount - 1}`);
    }
    const src = this.#byNumber[port.number];
    if (src?.port !== port) throw new SystemError(errnos.ECANCELED, `port ${port.number} is closed`);
    if (u32[word + R.STATE] !== RequestState.HELD || u32[word + R.SRC] !== port.number || request.spare) {
      throw new SystemError(errnos.EINVAL, `request ${request.index} is not port ${port.number}'s to submit`);
    }
    u32[word + R.STATUS] = 0;
    u32[word + R.DST] = dst;
    this.#serial = (this.#serial + 1) | 0;
    u32[word + R.SERIAL] = this.#serial;
    Atomics.store(i32, word + R.STATE, RequestState.SUBMITTED);
    f64[(src.word + P.SUBMITTED) >> 1]++;
    const local = this.#byNumber[dst];
    if (local?.port.serving) {
      this.#deliver((request.index << 1) | REQUEST);
      return;
    }
    if (!this.#tables.queues(dst).requests.push(request.index, port.number)) {
      // Its owner may have met it in the table already.
      const taken = Atomics.compareExchange(i32, word + R.STATE, RequestState.SUBMITTED, RequestState.HELD);
      if (taken !== RequestState.SUBMITTED) return;
      f64[(src.word + P.SUBMITTED) >> 1]--;
      const { queueCapacity } = this.#tables.geometry;
      throw new SystemError(errnos.EAGAIN, `the request queue of port ${dst} is full (${queueCapacity})`);
    }
    this.#ring(dst);
  }

  /**
   * Takes a submitted request back that its server has not accepted.
   * @returns false when it has: the answer will come
   */
  withdraw(request: Request): boolean {
    const i32 = this.#i32;
    const was = Atomics.compareExchange(i32, request.word + R.STATE, RequestState.SUBMITTED, RequestState.HELD);
    return was === RequestState.SUBMITTED;
  }

  /** Request.succeed and Request.fail. */
  respond(request: Request): void {
    const u32 = this.#u32;
    const i32 = this.#i32;
    const f64 = this.#f64;
    const { word, index } = request;
    request.owed = false;
    request.serving = null;
    const src = u32[word + R.SRC];
    const dst = u32[word + R.DST];
    const was = Atomics.compareExchange(i32, word + R.STATE, RequestState.ACCEPTED, RequestState.REPLIED);
    if (was !== RequestState.ACCEPTED) {
      if (was === RequestState.ORPHANED) this.#recovery.endOrphan(index);
      return;
    }
    f64[(this.#portTable + dst * PORT_WORDS + P.REPLIED) >> 1]++;
    if (this.#byNumber[src]) {
      this.#deliver((index << 1) | REPLY);
      return;
    }
    // A port may hold no more requests than its ring has slots; should stale entries fill it all the same, the asker scans.
    if (!this.#tables.queues(src).replies.push(index, dst)) {
      Atomics.store(i32, this.#portTable + src * PORT_WORDS + P.SCAN, 1);
    }
    this.#ring(src);
  }

  /** Port.serve: what waited for a handler is delivered before what comes now. */
  startServing(port: Port): void {
    const local = this.#byNumber[port.number];
    if (local?.port !== port) return;
    Atomics.store(this.#i32, local.word + P.SCAN, 1);
    this.#collect(local);
    this.#scheduleDrain();
    this.#schedulePoll();
  }

  /** Port.directTo. Not past what a predecessor's requests still do. */
  directTo(number: number): DirectServer | null {
    const local = this.#byNumber[number];
    return local === undefined || local.settling !== null ? null : local.port.direct;
  }

  /** Port.settled. */
  settled(port: Port): Promise<void> {
    return this.#byNumber[port.number]?.settling?.wait() ?? Promise.resolve();
  }

  /** Port.isSettling. */
  isSettling(port: Port): boolean {
    return Boolean(this.#byNumber[port.number]?.settling);
  }

  /** A bell rang, or it is time to look whether somebody forgot to ring. */
  wake(): void {
    if (!this.#pollScheduled) this.#poll();
  }

  /** Is there something in a ring that nobody looks at? A producer that died between its push and its ring leaves that. */
  get isOverdue(): boolean {
    return !this.#awake && this.#locals.some((local) => this.#hasWork(local));
  }

  /** RecoveryHost: makes a port's owner look through the request table. */
  notify(number: number): void {
    Atomics.store(this.#i32, this.#portTable + number * PORT_WORDS + P.SCAN, 1);
    if (this.#byNumber[number]) this.#schedulePoll();
    else this.#ringer.ring(number);
  }

  /** RecoveryHost. */
  failFor(index: number, errno: number, message: string): void {
    const request = this.request(index);
    request.owed = true;
    request.fail(errno, message);
  }

  /** Rings if the owner sleeps. A bell that cannot be rung is left to the next who has something for the port. */
  #ring(dst: number): void {
    const i32 = this.#i32;
    const sleeping = this.#portTable + dst * PORT_WORDS + P.SLEEPING;
    if (Atomics.load(i32, sleeping) !== 1 || Atomics.exchange(i32, sleeping, 0) !== 1) return;
    if (!this.#ringer.ring(dst)) Atomics.store(i32, sleeping, 1);
  }

  #deliver(entry: number): void {
    if (this.#tail - this.#head > this.#mask) this.#grow();
    this.#pending[this.#tail++ & this.#mask] = entry;
    if (!this.#draining && !this.#drainScheduled) this.#scheduleDrain();
  }

  #grow(): void {
    const larger = new Int32Array(this.#pending.length * 2);
    const count = this.#tail - this.#head;
    for (let i = 0; i < count; i++) larger[i] = this.#pending[(this.#head + i) & this.#mask];
    this.#pending = larger;
    this.#mask = larger.length - 1;
    this.#head = 0;
    this.#tail = count;
  }

  #scheduleDrain(): void {
    if (this.#drainScheduled) return;
    this.#drainScheduled = true;
    if (this.#delivered >= DELIVERIES_PER_TURN) setImmediate(this.#yieldBound);
    else queueMicrotask(this.#drainBound);
  }

  /**
   * Works off now what was delivered within this process, instead of at the end of the running call-back: for callers that have just
   * submitted a batch and want the answers to go out together.
   */
  settle(): void {
    if (this.#head !== this.#tail && this.#delivered < DELIVERIES_PER_TURN) this.#drain();
  }

  /** Works off what was delivered within this process, until nothing is left or the event loop's turn has come. */
  #drain(): void {
    if (this.#draining) return;
    this.#draining = true;
    try {
      while (this.#head !== this.#tail && this.#delivered < DELIVERIES_PER_TURN) {
        const entry = this.#pending[this.#head++ & this.#mask];
        this.#delivered++;
        const request = this.#requests[entry >>> 1] ?? this.request(entry >>> 1);
        if ((entry & 1) === REPLY) this.#receive(request);
        else this.#acceptPending(request);
      }
    } finally {
      this.#draining = false;
      if (this.#head !== this.#tail) this.#scheduleDrain();
      else {
        this.#head = 0;
        this.#tail = 0;
        // Forgotten yields cost one turn each at worst; without deliveries there is nothing to be fair about.
        if (this.#delivered >= DELIVERIES_PER_TURN) this.#scheduleDrain();
      }
    }
  }

  #acceptPending(request: Request): void {
    const u32 = this.#u32;
    const { word } = request;
    const dst = u32[word + R.DST];
    const local = this.#byNumber[dst];
    if (!local?.port.serving) {
      // The port was closed after the submit: its next owner finds the request in the table.
      if (u32[word + R.STATE] === RequestState.SUBMITTED && this.#tables.hasPort(dst)) this.notify(dst);
      return;
    }
    if (local.settling && !local.settling.lets(u32[word + R.SRC])) local.held.push(request.index);
    else this.#accept(local, request);
  }

  #accept(local: Local, request: Request): void {
    const { word } = request;
    const u32 = this.#u32;
    const i32 = this.#i32;
    const f64 = this.#f64;
    const was = Atomics.compareExchange(i32, word + R.STATE, RequestState.SUBMITTED, RequestState.ACCEPTED);
    if (was !== RequestState.SUBMITTED) return;
    if (u32[word + R.DST] !== local.number) {
      // An entry of the record's last life; it is another port's by now.
      Atomics.compareExchange(i32, word + R.STATE, RequestState.ACCEPTED, RequestState.SUBMITTED);
      this.notify(u32[word + R.DST]);
      return;
    }
    f64[(local.word + P.ACCEPTED) >> 1]++;
    request.owed = true;
    if (!request.isSound) {
      request.fail(errnos.EFAULT, `the request's data is not in the segment's heap, or its target is too long`);
      return;
    }
    try {
      local.port.accept(request);
    } catch (error) {
      this.#report(error, `port ${local.number} (${local.port.name})`);
      // A handler that threw before it answered; one that threw afterwards has answered already.
      if (request.owed) request.fail(errnos.EIO, messageOf(error));
    }
  }

  #receive(request: Request): void {
    const { word } = request;
    const u32 = this.#u32;
    const i32 = this.#i32;
    const f64 = this.#f64;
    const src = u32[word + R.SRC];
    const local = this.#byNumber[src];
    if (!local) return;
    const was = Atomics.compareExchange(i32, word + R.STATE, RequestState.REPLIED, RequestState.HELD);
    if (was !== RequestState.REPLIED) return;
    if (u32[word + R.SRC] !== src) {
      Atomics.compareExchange(i32, word + R.STATE, RequestState.HELD, RequestState.REPLIED);
      this.notify(u32[word + R.SRC]);
      return;
    }
    f64[(local.word + P.RECEIVED) >> 1]++;
    const { onReply } = request;
    if (!onReply) {
      local.port.putRequest(request);
      return;
    }
    try {
      onReply(request);
    } catch (error) {
      this.#report(error, `reply to port ${src}`);
    }
  }

  /**
   * Looks at all rings of this process, again and again while they have something: only then the ports are said to sleep. So a
   * busy peer is not rung at all.
   */
  #poll(): void {
    this.#awake = true;
    let again = true;
    try {
      this.#delivered = 0;
      // What is collected is worked off below, not in a microtask.
      const scheduled = this.#drainScheduled;
      this.#drainScheduled = true;
      let found = false;
      for (let i = 0; i < this.#locals.length; i++) found = this.#collect(this.#locals[i]) || found;
      this.#drainScheduled = scheduled;
      this.#drain();
      again = found || this.#head !== this.#tail;
    } finally {
      if (again) this.#schedulePoll();
      else this.#sleep();
    }
  }

  #schedulePoll(): void {
    if (this.#pollScheduled) return;
    this.#pollScheduled = true;
    setImmediate(this.#pollBound);
  }

  #sleep(): void {
    const i32 = this.#i32;
    this.#awake = false;
    for (const local of this.#locals) Atomics.store(i32, local.word + P.SLEEPING, 1);
    // What was pushed before that store was not rung for.
    if (this.#locals.some((local) => this.#hasWork(local))) this.#schedulePoll();
  }

  #hasWork(local: Local): boolean {
    if (local.replies.length !== 0 || Atomics.load(this.#i32, local.word + P.SCAN) === 1) return true;
    return local.port.serving && local.requests.length !== 0;
  }

  /** Moves what a port's rings hold to the deliveries of this process. */
  #collect(local: Local): boolean {
    const u32 = this.#u32;
    const i32 = this.#i32;
    if (u32[local.word + P.GENERATION] !== local.generation) {
      this.#lose(local);
      return true;
    }
    const before = this.#tail - this.#head;
    if (i32[local.word + P.SLEEPING] !== 0) Atomics.store(i32, local.word + P.SLEEPING, 0);
    if (i32[local.word + P.SCAN] !== 0 && Atomics.exchange(i32, local.word + P.SCAN, 0) === 1) this.#scan(local);
    for (let index = local.replies.pop(); index !== -1; index = local.replies.pop()) {
      if (this.#is(index, RequestState.REPLIED, R.SRC, local)) this.#deliver((index << 1) | REPLY);
    }
    if (local.port.serving) {
      for (let index = local.requests.pop(); index !== -1; index = local.requests.pop()) {
        if (this.#is(index, RequestState.SUBMITTED, R.DST, local)) this.#deliver((index << 1) | REQUEST);
      }
    }
    // A damaged ring asked for a look into the table.
    if (i32[local.word + P.SCAN] !== 0 && u32[local.word + P.PID] !== 0) this.#schedulePoll();
    return this.#tail - this.#head !== before;
  }

  /**
   * Somebody took this process for dead, and the port is another's or nobody's: what its rings hold is not ours, not even to look at. Whoever
   * still has our doorbell open may have rung it for the successor, which would sleep on.
   */
  #lose(local: Local): void {
    const { port, number } = local;
    port.close();
    this.#report(
      new SystemError(errnos.EIO, `port ${number} was recovered from this process as if it were dead; restart it`),
      `port ${number} (${port.name})`,
    );
    this.#ringer.ring(number);
  }

  /** Is this ring entry what it says? Entries outlive their requests when peers die, and a foreign peer may write anything. */
  #is(index: number, state: number, field: number, local: Local): boolean {
    const u32 = this.#u32;
    if (index >>> 0 >= this.#tables.geometry.requests) return false;
    const word = this.#requestTable + index * REQUEST_WORDS;
    return u32[word + R.STATE] === state && u32[word + field] === local.number;
  }

  /** Takes from the request table what belongs to a port whatever its rings say, in the order in which each asker sent it. */
  #scan(local: Local): void {
    const u32 = this.#u32;
    const requests: number[] = [];
    for (let index = 0; index < this.#tables.geometry.requests; index++) {
      if (this.#is(index, RequestState.REPLIED, R.SRC, local)) this.#deliver((index << 1) | REPLY);
      else if (local.port.serving && this.#is(index, RequestState.SUBMITTED, R.DST, local)) requests.push(index);
    }
    const field = (index: number, name: number): number => u32[this.#requestTable + index * REQUEST_WORDS + name];
    requests.sort((a, b) => field(a, R.SRC) - field(b, R.SRC) || (field(a, R.SERIAL) - field(b, R.SERIAL)) | 0);
    for (const index of requests) this.#deliver((index << 1) | REQUEST);
  }

  #settleLater(local: Local): void {
    setTimeout(() => {
      const { settling } = local;
      if (!settling || !this.owns(local.port)) return;
      if (settling.left > 0 && !settling.isOverdue) {
        this.#settleLater(local);
        return;
      }
      if (settling.left > 0) {
        this.#report(
          new SystemError(
            errnos.ETIMEDOUT,
            `${settling.left} requests of the last owner are still not answered; serving on`,
          ),
          `port ${local.number} (${local.port.name})`,
        );
      }
      local.settling = null;
      this.#u32[local.word + P.SETTLING] = 0;
      settling.finish();
      for (const index of local.held.splice(0)) this.#deliver((index << 1) | REQUEST);
    }, SETTLE_POLL_MS);
  }
}

function powerOfTwoAbove(n: number): number {
  return 2 ** Math.ceil(Math.log2(n));
}
