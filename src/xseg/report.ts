/** Looking at a segment: what `xseg reportall` and `verify` say. Reads only. */
import type { Block } from './heap.js';
import { H, ORPHAN_OWNER, P, PortState, R, REQUEST_SHIFT, RequestState } from './layout.js';
import { lockOwner } from './lock.js';
import type { Segment } from './segment.js';

export interface PortReport {
  readonly port: number;
  readonly name: string;
  readonly pid: number;
  readonly alive: boolean;
  readonly requestQueue: number;
  readonly replyQueue: number;
  /** Request records and heap pages it holds. */
  readonly requests: number;
  readonly heapPages: number;
  readonly heapLimit: number;
  readonly submitted: number;
  readonly accepted: number;
  readonly replied: number;
  readonly received: number;
}

export interface SegmentReport {
  readonly name: string;
  readonly sizeMiB: number;
  readonly ports: number;
  readonly dynamicFrom: number;
  readonly requests: number;
  readonly freeRequests: number;
  readonly inFlight: number;
  readonly heapPages: number;
  readonly freePages: number;
  readonly pageSize: number;
  readonly locks: { name: string; pid: number; port: number; alive: boolean }[];
  readonly bound: PortReport[];
}

export function report(segment: Segment): SegmentReport {
  const { memory, geometry } = segment;
  const { u32, f64 } = memory;
  const bound: PortReport[] = [];
  for (let port = 0; port < geometry.ports; port++) {
    const owner = segment.portOwner(port);
    if (!owner) continue;
    const word = segment.tables.portWord(port);
    const queues = segment.tables.queues(port);
    bound.push({
      port,
      name: owner.name,
      pid: owner.pid,
      alive: owner.alive,
      requestQueue: queues.requests.length,
      replyQueue: queues.replies.length,
      requests: u32[word + P.REQUESTS],
      heapPages: u32[word + P.HEAP_PAGES],
      heapLimit: u32[word + P.HEAP_LIMIT],
      submitted: f64[(word + P.SUBMITTED) / 2],
      accepted: f64[(word + P.ACCEPTED) / 2],
      replied: f64[(word + P.REPLIED) / 2],
      received: f64[(word + P.RECEIVED) / 2],
    });
  }
  let inFlight = 0;
  for (let index = 0; index < geometry.requests; index++) {
    const state = u32[segment.tables.requestWord(index) + R.STATE];
    if (state === RequestState.SUBMITTED || state === RequestState.ACCEPTED || state === RequestState.ORPHANED)
      inFlight++;
  }
  return {
    name: segment.name,
    sizeMiB: geometry.size / (1 << 20),
    ports: geometry.ports,
    dynamicFrom: geometry.firstDynamic,
    requests: geometry.requests,
    freeRequests: u32[H.FREE_REQUEST_COUNT],
    inFlight,
    heapPages: geometry.heapPages,
    freePages: u32[H.FREE_PAGES],
    pageSize: 1 << geometry.pageShift,
    locks: heldLocks(segment),
    bound,
  };
}

function heldLocks(segment: Segment): SegmentReport['locks'] {
  const words: [string, number][] = [
    ['ports', H.PORTS_LOCK],
    ['requests', H.REQUESTS_LOCK],
    ['heap', H.HEAP_LOCK],
  ];
  for (let port = 0; port < segment.geometry.ports; port++) {
    const word = segment.tables.portWord(port);
    words.push(
      [`request queue of port ${port}`, word + P.REQUEST_LOCK],
      [`reply queue of port ${port}`, word + P.REPLY_LOCK],
    );
  }
  return words.flatMap(([name, word]) => {
    const owner = lockOwner(segment.memory, word);
    return owner ? [{ name, pid: owner.pid, port: owner.port, alive: owner.alive }] : [];
  });
}

/** Something that is wrong with a segment, and the way out. */
export interface Problem {
  readonly what: string;
  /** A command of xseg or archipelago, or what else to do. */
  readonly remedy: string;
  /** Nothing less than a restart of the whole node helps. */
  readonly needsRestart: boolean;
}

const RESTART = 'nothing less than archipelago restart helps';

function problem(what: string, remedy: string): Problem {
  return { what, remedy, needsRestart: remedy === RESTART };
}

/** Checks the segment's invariants. A busy segment may show passing differences of counters; on an idle one the list is empty. */
export function findProblems(segment: Segment): Problem[] {
  const { geometry } = segment;
  const { u32 } = segment.memory;
  const problems: Problem[] = [];
  for (const held of heldLocks(segment)) {
    if (held.alive) continue;
    const remedy = held.port < 0 ? 'recoverlocks' : `recoverlocks ${held.port}`;
    problems.push(problem(`the lock of ${held.name} is held by dead process ${held.pid}`, remedy));
  }
  const bound = new Set<number>();
  for (let port = 0; port < geometry.ports; port++) {
    const word = segment.tables.portWord(port);
    const owner = segment.portOwner(port);
    if (owner) bound.add(port);
    if (owner && !owner.alive) {
      const whose = `port ${port} (${owner.name}) belongs to dead process ${owner.pid}`;
      problems.push(problem(whose, `recoverport ${port}`));
    }
    if (u32[word + P.STATE] > PortState.BOUND) problems.push(problem(`port ${port} has an unknown state`, RESTART));
    const { requests, replies } = segment.tables.queues(port);
    for (const [queue, name] of [
      [requests, 'request'],
      [replies, 'reply'],
    ] as const) {
      if (queue.isDamaged) problems.push(problem(`the ${name} queue of port ${port} is damaged`, 'verify-fix'));
    }
  }
  return [...problems, ...checkRequests(segment, bound), ...checkHeap(segment, bound)];
}

/** findProblems in sentences: what it is, a colon, and the remedy. */
export const verify = (segment: Segment): string[] => findProblems(segment).map(describeProblem);

export const describeProblem = ({ what, remedy }: Problem): string => `${what}: ${remedy}`;

function checkRequests(segment: Segment, bound: ReadonlySet<number>): Problem[] {
  const { memory, geometry } = segment;
  const { u32 } = memory;
  const problems: Problem[] = [];
  const held = new Map<number, number>();
  let free = 0;
  for (let index = 0; index < geometry.requests; index++) {
    const word = segment.tables.requestWord(index);
    const state = u32[word + R.STATE];
    const src = u32[word + R.SRC];
    const dst = u32[word + R.DST];
    const where = `request ${index} (at ${(index << REQUEST_SHIFT).toString(16)})`;
    if (state === RequestState.FREE) free++;
    else if (state > RequestState.ORPHANED) problems.push(problem(`${where} has unknown state ${state}`, RESTART));
    else if (state === RequestState.ORPHANED) {
      const waits = `${where} waits for an answer of unbound port ${dst}`;
      if (!bound.has(dst)) problems.push(problem(waits, `recoverport ${dst}`));
    } else {
      held.set(src, (held.get(src) ?? 0) + 1);
      if (!bound.has(src)) problems.push(problem(`${where} belongs to unbound port ${src}`, `recoverport ${src}`));
    }
  }
  for (const port of bound) {
    const counted = u32[segment.tables.portWord(port) + P.REQUESTS];
    const has = held.get(port) ?? 0;
    if (counted !== has) {
      problems.push(problem(`port ${port} counts ${counted} request records, it has ${has}`, 'restart its role'));
    }
  }
  const listed = segment.tables.pool.countFree();
  if (listed < 0) problems.push(problem('the list of free request records is broken', 'verify-fix'));
  else if (free !== u32[H.FREE_REQUEST_COUNT] || free !== listed) {
    const counts = `${u32[H.FREE_REQUEST_COUNT]} free records, its list has ${listed}, there are ${free}`;
    problems.push(problem(`the request table counts ${counts}`, 'verify-fix'));
  }
  return problems;
}

function checkHeap(segment: Segment, bound: ReadonlySet<number>): Problem[] {
  const { heap, geometry } = segment;
  const { u32 } = segment.memory;
  const problems: Problem[] = [];
  const pages = new Map<number, number>();
  let taken = 0;
  for (const block of heap.blocks()) {
    taken += 1 << block.order;
    pages.set(block.owner, (pages.get(block.owner) ?? 0) + (1 << block.order));
    const bytes = heap.bytesOf(block.order);
    if (block.owner === ORPHAN_OWNER) {
      const waits = `${bytes} bytes of the heap wait for a request that is over`;
      if (!heldByRequest(segment, block)) problems.push(problem(waits, 'verify-fix'));
    } else if (!bound.has(block.owner)) {
      const whose = `${bytes} bytes of the heap belong to unbound port ${block.owner}`;
      problems.push(
        block.owner < geometry.ports ? problem(whose, `recoverport ${block.owner}`) : problem(whose, RESTART),
      );
    }
  }
  for (const port of bound) {
    const counted = u32[segment.tables.portWord(port) + P.HEAP_PAGES];
    const has = pages.get(port) ?? 0;
    if (counted !== has) {
      problems.push(problem(`port ${port} counts ${counted} heap pages, it has ${has}`, 'restart its role'));
    }
  }
  const free = heap.countFree();
  if (free < 0) problems.push(problem('a free list of the heap is broken', 'verify-fix'));
  else if (free !== u32[H.FREE_PAGES] || free + taken !== geometry.heapPages) {
    const lists = `its lists have ${free}, ${taken} are taken`;
    const counts = `the heap counts ${u32[H.FREE_PAGES]} free pages of ${geometry.heapPages}, ${lists}`;
    problems.push(problem(counts, 'verify-fix'));
  }
  return problems;
}

/** Does a request that somebody works on point into this block? */
function heldByRequest(segment: Segment, block: Block): boolean {
  return segment.tables.pagesInUse().has(block.page);
}
