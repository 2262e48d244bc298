/** What is made of partial objects as a whole: copies, hashes, lengths; and what takes their place. */
import fs from 'node:fs';
import { expect, it, vi } from 'vitest';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { hashedPath } from '../../../src/blockers/file/paths.js';
import { Mortal } from './mortal-system.js';
import {
  aloneWithTheKernel,
  basesOf,
  changed,
  changes,
  content,
  copy,
  copyWhole,
  counts,
  expectComplete,
  isPartial,
  mortalDriver,
  pattern,
  powerCut,
  prepared,
  SIZE,
  same,
  statesOf,
  store,
  UNIT,
  writeInTime,
} from './partial-rig.js';
import { fileDriver, read, write } from './support.js';

aloneWithTheKernel();

const SOURCE = pattern(SIZE, 1);

it('a copy of one with few units of its own is partial again, on the same file, with those units', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'first');
  await writeInTime(driver, 'first', 5 * UNIT + 9, pattern(UNIT, 2));
  await changes(driver, 'trim', 'first', 20 * UNIT, UNIT);
  const expected = changed(changed(SOURCE, 5 * UNIT + 9, pattern(UNIT, 2)), 20 * UNIT, Buffer.alloc(UNIT));
  await copy(driver, 'first', 'second');
  expect(statesOf(root, 'second')).toBe('000001100000000000001000');
  await writeInTime(driver, 'second', 0, pattern(10, 3));
  await driver.flush(null);
  // Neither hangs on the others, nor on the object that all are copies of.
  await driver.delete('source');
  await write(driver, 'source', 0, pattern(SIZE, 7));
  same(await read(driver, 'second', 0, SIZE), changed(expected, 0, pattern(10, 3)));
  await driver.delete('first');
  same(await read(driver, 'second', 0, SIZE), changed(expected, 0, pattern(10, 3)));
  await driver.close();
  const next = await fileDriver(root);
  same(await read(next, 'second', 0, SIZE), changed(expected, 0, pattern(10, 3)));
  await next.truncate('second', SIZE);
  expectComplete(root, 'second', changed(expected, 0, pattern(10, 3)));
  expect(basesOf(root)).toEqual([]);
});

it('a copy of one that has all of its units is partial on that one, whose tail is no content', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'first', SIZE - 1000);
  const expected = pattern(SIZE - 1000, 2);
  await writeInTime(driver, 'first', 0, expected);
  await copy(driver, 'first', 'second');
  await writeInTime(driver, 'second', 3 * UNIT + 5, pattern(100, 3));
  const all = changed(changed(Buffer.alloc(SIZE), 0, expected), 3 * UNIT + 5, pattern(100, 3));
  expect(statesOf(root, 'second')).toMatch(/^0001/);
  same(await read(driver, 'second', 0, SIZE), all);
  await driver.flush(null);
  await driver.delete('first');
  await driver.close();
  const next = await fileDriver(root);
  same(await read(next, 'second', 0, SIZE), all);
  await next.truncate('second', SIZE);
  same(content(root, 'second'), all);
});

it('a copy of one with many units of its own is whole', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'first');
  await writeInTime(driver, 'first', 0, pattern(7 * UNIT, 2));
  await changes(driver, 'trim', 'first', 20 * UNIT + 10, UNIT);
  const expected = changed(changed(SOURCE, 0, pattern(7 * UNIT, 2)), 20 * UNIT + 10, Buffer.alloc(UNIT));
  await copy(driver, 'first', 'second');
  expectComplete(root, 'second', expected);
  await copyWhole(driver, 'first', 'third');
  expectComplete(root, 'third', expected);
  expect(counts(driver)).toEqual({ made: 1, completed: 0 });
});

it.each([5000, UNIT, SIZE - UNIT, SIZE - 1, SIZE + 1, 2 * SIZE])(
  'a copy of at most %i bytes of one has no more, and none that it has not',
  async (size) => {
    const { root, driver } = await store();
    await copy(driver, 'source', 'first');
    await writeInTime(driver, 'first', 5 * UNIT + 9, pattern(UNIT, 2));
    await writeInTime(driver, 'first', 0, pattern(100, 3));
    const expected = changed(changed(SOURCE, 5 * UNIT + 9, pattern(UNIT, 2)), 0, pattern(100, 3));
    for (const [name, make] of [
      ['whole', copyWhole],
      ['timed', copy],
    ] as const) {
      await make(driver, 'first', name, size);
      const { size: length } = await driver.info(name);
      expect(length).toBe(Math.min(size, SIZE));
      // What is behind the end is zeros, also once the object is longer.
      await driver.truncate(name, 3 * SIZE);
      same(await read(driver, name, 0, 3 * SIZE), changed(Buffer.alloc(3 * SIZE), 0, expected.subarray(0, length)));
    }
    expect(isPartial(root, 'first')).toBe(true);
  },
);

it('units that a copy was given are there for good with the next process’s first flush, and none of them before', async () => {
  const root = await prepared();
  const mortal = new Mortal();
  const killed = await mortalDriver(root, mortal);
  await copy(killed, 'source', 'first');
  await writeInTime(killed, 'first', 2 * UNIT, pattern(UNIT, 2));
  await killed.flush(null);
  await copy(killed, 'first', 'second');
  await mortal.kill();
  const driver = await fileDriver(root);
  await driver.flush(null);
  powerCut();
  const later = await fileDriver(root);
  same(await read(later, 'second', 0, SIZE), changed(SOURCE, 2 * UNIT, pattern(UNIT, 2)));
});

it('is gone, with its base, when it is deleted, reset or copied onto', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  await writeInTime(driver, 'target', 0, pattern(UNIT, 2));
  await driver.delete('target');
  expect(basesOf(root)).toEqual([]);
  await expect(read(driver, 'target', 0, 10)).rejects.toMatchObject({ code: 'ENOENT' });
  await copy(driver, 'source', 'target');
  same(await read(driver, 'target', 0, SIZE), SOURCE);
  await writeInTime(driver, 'target', 0, pattern(UNIT, 2));
  await driver.reset('target', false);
  expectComplete(root, 'target', Buffer.alloc(0));
  same(await read(driver, 'target', 0, SIZE), Buffer.alloc(SIZE));
  await driver.delete('target');
  await copy(driver, 'source', 'target');
  await writeInTime(driver, 'target', 9, pattern(UNIT, 2));
  await write(driver, 'other', 0, pattern(SIZE, 9));
  await copy(driver, 'other', 'target');
  expectComplete(root, 'target', pattern(SIZE, 9));
  await driver.flush(null);
  expectComplete(root, 'target', pattern(SIZE, 9));
  same(await read(driver, 'target', 0, SIZE), pattern(SIZE, 9));
  expect(basesOf(root)).toEqual([]);
  expect(counts(driver)).toEqual({ made: 3, completed: 0 });
  same(content(root, 'source'), SOURCE);
});

it('is deleted and reset by a process that never had it open', async () => {
  const { root, driver } = await store();
  for (const name of ['a', 'b']) await copy(driver, 'source', name);
  await driver.close();
  const next = await fileDriver(root);
  await next.delete('a');
  await next.reset('b', true);
  expect(basesOf(root)).toEqual([]);
  expectComplete(root, 'b', Buffer.alloc(0));
  await write(next, 'b', 0, Buffer.from('anew'));
  expectComplete(root, 'b', Buffer.from('anew'));
});

it.each([0, 5, UNIT, SIZE - 7, SIZE, SIZE + 1, SIZE + 513 * 24])(
  'gets a length of %i as any other object',
  async (size) => {
    const { root, driver } = await store();
    await copy(driver, 'source', 'target');
    await writeInTime(driver, 'target', SIZE - 20, pattern(20, 2));
    await driver.truncate('target', size);
    const all = changed(changed(SOURCE, SIZE - 20, pattern(20, 2)), SIZE, Buffer.alloc(SIZE));
    expectComplete(root, 'target', all.subarray(0, size));
    await driver.truncate('target', 2 * SIZE);
    same(
      await read(driver, 'target', 0, 2 * SIZE),
      changed(Buffer.alloc(2 * SIZE), 0, all.subarray(0, Math.min(size, SIZE))),
    );
  },
);

it('is hashed as it reads, and stays partial', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  await writeInTime(driver, 'target', 3 * UNIT + 5, pattern(700, 2));
  await write(driver, 'same', 0, changed(SOURCE, 3 * UNIT + 5, pattern(700, 2)));
  expect(await driver.hash('target', SIZE)).toBe(await driver.hash('same', SIZE));
  expect(isPartial(root, 'target')).toBe(true);
  expectComplete(root, await driver.hash('target', SIZE), changed(SOURCE, 3 * UNIT + 5, pattern(700, 2)));
});

it('is listed once, and nothing of what it needs is an object', async () => {
  const { driver } = await store();
  await copy(driver, 'source', 'target');
  expect((await driver.list(null, 100)).names.toSorted()).toEqual(['any', 'source', 'target', 'whole']);
});

it('a copy that fails in the middle leaves neither an object nor a base, whatever failed', async () => {
  const { root, driver } = await store();
  for (const [what, call] of [
    ['link', () => vi.spyOn(kernel.changesNow!, 'link')],
    ['ftruncate', () => vi.spyOn(kernel.changesNow!, 'ftruncate')],
    ['rename', () => vi.spyOn(kernel.changesNow!, 'rename')],
  ] as const) {
    const broken = call().mockImplementation(() => {
      throw Object.assign(new Error('no room'), { code: 'ENOSPC', errno: -28 });
    });
    await expect(copy(driver, 'source', 'target'), what).rejects.toMatchObject({ code: 'ENOSPC' });
    broken.mockRestore();
    expect(basesOf(root), what).toEqual([]);
    expect(fs.existsSync(hashedPath(root, 'target')), what).toBe(false);
    expect(fs.readdirSync(`${root}/.archipelago-tmp`), what).toEqual([]);
  }
  await copy(driver, 'source', 'target');
  same(await read(driver, 'target', 0, SIZE), SOURCE);
});
