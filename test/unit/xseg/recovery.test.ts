import { afterEach, describe, expect, it } from 'vitest';
import { type Request, report, verify } from '../../../src/xseg/index.js';
import { H, P, R, RequestState } from '../../../src/xseg/layout.js';
import { lock, lockOwner } from '../../../src/xseg/lock.js';
import { token } from '../../../src/xseg/owner.js';
import {
  ask,
  cleanUp,
  createSegment,
  deadPid,
  die,
  giveToParentProcess,
  joinSegment,
  stateOf,
  turn,
  until,
} from './help.js';

afterEach(cleanUp);

describe('a server that died', () => {
  it('leaves what it had accepted, and what it had not, to its successor, in the order it was sent', async () => {
    const segment = createSegment();
    const asker = segment.bind(1);
    const first = joinSegment(segment).bind(2);
    const accepted: number[] = [];
    first.serve((r) => accepted.push(r.size));
    const sent = (size: number) =>
      ask(asker, 2, (r) => {
        r.size = size;
      });
    const answers = [sent(1), sent(2), sent(3)];
    await until(() => accepted.length === 3, 'it accepted them');
    die(first);
    answers.push(sent(4), sent(5));
    const second = joinSegment(segment).bind(2);
    const seen: number[] = [];
    second.serve((r) => {
      seen.push(r.size);
      r.succeed(r.size * 10);
    });
    expect((await Promise.all(answers)).map((r) => r.serviced)).toEqual([10, 20, 30, 40, 50]);
    expect(seen).toEqual([1, 2, 3, 4, 5]);
  });

  it('that answered but did not ring: the asker finds the answer', async () => {
    const segment = createSegment();
    const asker = segment.bind(1);
    const server = joinSegment(segment).bind(2);
    const request = asker.getRequest() as Request;
    let answered = false;
    request.onReply = () => {
      answered = true;
    };
    asker.submit(request, 2);
    // Died between the answer and the push.
    const word = segment.tables.requestWord(request.index);
    segment.memory.u32[word + R.STATUS] = 1;
    segment.memory.u32[word + R.STATE] = RequestState.REPLIED;
    die(server);
    joinSegment(segment).bind(2);
    await until(() => answered, 'the answer arrives');
  });

  it('fails its requests instead when it is recovered so by hand', async () => {
    const segment = createSegment();
    const asker = segment.bind(1);
    const server = joinSegment(segment).bind(2);
    let accepted = 0;
    server.serve(() => accepted++);
    const one = ask(asker, 2);
    await until(() => accepted === 1, 'it is accepted');
    die(server);
    const two = ask(asker, 2);
    const result = joinSegment(segment).recoverPort(2, { fail: true });
    expect(result).toMatchObject({ failed: 2, requeued: 0 });
    for (const request of await Promise.all([one, two])) {
      expect([request.served, request.errno]).toEqual([false, 5]);
      asker.putRequest(request);
    }
    expect(verify(segment)).toEqual([]);
  });

  it('makes calls to it fail with ECONNRESET; they leave nothing behind', async () => {
    const segment = createSegment();
    const port = segment.bind(1);
    const server = joinSegment(segment).bind(2);
    const queued = port.call(2, { op: 1, capacity: 5000 });
    const ended = expect(queued).rejects.toMatchObject({ code: 'ECONNRESET' });
    await turn();
    die(server);
    await ended;
    joinSegment(segment).recoverPort(2);
    port.giveBackSpare();
    expect(report(segment).bound).toMatchObject([{ port: 1, requests: 0, heapPages: 0 }]);
    expect(verify(segment)).toEqual([]);
  });

  it('does not answer any more once its port is closed: the successor does', async () => {
    const segment = createSegment();
    const asker = segment.bind(1);
    const first = joinSegment(segment).bind(2);
    first.segment.onError = () => {};
    const accepted: Request[] = [];
    first.serve((r) => accepted.push(r));
    const answer = ask(asker, 2);
    await until(() => accepted.length === 1, 'it is accepted');
    first.close();
    accepted[0].fail(5, 'from the past');
    const second = joinSegment(segment).bind(2);
    second.serve((r) => r.succeed(1));
    expect((await answer).served).toBe(true);
  });
});

describe('an asker that died', () => {
  it('leaves no record and no buffer behind, whatever state its requests were in', async () => {
    const segment = createSegment();
    const before = report(segment);
    const server = segment.bind(2);
    const accepted: Request[] = [];
    server.serve((r) => accepted.push(r));
    const asker = joinSegment(segment).bind(1);
    const request = (): Request => {
      const r = asker.getRequest() as Request;
      r.setData(asker.allocate(10_000), 10_000);
      return r;
    };
    asker.submit(request(), 2);
    asker.submit(request(), 2);
    await until(() => accepted.length === 2, 'two are accepted');
    accepted[0].succeed(0);
    asker.submit(request(), 9);
    request();
    die(asker);
    const result = segment.recoverPort(1);
    expect(result.waiting).toBe(1);
    expect(result.buffers).toBeGreaterThanOrEqual(3);
    expect(accepted[1].orphaned).toBe(true);
    expect(verify(segment)).toEqual([]);
    accepted[1].succeed(10_000);
    expect(verify(segment)).toEqual([]);
    server.close();
    expect(report(segment)).toEqual(before);
  });

  it("keeps a buffer that a living peer's own request still points into, until that is over", async () => {
    const segment = createSegment();
    const composer = segment.bind(2);
    const blocker = segment.bind(3);
    const composing: Request[] = [];
    const blocking: Request[] = [];
    composer.serve((r) => composing.push(r));
    blocker.serve((r) => blocking.push(r));
    const asker = joinSegment(segment).bind(1);
    const request = asker.getRequest() as Request;
    const buffer = asker.allocate(1 << 20);
    request.setData(buffer, 1 << 20);
    asker.submit(request, 2);
    await until(() => composing.length === 1, 'the composer has it');
    const sub = ask(composer, 3, (r) => r.setData(composing[0].dataOffset + 4096, 4096));
    await until(() => blocking.length === 1, 'the blocker has its part');
    die(asker);
    segment.recoverPort(1);
    composing[0].fail(5, 'answered before its parts');
    // The page belongs to nobody, but the blocker may write there.
    const others = segment.bind(4, { heapShare: 1 });
    for (let at = others.allocate(4096); at >= 0; at = others.allocate(4096)) {
      expect(at < buffer || at >= buffer + (1 << 20)).toBe(true);
    }
    blocking[0].succeed(4096);
    composer.putRequest(await sub);
    others.close();
    // Nobody was told; the next who cleans up finds it.
    const tool = joinSegment(segment).bind('dynamic');
    die(tool);
    segment.reap();
    expect(verify(segment)).toEqual([]);
    expect(report(segment).freePages).toBe(segment.geometry.heapPages);
  });

  it('is waited for by its successor: nothing is served until what it had sent is over', async () => {
    const segment = createSegment();
    const blocker = segment.bind(3);
    const writes: Request[] = [];
    blocker.serve((r) => writes.push(r));
    const client = segment.bind(4);
    // Somebody who has no part in it: another process.
    giveToParentProcess(client);
    const first = joinSegment(segment).bind(2);
    const old = first.getRequest() as Request;
    first.submit(old, 3);
    await until(() => writes.length === 1, 'the old write is under way');
    die(first);

    const successor = joinSegment(segment).bind(2);
    expect(successor.isSettling).toBe(true);
    const served: number[] = [];
    successor.serve((r) => {
      served.push(r.size);
      r.succeed(0);
    });
    const answers = [1, 2, 3].map((size) =>
      ask(client, 2, (r) => {
        r.size = size;
      }),
    );
    let settled = false;
    const wait = successor.settled().then(() => {
      settled = true;
    });
    for (let i = 0; i < 20; i++) await turn();
    expect([served, settled]).toEqual([[], false]);
    writes[0].succeed(0);
    await Promise.all([wait, ...answers]);
    expect(served).toEqual([1, 2, 3]);
    expect(successor.isSettling).toBe(false);
  });

  it("is waited for by its successor's successor, if that died waiting", async () => {
    const segment = createSegment();
    const blocker = segment.bind(3);
    const writes: Request[] = [];
    blocker.serve((r) => writes.push(r));
    const first = joinSegment(segment).bind(2);
    const elsewhere = first.segment.bind(5);
    for (const port of [first, elsewhere]) port.submit(port.getRequest() as Request, 3);
    await until(() => writes.length === 2, 'the old writes are under way');
    const pid = die(first);
    segment.memory.u32[segment.tables.portWord(5) + P.PID] = pid;
    const second = joinSegment(segment).bind(2);
    expect(second.isSettling).toBe(true);
    writes[0].succeed(0);
    die(second);
    const third = joinSegment(segment).bind(2);
    expect(third.isSettling).toBe(true);
    writes[1].succeed(0);
    await third.settled();
  });

  it('is not waited for by a tool that gets its dynamic port', async () => {
    const segment = createSegment();
    const server = segment.bind(3);
    const held: Request[] = [];
    server.serve((r) => {
      if (r.op === 17) held.push(r);
      else r.succeed(1);
    });
    const killed = joinSegment(segment).bind('dynamic');
    const long = killed.getRequest() as Request;
    long.op = 17;
    killed.submit(long, 3);
    await until(() => held.length === 1, 'its long request is under way');
    die(killed);
    const next = joinSegment(segment).bind('dynamic');
    expect(next.number).toBe(killed.number);
    expect((await next.call(3, { op: 1 })).serviced).toBe(1);
    held[0].succeed(0);
    expect(verify(segment)).toEqual([]);
  });

  it('lets a peer through that needs an answer to finish', async () => {
    const segment = createSegment();
    const mapper = segment.bind(3);
    mapper.serve(async (r) => {
      // A snapshot that the old composer passed on: it takes the lease back first.
      await mapper.call(2, { op: 71 });
      r.succeed(0);
    });
    const first = joinSegment(segment).bind(2);
    first.submit(first.getRequest() as Request, 3);
    await until(() => report(segment).inFlight === 2, 'both are under way');
    die(first);
    const successor = joinSegment(segment).bind(2);
    const served: number[] = [];
    successor.serve((r) => {
      served.push(r.op);
      r.succeed(0);
    });
    await successor.settled();
    expect(served).toEqual([71]);
    await until(() => report(segment).inFlight === 0, 'the mapper has its answer and gives its own');
  });

  it('lets a peer through also when the answer needs others, and still waits for those that only answer', async () => {
    const segment = createSegment();
    const store = segment.bind(4);
    const writes: Request[] = [];
    store.serve((r) => (r.op === 2 ? writes.push(r) : r.succeed(0)));
    const composer = segment.bind(3);
    composer.serve(async (r) => {
      // A lease is taken back: what runs under it asks the mapper for an object first.
      await composer.call(2, { op: 13 }, { wait: true });
      r.succeed(0);
    });
    const first = joinSegment(segment).bind(2);
    first.submit(first.getRequest() as Request, 3);
    const write = first.getRequest() as Request;
    write.op = 2;
    first.submit(write, 4);
    await until(() => writes.length === 1 && report(segment).inFlight === 3, 'all are under way');
    die(first);
    const successor = joinSegment(segment).bind(2);
    const order: string[] = [];
    successor.serve(async (r) => {
      order.push('asked');
      await successor.call(4, { op: 1 });
      order.push('answered');
      r.succeed(0);
    });
    await until(() => order.length === 1, 'the composer is let through');
    for (let i = 0; i < 20; i++) await turn();
    expect(order).toEqual(['asked']);
    order.push('old write over');
    writes[0].succeed(0);
    await until(() => order.length === 3, 'the composer has its answer');
    expect(order).toEqual(['asked', 'old write over', 'answered']);
    await until(() => report(segment).inFlight === 0, 'the lease is taken back');
  });
});

describe('recovery by hand', () => {
  it("refuses a living owner's port: EBUSY", () => {
    const segment = createSegment();
    segment.bind(3, { name: 'alive' });
    expect(() => joinSegment(segment).recoverPort(3)).toThrow(
      expect.objectContaining({ code: 'EBUSY', message: expect.stringContaining('alive') }),
    );
    expect(() => segment.recoverPort(99)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });

  it('may be done twice', () => {
    const segment = createSegment();
    const port = segment.bind(3);
    port.getRequest();
    port.allocate(1);
    die(port);
    expect(verify(segment)).toEqual([expect.stringContaining('recoverport 3')]);
    const other = joinSegment(segment);
    expect(other.recoverPort(3).freed).toBeGreaterThan(0);
    expect(other.recoverPort(3)).toEqual({ requeued: 0, resent: 0, failed: 0, freed: 0, waiting: 0, buffers: 0 });
    expect(verify(other)).toEqual([]);
  });

  it.each(['PORTS_LOCK', 'REQUESTS_LOCK', 'HEAP_LOCK'] as const)('%s of a dead process is released', (name) => {
    const segment = createSegment();
    const port = segment.bind(3);
    segment.memory.u32[H[name]] = token(deadPid(), 1);
    expect(verify(segment)).toEqual([expect.stringContaining('recoverlocks')]);
    expect(segment.recoverLocks()).toBe(1);
    expect(lockOwner(segment.memory, H[name])).toBeNull();
    expect(verify(segment)).toEqual([]);
    // And without anybody's help:
    segment.memory.u32[H[name]] = token(deadPid(), 1);
    port.free(port.allocate(1));
    port.giveBackSpare();
    port.putRequest(port.getRequest() as Request);
    segment.bind(4).close();
    expect(verify(segment)).toEqual([]);
  });

  it('a lock of a process that lives is left alone', () => {
    const segment = createSegment();
    lock(segment.memory, H.HEAP_LOCK, 3);
    expect(joinSegment(segment).recoverLocks()).toBe(0);
    expect(lockOwner(segment.memory, H.HEAP_LOCK)).toEqual({ pid: process.pid, port: 3, alive: true });
    segment.memory.u32[H.HEAP_LOCK] = 0;
  });

  it("the lock of a later process with a dead owner's pid is told from the dead one's", () => {
    const segment = createSegment();
    segment.memory.u32[H.HEAP_LOCK] = token(process.ppid, 0);
    const alive = lockOwner(segment.memory, H.HEAP_LOCK)?.alive;
    segment.memory.u32[H.HEAP_LOCK] = token(process.ppid, 1);
    const otherwise = lockOwner(segment.memory, H.HEAP_LOCK)?.alive;
    // The start time matches one of the two at most.
    expect([alive, otherwise]).toContain(false);
    segment.memory.u32[H.HEAP_LOCK] = 0;
  });

  it('a queue lock of a dead producer: its entry is found in the table', async () => {
    const segment = createSegment();
    const asker = segment.bind(1);
    const server = joinSegment(segment).bind(2);
    server.serve((r) => r.succeed(0));
    await turn();
    segment.memory.u32[segment.tables.portWord(2) + P.REQUEST_LOCK] = token(deadPid(), 1);
    expect((await ask(asker, 2)).served).toBe(true);
    segment.memory.u32[segment.tables.portWord(1) + P.REPLY_LOCK] = token(deadPid(), 1);
    expect((await ask(asker, 2)).served).toBe(true);
    expect(verify(segment)).toEqual([]);
  });
});

describe('what others may do to a segment', () => {
  it('garbage in the rings is dropped, and what it hides is found in the table', async () => {
    const segment = createSegment();
    const asker = segment.bind(1);
    const server = joinSegment(segment).bind(2);
    const { requests } = segment.tables.queues(2);
    for (const index of [-1, -5, segment.geometry.requests, 0x7fffffff, 3, 3, 3]) requests.push(index, 1);
    const answer = ask(asker, 2);
    server.serve((r) => r.succeed(0));
    expect((await answer).served).toBe(true);
    // Positions that make no sense.
    const word = segment.tables.portWord(2);
    for (const tail of [0x7fffffff, -0x80000000, 100_000]) {
      Atomics.add(segment.memory.i32, word + P.REQUEST_TAIL, tail);
      await until(() => !requests.isDamaged, 'the owner notices');
      expect((await ask(asker, 2)).served).toBe(true);
    }
    segment.memory.i32[segment.tables.portWord(1) + P.REPLY_HEAD] = 12345;
    expect((await ask(asker, 2)).served).toBe(true);
  });

  it('positions go over 2^31 and 2^32 without a hitch', async () => {
    const segment = createSegment();
    const asker = segment.bind(1);
    const server = joinSegment(segment).bind(2);
    const { i32 } = segment.memory;
    for (const start of [0x7ffffff0, -16]) {
      for (const [port, head, tail] of [
        [2, P.REQUEST_HEAD, P.REQUEST_TAIL],
        [1, P.REPLY_HEAD, P.REPLY_TAIL],
      ]) {
        i32[segment.tables.portWord(port) + head] = start;
        i32[segment.tables.portWord(port) + tail] = start;
      }
      const seen: number[] = [];
      server.serve((r) => {
        seen.push(r.size);
        r.succeed(0);
      });
      const sent = Array.from({ length: 64 }, (_, size) =>
        ask(asker, 2, (r) => {
          r.size = size;
        }),
      );
      for (const request of await Promise.all(sent)) asker.putRequest(request);
      expect(seen).toEqual(Array.from({ length: 64 }, (_, i) => i));
    }
    expect(verify(segment)).toEqual([]);
  });

  it('a ring entry from an earlier life of a record does not make a server take what was sent to another', async () => {
    const segment = createSegment();
    const asker = segment.bind(1);
    const right = joinSegment(segment).bind(2);
    const wrong = joinSegment(segment).bind(3);
    const request = asker.getRequest() as Request;
    const answer = new Promise<Request>((resolve) => {
      request.onReply = resolve;
    });
    segment.tables.queues(3).requests.push(request.index, 1);
    segment.tables.queues(2).replies.push(request.index, 1);
    asker.submit(request, 2);
    let mistaken = 0;
    wrong.serve((r) => {
      mistaken++;
      r.fail(5);
    });
    await turn();
    await turn();
    expect(stateOf(request, segment)).toBe(RequestState.SUBMITTED);
    right.serve((r) => r.succeed(0));
    expect((await answer).served).toBe(true);
    expect(mistaken).toBe(0);
  });

  it('a producer that died before it rang keeps nobody asleep', async () => {
    const segment = createSegment();
    const asker = segment.bind(1);
    const server = joinSegment(segment).bind(2);
    server.serve((r) => r.succeed(0));
    await ask(asker, 2);
    const sleeping = segment.tables.portWord(2) + P.SLEEPING;
    await until(() => segment.memory.u32[sleeping] === 1, 'the server sleeps');
    // It took the flag and died: who comes after it does not ring.
    segment.memory.u32[sleeping] = 0;
    expect((await ask(asker, 2)).served).toBe(true);
  });

  it('a list of free records that somebody wrote over is made anew', () => {
    const segment = createSegment();
    const port = segment.bind(1);
    segment.memory.u32[H.FREE_REQUESTS] = 0x7fffffff;
    expect(verify(segment)).toContainEqual(expect.stringContaining('free request records is broken'));
    expect(port.getRequest()).not.toBeNull();
    expect(verify(segment)).toEqual([]);
  });
});
