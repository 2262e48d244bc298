/** What a flush syncs, how often, and what it says when syncing fails. */
import fs from 'node:fs';
import { expect, it, onTestFinished, vi } from 'vitest';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { fileDriver, filesOf, read, temporaryDirectory, write } from './support.js';

/** Every fdatasync goes through this: what was synced, and held back or failed on demand. */
function watchSyncs() {
  const synced: string[] = [];
  const held: (() => void)[] = [];
  const control = {
    synced,
    hold: false,
    errno: null as string | null,
    release() {
      for (const go of held.splice(0)) go();
    },
  };
  const real = fs.fdatasync.bind(fs);
  const spy = vi.spyOn(fs, 'fdatasync').mockImplementation((fd, callback) => {
    synced.push(fs.readlinkSync(`/proc/self/fd/${fd}`));
    const go = () => {
      if (control.errno === null) real(fd, callback);
      else callback(Object.assign(new Error(control.errno), { code: control.errno }));
    };
    if (control.hold) held.push(go);
    else go();
  });
  onTestFinished(() => {
    control.release();
    spy.mockRestore();
  });
  return control;
}

/** Directories that were synced. */
function watchDirectories(): string[] {
  const synced: string[] = [];
  const real = fs.fsync.bind(fs);
  const spy = vi.spyOn(fs, 'fsync').mockImplementation((fd, callback) => {
    synced.push(fs.readlinkSync(`/proc/self/fd/${fd}`));
    real(fd, callback);
  });
  onTestFinished(() => spy.mockRestore());
  return synced;
}

it('writes sync nothing; a flush syncs each dirty file once, and the next one nothing', async () => {
  const driver = await fileDriver(temporaryDirectory());
  const syncs = watchSyncs();
  for (let i = 0; i < 5; i++) {
    await write(driver, 'first-object', i * 512, Buffer.alloc(512, i));
    await write(driver, 'second-object', i * 512, Buffer.alloc(512, i));
  }
  expect(syncs.synced).toEqual([]);
  await driver.flush(null);
  expect(syncs.synced).toHaveLength(2);
  await driver.flush(null);
  expect(syncs.synced).toHaveLength(2);
  await write(driver, 'first-object', 0, Buffer.from('x'));
  await driver.flush(['second-object']);
  expect(syncs.synced).toHaveLength(2);
  await driver.flush(['first-object', 'missing-object']);
  expect(syncs.synced).toHaveLength(3);
});

it('on a server’s file system a write is durable before it is acknowledged: its cache must not write later, without the lock', async () => {
  const remote = vi.spyOn(kernel, 'holdsWrites').mockReturnValue(true);
  onTestFinished(() => remote.mockRestore());
  const driver = await fileDriver(temporaryDirectory());
  const syncs = watchSyncs();
  const { hint } = await write(driver, 'first-object', 0, Buffer.from('a'));
  expect(syncs.synced).toHaveLength(1);
  await write(driver, 'first-object', 0, Buffer.from('b'), { hint });
  expect(syncs.synced).toHaveLength(2);
  expect(driver.status()).toMatchObject({ dirtyFiles: 0, dirtyDirectories: 0 });
});

it('the flush after a new object syncs its directory and every directory made for it', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root);
  const opened = watchDirectories();
  await write(driver, 'new-object', 0, Buffer.from('x'));
  expect(opened).toEqual([]);
  await driver.flush(['new-object']);
  const [file] = filesOf(root);
  const levels = [1, 2, 3, 4].map((up) => file.split('/').slice(0, -up).join('/'));
  expect(opened.sort()).toEqual(levels.sort());
  opened.length = 0;
  await driver.delete('new-object');
  await driver.flush(['new-object']);
  expect(opened).toEqual([levels.sort()[3]]);
});

it('durable operations are synced with their directories before they resolve', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root);
  const syncs = watchSyncs();
  const opened = watchDirectories();
  await write(driver, 'fua-object', 0, Buffer.from('x'), { fua: true });
  expect([syncs.synced.length, opened.length]).toEqual([1, 4]);
  await driver.reset('reset-object', true);
  expect([syncs.synced.length, opened.length >= 5]).toEqual([2, true]);
  opened.length = 0;
  await driver.copy('fua-object', 'copied-object', 10, { durable: true, exclusive: false });
  expect([syncs.synced.length, opened.length >= 1]).toEqual([3, true]);
  await driver.flush(null);
  expect(syncs.synced).toHaveLength(3);
});

it('flushes at the same time share one sync; a write during it is left for the next', async () => {
  const driver = await fileDriver(temporaryDirectory());
  await write(driver, 'busy-object', 0, Buffer.from('a'));
  const syncs = watchSyncs();
  syncs.hold = true;
  const first = driver.flush(null);
  await expect.poll(() => syncs.synced.length).toBe(1);
  const second = driver.flush(['busy-object']);
  await write(driver, 'busy-object', 0, Buffer.from('b'));
  const third = driver.flush(null);
  const fourth = driver.flush(null);
  syncs.hold = false;
  syncs.release();
  await Promise.all([first, second, third, fourth]);
  expect(syncs.synced).toHaveLength(2);
  await driver.flush(null);
  expect(syncs.synced).toHaveLength(2);
});

it('a descriptor stays open while its sync runs, whatever happens to the object', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root);
  await write(driver, 'doomed-object', 0, Buffer.from('a'));
  const syncs = watchSyncs();
  syncs.hold = true;
  const flush = driver.flush(null);
  await expect.poll(() => syncs.synced.length).toBe(1);
  const deleted = driver.delete('doomed-object');
  syncs.hold = false;
  syncs.release();
  await Promise.all([flush, deleted]);
  await write(driver, 'doomed-object', 0, Buffer.from('b'));
  expect((await read(driver, 'doomed-object', 0, 1)).toString()).toBe('b');
});

it('a failed sync is EIO for the flush and for every later one, until the object is made anew', async () => {
  const driver = await fileDriver(temporaryDirectory());
  await write(driver, 'bad-object', 0, Buffer.from('a'));
  await write(driver, 'good-object', 0, Buffer.from('a'));
  const syncs = watchSyncs();
  syncs.errno = 'ENOSPC';
  await expect(driver.flush(['bad-object'])).rejects.toMatchObject({
    code: 'EIO',
    message: expect.stringContaining('bad-object'),
  });
  syncs.errno = null;
  await driver.flush(['good-object']);
  await expect(driver.flush(['bad-object'])).rejects.toMatchObject({ code: 'EIO' });
  await expect(driver.flush(null)).rejects.toMatchObject({ code: 'EIO' });
  await expect(write(driver, 'bad-object', 0, Buffer.from('b'), { fua: true })).rejects.toMatchObject({ code: 'EIO' });
  await driver.reset('bad-object', false);
  await driver.flush(null);
  await write(driver, 'bad-object', 0, Buffer.from('c'), { fua: true });
});

it('a dirty file is synced before the cache closes it, and a failure then is not forgotten', async () => {
  const driver = await fileDriver(temporaryDirectory(), { fdcache: 4, dirtyFiles: 0 });
  const syncs = watchSyncs();
  syncs.errno = 'EIO';
  for (let i = 0; i < 5; i++) await write(driver, `object-${i}`, 0, Buffer.from('x'));
  await expect.poll(() => syncs.synced.length).toBeGreaterThan(0);
  const victim = (syncs.synced[0].split('/').pop() ?? '').replace(/ .*/, '');
  syncs.errno = null;
  await expect.poll(() => (driver.status() as { failedObjects: number }).failedObjects).toBeGreaterThan(0);
  await expect(driver.flush([victim])).rejects.toMatchObject({ code: 'EIO' });
});

it('closing the driver makes everything durable', async () => {
  const driver = await fileDriver(temporaryDirectory());
  const syncs = watchSyncs();
  await write(driver, 'last-object', 0, Buffer.from('x'));
  await driver.close();
  expect(syncs.synced).toHaveLength(1);
});

it('a flush that waits for its turn while its object is replaced has nothing to complain about', async () => {
  const driver = await fileDriver(temporaryDirectory());
  const names = Array.from({ length: 12 }, (_, i) => `queued-${i}`);
  for (const name of names) await write(driver, name, 0, Buffer.from(name));
  await write(driver, 'source-object', 0, Buffer.from('source'));
  const syncs = watchSyncs();
  syncs.hold = true;
  const flush = driver.flush(names);
  await expect.poll(() => syncs.synced.length).toBeGreaterThan(0);
  // The last ones are still in line: they are replaced and deleted before their sync begins.
  const waiting = names.filter((name) => !syncs.synced.some((file) => file.endsWith(`/${name}`))).slice(-2);
  expect(waiting).toHaveLength(2);
  await driver.delete(waiting[0]);
  syncs.hold = false;
  const copy = driver.copy('source-object', waiting[1], 10, { durable: false, exclusive: false });
  syncs.release();
  await Promise.all([flush, copy]);
  await driver.flush(null);
  expect((await read(driver, waiting[1], 0, 6)).toString()).toBe('source');
  await expect(driver.info(waiting[0])).rejects.toMatchObject({ code: 'ENOENT' });
});
