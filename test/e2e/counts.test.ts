/**
 * What a request costs, counted: system calls, bytes through them, messages between the roles, wake-ups. Counts do not depend on how fast the machine
 * is, so that they have limits here: what makes a request dearer is to be seen at once, and not one day in a benchmark.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectNbd, type NbdClient } from '../../src/nbd/index.js';
import { type PortReport, report, Segment } from '../../src/xseg/index.js';
import { useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { canTrace, follow, type SystemCalls } from './harness/system-calls.js';

const MIB = 1 << 20;
const BLOCK = 4 * MIB;
const SECTOR = 4096;
/** Blocks of the volume that have data, and of the snapshot that the clone shares them with. */
const FILLED = 8;
/** What a process does every second unasked, at most: looking at its locks, renewing leases, its timers; `other`: any one call that has no limit of its own. */
const UNASKED = { calls: 200, wakeUps: 30, messages: 10, bytes: 5000, other: 20 };
/** For any call that has no limit of its own, where the data path is all that works. */
const OTHER = 0.25;

/** The most of each for one request. Calls by their names: all calls of any of these names together. */
interface Limits {
  /** All calls, but those of threads among themselves and for memory. */
  readonly calls: number;
  readonly each: Readonly<Record<string, number>>;
  /** Bytes that go between the node and the kernel. */
  readonly bytes: number;
  /** Requests that each role accepts. */
  readonly messages: Readonly<Record<string, number>>;
  readonly wakeUps: number;
}

interface Cell {
  readonly title: string;
  readonly requests: number;
  /** The process of the mapper takes part. */
  readonly mapper?: true;
  /** A client that is kept from running splits its bursts and its data: what is over a limit is counted again, up to this often. */
  readonly attempts?: number;
  readonly work: (clients: Clients) => Promise<void>;
  readonly limits: Limits;
}

interface Clients {
  /** The volume that has data. */
  readonly filled: NbdClient;
  readonly clone: NbdClient;
}

const payload = Buffer.alloc(MIB, 0xa5);
const sector = payload.subarray(0, SECTOR);
const half = payload.subarray(0, 512 << 10);

/** The next block that was never written: each attempt takes others. */
let fresh = FILLED + 24;

/** A place of 4 KiB among the data; no two in a cell are the same. */
const place = (i: number): number => ((i * 7919) % ((FILLED * BLOCK) / SECTOR)) * SECTOR;

async function inTurn(count: number, request: (i: number) => Promise<unknown>): Promise<void> {
  for (let i = 0; i < count; i++) await request(i);
}

/** Sent in bursts: the next begins when the last answer of the one before is there. */
async function inBursts(count: number, depth: number, request: (i: number) => Promise<unknown>): Promise<void> {
  for (let i = 0; i < count; i += depth) {
    await Promise.all(Array.from({ length: depth }, (_, k) => request(i + k)));
  }
}

/** What is read of objects that are there takes the short way within the process, once the first request has brought the hints. */
const short = { vlmcd: 0.25, blockerb: 0.25, mapperd: 0, blockerm: 0 };
/** What reaches an object that is there: at most one message to the composer, one to the data blocker. */
const straight = { vlmcd: 1, blockerb: 1, mapperd: 0, blockerm: 0 };
const READS = 'preadv2 pread64';
const RECEIVES = 'read recvfrom';
const WAITS = 'epoll_pwait epoll_wait';

const cells: readonly Cell[] = [
  {
    title: '4k read, depth 1',
    requests: 256,
    work: ({ filled }) => inTurn(256, (i) => filled.read(place(i), SECTOR)),
    limits: {
      calls: 5.2,
      each: { [WAITS]: 2.2, [READS]: 1, sendmsg: 1, [RECEIVES]: 1.1 },
      bytes: 2 * SECTOR + 128,
      messages: short,
      wakeUps: 1,
    },
  },
  {
    title: '4k read, depth 32',
    requests: 640,
    attempts: 3,
    work: ({ filled }) => inBursts(640, 32, (i) => filled.read(place(i), SECTOR)),
    limits: {
      calls: 2,
      each: { [WAITS]: 0.4, [READS]: 1, sendmsg: 0.2, [RECEIVES]: 0.2 },
      bytes: 2 * SECTOR + 128,
      messages: short,
      wakeUps: 0.2,
    },
  },
  {
    title: '4k write, depth 1',
    requests: 256,
    work: ({ filled }) => inTurn(256, (i) => filled.write(place(i), sector)),
    limits: {
      calls: 5.2,
      each: { [WAITS]: 2.2, write: 0.5, pwrite64: 1, sendmsg: 1, [RECEIVES]: 1.5 },
      bytes: 2 * SECTOR + 128,
      messages: straight,
      wakeUps: 1.5,
    },
  },
  {
    title: '4k write, depth 32',
    requests: 640,
    attempts: 3,
    work: ({ filled }) => inBursts(640, 32, (i) => filled.write(place(i), sector)),
    limits: {
      // As many as lie in the socket come by one receive, or two, and are answered by one send.
      calls: 2,
      each: { [WAITS]: 0.4, pwrite64: 1, sendmsg: 0.1, [RECEIVES]: 0.25 },
      bytes: 2 * SECTOR + 128,
      messages: straight,
      wakeUps: 0.4,
    },
  },
  {
    title: '512k read',
    requests: 48,
    attempts: 3,
    work: ({ filled }) => inTurn(48, (i) => filled.read((i % (2 * FILLED)) * half.length, half.length)),
    limits: {
      calls: 16,
      // What the page cache has is sent from there: looked at (three calls), lent (two) and sent.
      each: {
        [WAITS]: 5,
        write: 2,
        [RECEIVES]: 5,
        [READS]: 0.2,
        sendmsg: 4,
        sendfile: 3,
        mmap: 1,
        mincore: 1,
        munmap: 1,
        fcntl: 1,
        close: 1.2,
      },
      // Now and then one goes by a request, and is copied.
      bytes: half.length / 8,
      messages: short,
      wakeUps: 4,
    },
  },
  {
    title: '512k write',
    requests: 48,
    attempts: 3,
    work: ({ filled }) => inTurn(48, (i) => filled.write((i % (2 * FILLED)) * half.length, half)),
    limits: {
      calls: 38,
      each: { [WAITS]: 10, write: 4, pwrite64: 16, sendmsg: 1, [RECEIVES]: 20 },
      // Now and then one is done in part on the short way, and again by a request.
      bytes: 2 * half.length + half.length / 16,
      messages: straight,
      wakeUps: 10,
    },
  },
  {
    title: '512k write, depth 8',
    requests: 96,
    attempts: 3,
    work: async ({ filled }) => {
      // The first starts the thread that writes while the next is received.
      await inBursts(64, 8, (i) => filled.write((i % (2 * FILLED)) * half.length, half));
      await inBursts(32, 8, (i) => filled.write((i % (2 * FILLED)) * half.length, half));
    },
    limits: {
      calls: 40,
      each: { [WAITS]: 10, write: 4, pwrite64: 16, sendmsg: 1, [RECEIVES]: 20 },
      bytes: 2 * half.length + half.length / 16,
      messages: straight,
      wakeUps: 10,
    },
  },
  {
    title: '4k write and flush',
    requests: 64,
    mapper: true,
    work: ({ filled }) =>
      inTurn(64, async (i) => {
        await filled.write(place(i), sector);
        await filled.flush();
      }),
    limits: {
      calls: 18,
      each: { pwrite64: 1, fdatasync: 1, fsync: 0, statx: 1, sendmsg: 2 },
      bytes: 2 * SECTOR + 300,
      messages: { vlmcd: 2, blockerb: 2, mapperd: 0, blockerm: 0 },
      wakeUps: 5,
    },
  },
  {
    title: 'first write to a fresh block',
    requests: 24,
    mapper: true,
    work: ({ filled }) => inTurn(24, (i) => filled.write((FILLED + i) * BLOCK, sector)),
    limits: {
      calls: 100,
      // One of them is the note; syncs and entries are a commit's, which others share. In a store that is nearly empty one mkdir finds no parent.
      each: { pwrite64: 3, fdatasync: 1, fsync: 4, mkdir: 4, fgetxattr: 0, ftruncate: 0.25 },
      bytes: 2 * SECTOR + 1200,
      messages: { vlmcd: 1, blockerb: 2, mapperd: 1, blockerm: 2 },
      wakeUps: 20,
    },
  },
  {
    title: 'first writes to fresh blocks, depth 8',
    requests: 64,
    mapper: true,
    attempts: 3,
    work: ({ filled }) => inBursts(64, 8, () => filled.write(fresh++ * BLOCK, sector)),
    limits: {
      calls: 15,
      // What arrives together is one request to the mapper, one note, and one request for all objects.
      each: { pwrite64: 1.5, fdatasync: 1, fsync: 4, mkdir: 4, statx: 3, fgetxattr: 0 },
      bytes: 2 * SECTOR + 1200,
      messages: { vlmcd: 1, blockerb: 1.4, mapperd: 0.3, blockerm: 0.5 },
      wakeUps: 1.5,
    },
  },
  {
    title: 'first write to a block of a clone',
    requests: FILLED,
    mapper: true,
    work: ({ clone }) => inTurn(FILLED, (i) => clone.write(i * BLOCK, sector)),
    limits: {
      calls: 100,
      // The data and that it is there, the tail, the note, and the ledger; the syncs are a commit's.
      each: { pwrite64: 5.5, fdatasync: 2, fsync: 5, copy_file_range: 0, link: 1, fsetxattr: 1 },
      bytes: 3 * SECTOR + 1200,
      messages: { vlmcd: 1, blockerb: 2, mapperd: 1, blockerm: 2 },
      wakeUps: 20,
    },
  },
  {
    title: '4k read of a block that is copied in part',
    requests: 256,
    work: ({ clone }) => inTurn(256, (i) => clone.read(place(i), SECTOR)),
    limits: {
      calls: 5.2,
      each: { [WAITS]: 2.2, write: 0.5, [READS]: 1.1, sendmsg: 1, [RECEIVES]: 1.5 },
      bytes: 2 * SECTOR + 200,
      messages: short,
      wakeUps: 1.5,
    },
  },
  {
    title: '4k write to such a block',
    requests: 256,
    work: ({ clone }) => inTurn(256, (i) => clone.write(place(i), sector)),
    limits: {
      calls: 6.2,
      // The data, and that it is there; the ledger, once for each block.
      each: { [WAITS]: 2.2, write: 0.5, pwrite64: 2.1, sendmsg: 1, [RECEIVES]: 1.5 },
      bytes: 2 * SECTOR + 200,
      messages: straight,
      wakeUps: 1.5,
    },
  },
  {
    title: 'trim of 4k',
    requests: 64,
    work: ({ filled }) => inTurn(64, (i) => filled.trim(place(i), SECTOR)),
    limits: {
      calls: 12,
      each: { [WAITS]: 6, write: 2, statx: 1, [RECEIVES]: 4, fallocate: 1, sync_file_range: 0.1, sendmsg: 1 },
      bytes: 300,
      messages: straight,
      wakeUps: 4,
    },
  },
  {
    title: 'trim of a block',
    requests: 24,
    mapper: true,
    work: ({ filled }) => inTurn(24, (i) => filled.trim((FILLED + i) * BLOCK, BLOCK)),
    limits: {
      calls: 35,
      // One write is the note; entries, their syncs and the ends of the objects are a commit's, which others share.
      each: { pwrite64: 2, unlink: 1, fdatasync: 0.25, fsync: 0 },
      bytes: 600,
      messages: { vlmcd: 1, blockerb: 1, mapperd: 1, blockerm: 0.5 },
      wakeUps: 6,
    },
  },
];

interface Counted {
  readonly calls: SystemCalls;
  readonly messages: Readonly<Record<string, number>>;
  /** How long each process was followed, added up. */
  readonly seconds: number;
}

describe.runIf(programs('strace') && (await canTrace()))('what a request costs', () => {
  // The poller asks again and again, as often as the machine has time for.
  const rig = useNode({
    placement: 'default',
    settings: { nbd: { busy_poll_us: 0 }, blockerb: { partial_copies: 'auto' } },
  });
  const table: string[] = [];
  let clients: Clients;
  let segment: Segment;

  beforeAll(async () => {
    const { node } = rig;
    const filled = await connectNbd(await node.create('counted', '1G'));
    await inBursts((FILLED * BLOCK) / MIB, 8, (i) => filled.write(i * MIB, payload));
    await filled.flush();
    const shared = await connectNbd(await node.create('counted-base', '1G'));
    await inBursts((FILLED * BLOCK) / MIB, 8, (i) => shared.write(i * MIB, payload));
    await shared.flush();
    await node.vlmc('snapshot', 'counted-base', 'counted-snapshot');
    await node.vlmc('create', 'counted-clone', '--snap', 'counted-snapshot');
    const clone = await connectNbd(node.uri('counted-clone'));
    await clone.read(0, SECTOR);
    // Where copies share blocks is found out by the first of them.
    await shared.write(0, sector);
    await shared.disconnect();
    clients = { filled, clone };
    segment = Segment.join(`posix:${node.segment}:`);
  });

  afterAll(async () => {
    segment?.close();
    await clients?.filled.disconnect();
    await clients?.clone.disconnect();
    console.log(['per request: calls, bytes, wake-ups; calls by name; messages by role', ...table].join('\n'));
  });

  const accepted = (): Map<string, number> =>
    new Map(report(segment).bound.map(({ name, accepted: count }: PortReport) => [name, count]));

  async function count({ mapper, work }: Cell): Promise<Counted> {
    const { node } = rig;
    // What the cell before has put off is not this one's.
    await clients.filled.flush();
    await clients.clone.flush();
    const roles = mapper ? ['nbd', 'mapperd'] : ['nbd'];
    let before = accepted();
    const began = performance.now();
    const pids = roles.map((role) => node.rolePid(role));
    const calls = await follow(pids, node.dir, async () => {
      before = accepted();
      await work(clients);
    });
    const seconds = (performance.now() - began) / 1000;
    const after = accepted();
    const messages = [...after].map(([name, number]) => [name, number - (before.get(name) ?? 0)] as const);
    return { calls, messages: Object.fromEntries(messages), seconds: seconds * roles.length };
  }

  function tell({ title, requests }: Cell, { calls, messages }: Counted): void {
    const per = (value: number): string => (value / requests).toFixed(2);
    const said = Object.keys(straight).map((role) => `${role} ${per(messages[role])}`);
    table.push(
      `${title}: ${per(calls.total)}, ${per(calls.bytes)}, ${per(calls.wakeUps)}; ${calls.text(requests)}; ${said.join(', ')}`,
    );
  }

  /** @throws what is over its limit */
  function judge(cell: Cell, { calls, messages, seconds }: Counted): void {
    const { requests, limits } = cell;
    // What is done once a second may be done twice in half of one.
    const most = (limit: number, unasked: number): number => limit * requests + unasked * (seconds + 1);
    for (const [names, limit] of Object.entries(limits.each)) {
      // What is done unasked looks at locks and letters, and reads bells.
      const unasked = /read|open|epoll|statx|^write$/.test(names) ? UNASKED.wakeUps : 0;
      expect(calls.of(...names.split(' ')), `${names}: ${calls.text(requests)}`).toBeLessThanOrEqual(
        most(limit, unasked),
      );
    }
    if (!cell.mapper) {
      const limited = new Set(Object.keys(limits.each).flatMap((names) => names.split(' ')));
      for (const name of calls.names.filter((other) => !limited.has(other))) {
        expect(calls.of(name), name).toBeLessThanOrEqual(most(OTHER, UNASKED.other));
      }
    }
    expect(calls.total, calls.text(requests)).toBeLessThanOrEqual(most(limits.calls, UNASKED.calls));
    expect(calls.bytes, 'bytes').toBeLessThanOrEqual(most(limits.bytes, UNASKED.bytes));
    expect(calls.wakeUps, 'wake-ups').toBeLessThanOrEqual(most(limits.wakeUps, UNASKED.wakeUps));
    for (const [role, limit] of Object.entries(limits.messages)) {
      expect(messages[role], `messages to ${role}`).toBeLessThanOrEqual(most(limit, UNASKED.messages));
    }
  }

  it.each(cells)('$title', async (cell) => {
    for (let left = cell.attempts ?? 1; left > 0; left--) {
      const counted = await count(cell);
      tell(cell, counted);
      try {
        return judge(cell, counted);
      } catch (error) {
        if (left === 1) throw error;
      }
    }
  });
});
