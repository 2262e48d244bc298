/** Partial objects on disks in trouble: full ones, such that do not read or sync, bases that are missing. */
import fs from 'node:fs';
import { expect, it, vi } from 'vitest';
import type { FileDriver } from '../../../src/blockers/file/index.js';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { NativeError } from '../../../src/blockers/file/pool.js';
import { errnos } from '../../../src/sys/errno.js';
import {
  aloneWithTheKernel,
  basesOf,
  changed,
  changes,
  copy,
  copyWhole,
  expectComplete,
  isPartial,
  ledgersOf,
  pattern,
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

/** Writes that these are of find no room. */
function full(isOf: (fd: number, count: number, offset: number) => boolean): () => void {
  const { pwrite, errno } = kernel;
  let failed = false;
  const spies = [
    vi.spyOn(kernel, 'pwrite').mockImplementation((fd, address, count, offset) => {
      failed = isOf(fd, count, offset);
      // The half of it finds room.
      if (failed && count > 1) pwrite.call(kernel, fd, address, count >> 1, offset);
      return failed ? -1 : pwrite.call(kernel, fd, address, count, offset);
    }),
    vi.spyOn(kernel, 'errno').mockImplementation(() => (failed ? errnos.ENOSPC : errno.call(kernel))),
  ];
  return () => {
    for (const spy of spies) spy.mockRestore();
  };
}

it.each([
  ['the content', (_fd: number, _count: number, offset: number) => offset < SIZE && offset >= 8 * UNIT],
  ['the tail', (_fd: number, _count: number, offset: number) => offset >= SIZE],
  ['the ledger', (fd: number) => fs.readlinkSync(`/proc/self/fd/${fd}`).includes('.archipelago-ledgers')],
])('a full disk, that has no room for %s, fails the write, which changes nothing then', async (_what, isOf) => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  for (const [offset, length] of [
    [8 * UNIT, UNIT],
    [9 * UNIT + 7, 100],
  ]) {
    const room = full(isOf);
    await expect(writeInTime(driver, 'target', offset, pattern(length, 6))).rejects.toMatchObject({ code: 'ENOSPC' });
    room();
    expect(statesOf(root, 'target')).toBe('0'.repeat(24));
    same(await read(driver, 'target', 0, SIZE), SOURCE);
    same(await read(await fileDriver(root), 'target', 0, SIZE), SOURCE);
  }
  await writeInTime(driver, 'target', 9 * UNIT + 7, pattern(100, 6));
  await driver.flush(null);
  same(await read(driver, 'target', 0, SIZE), changed(SOURCE, 9 * UNIT + 7, pattern(100, 6)));
  await driver.truncate('target', SIZE);
  expectComplete(root, 'target', changed(SOURCE, 9 * UNIT + 7, pattern(100, 6)));
});

it('a disk that cannot read the base fails reads of it, and loses nothing', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  await writeInTime(driver, 'target', UNIT, pattern(UNIT, 8));
  await driver.close();
  const next = await fileDriver(root);
  same(await read(next, 'target', UNIT, UNIT), pattern(UNIT, 8));
  const { read: readOnPool } = kernel;
  vi.spyOn(kernel, 'preadCached').mockReturnValue(-1);
  vi.spyOn(kernel, 'errno').mockReturnValue(errnos.EAGAIN);
  const broken = vi.spyOn(kernel, 'read').mockImplementation((fd, ...rest) => {
    if (!fs.readlinkSync(`/proc/self/fd/${fd}`).includes('.archipelago-bases')) readOnPool.call(kernel, fd, ...rest);
    else rest[4](new NativeError('read', errnos.EIO), 0);
  });
  await expect(read(next, 'target', 0, 10)).rejects.toMatchObject({ code: 'EIO' });
  await expect(writeInTime(next, 'target', 7, Buffer.from('x'))).rejects.toMatchObject({ code: 'EIO' });
  await expect(changes(next, 'trim', 'target', 7, 5000)).rejects.toMatchObject({ code: 'EIO' });
  same(await read(next, 'target', UNIT, UNIT), pattern(UNIT, 8));
  await next.flush(null);
  broken.mockRestore();
  same(await read(next, 'target', 0, SIZE), changed(SOURCE, UNIT, pattern(UNIT, 8)));
});

it('a base that is missing is said by name, to whoever needs it, and nothing is taken for done', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  await writeInTime(driver, 'target', UNIT, pattern(UNIT, 8));
  await driver.close();
  const [base] = basesOf(root);
  fs.unlinkSync(`${root}/.archipelago-bases/${base}`);
  const next = await fileDriver(root, { partialCopies: true, partialLeast: 0 });
  const works: ((driver: FileDriver) => Promise<unknown>)[] = [
    (d) => read(d, 'target', 0, 10),
    (d) => writeInTime(d, 'target', 7, Buffer.from('x')),
    (d) => write(d, 'target', UNIT, Buffer.from('x')),
    (d) => changes(d, 'trim', 'target', 7, 50),
    (d) => changes(d, 'trim', 'target', 7, 50, { deadline: 0 }),
    (d) => changes(d, 'writeZeroes', 'target', 7, 50, { deadline: 0, noHole: false }),
    (d) => d.truncate('target', 5),
    (d) => d.hash('target', SIZE),
    (d) => copy(d, 'target', 'second'),
    (d) => copyWhole(d, 'target', 'second'),
  ];
  for (const work of works) await expect(work(next), String(work)).rejects.toMatchObject({ code: 'EIO' });
  for (const work of [works[0], works[6], works[8], works[9]])
    await expect(work(next)).rejects.toMatchObject({ message: expect.stringContaining(base) });
  same(await read(next, 'target', UNIT, UNIT), pattern(UNIT, 8));
  await next.flush(null);
  await next.delete('target');
});

it('a disk that cannot sync has lost what was written, whatever is made of the object, until it is made anew', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  await driver.flush(null);
  await writeInTime(driver, 'target', 0, pattern(UNIT, 2));
  for (const call of ['fsync', 'fdatasync'] as const)
    vi.spyOn(kernel, call).mockRejectedValue(new NativeError(call, errnos.EIO));
  await expect(driver.flush(['target'])).rejects.toMatchObject({ code: 'EIO' });
  for (const call of ['fsync', 'fdatasync'] as const) vi.spyOn(kernel, call).mockResolvedValue();
  expect(statesOf(root, 'target')).toBe(`1${'0'.repeat(23)}`);
  await expect(driver.flush(['target'])).rejects.toMatchObject({ code: 'EIO' });
  await driver.truncate('target', SIZE);
  await expect(driver.flush(['target'])).rejects.toMatchObject({ code: 'EIO' });
  await driver.reset('target', false);
  await driver.flush(['target']);
});

it('a completion that fails leaves the object as it was, and open as it was', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  await writeInTime(driver, 'target', 5, pattern(10, 2));
  const expected = changed(SOURCE, 5, pattern(10, 2));
  const broken = vi.spyOn(kernel, 'copyRange').mockRejectedValue(new NativeError('copy_file_range', errnos.ENOSPC));
  for (let i = 0; i < 3; i++) {
    await expect(write(driver, 'target', 0, Buffer.from('x'))).rejects.toMatchObject({ code: 'ENOSPC' });
    await expect(driver.truncate('target', 5)).rejects.toMatchObject({ code: 'ENOSPC' });
    same(await read(driver, 'target', 0, SIZE), expected);
  }
  broken.mockRestore();
  expect(isPartial(root, 'target')).toBe(true);
  expect(fs.readdirSync(`${root}/.archipelago-tmp`)).toEqual([]);
  await write(driver, 'target', 0, Buffer.from('x'));
  expectComplete(root, 'target', changed(expected, 0, Buffer.from('x')));
});

it('what cannot be read of a killed process’s objects fails no flush of others', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  await writeInTime(driver, 'target', 5, pattern(10, 2));
  const ledger = ledgersOf(root)[0];
  const left = fs.readFileSync(ledger);
  await driver.close();
  fs.writeFileSync(ledger, left);
  const file = `${root}/copied`;
  const target = fs
    .readdirSync(root, { recursive: true, encoding: 'utf8' })
    .map((each) => `${root}/${each}`)
    .find((each) => each.endsWith('/target'))!;
  fs.copyFileSync(target, file);
  fs.renameSync(file, target);
  const next = await fileDriver(root);
  await write(next, 'other', 0, Buffer.from('x'));
  await next.flush(null);
  await expect(read(next, 'target', 0, 1)).rejects.toMatchObject({ code: 'EIO' });
});
