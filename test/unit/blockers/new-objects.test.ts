/** What making an object asks of a disk of this machine: few calls in vain, and no thread of the pool. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { expect, it, onTestFinished, vi } from 'vitest';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { kernelMarks } from '../../../src/blockers/file/marks.js';
import { monotonicMs } from '../../../src/sys/clock.js';
import { errnos } from '../../../src/sys/errno.js';
import * as libc from '../../../src/sys/libc.js';
import { fileDriver, filesOf, read, temporaryDirectory, treeOf, write } from './support.js';

const soon = (): number => monotonicMs() + 60_000;

/** The directories of an object below the store, the outermost first, and its file. */
function placeOf(name: string): [top: string, middle: string, leaf: string, file: string] {
  const [, a, b, c] = /^(..)(..)(..)/.exec(createHash('sha256').update(name).digest('hex')) ?? [];
  return [a, `${a}/${b}`, `${a}/${b}/${c}`, `${a}/${b}/${c}/${name}`];
}

/** Calls on this thread from now on, in order: their names, and the places that they are about. */
function watchCalls(root: string): string[] {
  const seen: string[] = [];
  const { changesNow } = kernel;
  if (!changesNow) throw new Error('the kernel makes changes at once');
  const note = (call: string, what: unknown): void => {
    seen.push(typeof what === 'string' ? `${call} ${path.relative(root, what)}` : call);
  };
  for (const call of ['tryOpen', 'tryMkdir', 'ftruncate', 'open', 'close', 'stat'] as const) {
    const real = changesNow[call] as (...args: unknown[]) => unknown;
    const spy = vi.spyOn(changesNow, call as 'unlink').mockImplementation((...args: unknown[]) => {
      note(call, args[0]);
      return real(...args) as undefined;
    });
    onTestFinished(() => spy.mockRestore());
  }
  const get = vi.spyOn(kernelMarks, 'get').mockImplementation((fd) => {
    note('mark', fd);
    return null;
  });
  onTestFinished(() => get.mockRestore());
  return seen;
}

// As in a node: the process's umask takes nothing away that the store's leaves.
const settings = { umask: process.umask() };

it('an object is made with its directories, and nothing is looked for that a new file cannot have', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root, settings);
  const [top, middle, leaf, file] = placeOf('new-object');
  const calls = watchCalls(root);
  await driver.reset('new-object', false, soon());
  const inward = [`tryMkdir ${middle}`, `tryMkdir ${top}`, `tryMkdir ${middle}`, `tryMkdir ${leaf}`];
  expect(calls).toEqual([`tryOpen ${file}`, ...inward, `tryOpen ${file}`]);
  expect(treeOf(root)).toMatchObject({ [top]: 'dir', [middle]: 'dir', [leaf]: 'dir', [file]: expect.any(String) });
});

it('of the directories that are there, the outermost is not asked for', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root, settings);
  const [top, middle, leaf, file] = placeOf('new-object');
  fs.mkdirSync(path.join(root, top), { recursive: true });
  const calls = watchCalls(root);
  await driver.reset('new-object', false, soon());
  expect(calls).toEqual([`tryOpen ${file}`, `tryMkdir ${middle}`, `tryMkdir ${leaf}`, `tryOpen ${file}`]);
});

it('an object is made within the call that asks for it, unless somebody has its name to himself', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root, settings);
  const made = driver.reset('new-object', false, soon());
  expect(filesOf(root)).toHaveLength(1);
  await made;
  await write(driver, 'new-object', 0, Buffer.from('content'), { deadline: soon() });
  const deleted = driver.delete('new-object', soon());
  const again = driver.reset('new-object', false, soon());
  await Promise.all([deleted, again]);
  expect(await driver.info('new-object')).toMatchObject({ size: 0 });
  await driver.flush(null);
  expect(driver.status()).toMatchObject({ openFiles: 1, dirtyFiles: 0, dirtyDirectories: 0 });
});

it('an object for which no descriptor is left, or no place among the open files, is made all the same', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root, { ...settings, fdcache: 4, dirtyFiles: 0 });
  const { changesNow } = kernel;
  const real = changesNow!.tryOpen;
  let refuses = false;
  const refused = vi.spyOn(changesNow!, 'tryOpen').mockImplementation((...args) => (refuses ? -1 : real(...args)));
  const told = vi.spyOn(kernel, 'errno').mockImplementation(() => {
    const errno = refuses ? errnos.EMFILE : libc.errno();
    refuses = false;
    return errno;
  });
  onTestFinished(() => {
    refused.mockRestore();
    told.mockRestore();
  });
  for (let i = 0; i < 100; i++) {
    refuses = i > 4 && i % 3 === 0;
    await driver.reset(`object-${i}`, false, soon());
    expect(refuses).toBe(false);
  }
  const names = Array.from({ length: 100 }, (_, i) => `other-${i}`);
  await Promise.all(names.map((name) => driver.reset(name, false, soon())));
  expect((driver.status() as { openFiles: number }).openFiles).toBeLessThan(70);
  expect(filesOf(root)).toHaveLength(200);
  await driver.flush(null);
  expect(driver.status()).toMatchObject({ dirtyFiles: 0, dirtyDirectories: 0 });
});

it('an object that is there is emptied, whether its file is open or not', async () => {
  const root = temporaryDirectory();
  const first = await fileDriver(root, settings);
  await write(first, 'old-object', 0, Buffer.from('content'), { deadline: soon() });
  await first.close();
  const driver = await fileDriver(root, settings);
  const calls = watchCalls(root);
  await driver.reset('old-object', false, soon());
  const asked = `tryOpen ${placeOf('old-object')[3]}`;
  expect(calls).toEqual([asked, asked, 'mark', 'ftruncate']);
  await write(driver, 'old-object', 0, Buffer.from('again'), { deadline: soon() });
  calls.length = 0;
  await driver.reset('old-object', false, soon());
  // Whether the file that is open is the object's still.
  expect(calls).toEqual([`stat ${placeOf('old-object')[3]}`, 'ftruncate']);
  expect(fs.statSync(filesOf(root)[0]).size).toBe(0);
  expect(await read(driver, 'old-object', 0, 7)).toEqual(Buffer.alloc(7));
});

it.each([
  { what: 'a file where a directory is to be', at: 1, code: 'ENOTDIR' },
  { what: 'a directory where the file is to be', at: 3, code: 'EISDIR' },
])('$what is an error that names the object, and nothing is made', async ({ at, code }) => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root, settings);
  const place = path.join(root, placeOf('new-object')[at]);
  if (at === 3) fs.mkdirSync(place, { recursive: true });
  else {
    fs.mkdirSync(path.dirname(place), { recursive: true });
    fs.writeFileSync(place, '');
  }
  const before = treeOf(root);
  const failure = { code, message: expect.stringContaining('new-object') };
  await expect(driver.reset('new-object', false, soon())).rejects.toMatchObject(failure);
  expect(treeOf(root)).toEqual(before);
});

it.each(['outermost', 'middle', 'innermost'])(
  'where there is no room for the %s directory, nothing is owed that is not there',
  async (which) => {
    const root = temporaryDirectory();
    const driver = await fileDriver(root, settings);
    await driver.flush(null);
    const place = path.join(root, placeOf('new-object')[['outermost', 'middle', 'innermost'].indexOf(which)]);
    const { changesNow } = kernel;
    const real = changesNow!.tryMkdir;
    let errno = 0;
    const full = vi.spyOn(changesNow!, 'tryMkdir').mockImplementation((directory, mode) => {
      errno = directory === place ? errnos.ENOSPC : 0;
      return errno === 0 ? real(directory, mode) : -1;
    });
    const told = vi.spyOn(kernel, 'errno').mockImplementation(() => errno || libc.errno());
    onTestFinished(() => {
      full.mockRestore();
      told.mockRestore();
    });
    const failure = { code: 'ENOSPC', message: expect.stringContaining('new-object') };
    await expect(driver.reset('new-object', false, soon())).rejects.toMatchObject(failure);
    await driver.flush(null);
    expect(driver.status()).toMatchObject({ dirtyFiles: 0, dirtyDirectories: 0 });
  },
);

it.each([
  { where: 'a disk of this machine', local: true },
  { where: 'a server', local: false },
])(
  'on $where a new object’s directories are opened to be synced, by a thread of the pool only on a server',
  async ({ local }) => {
    const spy = vi.spyOn(kernel, 'isLocal').mockReturnValue(local);
    onTestFinished(() => spy.mockRestore());
    const root = temporaryDirectory();
    const driver = await fileDriver(root, settings);
    await driver.flush(null);
    await driver.reset('new-object', false, soon());
    const onPool: string[] = [];
    for (const call of ['open', 'close'] as const) {
      const real = kernel[call].bind(kernel) as (...args: unknown[]) => Promise<never>;
      const watched = vi.spyOn(kernel, call as 'close').mockImplementation((...args: unknown[]) => {
        onPool.push(call);
        return real(...args);
      });
      onTestFinished(() => watched.mockRestore());
    }
    await driver.flush(['new-object']);
    expect(driver.status()).toMatchObject({ dirtyFiles: 0, dirtyDirectories: 0 });
    expect(onPool.sort()).toEqual(local ? [] : [...Array(4).fill('close'), ...Array(4).fill('open')]);
  },
);
