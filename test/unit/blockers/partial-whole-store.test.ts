/** A store whose partial objects are all made whole, for those who know none: afterwards it is as if there never had been any. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { FileDriver } from '../../../src/blockers/file/index.js';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { ownStore, shareStore } from '../../../src/blockers/file/partial/store-lock.js';
import { makeStoreWhole, type WholeStoreOptions } from '../../../src/blockers/file/partial/whole-store.js';
import { hashedPath } from '../../../src/blockers/file/paths.js';
import { NativeError } from '../../../src/blockers/file/pool.js';
import type { FileSystem } from '../../../src/blockers/file/system.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { Mortal } from './mortal-system.js';
import {
  aloneWithTheKernel,
  basesOf,
  changed,
  changes,
  content,
  copy,
  isPartial,
  ledgersOf,
  mortalDriver,
  pattern,
  powerCut,
  prepared,
  SETTINGS,
  SIZE,
  same,
  statesOf,
  UNIT,
  writeInTime,
} from './partial-rig.js';
import { fileDriver, read, temporaryDirectory, treeOf } from './support.js';

aloneWithTheKernel();

const SOURCE = pattern(SIZE, 1);
const DIRECTORIES = ['.archipelago-bases', '.archipelago-ledgers'];
/** What no object's path is in. */
const apart = (root: string): string[] => fs.readdirSync(root).filter((entry) => DIRECTORIES.includes(entry));

const makeWhole = (root: string, more: Partial<WholeStoreOptions> = {}) =>
  makeStoreWhole({ root, system: kernel, umask: 0o007, free: async () => 1e9, ...more });

/** Objects by name, and what each must read as. */
type Expected = Map<string, Buffer>;

/** A store of a driver that was closed, with partial objects of all kinds. */
async function closedStore(): Promise<{ root: string; expected: Expected }> {
  const root = await prepared();
  const driver = new FileDriver({ root, uniqueStr: 'test_1000', ...SETTINGS });
  await driver.open();
  await copy(driver, 'source', 'untouched');
  await copy(driver, 'source', 'written');
  await writeInTime(driver, 'written', 5 * UNIT + 9, pattern(UNIT, 3));
  await changes(driver, 'trim', 'written', 10 * UNIT, UNIT);
  await driver.flush(null);
  await copy(driver, 'written', 'of a copy');
  await writeInTime(driver, 'of a copy', 7, pattern(100, 4));
  await copy(driver, 'source', 'filled');
  await writeInTime(driver, 'filled', 0, pattern(SIZE, 5));
  await driver.flush(null);
  await copy(driver, 'filled', 'of the filled');
  await writeInTime(driver, 'of the filled', SIZE - 3, pattern(3, 6));
  await copy(driver, 'any', 'short', SIZE);
  await driver.delete('source');
  await driver.close();
  const written = changed(changed(SOURCE, 5 * UNIT + 9, pattern(UNIT, 3)), 10 * UNIT, Buffer.alloc(UNIT));
  const expected = new Map([
    ['untouched', SOURCE],
    ['written', written],
    ['of a copy', changed(written, 7, pattern(100, 4))],
    ['filled', pattern(SIZE, 5)],
    ['of the filled', changed(pattern(SIZE, 5), SIZE - 3, pattern(3, 6))],
    ['short', changed(Buffer.alloc(SIZE), 0, Buffer.from('any'))],
  ]);
  expect([...expected.keys()].filter((name) => !isPartial(root, name))).toEqual([]);
  return { root, expected };
}

/** The files have all of the objects' content and nothing else, and nothing else of partial objects is left. */
function expectWhole(root: string, expected: Expected): void {
  for (const [name, bytes] of expected) {
    expect(isPartial(root, name), name).toBe(false);
    same(content(root, name), bytes);
  }
  expect(apart(root)).toEqual([]);
}

async function expectRead(root: string, expected: Expected): Promise<void> {
  const driver = new FileDriver({ root, uniqueStr: 'test_1000' });
  await driver.open();
  for (const [name, bytes] of expected) same(await read(driver, name, 0, SIZE), bytes);
  await driver.close();
}

describe('a store that is made whole', () => {
  it('has the same content in files like any other, and no more partial objects are made in it', async () => {
    const { root, expected } = await closedStore();
    const mode = fs.statSync(hashedPath(root, 'written')).mode;
    const left = `${root}/.archipelago-tmp/of a run that was killed`;
    fs.writeFileSync(left, 'x');
    fs.utimesSync(left, 1, 1);
    expect(await makeWhole(root)).toMatchObject({
      directory: root,
      objects: 8,
      partial: 6,
      completed: 6,
      problems: [],
      isWhole: true,
    });
    expectWhole(root, expected);
    expect(fs.statSync(hashedPath(root, 'written')).mode).toBe(mode);
    expect(fs.existsSync(left)).toBe(false);
    await expectRead(root, expected);
    const driver = await fileDriver(root, { partialCopies: 'auto', partialLeast: 0 });
    await copy(driver, 'filled', 'target');
    expect(isPartial(root, 'target')).toBe(false);
  });

  it('has what a killed process acknowledged, also what it did not flush', async () => {
    const root = await prepared();
    const mortal = new Mortal();
    const killed = await mortalDriver(root, mortal);
    await copy(killed, 'source', 'target');
    await writeInTime(killed, 'target', 3 * UNIT, pattern(50, 2));
    await mortal.kill();
    expect(statesOf(root, 'target')).toMatch(/^0001/);
    expect(ledgersOf(root)).toHaveLength(1);
    await makeWhole(root);
    expectWhole(root, new Map([['target', changed(SOURCE, 3 * UNIT, pattern(50, 2))]]));
  });

  it('has nothing of what was written before a power cut and not flushed', async () => {
    const root = await prepared();
    const mortal = new Mortal();
    const killed = await mortalDriver(root, mortal);
    await copy(killed, 'source', 'target');
    await writeInTime(killed, 'target', 3 * UNIT, pattern(50, 2));
    await mortal.kill();
    powerCut();
    await makeWhole(root);
    expectWhole(root, new Map([['target', SOURCE]]));
  });

  it('that has none is left as it is', async () => {
    const root = await prepared();
    const before = treeOf(root);
    expect(await makeWhole(root)).toMatchObject({ objects: 3, partial: 0, completed: 0, isWhole: true });
    expect(treeOf(root)).toEqual(before);
  });

  it('which has none any more, and may have some, is as one that never had', async () => {
    const { root } = await closedStore();
    const driver = await fileDriver(root, SETTINGS);
    for (const name of ['untouched', 'written', 'of a copy', 'filled', 'of the filled', 'short'])
      await driver.delete(name);
    await driver.close();
    expect(await makeWhole(root, { dryRun: true })).toMatchObject({ partial: 0, isWhole: false });
    expect(await makeWhole(root)).toMatchObject({ partial: 0, completed: 0, isWhole: true });
    expect(apart(root)).toEqual([]);
  });
});

it('each step is durable before the next one takes away what it rests on', async () => {
  const root = await prepared();
  const driver = new FileDriver({ root, uniqueStr: 'test_1000', ...SETTINGS });
  await driver.open();
  await copy(driver, 'source', 'target');
  await driver.flush(null);
  await driver.close();
  const steps: string[] = [];
  const places: [string, string][] = [];
  for (const [i, level] of ['LEAF', 'MIDDLE', 'TOP', 'ROOT'].entries())
    places.push([path.resolve(hashedPath(root, 'target'), ...Array.from({ length: i + 1 }, () => '..')), level]);
  const system = new Proxy(kernel, {
    get: (target, name) => {
      const value: unknown = Reflect.get(target, name);
      if (typeof value !== 'function') return value;
      return (...args: unknown[]) => {
        const [what] = args;
        const file = typeof what === 'number' && what > 2 ? fs.readlinkSync(`/proc/self/fd/${what}`) : String(what);
        const place = places
          .reduce((name, [from, to]) => name.replace(from, to), file)
          .replace(/(tmp|bases|ledgers)\/.*/, '$1/…');
        if (['syncfs', 'fdatasync', 'fsync', 'rename', 'unlink'].includes(String(name)))
          steps.push(`${String(name)} ${place}`);
        return value.apply(target, args);
      };
    },
  });
  expect(await makeWhole(root, { system })).toMatchObject({ completed: 1, isWhole: true });
  // The first is its own ledger.
  expect(steps.slice(1)).toEqual([
    'syncfs ROOT',
    'syncfs ROOT',
    'fdatasync ROOT/.archipelago-tmp/…',
    'rename ROOT/.archipelago-tmp/…',
    'fsync LEAF',
    'fsync MIDDLE',
    'fsync TOP',
    'fsync ROOT',
    'unlink ROOT/.archipelago-bases/…',
    'unlink ROOT/.archipelago-ledgers/…',
    'fsync ROOT',
  ]);
});

describe('a look without a change', () => {
  it('tells what there is to do while a process has the store, and changes nothing', async () => {
    const { root } = await closedStore();
    await fileDriver(root, SETTINGS);
    const before = treeOf(root);
    const report = await makeWhole(root, { dryRun: true, free: async () => 0 });
    expect(report).toMatchObject({ objects: 8, partial: 6, completed: 0, problems: [], isWhole: false, free: 0 });
    // Each takes its whole size at most, four at a time before the first of what was there is given back.
    expect(report.needed).toBeGreaterThanOrEqual(6 * SIZE - 5 * UNIT);
    expect(report.needed).toBeLessThanOrEqual((6 + 3) * SIZE);
    expect(treeOf(root)).toEqual(before);
  });
});

describe('nobody is there beside it', () => {
  it('it is refused while a process has the store, whatever that makes of copies, and processes while it is at work', async () => {
    const { root, expected } = await closedStore();
    const drivers = [await fileDriver(root), await fileDriver(root, SETTINGS)];
    const before = treeOf(root);
    await expect(makeWhole(root)).rejects.toMatchObject({ code: 'EBUSY', message: expect.stringContaining(root) });
    await drivers[1].close();
    await expect(makeWhole(root)).rejects.toMatchObject({ code: 'EBUSY' });
    expect(Object.keys(treeOf(root))).toEqual(
      expect.arrayContaining(Object.keys(before).filter((f) => !/ledgers/.test(f))),
    );
    await drivers[0].close();
    const release = await ownStore(kernel, root);
    await expect(fileDriver(root)).rejects.toMatchObject({
      code: 'EBUSY',
      message: expect.stringContaining('complete'),
    });
    await expect(makeWhole(root)).rejects.toMatchObject({ code: 'EBUSY' });
    await release();
    await (await shareStore(kernel, root))();
    await makeWhole(root);
    expectWhole(root, expected);
  });

  it('a process of a build that locks its ledger only is seen, too', async () => {
    const { root } = await closedStore();
    const driver = await fileDriver(root, SETTINGS);
    const shared = vi.spyOn(kernel.marks!, 'lock');
    // The first lock is the store's.
    shared.mockReturnValueOnce(true);
    await expect(makeWhole(root)).rejects.toMatchObject({ code: 'EBUSY' });
    expect(isPartial(root, 'written')).toBe(true);
    await driver.close();
  });
});

describe('what cannot be made whole', () => {
  it('is told, the others are whole, and what they need is kept', async () => {
    const { root, expected } = await closedStore();
    const lost = basesOf(root).find((base) => base.endsWith('-written'))!;
    fs.renameSync(`${root}/.archipelago-bases/${lost}`, `${root}/lost`);
    const file = hashedPath(root, 'of a copy');
    fs.copyFileSync(file, `${file}-`);
    fs.renameSync(`${file}-`, file);
    const base = basesOf(root).find((name) => name.endsWith('-of a copy'))!;
    const { completed, problems, isWhole } = await makeWhole(root);
    expect({ completed, isWhole }).toEqual({ completed: 4, isWhole: false });
    expect(problems.map(({ object }) => object).toSorted()).toEqual(['of a copy', 'written']);
    expect(problems.find(({ object }) => object === 'written')?.reason).toContain('missing');
    expect(problems.find(({ object }) => object === 'of a copy')?.reason).toContain('attributes');
    expect(basesOf(root)).toContain(base);
    expect(isPartial(root, 'written')).toBe(true);
    // The base is there again: it can go on.
    fs.renameSync(`${root}/lost`, `${root}/.archipelago-bases/${lost}`);
    fs.unlinkSync(file);
    expect(await makeWhole(root)).toMatchObject({ completed: 1, isWhole: true });
    expectWhole(root, new Map([...expected].filter(([name]) => name !== 'of a copy')));
  });

  it('for want of room is not begun', async () => {
    const { root } = await closedStore();
    const before = treeOf(root);
    const { needed } = await makeWhole(root, { dryRun: true });
    const refused = makeWhole(root, { free: async () => needed - 1 });
    await expect(refused).rejects.toMatchObject({ code: 'ENOSPC', message: expect.stringContaining('MiB') });
    expect(treeOf(root)).toEqual(before);
    await makeWhole(root, { free: async () => needed });
  });

  it('as the room ends meanwhile stays as it was, and goes on later', async () => {
    const { root, expected } = await closedStore();
    let taken = 0;
    const full = vi.spyOn(kernel, 'ftruncate').mockImplementation(async (fd, length) => {
      if (++taken > 2) throw new NativeError('ftruncate', errnos.ENOSPC);
      fs.ftruncateSync(fd, length);
    });
    const report = await makeWhole(root);
    expect(report).toMatchObject({ completed: 2, isWhole: false });
    expect(report.problems[0].reason).toContain('ENOSPC');
    full.mockRestore();
    await expectRead(root, expected);
    expect(fs.readdirSync(`${root}/.archipelago-tmp`)).toEqual([]);
    expect(await makeWhole(root)).toMatchObject({ partial: 4, completed: 4, isWhole: true });
    expectWhole(root, expected);
  });
});

/** Calls that change something. */
const CHANGES =
  'pwrite write ftruncate fallocate fsync fdatasync syncfs link rename unlink mkdir clone copyRange'.split(' ');

/** The kernel, of which a process asks nothing any more after so many changes: it was killed. */
function dyingAfter(changesLeft: number): { system: FileSystem } {
  let left = changesLeft;
  const dies = (): boolean => left <= 0 || --left < 0;
  const dead = (): SystemError => new SystemError(errnos.EIO, 'the process was killed');
  const wrap = (calls: object): object =>
    new Proxy(calls, {
      get: (target, name) => {
        const value: unknown = Reflect.get(target, name);
        if (name === 'changesNow') return wrap(value as object);
        if (typeof value !== 'function') return value;
        return (...args: unknown[]) => {
          const creates = name === 'open' && ((args[1] as number) & fs.constants.O_CREAT) !== 0;
          if (!(creates || CHANGES.includes(String(name))) || !dies()) return value.apply(target, args);
          if (name === 'write') return (args.at(-1) as (error: Error, n: number) => void)(dead(), 0);
          if (target !== kernel) throw dead();
          return name === 'pwrite' ? -1 : Promise.reject(dead());
        };
      },
    });
  const rmdir = fs.promises.rmdir;
  vi.spyOn(fs.promises, 'rmdir').mockImplementation(async (...args) => {
    if (dies()) throw dead();
    await rmdir(...args);
  });
  return { system: wrap(kernel) as FileSystem };
}

it('killed before any of its changes it leaves a store that opens, with the same content, and goes on the next time', async () => {
  const few = await closedStore();
  const driver = new FileDriver({ root: few.root, uniqueStr: 'test_1000', ...SETTINGS });
  await driver.open();
  for (const name of ['untouched', 'of the filled', 'short']) {
    await driver.delete(name);
    few.expected.delete(name);
  }
  await driver.close();
  const { expected } = few;
  let isDone = false;
  let deaths = 0;
  for (let last = 1; !isDone; last++) {
    const root = temporaryDirectory();
    execFileSync('cp', ['-a', `${few.root}/.`, root]);
    const { system } = dyingAfter(last);
    isDone = await makeWhole(root, { system }).then(
      ({ isWhole }) => isWhole,
      () => false,
    );
    vi.mocked(fs.promises.rmdir).mockRestore();
    if (!isDone) deaths++;
    // Also after a power cut: all was flushed.
    if (last % 2 === 0) powerCut(`cut ${last}`);
    await expectRead(root, expected);
    expect(await makeWhole(root), `killed at ${last}`).toMatchObject({ isWhole: true });
    expectWhole(root, expected);
    fs.rmSync(root, { recursive: true });
  }
  expect(deaths).toBeGreaterThan(30);
});
