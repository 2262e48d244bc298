import { describe, expect, test } from 'vitest';
import { type Pollable, Poller } from '../../../src/nbd/poller.js';
import { until } from './support.js';

/** Counts how often it is asked; something arrives at the asks named. */
class Source implements Pollable {
  pollable = true;
  waiting = false;
  single = false;
  asked = 0;
  readonly #arrivals: (asked: number) => boolean;
  constructor(arrivals: (asked: number) => boolean = () => false) {
    this.#arrivals = arrivals;
  }
  poll(): boolean {
    this.asked++;
    return this.#arrivals(this.asked);
  }
}

/** Turns of the event loop. */
async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** Resolves when it is not asked any more; returns how often it was. */
async function settled(source: Source): Promise<number> {
  let before = -1;
  while (before !== source.asked) {
    before = source.asked;
    await turns(3);
  }
  return before;
}

/** A clock that only goes on when it is looked at, by `tick` ms, or set. */
class Clock {
  time = 1000;
  tick = 0.001;
  readonly now = (): number => {
    this.time += this.tick;
    return this.time;
  };
}

/** A poller with such a clock, and a connection for which something arrives at the asks named. */
function rig(busyPollUs: number, arrivals?: (asked: number) => boolean) {
  const clock = new Clock();
  const source = new Source(arrivals);
  /** Offers of the processor, and how long it is away at each, in ms. */
  const offers = { count: 0, away: 0 };
  const poller = new Poller(busyPollUs, clock.now, () => {
    offers.count++;
    clock.time += offers.away;
  });
  /** Serves it through the event loop so many microseconds after the last time it was; how often it was asked after that. */
  const served = async (pauseUs: number): Promise<number> => {
    clock.time = last + pauseUs / 1000;
    last = clock.time;
    const before = source.asked;
    poller.touched(source);
    return (await settled(source)) - before;
  };
  let last = clock.time;
  return { clock, source, poller, served, offers };
}

describe('busy-polling', () => {
  test('a client whose pauses are short is asked after each answer, for as long as was allowed', async () => {
    const { served } = rig(100, (asked) => asked <= 300 && asked % 60 === 0);
    expect(await served(1_000_000)).toBe(0);
    // An ask takes a look at the clock, a microsecond: found after 60 of them five times, then not.
    const asked = await served(50);
    expect(asked).toBeGreaterThan(390);
    expect(asked).toBeLessThanOrEqual(402);
  });

  test('0 is off', async () => {
    const { served } = rig(0);
    for (let i = 0; i < 10; i++) expect(await served(1)).toBe(0);
  });

  test('a client whose pauses are longer than that is soon not asked at all', async () => {
    const { served } = rig(100);
    for (let i = 0; i < 8; i++) await served(20);
    const asked: number[] = [];
    for (let i = 0; i < 20; i++) asked.push(await served(300));
    expect(asked.slice(0, 10).some((count) => count > 0)).toBe(true);
    expect(asked.slice(10)).toEqual(new Array(10).fill(0));
    expect(await served(20)).toBeGreaterThan(0);
  });

  test('one long pause among short ones does not end it', async () => {
    const { served } = rig(100);
    for (let i = 0; i < 8; i++) await served(20);
    expect(await served(5000)).toBeGreaterThan(0);
  });

  test('a processor that was away while a client was asked is left to others for a while', async () => {
    const { clock, source, served } = rig(100);
    for (let i = 0; i < 8; i++) await served(20);
    clock.tick = 0.6;
    expect(await served(20)).toBeLessThanOrEqual(1);
    clock.tick = 0.001;
    const before = source.asked;
    for (let i = 0; i < 20; i++) expect(await served(20)).toBe(0);
    expect(source.asked).toBe(before);
    expect(await served(40_000)).toBeGreaterThan(0);
  });

  test('requests without end leave the event loop its turns', async () => {
    const clock = new Clock();
    const poller = new Poller(50, clock.now);
    const source = new Source(() => true);
    for (let i = 0; i < 2; i++) poller.touched(source);
    let timer = false;
    setTimeout(() => {
      timer = true;
    }, 1);
    await until(() => timer);
    source.pollable = false;
    await settled(source);
    expect(source.asked).toBeGreaterThan(1);
  });

  test('a device at work has the event loop after every round', async () => {
    const { source, poller, served } = rig(10_000);
    for (let i = 0; i < 4; i++) await served(1);
    source.waiting = true;
    const before = source.asked;
    poller.touched(source);
    await turns(1);
    expect(source.asked - before).toBe(1);
    await turns(1);
    expect(source.asked - before).toBeLessThanOrEqual(2);
    poller.forget(source);
    await settled(source);
  });

  test('a connection that is over is not asked any more', async () => {
    const { poller, source: gone, served } = rig(1000);
    for (let i = 0; i < 4; i++) await served(1);
    const [before, here] = [gone.asked, new Source()];
    poller.touched(gone);
    poller.touched(here);
    poller.forget(gone);
    expect(await settled(here)).toBeGreaterThan(0);
    expect(gone.asked).toBe(before);
  });

  test('with many active connections readiness is left to the system', async () => {
    const { poller, served } = rig(1000);
    for (let i = 0; i < 4; i++) await served(1);
    const sources = Array.from({ length: 50 }, () => new Source());
    for (const source of sources) poller.touched(source);
    await settled(sources[0]);
    expect(sources[0].asked).toBeLessThanOrEqual(1);
  });
});

describe('a client that sends one request at a time', () => {
  test('is offered the processor before it is asked, and again after some asks in vain', async () => {
    const { source, served, offers } = rig(100);
    source.single = true;
    for (let i = 0; i < 8; i++) await served(60);
    offers.count = 0;
    const asked = await served(60);
    expect(asked).toBeGreaterThan(64);
    expect(offers.count).toBe(Math.ceil(asked / 32));
  });

  test('is offered it after each answer', async () => {
    const { source, served, offers } = rig(100, (asked) => asked <= 100);
    source.single = true;
    for (let i = 0; i < 2; i++) await served(1);
    expect(offers.count).toBeGreaterThan(100);
  });

  test('is not, where it sends several at a time or others are there', async () => {
    const { source, poller, served, offers } = rig(100);
    for (let i = 0; i < 4; i++) await served(20);
    source.single = true;
    const other = new Source();
    other.single = true;
    offers.count = 0;
    poller.touched(other);
    poller.touched(source);
    await settled(source);
    expect(source.asked).toBeGreaterThan(0);
    expect(offers.count).toBe(0);
  });

  test('and does not give it back leaves it to others for a while', async () => {
    const { source, served, offers } = rig(100);
    source.single = true;
    for (let i = 0; i < 8; i++) await served(20);
    offers.away = 0.6;
    expect(await served(20)).toBe(0);
    offers.away = 0;
    for (let i = 0; i < 20; i++) expect(await served(20)).toBe(0);
    expect(await served(40_000)).toBeGreaterThan(0);
  });

  test('and answers quickly is not asked for long after that', async () => {
    const { source, served } = rig(200, (asked) => asked <= 2000 && asked % 5 === 0);
    source.single = true;
    for (let i = 0; i < 2; i++) await served(5);
    // Some microseconds were usual.
    expect(await served(5)).toBeLessThan(60);
    for (let i = 0; i < 60; i++) await served(60);
    expect(await served(60)).toBeGreaterThan(150);
  });

  test('is asked all the time while the device is at work for it', async () => {
    const { source, served } = rig(200, (asked) => asked <= 2000 && asked % 5 === 0);
    source.single = true;
    for (let i = 0; i < 2; i++) await served(5);
    source.waiting = true;
    // Three looks at the clock for each ask.
    expect(await served(5)).toBeGreaterThan(50);
  });
});

describe('a connection is alone', () => {
  test('when no other was served within some milliseconds', () => {
    const { clock, source, poller } = rig(100);
    const other = new Source();
    expect(poller.isAlone(source)).toBe(false);
    poller.touched(source);
    expect(poller.isAlone(source)).toBe(true);
    poller.touched(other);
    expect([source, other].map((each) => poller.isAlone(each))).toEqual([false, false]);
    clock.time += 11;
    expect(poller.isAlone(source)).toBe(true);
    poller.touched(other);
    expect(poller.isAlone(source)).toBe(false);
    poller.forget(other);
    expect(poller.isAlone(source)).toBe(true);
  });

  test('for as long when the other one is not asked any more', () => {
    const { clock, source, poller } = rig(200);
    const other = { pollable: false, waiting: false, single: false, poll: () => false };
    poller.touched(other);
    poller.touched(source);
    clock.time += 5;
    poller.touched(source);
    poller.touched(source);
    expect(poller.isAlone(source)).toBe(false);
    clock.time += 6;
    poller.touched(source);
    expect(poller.isAlone(source)).toBe(true);
    poller.touched(other);
    clock.time += 11;
    poller.touched(other);
    expect([source, other].map((each) => poller.isAlone(each))).toEqual([false, true]);
  });

  test('never where nothing is polled: nobody looks', () => {
    const { source, poller } = rig(0);
    poller.touched(source);
    expect(poller.isAlone(source)).toBe(false);
  });
});
