/** What a blocker that was killed had acknowledged and not synced: only the kernel knows of it, so the first flush syncs all. */
import fs from 'node:fs';
import { beforeEach, expect, it, vi } from 'vitest';
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
    expect(syncs.paths).toEqual([root]);
    await driver.flush(names);
    await driver.flush(null);
    expect(syncs.paths).toEqual([root]);
  },
);

it('a failure is an error of the flush, and the next flush tries again', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root);
  syncs.result = -1;
  await expect(driver.flush(null)).rejects.toMatchObject({ code: 'EIO', message: expect.stringContaining(root) });
  syncs.result = null;
  await driver.flush(['some-object']);
  expect(syncs.paths).toEqual([root, root]);
});

it('closing flushes what this process wrote, no more', async () => {
  const driver = await fileDriver(temporaryDirectory());
  await write(driver, 'own-object', 0, Buffer.from('x'));
  await driver.close();
  expect(syncs.paths).toEqual([]);
});
