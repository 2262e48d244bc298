/** Rates, bursts, debts, turns and changes of a volume's limits, on a clock of the test. */
import { beforeEach, describe, expect, it } from 'vitest';
import { type Limits, NO_LIMITS } from '../../../../src/endpoint/throttle/rates.js';
import { VolumeThrottle } from '../../../../src/endpoint/throttle/volume-throttle.js';
import { FakeClock, FakeTicket } from './fake-clock.js';

const MiB = 1 << 20;
let clock: FakeClock;
let throttle: VolumeThrottle;

beforeEach(() => {
  clock = new FakeClock();
  throttle = new VolumeThrottle(clock);
});

const set = (limits: Partial<Limits>): void => throttle.set({ ...NO_LIMITS, ...limits });
const client = (request: ConstructorParameters<typeof FakeTicket>[2]): FakeTicket =>
  new FakeTicket(throttle, clock, request).ask();

describe('a rate', () => {
  it('of requests lets as many through as it says, evenly, after the tenth of a second that it saves', () => {
    set({ iops: 100 });
    const { begun } = client({ times: 40 });
    expect(begun).toEqual(Array(10).fill(0));
    clock.pass(1000);
    expect(begun).toHaveLength(40);
    const gaps = begun.slice(11).map((at, i) => at - begun[i + 10]);
    for (const gap of gaps) expect(gap).toBeCloseTo(10, 6);
  });

  it.each([1, 7, 333, 10_000])('of %i a second is kept to over any length of time', (iops) => {
    set({ iops });
    const tickets = Array.from({ length: 5 }, () => client({ times: Number.POSITIVE_INFINITY }));
    clock.pass(2000);
    const begun = tickets.flatMap((ticket) => ticket.begun).sort((a, b) => a - b);
    const saved = Math.max(1, iops / 10);
    // The i-th may come when i + 1 have been earned beyond what was saved.
    const early = begun.filter((at, i) => at + 1e-3 < ((i + 1 - saved) * 1000) / iops);
    expect(early).toEqual([]);
    expect(begun.length).toBeGreaterThanOrEqual(2 * iops);
  });

  it('of bytes lets a request through that is longer than all it saves, and has the next wait until that is paid', () => {
    set({ bps: MiB });
    const { begun } = client({ isWrite: true, bytes: 4 * MiB, times: 2 });
    expect(begun).toEqual([0]);
    clock.pass(3800);
    expect(begun).toHaveLength(1);
    clock.pass(200);
    expect(begun).toHaveLength(2);
  });

  it('of reads holds no writes, one of writes no reads', () => {
    set({ iopsRead: 1 });
    expect(client({ times: 5 }).begun).toHaveLength(1);
    expect(client({ isWrite: true, times: 5 }).begun).toHaveLength(5);
    set({ bpsWrite: 1 });
    expect(client({ times: 5 }).begun).toHaveLength(5);
    expect(client({ isWrite: true, times: 5 }).begun).toHaveLength(1);
  });

  it('of bytes counts no trims, one of requests does', () => {
    set({ bps: 1 });
    expect(client({ isWrite: true, bytes: 0, times: 5 }).begun).toHaveLength(5);
    set({ iops: 1 });
    expect(client({ isWrite: true, bytes: 0, times: 5 }).begun).toHaveLength(1);
  });

  it('holds together with others: the strictest decides', () => {
    set({ iops: 1000, bps: 10 * 4096 });
    const { begun } = client({ times: 20 });
    clock.pass(1000);
    expect(begun.length).toBeLessThanOrEqual(12);
    expect(begun.length).toBeGreaterThanOrEqual(10);
  });
});

describe('a burst', () => {
  it('goes at its own rate for as long as it may, then at the plain one', () => {
    set({ iops: 100, iopsMax: 1000, burstSeconds: 2 });
    const { begun } = client({ times: Number.POSITIVE_INFINITY });
    clock.pass(10_000);
    const within = (from: number, to: number): number => begun.filter((at) => at >= from && at < to).length;
    expect(within(0, 1000)).toBeGreaterThanOrEqual(1000);
    expect(within(0, 1000)).toBeLessThanOrEqual(1100);
    // 2000 saved and 100 a second: gone after 2.2 s.
    expect(within(3000, 4000)).toBe(100);
    expect(begun.length).toBeLessThanOrEqual(2000 + 10 * 100);
  });

  it('is earned again by a quiet time', () => {
    set({ iops: 10, iopsMax: 1000 });
    client({ times: 1000 });
    clock.pass(1000);
    clock.pass(100_000);
    const { begun } = client({ times: 1000 });
    clock.pass(1000);
    expect(begun).toHaveLength(1000);
  });

  it('below its rate is none', () => {
    set({ iops: 100, iopsMax: 50 });
    const { begun } = client({ times: Number.POSITIVE_INFINITY });
    clock.pass(1000);
    expect(begun.length).toBeGreaterThanOrEqual(100);
  });
});

describe('connections of one volume', () => {
  it('get equal shares, however much each asks for', () => {
    set({ iops: 100 });
    const tickets = [1000, 1000, 1000, 1000].map((times) => client({ times }));
    clock.pass(4000);
    const counts = tickets.map(({ begun }) => begun.length);
    expect(Math.max(...counts.slice(1)) - Math.min(...counts.slice(1))).toBeLessThanOrEqual(1);
    // The first had what was saved.
    expect(counts[0] - counts[1]).toBeLessThanOrEqual(11);
  });

  it('that read and that write take turns, long requests and short ones', () => {
    set({ bps: MiB });
    const writer = client({ isWrite: true, bytes: MiB, times: 1000 });
    const reader = client({ times: 1000 });
    clock.pass(20_000);
    expect(writer.begun.length).toBeGreaterThanOrEqual(18);
    expect(reader.begun.length).toBeGreaterThanOrEqual(18);
    expect(Math.abs(writer.begun.length - reader.begun.length)).toBeLessThanOrEqual(2);
  });

  it('wait in the order they came', () => {
    set({ iops: 1 });
    client({});
    const first = client({});
    const second = client({});
    clock.pass(1000);
    expect([first.begun.length, second.begun.length]).toEqual([1, 0]);
    clock.pass(1000);
    expect([first.begun.length, second.begun.length]).toEqual([1, 1]);
  });

  it('that leave make way, and are waited for by no timer', () => {
    set({ iops: 1 });
    client({});
    const [gone, next] = [client({}), client({})];
    throttle.cancel(gone);
    clock.pass(1000);
    expect([gone.begun.length, next.begun.length]).toEqual([0, 1]);
    const last = client({});
    throttle.cancel(last);
    throttle.cancel(last);
    expect([throttle.waiting, clock.timers]).toEqual([0, 0]);
  });

  it('are counted when they are not held back', () => {
    set({ iops: 10 });
    throttle.charge(new FakeTicket(throttle, clock));
    throttle.charge(new FakeTicket(throttle, clock));
    const { begun } = client({});
    clock.pass(199);
    expect(begun).toEqual([]);
    clock.pass(1.1);
    expect(begun).toHaveLength(1);
  });
});

describe('a change', () => {
  it('holds for who waits already', () => {
    set({ bps: 1 });
    client({ isWrite: true, bytes: MiB });
    const waiting = client({ isWrite: true, bytes: MiB });
    clock.pass(10_000);
    expect(waiting.begun).toEqual([]);
    set({ bps: 100 * MiB });
    expect(waiting.begun).toHaveLength(1);
  });

  it('to nothing lets all go, and makes the throttle cost nothing', () => {
    set({ iops: 1 });
    const waiting = [1, 2, 3, 4].map(() => client({}));
    expect([throttle.waiting, throttle.active]).toEqual([3, true]);
    set({});
    expect(waiting.map(({ begun }) => begun.length)).toEqual([1, 1, 1, 1]);
    expect([throttle.waiting, throttle.active, clock.timers]).toEqual([0, false, 0]);
  });

  it('of one limit leaves what others have counted', () => {
    set({ iops: 1 });
    client({});
    set({ iops: 1, bps: MiB });
    const { begun } = client({});
    clock.pass(999);
    expect(begun).toEqual([]);
    clock.pass(2);
    expect(begun).toHaveLength(1);
  });

  it('to the same is none', () => {
    set({ iops: 1 });
    client({});
    for (let i = 0; i < 10; i++) set({ iops: 1 });
    expect(client({}).begun).toEqual([]);
  });
});

it('waits of years are no busy loop', () => {
  set({ bps: 1 });
  client({ isWrite: true, bytes: 2 ** 31 });
  client({ isWrite: true, bytes: 1 });
  let calls = 0;
  const { after } = clock;
  clock.after = (ms, callback) => {
    calls++;
    expect(ms).toBeLessThan(2 ** 31);
    return after.call(clock, ms, callback);
  };
  clock.pass(3_600_000);
  expect(calls).toBeLessThanOrEqual(61);
});
