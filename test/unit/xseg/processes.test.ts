import fs from 'node:fs';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type Request, report, verify } from '../../../src/xseg/index.js';
import { H, RequestState } from '../../../src/xseg/layout.js';
import { lockOwner } from '../../../src/xseg/lock.js';
import {
  cleanUp,
  compiledXseg,
  createSegment,
  joinSegment,
  kill,
  startPeer,
  stateOf,
  told,
  turn,
  until,
} from './help.js';

beforeAll(() => {
  compiledXseg();
}, 120_000);
afterEach(cleanUp);

describe('between processes', () => {
  it('requests and answers go both ways, at depth 1 and 32', async () => {
    const segment = createSegment();
    segment.bind(1, { name: 'here' }).serve((r) => r.succeed(r.size));
    for (const depth of [1, 32]) {
      const peer = await startPeer(segment, 'ask', 1, 2000, depth);
      await told(peer, 'done');
    }
    expect(segment.portOwner(1)?.alive).toBe(true);
    expect(report(segment).bound).toMatchObject([{ port: 1, accepted: 4000, replied: 4000 }]);
    expect(verify(segment)).toEqual([]);
  });

  it('a peer in another process is seen, called, and gone when it is killed', async () => {
    const segment = createSegment();
    const port = segment.bind(1);
    const peer = await startPeer(segment, 'echo', 2);
    expect(segment.portOwner(2)).toEqual({ pid: peer.pid, name: 'echo', alive: true });
    expect((await port.call(2, { op: 1, size: 123 })).serviced).toBe(123);
    expect(() => segment.bind(2)).toThrow(expect.objectContaining({ code: 'EADDRINUSE' }));
    const stuck = port.call(2, { op: 99, capacity: 100_000 });
    const ended = expect(stuck).rejects.toMatchObject({ code: 'ECONNRESET' });
    await told(peer, 'holds');
    await kill(peer);
    await ended;
    expect(segment.portOwner(2)?.alive).toBe(false);
    await expect(port.call(2, { op: 1 })).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    // What it held goes to whoever serves there next, and comes back from there.
    segment.bind(2).serve((r) => r.succeed(0));
    await until(() => report(segment).inFlight === 0, 'it is answered');
    await turn();
    port.giveBackSpare();
    expect(verify(segment)).toEqual([]);
    expect(report(segment).freePages).toBe(segment.geometry.heapPages);
  });

  it('requests in flight to a killed server are served by the next process that binds its port', async () => {
    const segment = createSegment();
    const port = segment.bind(1);
    const first = await startPeer(segment, 'echo', 2);
    const held = port.getRequest() as Request;
    held.op = 99;
    held.size = 7;
    const answered = new Promise<Request>((resolve) => {
      held.onReply = resolve;
    });
    port.submit(held, 2);
    await told(first, 'holds');
    expect(stateOf(held, segment)).toBe(RequestState.ACCEPTED);
    await kill(first);
    const waiting = Array.from({ length: 50 }, (_, i) => port.call(2, { op: 1, size: i }, { wait: true }));
    const second = await startPeer(segment, 'echo', 2);
    await told(second, 'holds');
    expect((await Promise.all(waiting)).map((r) => r.serviced)).toEqual(Array.from({ length: 50 }, (_, i) => i));
    await kill(second);
    segment.recoverPort(2, { fail: true });
    expect([(await answered).served, held.errno]).toEqual([false, 5]);
    port.putRequest(held);
    expect(verify(segment)).toEqual([]);
  });

  it('a port whose owner is killed twice, while calls go both ways, has all of them answered in the end', async () => {
    const segment = createSegment();
    const store = segment.bind(4);
    let slow: Request[] | null = [];
    store.serve((r) => (slow ? slow.push(r) : r.succeed(0)));
    const composer = segment.bind(3);
    let answered = 0;
    composer.serve(async (r) => {
      await composer.call(2, { op: 13 }, { wait: true });
      answered++;
      r.succeed(0);
    });
    // Of each: a write and a call to the store, which it answers neither; the composer waits for it.
    for (const sent of [2, 3]) {
      const mapper = await startPeer(segment, 'mapper', 2, 3, 4);
      await until(() => slow?.length === sent, 'its write is under way, and what it asks for the composer');
      await kill(mapper);
    }
    const last = await startPeer(segment, 'mapper', 2, 3, 4);
    await until(() => slow?.length === 4, 'the write of the last is under way');
    const done = told(last, 'done');
    for (const request of slow) request.succeed(0);
    slow = null;
    await done;
    await until(() => report(segment).inFlight === 0, 'everything is answered');
    expect(answered).toBe(3);
    expect((await composer.call(2, { op: 13 })).data).toHaveLength(0);
    expect(verify(segment)).toEqual([]);
  });

  it('requests of a killed asker do not leak, looked at or not', async () => {
    const segment = createSegment();
    const server = segment.bind(1);
    const accepted: Request[] = [];
    server.serve((r) => accepted.push(r));
    const seen = await startPeer(segment, 'hold', 1, 20);
    await until(() => accepted.length === 20, 'they are accepted');
    const unseen = await startPeer(segment, 'hold', 5, 20);
    await kill(seen);
    await kill(unseen);
    segment.reap();
    expect(report(segment).inFlight).toBe(20);
    expect(verify(segment)).toEqual([]);
    for (const request of accepted) request.succeed(0);
    expect(report(segment)).toMatchObject({ inFlight: 0, freePages: segment.geometry.heapPages });
    expect(verify(segment)).toEqual([]);
  });

  it('a daemon cleans up after a killed tool by itself', async () => {
    const segment = createSegment();
    segment.bind(1).serve((r) => r.succeed(0));
    const tool = await startPeer(segment, 'hold', 5, 20);
    expect(report(segment).freePages).toBeLessThan(segment.geometry.heapPages);
    await kill(tool);
    await until(() => report(segment).freePages === segment.geometry.heapPages, 'its buffers are free');
    expect(verify(segment)).toEqual([]);
  });

  it.each(['ports', 'requests', 'heap'] as const)(
    'the lock of the %s, held by a killed process, is taken over',
    async (which) => {
      const segment = createSegment();
      const port = segment.bind(1);
      const peer = await startPeer(segment, 'lock', which);
      const word = { ports: H.PORTS_LOCK, requests: H.REQUESTS_LOCK, heap: H.HEAP_LOCK }[which];
      expect(lockOwner(segment.memory, word)).toMatchObject({ pid: peer.pid, alive: true });
      await kill(peer);
      expect(lockOwner(segment.memory, word)?.alive).toBe(false);
      port.free(port.allocate(100_000));
      port.giveBackSpare();
      port.putRequest(port.getRequest() as Request);
      segment.bind(2).close();
      segment.reap();
      expect(lockOwner(segment.memory, word)).toBeNull();
      expect(verify(segment)).toEqual([]);
    },
  );

  it('a process that is still dying counts as alive: a thread of it may be writing', async () => {
    const segment = createSegment();
    const peer = await startPeer(segment, 'echo', 2);
    const pid = peer.pid as number;
    // Whatever /proc shows meanwhile, the port is not taken while a task of the process is left that is not a zombie.
    const tasksLive = (): boolean => {
      try {
        return fs
          .readdirSync(`/proc/${pid}/task`)
          .some((task) => !/\) [ZX] /.test(fs.readFileSync(`/proc/${pid}/task/${task}/stat`, 'latin1')));
      } catch {
        return false;
      }
    };
    peer.kill('SIGKILL');
    while (segment.portOwner(2)?.alive);
    expect(tasksLive()).toBe(false);
    await kill(peer);
  });
});

describe('kill -9 at any point', () => {
  it('of a peer that serves, asks and allocates: the segment is sound after it and its asker goes on', async () => {
    const segment = createSegment({ ports: 32, dynamic: 16 });
    const here = segment.bind(1, { name: 'survivor' });
    let count = 0;
    let killAt = 0;
    let reached: () => void = () => {};
    here.serve((r) => {
      r.data.fill(count & 0xff);
      r.succeed(r.size);
      if (++count === killAt) reached();
    });
    for (let round = 0; round < 25; round++) {
      const victim = await startPeer(segment, 'chaos', 2, 1);
      killAt = count + 1 + Math.floor(Math.random() * 3000);
      const point = new Promise<void>((resolve) => {
        reached = resolve;
      });
      const calls = Array.from({ length: 20 }, (_, i) =>
        here.call(2, { op: 1, size: i, capacity: 5000 }, { wait: true }),
      );
      await point;
      await kill(victim);
      const successor = joinSegment(segment).bind(2);
      successor.serve((r) => r.succeed(r.size));
      expect((await Promise.all(calls)).map((reply) => reply.serviced)).toEqual(calls.map((_, i) => i));
      successor.close();
      segment.reap();
      await until(() => report(segment).inFlight === 0, 'nothing is in flight');
      await turn();
      here.giveBackSpare();
      expect(verify(segment)).toEqual([]);
      expect(report(segment)).toMatchObject({
        freePages: segment.geometry.heapPages,
        freeRequests: segment.geometry.requests,
      });
    }
  }, 120_000);

  it('of a peer inside the locks of heap, records and ports: they are taken over and nothing is lost', async () => {
    const segment = createSegment({ ports: 32, dynamic: 16 });
    const here = segment.bind(1, { heapShare: 0.25 });
    here.serve((r) => r.succeed(r.size));
    let takenOver = 0;
    for (let round = 0; round < 15; round++) {
      const victims = [await startPeer(segment, 'storm'), await startPeer(segment, 'storm')];
      // Take part for a random while.
      const turns = 1 + Math.floor(Math.random() * 200);
      for (let i = 0; i < turns; i++) {
        const at = here.allocate(1 + Math.floor(Math.random() * 500_000));
        if (at >= 0) here.free(at);
        here.giveBackSpare();
      }
      await Promise.all(victims.map(kill));
      takenOver += report(segment).locks.filter((held) => !held.alive).length;
      // In half of the rounds by hand, else by going on.
      if (round % 2 === 0) segment.recoverLocks();
      segment.reap();
      expect((await here.call(1, { op: 1, size: round, capacity: 100_000 })).serviced).toBe(round);
      here.giveBackSpare();
      expect(verify(segment)).toEqual([]);
      expect(report(segment)).toMatchObject({
        freePages: segment.geometry.heapPages,
        freeRequests: segment.geometry.requests,
      });
    }
    // Else this test is not about locks.
    expect(takenOver).toBeGreaterThan(0);
  }, 120_000);
});
