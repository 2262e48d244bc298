/**
 * What a blocker that was killed had acknowledged and not synced: only the kernel knows of it, so the first flush syncs all; twice, since ext4
 * without a journal writes what leads to the data after it has emptied the disk's cache.
 */
import fs from 'node:fs';
import { beforeEach, expect, it, vi } from 'vitest';
import type { FileDriver } from '../../../src/blockers/file/index.js';
import { fileDriver, temporaryDirectory, write } from './support.js';

const syncs = vi.hoisted(() => ({ paths: [] as string[], result: null as number | null }));

vi.mock('../../../src/sys/libc.js', async (original) => {
  const libc = await original<typeof import('../../../src/sys/libc.js')>();
  const async = (fd: number, done: (error: Error | null, result: number) => void): void => {
    syncs.paths.push(fs.readlinkSync(`/proc/self/fd/${fd}`));
    if (syncs.result === null) libc.syncfs.async(fd, done);
    else done(null, syncs.result);
  };
  const errno = (): number => (syncs.result === null ? libc.errno() : 5);
  return { ...libc, errno, syncfs: Object.assign(() => -1, { async }) };
});

beforeEach(() => {
  syncs.paths.length = 0;
  syncs.result = null;
});

it.each([
  ['of names', ['left-object']],
  ['of everything', null],
])(
  'the first flush %s makes durable what a killed predecessor wrote, the next ones only what this one did',
  async (_what, names) => {
    const root = temporaryDirectory();
    const killed = await fileDriver(root);
    await write(killed, 'left-object', 0, Buffer.from('acknowledged'));
    const driver = await fileDriver(root);
    await write(driver, 'own-object', 0, Buffer.from('x'));
    expect(syncs.paths).toEqual([]);
    await Promise.all([driver.flush(names), driver.flush(names)]);
    expect(syncs.paths).toEqual([root, root]);
    await driver.flush(names);
    await driver.flush(null);
    expect(syncs.paths).toEqual([root, root]);
  },
);

it('a failure is an error of every flush and durable change from then on: nobody knows whose writes were lost', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root);
  await write(driver, 'own-object', 0, Buffer.from('x'));
  syncs.result = -1;
  const lost = { code: 'EIO', message: expect.stringContaining(root) };
  await expect(driver.flush(null)).rejects.toMatchObject(lost);
  syncs.result = null;
  await expect(driver.flush(['some-object'])).rejects.toMatchObject(lost);
  await expect(write(driver, 'own-object', 0, Buffer.from('y'), { fua: true })).rejects.toMatchObject({ code: 'EIO' });
  expect(syncs.paths).toEqual([root]);
  const successor = await fileDriver(root);
  await successor.flush(null);
});

it.each([
  ['a FUA write', (driver: FileDriver) => write(driver, 'left-object', 0, Buffer.from('y'), { fua: true })],
  ['a durable reset', (driver: FileDriver) => driver.reset('left-object', true)],
  [
    'a durable copy',
    (driver: FileDriver) => driver.copy('left-object', 'new-object', 10, { durable: true, exclusive: false }),
  ],
  ['a hash', (driver: FileDriver) => driver.hash('left-object', 10)],
])('%s makes durable what leads to it, though a killed predecessor made that', async (_what, change) => {
  const root = temporaryDirectory();
  await write(await fileDriver(root), 'left-object', 0, Buffer.from('acknowledged'));
  const driver = await fileDriver(root);
  await change(driver);
  expect(syncs.paths).toEqual([root, root]);
  await change(driver);
  expect(syncs.paths).toEqual([root, root]);
});

it('closing flushes what this process wrote, no more', async () => {
  const driver = await fileDriver(temporaryDirectory());
  await write(driver, 'own-object', 0, Buffer.from('x'));
  await driver.close();
  expect(syncs.paths).toEqual([]);
});
