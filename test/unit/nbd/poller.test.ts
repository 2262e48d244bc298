import { describe, expect, test } from 'vitest';
import { type Pollable, Poller } from '../../../src/nbd/poller.js';
import { until } from './support.js';

/** Counts how often it is asked; something arrives at the asks named. */
class Source implements Pollable {
  pollable = true;
  waiting = false;
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

describe('busy-polling', () => {
  test('asks an active connection for a while, then rests', async () => {
    const poller = new Poller(100);
    const source = new Source();
    poller.touched(source);
    expect(await settled(source)).toBeGreaterThan(0);
  });

  test('0 is off', async () => {
    const poller = new Poller(0);
    const source = new Source();
    poller.touched(source);
    expect(await settled(source)).toBe(0);
  });

  test('polls in vain become rare', async () => {
    const poller = new Poller(50);
    const source = new Source();
    let polled = 0;
    for (let i = 0; i < 200; i++) {
      const before = source.asked;
      poller.touched(source);
      if ((await settled(source)) > before) polled++;
    }
    expect(polled).toBeGreaterThan(1);
    expect(polled).toBeLessThan(20);
  });

  test('a poll that finds something makes the next ones certain again', async () => {
    const poller = new Poller(50);
    let arrive = false;
    const source = new Source(() => {
      const now = arrive;
      arrive = false;
      return now;
    });
    for (let i = 0; i < 50; i++) {
      poller.touched(source);
      await settled(source);
    }
    arrive = true;
    while (arrive) {
      poller.touched(source);
      await settled(source);
    }
    const before = source.asked;
    poller.touched(source);
    expect(await settled(source)).toBeGreaterThan(before);
  });

  test('requests without end leave the event loop its turns', async () => {
    const poller = new Poller(50);
    const source = new Source(() => true);
    poller.touched(source);
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
    const poller = new Poller(1000);
    const source = new Source();
    source.waiting = true;
    poller.touched(source);
    await turns(1);
    const first = source.asked;
    await turns(1);
    expect(first).toBe(1);
    expect(source.asked - first).toBeLessThanOrEqual(1);
    poller.forget(source);
    await settled(source);
  });

  test('a connection that is over is not asked any more', async () => {
    const poller = new Poller(1000);
    const [gone, here] = [new Source(), new Source()];
    poller.touched(gone);
    poller.touched(here);
    poller.forget(gone);
    expect(await settled(here)).toBeGreaterThan(0);
    expect(gone.asked).toBe(0);
  });

  test('with many active connections readiness is left to the system', async () => {
    const poller = new Poller(10_000);
    const sources = Array.from({ length: 50 }, () => new Source());
    for (const source of sources) poller.touched(source);
    await settled(sources[0]);
    expect(sources[0].asked).toBeLessThanOrEqual(1);
  });
});
