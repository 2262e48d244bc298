import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Admission, type Admitted } from '../../../src/nbd/admission.js';
import { Budget, type Share } from '../../../src/nbd/budget.js';
import { connectNbd } from '../../../src/nbd/client-connect.js';
import type { Io } from '../../../src/nbd/device.js';
import { resolveLimits } from '../../../src/nbd/limits.js';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import { eventually, RecordingLog, SteeredProvider, serve, serveMemory, transports } from './support.js';

const MiB = 1 << 20;

describe('a budget', () => {
  const never = () => {
    throw new Error('nothing was waited for');
  };

  test('gives each its own part whatever the others hold', () => {
    const budget = new Budget(100, 10, 4);
    const greedy = budget.join(never);
    expect(greedy.reserve(70)).toBe(true);
    greedy.take(70);
    const others = [budget.join(never), budget.join(never), budget.join(never)];
    for (const other of others) {
      expect(other.reserve(10)).toBe(true);
      other.take(10);
    }
    expect(budget.lent).toBe(60);
  });

  test('keeps what is granted for those who are still to come, half of all at most', () => {
    const share = new Budget(100, 10, 4).join(() => {});
    expect(share.reserve(71)).toBe(false);
    expect(share.reserve(70)).toBe(true);
    const crowded = new Budget(100, 10, 1000).join(() => {});
    expect(crowded.reserve(61)).toBe(false);
    expect(crowded.reserve(60)).toBe(true);
  });

  test('serves those who wait in the order they came, and nobody overtakes them', () => {
    const told: string[] = [];
    const budget = new Budget(100, 10, 4);
    const holder = budget.join(never);
    holder.reserve(70);
    holder.take(70);
    const [large, small, late] = ['large', 'small', 'late'].map((name) => budget.join(() => told.push(name)));
    expect(large.reserve(60)).toBe(false);
    expect(small.reserve(20)).toBe(false);
    expect(small.reserve(20)).toBe(false);
    holder.give(20);
    expect(told).toEqual([]);
    // There is room for it, but others were first.
    expect(late.reserve(15)).toBe(false);
    holder.give(50);
    expect(told).toEqual(['large', 'small']);
    expect(large.reserve(60)).toBe(true);
    large.take(60);
    small.take(20);
    expect(late.reserve(10)).toBe(true);
    expect(budget.waiting).toBe(0);
    expect(budget.lent).toBe(60);
  });

  test('who waits goes on with its own part when that is free again', () => {
    const budget = new Budget(40, 10, 2);
    const a = budget.join(never);
    a.reserve(30);
    a.take(30);
    const b = budget.join(never);
    b.reserve(10);
    b.take(10);
    expect(b.reserve(10)).toBe(false);
    b.give(10);
    expect(b.reserve(10)).toBe(true);
    expect(budget.waiting).toBe(0);
  });

  test('what is set aside for one that ends goes to the next', () => {
    const told: string[] = [];
    const budget = new Budget(40, 10, 2);
    const a = budget.join(never);
    a.reserve(30);
    a.take(30);
    const [b, c] = ['b', 'c'].map((name) => budget.join(() => told.push(name)));
    b.reserve(20);
    c.reserve(20);
    a.give(30);
    expect(told).toEqual(['b']);
    b.stop();
    expect(told).toEqual(['b', 'c']);
    c.leave();
    b.leave();
    a.leave();
    expect(budget.lent).toBe(0);
  });

  test('never lends more than it has, loses nothing, and leaves nobody waiting that could be served', () => {
    type Step = { who: number; what: 'take' | 'give' | 'leave'; amount: number };
    const step = fc.record({
      who: fc.nat(4),
      what: fc.constantFrom<Step['what']>('take', 'take', 'give', 'leave'),
      amount: fc.integer({ min: 1, max: 60 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const budget = new Budget(200, 10, 5);
        const members: { share: Share; asked: number; ready: boolean }[] = [];
        const member = (): (typeof members)[number] => {
          const one = { share: null as unknown as Share, asked: 0, ready: false };
          one.share = budget.join(() => {
            one.ready = true;
          });
          return one;
        };
        for (let i = 0; i < 5; i++) members.push(member());
        for (const { who, what, amount } of steps) {
          const one = members[who];
          if (what === 'take') {
            one.asked = amount;
            one.ready = one.share.reserve(amount);
          } else if (what === 'give') one.share.give(Math.min(amount, one.share.held));
          else {
            one.share.leave();
            members[who] = member();
          }
          for (const each of members) {
            if (!each.ready || each.asked === 0) continue;
            expect(each.share.reserve(each.asked)).toBe(true);
            each.share.take(each.asked);
            each.ready = false;
            each.asked = 0;
          }
          const held = members.map(({ share }) => share.held);
          expect(held.reduce((sum, bytes) => sum + bytes, 0)).toBeLessThanOrEqual(200);
          expect(budget.lent).toBe(held.reduce((sum, bytes) => sum + Math.max(0, bytes - 10), 0));
        }
        for (const { share } of members) share.leave();
        expect([budget.lent, budget.waiting]).toEqual([0, 0]);
      }),
    );
  });
});

describe('a full server', () => {
  class Candidate implements Admitted {
    readonly since: number;
    readonly negotiating: boolean;
    destroyed: Error | null = null;
    end: () => void = () => {};
    readonly over = new Promise<void>((resolve) => {
      this.end = resolve;
    });
    constructor(ageMs: number, negotiating: boolean) {
      this.since = Date.now() - ageMs;
      this.negotiating = negotiating;
    }
    destroy(error: Error): void {
      this.destroyed = error;
    }
  }
  const numbered = (all: Candidate[]) => new Map(all.map((candidate, i) => [i, candidate]));

  test('ends the oldest negotiation that is older than a moment, once, and never a client', async () => {
    const admission = new Admission(3, new RecordingLog());
    const [client, stale, fresh] = [new Candidate(9000, false), new Candidate(5000, true), new Candidate(0, true)];
    const connections = numbered([client, stale, fresh]);
    expect(admission.admits(connections)).toBe(true);
    expect([client, stale, fresh].map(({ destroyed }) => destroyed !== null)).toEqual([false, true, false]);
    // It is still there, and another came in its place.
    const more = numbered([client, stale, fresh, new Candidate(0, true)]);
    expect(admission.admits(more)).toBe(false);
    stale.end();
    await stale.over;
    more.delete(1);
    expect(admission.admits(more)).toBe(false);
  });

  test('does not go on for ever when those that leave do not end', () => {
    const admission = new Admission(2, new RecordingLog());
    const all: Candidate[] = [new Candidate(5000, true), new Candidate(5000, true)];
    while (all.length < 10 && admission.admits(numbered(all))) all.push(new Candidate(5000, true));
    expect(all).toHaveLength(4);
  });

  test('tells of a flood in one line', () => {
    const log = new RecordingLog();
    const admission = new Admission(1, log);
    const full = numbered([new Candidate(0, false)]);
    for (let i = 0; i < 1000; i++) expect(admission.admits(full)).toBe(false);
    expect(log.lines).toEqual(['warn a client was turned away: 1 connections are all that are allowed']);
  });
});

describe('limits', () => {
  test('are positive numbers; idle may be never', () => {
    expect(resolveLimits({ idleMs: 0 }).idleMs).toBe(0);
    expect(() => resolveLimits({ idleMs: -1 })).toThrow(/idleMs is -1/);
    expect(() => resolveLimits({ payload: 2 ** 32, gatherBytes: 2 ** 33 })).toThrow(/payload is 4294967296/);
    expect(() => resolveLimits({ totalInFlight: 0 })).toThrow(/totalInFlight is 0/);
    expect(() => resolveLimits({ totalInFlightBytes: 1.5 })).toThrow(/totalInFlightBytes/);
  });
});

describe.each(transports)('over the %s transport', (transport) => {
  test('an idle client is disconnected, one that waits for its answer is not', async () => {
    const held: Io[] = [];
    const provider = new SteeredProvider(new MemoryDisk({ size: MiB }), (device) => {
      device.hook = (io) => io.offset === 512 && held.push(io) > 0;
    });
    const log = new RecordingLog();
    const { path, server } = await serve(provider, { transport, log, limits: { idleMs: 400 } });
    const waiting = await connectNbd({ path });
    const answer = waiting.read(512, 512);
    await eventually(() => held.length).toBe(1);
    for (let round = 0; round < 3; round++) {
      const idle = await connectNbd({ path });
      await idle.read(0, 512);
      await eventually(() => server.connections().length).toBe(1);
      await expect(idle.read(0, 512)).rejects.toMatchObject({ code: 'ECONNRESET' });
    }
    expect(log.lines.filter((line) => line.includes('without a request'))).toHaveLength(3);
    held[0].complete(0);
    await answer;
    await eventually(() => server.connections()).toEqual([]);
  });

  test('requests of all connections together are bounded, and each has some', async () => {
    const held: Io[] = [];
    const provider = new SteeredProvider(new MemoryDisk({ size: MiB }), (device) => {
      device.hook = (io) => held.push(io) > 0;
    });
    // 16 are granted to each of the 4, and half of 64 is kept at most for those: 32 are lent.
    const { path } = await serve(provider, { transport, limits: { connections: 4, totalInFlight: 64 } });
    const [greedy, other] = [await connectNbd({ path }), await connectNbd({ path })];
    const reads = Array.from({ length: 100 }, (_, i) => greedy.read(i * 512, 512));
    await eventually(() => held.length).toBe(48);
    const own = Array.from({ length: 17 }, (_, i) => other.read(i * 512, 512));
    await eventually(() => held.length).toBe(64);
    const all = Promise.all([...reads, ...own]);
    let done = false;
    void all.then(() => {
      done = true;
    });
    await eventually(() => {
      expect(held.length).toBeLessThanOrEqual(64);
      for (const io of held.splice(0)) io.complete(0);
      return done;
    }).toBe(true);
    await Promise.all([greedy.disconnect(), other.disconnect()]);
  });

  test('a keepalive that the system does not take turns nobody away without a word', async () => {
    const log = new RecordingLog();
    const { server } = await serveMemory({}, { transport, log, keepalive: { time: 30, interval: 10, probes: 1000 } });
    const bound = await server.listen({ host: '127.0.0.1', port: 0 });
    if (!('port' in bound)) throw new Error('no port');
    await expect(connectNbd(bound)).rejects.toThrow();
    expect(log.lines.join()).toMatch(/turned away: cannot set keepalive .*out of the range/);
  });
});
