/** Looking at a segment: what `xseg reportall` and `verify` say. Reads only. */
import { H, ORPHAN_OWNER, P, PortState, R, REQUEST_SHIFT, RequestState } from './layout.js';
import { lockOwner } from './lock.js';
import { isAlive } from './owner.js';
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
    const word = segment.portWord(port);
    const lengths = segment.queueLengths(port);
    bound.push({
      port,
      name: owner.name,
      pid: owner.pid,
      alive: owner.alive,
      requestQueue: lengths.requests,
      replyQueue: lengths.replies,
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
    const state = u32[segment.requestWord(index) + R.STATE];
    if (state === RequestState.SUBMITTED || state === RequestState.ACCEPTED) inFlight++;
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
    const word = segment.portWord(port);
    words.push(
      [`request queue of port ${port}`, word + P.REQUEST_LOCK],
      [`reply queue of port ${port}`, word + P.REPLY_LOCK],
    );
  }
  return words.flatMap(([name, word]) => {
    const owner = lockOwner(segment.memory, word);
    return owner ? [{ name, pid: owner.pid, port: owner.port, alive: isAlive(owner.pid, owner.start) }] : [];
  });
}

/**
 * Checks the segment's invariants. A busy segment may show passing differences of counters; on an idle one the list is empty.
 * @returns problems, each a sentence that names the remedy
 */
export function verify(segment: Segment): string[] {
  const { memory, geometry } = segment;
  const { u32 } = memory;
  const problems: string[] = [];
  for (const held of heldLocks(segment)) {
    if (!held.alive)
      problems.push(`the lock of ${held.name} is held by dead process ${held.pid}: recoverlocks ${held.port}`);
  }
  for (let port = 0; port < geometry.ports; port++) {
    const owner = segment.portOwner(port);
    if (owner && !owner.alive)
      problems.push(`port ${port} (${owner.name}) belongs to dead process ${owner.pid}: recoverport ${port}`);
    if (u32[segment.portWord(port) + P.STATE] > PortState.BOUND) problems.push(`port ${port} has an unknown state`);
  }
  const free = segment.heap.countFree();
  if (free < 0) problems.push('a free list of the heap is broken: recoverlocks, or restart the node');
  else if (free !== u32[H.FREE_PAGES])
    problems.push(`the heap counts ${u32[H.FREE_PAGES]} free pages, its lists have ${free}`);
  let freeRecords = 0;
  for (let index = 0; index < geometry.requests; index++) {
    const word = segment.requestWord(index);
    const state = u32[word + R.STATE];
    if (state === RequestState.FREE) freeRecords++;
    else if (state > RequestState.REPLIED) problems.push(`request ${index} has unknown state ${state}`);
    else if (!segment.portOwner(u32[word + R.SRC]) && u32[word + R.ORPHAN] === 0) {
      problems.push(
        `request ${index} (at ${(index << REQUEST_SHIFT).toString(16)}) belongs to unbound port ${u32[word + R.SRC]}`,
      );
    }
  }
  if (freeRecords !== u32[H.FREE_REQUEST_COUNT]) {
    problems.push(`the request table counts ${u32[H.FREE_REQUEST_COUNT]} free records, there are ${freeRecords}`);
  }
  for (const block of segment.heap.blocks()) {
    if (block.owner === ORPHAN_OWNER || segment.portOwner(block.owner)) continue;
    problems.push(`${segment.heap.bytesOf(block.order)} bytes of the heap belong to unbound port ${block.owner}`);
  }
  return problems;
}
