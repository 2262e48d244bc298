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

/**
 * Checks the segment's invariants. A busy segment may show passing differences of counters; on an idle one the list is empty.
 * @returns problems, each a sentence that names the remedy
 */
export function verify(segment: Segment): string[] {
  const { geometry } = segment;
  const { u32 } = segment.memory;
  const problems: string[] = [];
  for (const held of heldLocks(segment)) {
    if (!held.alive)
      problems.push(`the lock of ${held.name} is held by dead process ${held.pid}: recoverlocks ${held.port}`);
  }
  const bound = new Set<number>();
  for (let port = 0; port < geometry.ports; port++) {
    const word = segment.tables.portWord(port);
    const owner = segment.portOwner(port);
    if (owner) bound.add(port);
    if (owner && !owner.alive)
      problems.push(`port ${port} (${owner.name}) belongs to dead process ${owner.pid}: recoverport ${port}`);
    if (u32[word + P.STATE] > PortState.BOUND) problems.push(`port ${port} has an unknown state`);
    const { requests, replies } = segment.tables.queues(port);
    if (requests.isDamaged) problems.push(`the request queue of port ${port} is damaged: restart its role`);
    if (replies.isDamaged) problems.push(`the reply queue of port ${port} is damaged: restart its role`);
  }
  return [...problems, ...checkRequests(segment, bound), ...checkHeap(segment, bound)];
}

function checkRequests(segment: Segment, bound: ReadonlySet<number>): string[] {
  const { memory, geometry } = segment;
  const { u32 } = memory;
  const problems: string[] = [];
  const held = new Map<number, number>();
  let free = 0;
  for (let index = 0; index < geometry.requests; index++) {
    const word = segment.tables.requestWord(index);
    const state = u32[word + R.STATE];
    const src = u32[word + R.SRC];
    const dst = u32[word + R.DST];
    const where = `request ${index} (at ${(index << REQUEST_SHIFT).toString(16)})`;
    if (state === RequestState.FREE) free++;
    else if (state > RequestState.ORPHANED) problems.push(`${where} has unknown state ${state}: restart the node`);
    else if (state === RequestState.ORPHANED) {
      if (!bound.has(dst)) problems.push(`${where} waits for an answer of unbound port ${dst}: recoverport ${dst}`);
    } else {
      held.set(src, (held.get(src) ?? 0) + 1);
      if (!bound.has(src)) problems.push(`${where} belongs to unbound port ${src}: recoverport ${src}`);
    }
  }
  for (const port of bound) {
    const counted = u32[segment.tables.portWord(port) + P.REQUESTS];
    const has = held.get(port) ?? 0;
    if (counted !== has) problems.push(`port ${port} counts ${counted} request records, it has ${has}`);
  }
  const listed = segment.tables.pool.countFree();
  if (listed < 0) problems.push('the list of free request records is broken: restart the node');
  else if (free !== u32[H.FREE_REQUEST_COUNT] || free !== listed) {
    problems.push(
      `the request table counts ${u32[H.FREE_REQUEST_COUNT]} free records, its list has ${listed}, there are ${free}`,
    );
  }
  return problems;
}

function checkHeap(segment: Segment, bound: ReadonlySet<number>): string[] {
  const { heap, geometry } = segment;
  const { u32 } = segment.memory;
  const problems: string[] = [];
  const pages = new Map<number, number>();
  let taken = 0;
  for (const block of heap.blocks()) {
    taken += 1 << block.order;
    pages.set(block.owner, (pages.get(block.owner) ?? 0) + (1 << block.order));
    const bytes = heap.bytesOf(block.order);
    if (block.owner === ORPHAN_OWNER) {
      if (!heldByRequest(segment, block)) problems.push(`${bytes} bytes of the heap wait for a request that is over`);
    } else if (!bound.has(block.owner)) {
      problems.push(`${bytes} bytes of the heap belong to unbound port ${block.owner}: recoverport ${block.owner}`);
    }
  }
  for (const port of bound) {
    const counted = u32[segment.tables.portWord(port) + P.HEAP_PAGES];
    const has = pages.get(port) ?? 0;
    if (counted !== has) problems.push(`port ${port} counts ${counted} heap pages, it has ${has}`);
  }
  const free = heap.countFree();
  if (free < 0) problems.push('a free list of the heap is broken: restart the node');
  else if (free !== u32[H.FREE_PAGES] || free + taken !== geometry.heapPages) {
    problems.push(
      `the heap counts ${u32[H.FREE_PAGES]} free pages of ${geometry.heapPages}, its lists have ${free}, ${taken} are taken`,
    );
  }
  return problems;
}

/** Does a request that somebody works on point into this block? */
function heldByRequest(segment: Segment, block: Block): boolean {
  return segment.tables.pagesInUse().has(block.page);
}
