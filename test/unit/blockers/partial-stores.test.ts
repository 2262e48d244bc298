/** Which stores have partial objects: settings, file systems, and files that came there in other ways. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { expect, it, vi } from 'vitest';
import { decodeTail, encodeTail, tailLength, tailOffset } from '../../../src/blockers/file/partial/tail.js';
import { hashedPath } from '../../../src/blockers/file/paths.js';
import { NativeError } from '../../../src/blockers/file/pool.js';
import { errnos } from '../../../src/sys/errno.js';
import {
  aloneWithTheKernel,
  basesOf,
  changed,
  content,
  copy,
  expectComplete,
  isPartial,
  marks,
  pattern,
  prepared,
  SETTINGS,
  SIZE,
  same,
  statesOf,
  store,
  UNIT,
  writeInTime,
} from './partial-rig.js';
import { fileDriver, read, temporaryDirectory, write } from './support.js';

aloneWithTheKernel();

const SOURCE = pattern(SIZE, 1);

it('auto: a new store has them, one that has objects has none, and one that had any has them', async () => {
  // What this machine's file system can share is known from here on.
  await prepared();
  const made = async (root: string): Promise<boolean> => {
    const driver = await fileDriver(root, { partialCopies: 'auto', partialLeast: 0 });
    await write(driver, 'source', 0, SOURCE);
    await copy(driver, 'source', 'target');
    await driver.close();
    return isPartial(root, 'target');
  };
  const fresh = temporaryDirectory();
  expect(await made(fresh)).toBe(true);
  const old = await prepared();
  expect(await made(old)).toBe(false);
  expect(fs.existsSync(`${old}/.archipelago-bases`)).toBe(false);
  const had = await fileDriver(old, SETTINGS);
  await had.close();
  expect(await made(old)).toBe(false);
  const again = await fileDriver(old, { partialCopies: 'auto', partialLeast: 0 });
  await copy(again, 'source', 'second');
  expect(isPartial(old, 'second')).toBe(true);
});

it('a store that has some is served as such also where no more are to be made', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  await driver.close();
  const next = await fileDriver(root, { partialCopies: false });
  await writeInTime(next, 'target', 5, pattern(100, 2));
  await copy(next, 'source', 'whole');
  expectComplete(root, 'whole', SOURCE);
  same(await read(next, 'target', 0, SIZE), changed(SOURCE, 5, pattern(100, 2)));
});

it('a process that has the store open since before there were any reads them, and completes what it changes', async () => {
  const root = await prepared();
  const since = await fileDriver(root);
  const driver = await fileDriver(root, SETTINGS);
  await copy(driver, 'source', 'target');
  same(await read(since, 'target', 0, SIZE), SOURCE);
  await since.copy('target', 'second', SIZE, { durable: false, exclusive: false });
  same(await read(driver, 'second', 0, SIZE), SOURCE);
  await write(since, 'target', 0, Buffer.from('x'));
  const expected = changed(SOURCE, 0, Buffer.from('x'));
  expectComplete(root, 'target', expected);
  driver.forget();
  same(await read(driver, 'target', 0, SIZE), expected);
});

it('a file system that does not suit has none, and a store with some is refused there', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  await driver.close();
  vi.spyOn(marks, 'suits').mockReturnValue(false);
  await expect(fileDriver(root)).rejects.toMatchObject({ code: 'EOPNOTSUPP' });
  const other = await prepared();
  const next = await fileDriver(other, SETTINGS);
  await copy(next, 'source', 'target');
  same(content(other, 'target'), SOURCE);
  expect(fs.existsSync(`${other}/.archipelago-bases`)).toBe(false);
});

it('a machine that does not say which start it is has none', async () => {
  const root = await prepared();
  vi.spyOn(marks, 'stamp').mockImplementation(() => {
    throw Object.assign(new Error('no such file'), { code: 'ENOENT' });
  });
  const driver = await fileDriver(root, SETTINGS);
  await copy(driver, 'source', 'target');
  same(content(root, 'target'), SOURCE);
});

it('a file system that refuses the mark gets a whole copy, and nothing is left', async () => {
  const { root, driver } = await store();
  vi.spyOn(marks, 'set').mockImplementation(() => {
    throw new NativeError('fsetxattr', errnos.EOPNOTSUPP);
  });
  await copy(driver, 'source', 'target');
  expectComplete(root, 'target', SOURCE);
  expect(basesOf(root)).toEqual([]);
});

it('copied without its attributes an object is refused, and may be made anew; with them it is as it was', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  await writeInTime(driver, 'target', UNIT + 5, pattern(50, 2));
  await driver.close();
  const expected = changed(SOURCE, UNIT + 5, pattern(50, 2));
  const other = temporaryDirectory();
  execFileSync('cp', ['-a', `${root}/.`, other]);
  const moved = await fileDriver(other, SETTINGS);
  same(await read(moved, 'target', 0, SIZE), expected);
  await writeInTime(moved, 'target', 0, pattern(SIZE, 3));
  await moved.flush(null);
  expectComplete(other, 'target', pattern(SIZE, 3));
  const file = hashedPath(root, 'target');
  fs.copyFileSync(file, `${file}-`);
  fs.renameSync(`${file}-`, file);
  const next = await fileDriver(root, SETTINGS);
  await expect(read(next, 'target', 0, 10)).rejects.toMatchObject({ code: 'EIO', message: expect.any(String) });
  await expect(copy(next, 'target', 'second')).rejects.toMatchObject({ code: 'EIO' });
  await expect(writeInTime(next, 'target', 0, Buffer.from('x'))).rejects.toMatchObject({ code: 'EIO' });
  await copy(next, 'source', 'target');
  same(await read(next, 'target', 0, SIZE), SOURCE);
});

it('an object that looks like a partial one without a mark is not guessed at', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  const at = tailOffset(SIZE);
  const tail = decodeTail(content(root, 'target').subarray(at, at + tailLength(SIZE)), SIZE)!;
  const forged = Buffer.concat([SOURCE, encodeTail({ ...tail, states: tail.states.fill(2) })]);
  await write(driver, 'forged', 0, forged);
  await driver.close();
  const next = await fileDriver(root, SETTINGS);
  await expect(read(next, 'forged', 0, 1)).rejects.toMatchObject({ code: 'EIO' });
  await next.flush(null);
  same(content(root, 'forged'), forged);
});

it('with few descriptors many are read, written and completed', async () => {
  const { root, driver } = await store(undefined, { fdcache: 4, dirtyFiles: 2 });
  const names = Array.from({ length: 40 }, (_, i) => `target-${i}`);
  await Promise.all(names.map((name) => copy(driver, 'source', name)));
  await Promise.all(names.map((name, i) => writeInTime(driver, name, i * 100, pattern(1000, i))));
  for (const [i, name] of names.entries())
    same(await read(driver, name, 0, SIZE), changed(SOURCE, i * 100, pattern(1000, i)));
  await Promise.all(names.slice(0, 20).map((name) => driver.truncate(name, SIZE)));
  await driver.flush(null);
  for (const [i, name] of names.entries()) {
    const expected = changed(SOURCE, i * 100, pattern(1000, i));
    same(await read(driver, name, 0, SIZE), expected);
    if (i < 20) expectComplete(root, name, expected);
    else expect(statesOf(root, name)).toMatch(/^[02]+$/);
  }
});
