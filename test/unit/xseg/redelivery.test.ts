import fs from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { type Request, report, Segment, verify } from '../../../src/xseg/index.js';
import { ask, cleanUp, createSegment, die, freshName, joinSegment, turn, until } from './help.js';

afterEach(cleanUp);

/** A server on port 2 that takes requests and never answers, in what looks like another process. */
function silentServer(segment: Segment): { taken: Request[]; kill: () => void } {
  const port = joinSegment(segment).bind(2);
  const taken: Request[] = [];
  port.serve((request) => taken.push(request));
  const kill = (): void => {
    die(port);
    segment.reap();
    // It is nobody's any more; the test's process lives on and must not go on serving in its place.
    port.segment.close();
  };
  return { taken, kill };
}

describe('a request whose server died', () => {
  it('tells its successor, with what the dead one noted', async () => {
    const segment = createSegment();
    const asker = segment.bind(1);
    const first = silentServer(segment);
    const answer = ask(asker, 2, (r) => {
      r.op = 14;
    });
    await until(() => first.taken.length === 1, 'it is taken');
    expect([first.taken[0].redelivered, first.taken[0].note]).toEqual([false, '']);
    first.taken[0].note = 'made 0123456789abcdef';
    first.kill();
    const seen: unknown[] = [];
    joinSegment(segment)
      .bind(2)
      .serve((r) => {
        seen.push(r.op, r.redelivered, r.note);
        r.succeed(0);
      });
    const request = await answer;
    expect(seen).toEqual([14, true, 'made 0123456789abcdef']);
    request.reset();
    expect([request.redelivered, request.note, request.mustResend]).toEqual([false, '', false]);
    asker.putRequest(request);
  });

  it('is not redelivered when it only waited in the queue', async () => {
    const segment = createSegment();
    const asker = segment.bind(1);
    const dead = joinSegment(segment).bind(2);
    const answer = ask(asker, 2);
    die(dead);
    segment.reap();
    dead.segment.close();
    let redelivered: boolean | null = null;
    joinSegment(segment)
      .bind(2)
      .serve((r) => {
        redelivered = r.redelivered;
        r.succeed(0);
      });
    asker.putRequest(await answer);
    expect(redelivered).toBe(false);
  });

  it('is redelivered also when the server closed its port in peace without an answer', async () => {
    const segment = createSegment();
    const asker = segment.bind(1);
    const server = joinSegment(segment).bind(2);
    let taken = 0;
    server.serve(() => taken++);
    const answer = ask(asker, 2);
    await until(() => taken === 1, 'it is taken');
    server.close();
    let redelivered = false;
    joinSegment(segment)
      .bind(2)
      .serve((r) => {
        redelivered = r.redelivered;
        r.succeed(0);
      });
    asker.putRequest(await answer);
    expect(redelivered).toBe(true);
  });

  it('is sent anew by a call whose data the dead one may have written its answer over', async () => {
    const segment = createSegment();
    const asker = segment.bind(1);
    const first = silentServer(segment);
    const data = Buffer.from('{"cursor":null}');
    const call = asker.call(2, { op: 68, data, capacity: 100, note: 'from the asker' }, { wait: true });
    await until(() => first.taken.length === 1, 'it is taken');
    first.taken[0].data.fill('x');
    first.kill();
    const seen: unknown[] = [];
    const successor = joinSegment(segment).bind(2);
    successor.serve((r) => {
      seen.push(r.data.toString('latin1').replaceAll('\0', '.'), r.size, r.redelivered, r.note);
      r.data.write('answer');
      r.succeed(6);
    });
    const reply = await call;
    expect(reply.data.toString('latin1', 0, reply.serviced)).toBe('answer');
    expect(seen).toEqual([data.toString() + '.'.repeat(85), data.length, true, 'from the asker']);
    await turn();
    asker.giveBackSpare();
    expect(verify(segment)).toEqual([]);
  });

  it('comes back again and again while servers die, and once only to a caller that went', async () => {
    const segment = createSegment();
    const asker = segment.bind(1);
    let call = asker.call(2, { op: 68, data: Buffer.from('body'), capacity: 8 }, { wait: true });
    for (let round = 0; round < 5; round++) {
      const server = silentServer(segment);
      await until(() => server.taken.length === 1, 'it is taken');
      expect(server.taken[0].data.toString('latin1', 0, 4)).toBe('body');
      server.taken[0].data.fill(round);
      server.kill();
    }
    asker.close();
    await expect(call).rejects.toMatchObject({ code: 'ECANCELED' });

    const other = segment.bind(1);
    const server = silentServer(segment);
    call = other.call(2, { op: 68, data: Buffer.from('body'), capacity: 8 });
    await until(() => server.taken.length === 1, 'it is taken');
    server.kill();
    await expect(call).rejects.toMatchObject({ code: 'ECONNRESET' });
    await until(() => report(segment).inFlight === 0, 'nothing is in flight');
    await turn();
    other.giveBackSpare();
    expect(verify(segment)).toEqual([]);
    expect(report(segment).freePages).toBe(segment.geometry.heapPages);
  });

  it('refuses a note that does not fit', () => {
    const request = createSegment().bind(1).getRequest() as Request;
    expect(() => {
      request.note = 'n'.repeat(121);
    }).toThrow(RangeError);
    request.note = 'n'.repeat(120);
    expect(request.note).toHaveLength(120);
    // Neither the target nor the message is near it.
    expect([request.target, request.message]).toEqual(['', '']);
  });
});

describe('what a dead peer left under way', () => {
  it('is counted until living peers are done with it, whoever owns the port by then', async () => {
    const segment = createSegment();
    const worker = segment.bind(5);
    const other = segment.bind(6);
    const taken: Request[] = [];
    for (const port of [worker, other]) port.serve((request) => taken.push(request));
    const dead = joinSegment(segment).bind(1);
    for (const dst of [5, 5, 6]) dead.submit(dead.getRequest() as Request, dst);
    await until(() => taken.length === 3, 'they are taken');
    expect(segment.leftBy(1)).toBe(0);
    die(dead);
    // Nobody has cleaned up yet: asking does.
    expect(segment.leftBy(1)).toBe(3);
    expect(segment.leftBy(1, 6)).toBe(2);
    let over = false;
    const waiting = segment.nothingLeftBy(1, 6).then(() => {
      over = true;
    });
    const successor = joinSegment(segment).bind(1);
    expect(successor.isSettling).toBe(true);
    const [a, b, c] = taken;
    a.succeed(0);
    expect(segment.leftBy(1, 6)).toBe(1);
    await turn();
    expect(over).toBe(false);
    b.succeed(0);
    await waiting;
    expect(segment.leftBy(1)).toBe(1);
    c.succeed(0);
    expect(segment.leftBy(1)).toBe(0);
    await expect(segment.nothingLeftBy(99)).rejects.toMatchObject({ code: 'EINVAL' });
  });

  it('is over when the peer that worked on it dies too', async () => {
    const segment = createSegment();
    const worker = joinSegment(segment).bind(5);
    let taken = 0;
    worker.serve(() => taken++);
    const dead = joinSegment(segment).bind(1);
    dead.submit(dead.getRequest() as Request, 5);
    await until(() => taken === 1, 'it is taken');
    die(dead);
    expect(segment.leftBy(1)).toBe(1);
    die(worker);
    expect(segment.leftBy(1)).toBe(0);
  });
});

describe('a full queue', () => {
  it('makes calls wait, not fail', async () => {
    const segment = createSegment({ mib: 128 });
    const { queueCapacity } = segment.geometry;
    const askers = [segment.bind(1), segment.bind(3), segment.bind(4)];
    const slow = joinSegment(segment).bind(2);
    for (let i = 0; i < queueCapacity; i++) askers[i & 1].submit(askers[i & 1].getRequest() as Request, 2);
    const one = askers[0].getRequest() as Request;
    expect(() => askers[0].submit(one, 2)).toThrow(expect.objectContaining({ code: 'EAGAIN' }));
    const call = askers[2].call(2, { op: 1, size: 7 }, { wait: true });
    await turn();
    slow.serve((r) => r.succeed(r.size));
    expect((await call).serviced).toBe(7);
  });
});

describe('giving the memory back', () => {
  it('leaves nothing mapped, and views that read zeros', async () => {
    const name = freshName();
    const mapped = (): boolean => fs.readFileSync('/proc/self/maps', 'latin1').includes(name);
    const segment = Segment.create(`posix:${name}:16:8:16:12`);
    const server = segment.bind(1);
    server.serve((r) => r.succeed(r.size));
    const { data } = await segment.bind(2).call(1, { op: 1, size: 3, capacity: 4096 });
    const view = segment.request(0);
    expect(mapped()).toBe(true);
    Segment.destroy(`posix:${name}:`);
    segment.unmap();
    expect(mapped()).toBe(false);
    expect(view.op).toBe(0);
    expect(data).toHaveLength(4096);
  });
});
