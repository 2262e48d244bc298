/** Partial objects and deadlines: nothing is done to an object after the deadline of who asked, and what the process knows is what its file says. */
import fs from 'node:fs';
import { describe, expect, it, vi } from 'vitest';
import type { FileDriver } from '../../../src/blockers/file/index.js';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { hashedPath } from '../../../src/blockers/file/paths.js';
import {
  aloneWithTheKernel,
  basesOf,
  changed,
  changes,
  content,
  copy,
  direct,
  hintOf,
  isPartial,
  pattern,
  powerCut,
  SIZE,
  same,
  soon,
  statesOf,
  store,
  UNIT,
  writeInTime,
} from './partial-rig.js';
import { fileDriver, read } from './support.js';

/** How far the clock is ahead, in ms. */
const passed = vi.hoisted(() => ({ ms: 0 }));
vi.mock('../../../src/sys/clock.js', async (original) => {
  const clock = await original<typeof import('../../../src/sys/clock.js')>();
  return { ...clock, monotonicMs: () => clock.monotonicMs() + passed.ms };
});

/** Every deadline passes, as for a process that was stopped. */
function standStill(): void {
  passed.ms += 600_000;
}

aloneWithTheKernel();

const SOURCE = pattern(SIZE, 1);

/** What another node finds of the object. */
function stateOf(root: string, name: string) {
  const file = hashedPath(root, name);
  if (!fs.existsSync(file)) return { isThere: false };
  return {
    isThere: true,
    inode: fs.statSync(file).ino,
    content: content(root, name).toString('latin1'),
    isPartial: isPartial(root, name),
  };
}

/** Lets the process stand still after the `last`th of the calls that change something; tells what was there then, and how many were made. */
function freezing(root: string, name: string, last: number) {
  const state = { count: 0, frozen: null as ReturnType<typeof stateOf> | null };
  const after = (): void => {
    if (++state.count !== last) return;
    standStill();
    state.frozen = stateOf(root, name);
  };
  const now = (on: object, call: string): void => {
    const target = on as Record<string, (...args: unknown[]) => unknown>;
    const original = target[call];
    vi.spyOn(target, call).mockImplementation((...args) => {
      const result = original.apply(on, args);
      if (result instanceof Promise) return result.finally(after);
      after();
      return result;
    });
  };
  for (const call of ['pwrite', 'fallocateNow', 'ftruncate']) now(kernel, call);
  for (const call of ['ftruncate', 'link', 'rename', 'unlink']) now(kernel.changesNow!, call);
  return state;
}

const CASES: [string, (driver: FileDriver, deadline: number) => Promise<unknown>][] = [
  [
    'a write of units',
    (driver, deadline) => writeInTime(driver, 'target', 4 * UNIT, pattern(2 * UNIT, 5), { deadline }),
  ],
  [
    'a write of parts of units',
    (driver, deadline) => writeInTime(driver, 'target', 4 * UNIT + 9, pattern(2 * UNIT, 5), { deadline }),
  ],
  [
    'a trim of parts of units',
    (driver, deadline) => changes(driver, 'trim', 'target', 4 * UNIT + 9, 2 * UNIT, { deadline }),
  ],
  ['zeroes', (driver, deadline) => changes(driver, 'writeZeroes', 'target', 4 * UNIT, 9000, { deadline })],
  ['a write behind the end', (driver, deadline) => writeInTime(driver, 'target', SIZE, pattern(10, 5), { deadline })],
  ['a truncate', (driver, deadline) => driver.truncate('target', 5000, deadline)],
  ['a reset', (driver, deadline) => driver.reset('target', false, deadline)],
  ['a delete', (driver, deadline) => driver.delete('target', deadline)],
  [
    'a copy onto it',
    (driver, deadline) => driver.copy('any', 'target', SIZE, { durable: false, exclusive: false, deadline }),
  ],
];

describe.each(CASES)('%s', (_what, work) => {
  it.each(['', 'after another start of the machine'])(
    'changes nothing after its deadline, wherever the process stood still %s',
    async (when) => {
      for (let last = 1; ; last++) {
        const { root, driver: first } = await store();
        await copy(first, 'source', 'target');
        await writeInTime(first, 'target', 9 * UNIT + 7, pattern(100, 2));
        await first.flush(null);
        const before = changed(SOURCE, 9 * UNIT + 7, pattern(100, 2));
        let driver = first;
        if (when !== '') {
          await writeInTime(first, 'target', 4 * UNIT, pattern(UNIT, 8));
          powerCut();
          driver = await fileDriver(root);
        }
        await read(driver, 'target', 0, SIZE);
        const deadline = soon();
        const state = freezing(root, 'target', last);
        const outcome = await work(driver, deadline).then(
          () => 'done',
          (error: { code: string }) => error.code,
        );
        const { frozen } = state;
        const after = stateOf(root, 'target');
        vi.restoreAllMocks();
        for (const call of ['syncfs', 'fsync', 'fdatasync'] as const) vi.spyOn(kernel, call).mockResolvedValue();
        if (when !== '') powerCut();
        if (frozen === null) {
          expect(outcome).toBe('done');
          break;
        }
        expect(['done', 'ETIME']).toContain(outcome);
        expect(after, `${outcome} at ${last}`).toEqual(frozen);
        if (outcome === 'ETIME' && after.isPartial) {
          // What it was not told of may be there in whole units, and nothing else.
          const found = await read(driver, 'target', 0, SIZE);
          const anew = await fileDriver(root);
          same(await read(anew, 'target', 0, SIZE), found);
          same(found.subarray(0, 4 * UNIT), before.subarray(0, 4 * UNIT));
          same(found.subarray(8 * UNIT), before.subarray(8 * UNIT));
        }
        expect(last).toBeLessThan(30);
      }
    },
  );
});

it('a copy whose deadline passes in the middle leaves no object, and of its base no more than a name', async () => {
  for (let last = 1; ; last++) {
    const { root, driver } = await store();
    const deadline = soon();
    const state = freezing(root, 'target', last);
    const options = { durable: false, exclusive: false, deadline };
    const outcome = await driver.copy('source', 'target', SIZE, options).then(
      () => 'done',
      (error: { code: string }) => error.code,
    );
    const { frozen } = state;
    vi.restoreAllMocks();
    for (const call of ['syncfs', 'fsync', 'fdatasync'] as const) vi.spyOn(kernel, call).mockResolvedValue();
    if (frozen === null) break;
    expect(stateOf(root, 'target')).toEqual(frozen);
    if (outcome === 'ETIME') {
      expect(fs.existsSync(hashedPath(root, 'target'))).toBe(false);
      expect(basesOf(root).length).toBeLessThan(2);
    } else same(await read(driver, 'target', 0, SIZE), SOURCE);
    expect(last).toBeLessThan(20);
  }
});

it('the short way notes nothing after the deadline, and the object reads as before', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  const hint = await hintOf(driver, 'target');
  const { pwrite } = kernel;
  const spy = vi.spyOn(kernel, 'pwrite').mockImplementation((...args) => {
    const n = pwrite.apply(kernel, args);
    standStill();
    return n;
  });
  expect(direct(driver, { name: 'target', hint, offset: UNIT, data: pattern(UNIT, 5), deadline: soon() })).toBeNull();
  expect(spy).toHaveBeenCalled();
  spy.mockRestore();
  expect(statesOf(root, 'target')).toBe('0'.repeat(24));
  same(await read(driver, 'target', 0, SIZE), SOURCE);
});
