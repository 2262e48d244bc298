/**
 * A mapper is killed at each step of taking, giving back, handing over and breaking a lock: before each operation on the store and before
 * each writing of its registry. Its successor never finds a lock lost that nobody took, and leaves none behind.
 */
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { LockRegistry } from '../../../src/mapper/locking/registry.js';
import type { Mapper } from '../../../src/mapper/mapper.js';
import { A, B, startNode, TestClock } from './nodes.js';
import { createSmall, memoryStores, type Node, type Stores, temporaryDirectory } from './support.js';

const BLOCK = 256;
const PORT = 500;
const log = { warn: () => {}, info: () => {} };

/** Ends a mapper at one of its steps; what it does from then on reaches nothing. */
class Killer {
  #left: number;
  #ended = (): void => {};
  /** Where it was ended; null while it lives. */
  at: string | null = null;
  readonly killed = new Promise<void>((resolve) => (this.#ended = resolve));
  /** How the registry's file was then. */
  readonly #from: string;
  readonly #to: string;

  /** @param step which of its steps it does not do @param from the directory of its registry @param to of its successor's */
  constructor(step: number, from: string, to: string) {
    this.#left = step;
    this.#from = from;
    this.#to = to;
  }

  step(what: string): Promise<never> | undefined {
    if (this.at === null && --this.#left > 0) return;
    if (this.at === null) {
      this.at = what;
      const file = path.join(this.#from, 'locks.json');
      if (fs.existsSync(file)) fs.copyFileSync(file, path.join(this.#to, 'locks.json'));
      this.#ended();
    }
    return new Promise(() => {});
  }
}

interface Rig {
  readonly clock: TestClock;
  readonly stores: Stores;
  readonly b: Node;
}

interface Scenario {
  /** Done before the mapper can be killed. */
  readonly before: (mapper: Mapper, rig: Rig) => Promise<unknown>;
  readonly work: (mapper: Mapper, rig: Rig) => Promise<unknown>;
  /** The other node asked for it, and goes on waiting. */
  readonly byOther?: boolean;
  /** The lock stays as it was. */
  readonly keeps?: boolean;
}

const lease = (mapper: Mapper): Promise<unknown> => mapper.lease('volume', { write: true }, PORT);

const scenarios: Record<string, Scenario> = {
  'leasing for writing': { before: async () => {}, work: lease },
  'the last client going': { before: lease, work: (mapper) => mapper.close('volume', true) },
  'opening exclusively': { before: async () => {}, work: (mapper) => mapper.open('volume') },
  'closing what is used': {
    before: async (mapper) => {
      await mapper.open('volume');
      await lease(mapper);
    },
    work: (mapper) => mapper.close('volume'),
  },
  'locking by hand': { before: async () => {}, work: (mapper) => mapper.lock('volume') },
  'unlocking what is used': {
    before: async (mapper) => {
      await mapper.lock('volume');
      await lease(mapper);
    },
    work: (mapper) => mapper.unlock('volume', false),
  },
  'handing over': {
    before: async (mapper, { b }) => {
      await mapper.open('volume', undefined, true);
      await b.mapper.open('volume', undefined, true);
      await lease(mapper);
    },
    work: (_, { b }) => lease(b.mapper),
    byOther: true,
  },
  'breaking a lock': {
    before: async (_, { b }) => b.mapper.lock('volume'),
    work: (mapper) => mapper.unlock('volume', true),
  },
  'a snapshot of what is used': { before: lease, work: (mapper) => mapper.snapshot('volume', 'snapshot'), keeps: true },
};

/** Lets time pass until it is so. */
async function until(clock: TestClock, so: () => boolean, what: string): Promise<void> {
  const limit = clock.now() + 60_000;
  while (!so()) {
    if (clock.now() > limit) throw new Error(what);
    await clock.pass(10);
  }
}

/** @returns where the mapper was killed; null when it came to its end before that step */
async function killedAt(scenario: Scenario, steps: number, composerLives: boolean): Promise<string | null> {
  const clock = new TestClock();
  const stores = memoryStores();
  const [first, second] = [temporaryDirectory(), temporaryDirectory()];
  const b = startNode(stores, clock, B);
  const rig = { clock, stores, b };
  const start = (directory: string, inherited: number[], prepare: (node: Node) => void): Node =>
    startNode(stores, clock, A, { inherited, prepare, registry: LockRegistry.load(directory, log) });
  const a = start(first, [], (node) => node.holders.set(PORT, async () => {}));
  await createSmall(a, 'volume', 2 * BLOCK, BLOCK);
  const prepared = scenario.before(a.mapper, rig);
  await clock.until(prepared, 10_000);
  await prepared;

  const killer = new Killer(steps, first, second);
  // How often locks are looked at depends on time; nothing is changed by that.
  const step = (what: string) => (what.startsWith('check') && killer.at === null ? undefined : killer.step(what));
  for (const client of [a.maps, a.blocks]) client.before = (operation, name) => step(`${operation} ${name}`);
  const rename = fs.promises.rename;
  const spy = vi.spyOn(fs.promises, 'rename').mockImplementation(async (from, to) => {
    if (path.dirname(String(to)) === first) await killer.step('the registry');
    await rename(from, to);
  });
  onTestFinished(() => spy.mockRestore());
  let over = false;
  const work = scenario.work(a.mapper, rig);
  work.then(
    () => (over = true),
    () => (over = true),
  );
  await until(clock, () => over || killer.at !== null, 'neither killed nor done');
  if (killer.at === null) {
    await work;
    return null;
  }

  const c = start(second, composerLives ? [PORT] : [], (node) => {
    if (composerLives) node.holders.set(PORT, async () => {});
  });
  await clock.pass(2000);
  const said = `killed before: ${killer.at}`;
  const lost = () => [...c.warnings, `lost: ${c.mapper.status().lost}`].join();
  expect(lost(), said).toBe('lost: 0');
  // It is done again by the successor, as a request that is delivered once more. What was done to the end may be refused then.
  const again = (scenario.byOther ? work : scenario.work(c.mapper, rig)).catch((error: Error) => {
    expect(error.message, said).toMatch(/is not locked|exists/);
  });
  await clock.until(again, 20_000);
  await again;
  const closed = Promise.all([c.mapper.close('volume'), b.mapper.close('volume')]);
  await clock.until(closed, 20_000);
  await closed;
  await until(clock, () => stores.maps.locks.size === 0, `${said}: a lock is left`);
  expect(lost(), said).toBe('lost: 0');
  const granted = lease(c.mapper);
  await clock.until(granted, 20_000);
  expect(await granted, said).toMatchObject({ granted: 'exclusive' });
  spy.mockRestore();
  return killer.at;
}

describe.each(Object.keys(scenarios))('a mapper that is killed in the middle of %s', (name) => {
  it.each([true, false])('leaves nothing that looks lost, when its composer lives: %s', async (composerLives) => {
    const steps: string[] = [];
    for (let step = 1; ; step++) {
      const at = await killedAt(scenarios[name], step, composerLives);
      if (at === null) break;
      steps.push(at);
    }
    if (scenarios[name].keeps) return;
    expect(steps, 'the steps').toContain('the registry');
    expect(steps.join(), 'the steps').toMatch(/(acquire|release|break) volume/);
  });
});
