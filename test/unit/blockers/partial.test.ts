/** Partial objects as their owner sees them: what is read, written, trimmed and zeroed, and that they end as objects like any other. */
import fs from 'node:fs';
import { describe, expect, it, vi } from 'vitest';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { hashedPath } from '../../../src/blockers/file/paths.js';
import { runIo } from '../../../src/blockers/object-io.js';
import {
  aloneWithTheKernel,
  basesOf,
  changed,
  changes,
  content,
  copy,
  copyWhole,
  counts,
  direct,
  expectComplete,
  hintOf,
  isPartial,
  pattern,
  SETTINGS,
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

describe('a copy that is made under a lock', () => {
  it('has nothing of its own, reads as its source, and is as long; flushes copy nothing', async () => {
    const { root, driver } = await store();
    await copy(driver, 'source', 'target');
    expect(statesOf(root, 'target')).toBe('0'.repeat(24));
    same(await read(driver, 'target', 0, SIZE + 100), changed(SOURCE, SIZE, Buffer.alloc(100)));
    same(
      (await runIo(driver, 'read', { name: 'target', offset: UNIT + 5, length: 2 * UNIT, uncached: true })).data,
      SOURCE.subarray(UNIT + 5, 3 * UNIT + 5),
    );
    expect(await driver.info('target')).toMatchObject({ size: SIZE });
    await driver.flush(null);
    await runIo(driver, 'flushObject', { name: 'target', offset: 0, length: 0 });
    expect(statesOf(root, 'target')).toBe('0'.repeat(24));
    expect(counts(driver)).toEqual({ made: 1, completed: 0 });
    await driver.close();
    const next = await fileDriver(root);
    same(await read(next, 'target', 0, SIZE), SOURCE);
    expect(await next.info('target')).toMatchObject({ size: SIZE });
  });

  it('has what was written from the write on, for this start of the machine, and for good from the flush on', async () => {
    const { root, driver } = await store();
    await copy(driver, 'source', 'target');
    await writeInTime(driver, 'target', 3 * UNIT, pattern(2 * UNIT, 2));
    expect(statesOf(root, 'target')).toBe(`000110000000000000000000`);
    await driver.flush(['target']);
    expect(statesOf(root, 'target')).toBe(`000220000000000000000000`);
    await writeInTime(driver, 'target', 3 * UNIT + 7, pattern(100, 3));
    await writeInTime(driver, 'target', 8 * UNIT, pattern(UNIT, 3));
    const { hint } = await writeInTime(driver, 'target', 6 * UNIT, pattern(UNIT, 3));
    await runIo(driver, 'flushObject', { name: 'target', offset: 0, length: 0, hint });
    expect(statesOf(root, 'target')).toBe(`000220202000000000000000`);
    await writeInTime(driver, 'target', 0, pattern(UNIT, 3), { fua: true });
    expect(statesOf(root, 'target')).toBe(`200220202000000000000000`);
  });

  it('becomes an object like any other with the flush after all of it was written', async () => {
    const { root, driver } = await store();
    await copy(driver, 'source', 'target');
    await writeInTime(driver, 'target', 0, pattern(SIZE - 1, 2).subarray(0, 20 * UNIT));
    await driver.flush(null);
    expect(isPartial(root, 'target')).toBe(true);
    await writeInTime(driver, 'target', 20 * UNIT, pattern(4 * UNIT, 3));
    expect(isPartial(root, 'target')).toBe(true);
    await driver.flush(null);
    expectComplete(root, 'target', changed(pattern(SIZE, 2), 20 * UNIT, pattern(4 * UNIT, 3)));
    expect(basesOf(root)).toEqual([]);
    expect(counts(driver)).toEqual({ made: 1, completed: 1 });
    // And may grow.
    await write(driver, 'target', SIZE, Buffer.from('more'));
    expect(await driver.info('target')).toMatchObject({ size: SIZE + 4 });
  });

  it('lets go of what it was a copy of once it is complete: its descriptor is closed', async () => {
    const { root, driver } = await store();
    await copy(driver, 'source', 'target');
    await driver.delete('source');
    await writeInTime(driver, 'target', 0, pattern(SIZE, 2));
    const gone = () =>
      fs.readdirSync('/proc/self/fd').filter((fd) => {
        try {
          return fs.readlinkSync(`/proc/self/fd/${fd}`).startsWith(root) && fs.fstatSync(Number(fd)).nlink === 0;
        } catch {
          return false;
        }
      });
    await driver.flush(null);
    expectComplete(root, 'target', pattern(SIZE, 2));
    await vi.waitFor(() => expect(gone()).toEqual([]));
  });
});

const RANGES: [string, number, number][] = [
  ['a unit', 3 * UNIT, UNIT],
  ['some units', 3 * UNIT, 4 * UNIT],
  ['a part of a unit', 3 * UNIT + 700, 512],
  ['the beginning of a unit', 3 * UNIT, 512],
  ['the end of a unit', 4 * UNIT - 512, 512],
  ['what begins and ends within units', 2 * UNIT + 5, 3 * UNIT + 90],
  ['two parts of units', 4 * UNIT - 10, 20],
  ['its first byte', 0, 1],
  ['its last bytes', SIZE - 10, 10],
  ['its last unit', SIZE - UNIT, UNIT],
  ['all of it', 0, SIZE],
];

describe.each([
  ['of whole units', SOURCE, SIZE],
  ['with a short last unit', SOURCE.subarray(0, SIZE - 1000), SIZE - 1000],
  ['longer than its source', SOURCE.subarray(0, 3 * UNIT + 900), SIZE],
  ['longer than its source by a part of a unit', SOURCE.subarray(0, SIZE - 1000), SIZE],
  ['shorter than its source', SOURCE, SIZE - UNIT - 300],
])('a partial object %s', (_what, source, size) => {
  const before = Buffer.alloc(size);
  source.copy(before, 0, 0, size);
  const ranges = RANGES.map(([what, offset, length]): [string, number, number] =>
    offset + length > size ? [what, Math.max(0, size - length), Math.min(length, size)] : [what, offset, length],
  );

  it.each(ranges)('takes a write of %s', async (_range, offset, length) => {
    const { root, driver } = await store(source);
    await copy(driver, 'source', 'target', size);
    const data = pattern(length, 2);
    const expected = changed(before, offset, data);
    await writeInTime(driver, 'target', offset, data);
    expect(isPartial(root, 'target')).toBe(true);
    same(await read(driver, 'target', 0, size + 50), changed(expected, size, Buffer.alloc(50)));
    const second = await fileDriver(root);
    same(await read(second, 'target', 0, size), expected);
    await driver.flush(null);
    same(await read(driver, 'target', 0, size), expected);
    expect(await driver.info('target')).toMatchObject({ size });
    await driver.truncate('target', size);
    expectComplete(root, 'target', expected);
    same(content(root, 'source'), source);
  });

  it.each(ranges)('takes a trim and zeroes of %s', async (_range, offset, length) => {
    const { root, driver } = await store(source);
    const expected = changed(before, offset, Buffer.alloc(length));
    for (const [name, operation, more] of [
      ['trimmed', 'trim', {}],
      ['zeroed', 'writeZeroes', {}],
      ['cleared', 'writeZeroes', { noHole: false }],
    ] as const) {
      await copy(driver, 'source', name, size);
      await changes(driver, operation, name, offset, length, more);
      expect(isPartial(root, name)).toBe(true);
      same(await read(driver, name, 0, size + 9), changed(expected, size, Buffer.alloc(9)));
      expect(await driver.info(name)).toMatchObject({ size });
    }
    await driver.flush(null);
    for (const name of ['trimmed', 'zeroed', 'cleared']) {
      same(await read(driver, name, 0, size), expected);
      await driver.truncate(name, size);
      expectComplete(root, name, expected);
    }
  });

  it('takes writes on the short way where nothing of its source is needed, and reads there', async () => {
    const { root, driver } = await store(source);
    await copy(driver, 'source', 'target', size);
    const hint = await hintOf(driver, 'target');
    const data = pattern(2 * UNIT, 4);
    // A part of a unit: the rest has to be copied first.
    expect(direct(driver, { name: 'target', hint, offset: UNIT + 512, data: Buffer.alloc(512) })).toBeNull();
    expect(direct(driver, { name: 'target', hint, offset: 2 * UNIT, data })).not.toBeNull();
    const tail = Math.floor((size - 1) / UNIT) * UNIT;
    const last = pattern(size - tail, 5);
    expect(direct(driver, { name: 'target', hint, offset: tail, data: last })).not.toBeNull();
    const expected = changed(changed(before, 2 * UNIT, data), tail, last);
    same(direct(driver, { name: 'target', hint, offset: 2 * UNIT, length: UNIT })!, data.subarray(0, UNIT));
    same(
      direct(driver, { name: 'target', hint, offset: UNIT + 5, length: UNIT })!,
      expected.subarray(UNIT + 5, 2 * UNIT + 5),
    );
    same(direct(driver, { name: 'target', hint, offset: tail + 3, length: size - tail - 3 })!, last.subarray(3));
    const all = direct(driver, { name: 'target', hint, offset: 0, length: size });
    if (all !== null) same(all, expected);
    expect(direct(driver, { name: 'target', hint, offset: tail, data: Buffer.alloc(2 * UNIT) })).toBeNull();
    same(await read(driver, 'target', 0, size), expected);
    const second = await fileDriver(root);
    same(await read(second, 'target', 0, size), expected);
    // Who has no deadline may not be alone: it is completed first, also where he finds all there.
    expect(direct(driver, { name: 'target', hint, offset: 2 * UNIT, data, deadline: 0 })).toBeNull();
  });
});

it('a trim of what is there leaves it there; trims past the end change nothing behind it, and zeroes make it longer', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  await writeInTime(driver, 'target', 0, pattern(3 * UNIT, 2));
  await changes(driver, 'trim', 'target', 0, 3 * UNIT);
  expect(statesOf(root, 'target')).toBe(`111${'0'.repeat(21)}`);
  const expected = changed(SOURCE, 0, Buffer.alloc(3 * UNIT));
  same(await read(driver, 'target', 0, SIZE), expected);
  await copy(driver, 'source', 'second');
  await changes(driver, 'trim', 'target', SIZE + 10, 5000);
  same(await read(driver, 'target', 0, 2 * SIZE), changed(expected, SIZE, Buffer.alloc(SIZE)));
  await changes(driver, 'trim', 'second', SIZE - 10, 5000);
  same(await read(driver, 'second', 0, SIZE), changed(SOURCE, SIZE - 10, Buffer.alloc(10)));
  expect(await driver.info('second')).toMatchObject({ size: SIZE });
  await copy(driver, 'source', 'third');
  await changes(driver, 'writeZeroes', 'third', SIZE - 10, 5000);
  expectComplete(root, 'third', changed(SOURCE, SIZE - 10, Buffer.alloc(5000)));
});

it('keeps the holes of its source, and has room on the disk for what was written only', async () => {
  const { root, driver } = await store(Buffer.alloc(0));
  const length = SIZE - 1000;
  await driver.truncate('source', length);
  await write(driver, 'source', 20 * UNIT, pattern(2 * UNIT, 3));
  await driver.flush(null);
  await copy(driver, 'source', 'target', length);
  const expected = changed(Buffer.alloc(length), 20 * UNIT, pattern(2 * UNIT, 3));
  await writeInTime(driver, 'target', 5 * UNIT + 1, Buffer.from('x'));
  await driver.flush(null);
  expected.write('x', 5 * UNIT + 1);
  // A unit, and the tail.
  expect(fs.statSync(hashedPath(root, 'target')).blocks * 512).toBe(2 * UNIT);
  same(await read(driver, 'target', 0, length), expected);
  await driver.truncate('target', length);
  expectComplete(root, 'target', expected);
  expect(fs.statSync(hashedPath(root, 'target')).blocks * 512).toBe(3 * UNIT);
});

it('is completed by who has no deadline, and by who writes behind its end', async () => {
  const { root, driver } = await store();
  const data = pattern(900, 6);
  const cases: [string, number, (name: string) => Promise<unknown>][] = [
    ['a', 10, (name) => write(driver, name, 10, data)],
    ['b', SIZE - 10, (name) => writeInTime(driver, name, SIZE - 10, data)],
    ['c', SIZE + UNIT, (name) => writeInTime(driver, name, SIZE + UNIT, data)],
  ];
  for (const [name, at, work] of cases) {
    await copy(driver, 'source', name);
    await writeInTime(driver, name, 5 * UNIT + 1, Buffer.from('before'));
    await work(name);
    expectComplete(root, name, changed(changed(SOURCE, 5 * UNIT + 1, Buffer.from('before')), at, data));
  }
  await copy(driver, 'source', 'd');
  await changes(driver, 'trim', 'd', 10, 5000, { deadline: 0 });
  expectComplete(root, 'd', changed(SOURCE, 10, Buffer.alloc(5000)));
});

it('a queue of many writes to one object is served, and not within each other', async () => {
  const { driver } = await store();
  await copy(driver, 'source', 'target');
  vi.spyOn(kernel, 'preadCached').mockReturnValue(-1);
  const first = writeInTime(driver, 'target', 10, Buffer.from('first'));
  const data = pattern(UNIT, 3);
  const more = Array.from({ length: 3_000 }, () => writeInTime(driver, 'target', UNIT, data));
  await Promise.all([first, ...more]);
  same(await read(driver, 'target', 0, SIZE), changed(changed(SOURCE, 10, Buffer.from('first')), UNIT, data));
});

it('says nothing of the disk when flushes pass it by: the next sync is not waited for because of them', async () => {
  vi.spyOn(kernel, 'isLocal').mockReturnValue(true);
  const inPlace = vi.spyOn(kernel as Required<typeof kernel>, 'fdatasyncNow');
  const { driver } = await store();
  await copy(driver, 'source', 'target');
  await driver.flush(null);
  const { hint } = await writeInTime(driver, 'target', 0, Buffer.alloc(10, 1));
  for (let i = 0; i < 20; i++) {
    await runIo(driver, 'flushObject', { name: 'target', offset: 0, length: 0, hint, alone: true });
  }
  const { hint: whole } = await write(driver, 'any', 0, Buffer.alloc(10, 1));
  await runIo(driver, 'flushObject', { name: 'any', offset: 0, length: 0, hint: whole, alone: true });
  expect(inPlace).not.toHaveBeenCalled();
});

it('a copy without a deadline is whole, and so is one of what has little data', async () => {
  const { root, driver } = await store();
  await copyWhole(driver, 'source', 'target');
  expectComplete(root, 'target', SOURCE);
  const other = await fileDriver(root, { ...SETTINGS, partialLeast: SIZE + 1 });
  await copy(other, 'source', 'second');
  expectComplete(root, 'second', SOURCE);
});
