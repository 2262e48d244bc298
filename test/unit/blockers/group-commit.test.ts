/** Flushes at the same time share what they sync; what fails is not forgotten; what runs out does not stop them. */
import fs from 'node:fs';
import path from 'node:path';
import { expect, it, onTestFinished, vi } from 'vitest';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { fileDriver, filesOf, temporaryDirectory, write } from './support.js';

type Step = 'fdatasync' | 'fsync' | 'open';

/** Everything that a step of the kernel is called for; `first` runs before each call. */
function watch(step: Step, first: (file: string) => Promise<void> = async () => {}): string[] {
  const seen: string[] = [];
  const real = kernel[step].bind(kernel) as (...args: unknown[]) => Promise<never>;
  const spy = vi.spyOn(kernel, step as 'fsync').mockImplementation(async (...args: unknown[]) => {
    const file = typeof args[0] === 'number' ? fs.readlinkSync(`/proc/self/fd/${args[0]}`) : String(args[0]);
    seen.push(file);
    await first(file);
    return real(...args);
  });
  onTestFinished(() => spy.mockRestore());
  return seen;
}

function gate() {
  let open = () => {};
  const passed = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { open, passed };
}

it('flushes of several volumes at once sync each object and each directory once, and each waits for all that is its own', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root);
  await driver.flush(null);
  const names = Array.from({ length: 12 }, (_, i) => `object-${i}`);
  for (const name of names) await write(driver, name, 0, Buffer.from(name));
  const { open, passed } = gate();
  const files = watch('fdatasync', () => passed);
  const directories = watch('fsync', () => passed);
  // Three volumes with objects in common, each flushed from two connections, and everything twice.
  const volumes = [names.slice(0, 6), names.slice(3, 9), names.slice(6), null];
  let acknowledged = 0;
  const flushes = [...volumes, ...volumes].map(async (volume) => {
    await driver.flush(volume);
    acknowledged++;
    for (const name of volume ?? names) expect(files.some((file) => file.endsWith(`/${name}`))).toBe(true);
  });
  await expect.poll(() => files.length > 0).toBe(true);
  expect(acknowledged).toBe(0);
  open();
  await Promise.all(flushes);
  expect(files.map((file) => path.basename(file)).sort()).toEqual([...names].sort());
  const wanted = new Set(
    filesOf(root).flatMap((file) => [1, 2, 3, 4].map((up) => file.split('/').slice(0, -up).join('/'))),
  );
  expect([...directories].sort()).toEqual([...wanted].sort());
});

it('a write while syncs run is synced once more, by one sync for all flushes after it', async () => {
  const driver = await fileDriver(temporaryDirectory());
  await write(driver, 'busy-object', 0, Buffer.from('a'));
  await driver.flush(null);
  await write(driver, 'busy-object', 0, Buffer.from('b'));
  const { open, passed } = gate();
  const files = watch('fdatasync', () => passed);
  const before = driver.flush(['busy-object']);
  await expect.poll(() => files.length).toBe(1);
  await write(driver, 'busy-object', 0, Buffer.from('c'));
  const after = Array.from({ length: 10 }, (_, i) => driver.flush(i % 2 ? null : ['busy-object']));
  const fua = write(driver, 'busy-object', 0, Buffer.from('d'), { fua: true });
  open();
  await Promise.all([before, ...after, fua]);
  expect(files).toHaveLength(2);
});

it('a directory that could not be synced is an error of every flush that needs it, also when the next sync would succeed', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root);
  await driver.flush(null);
  await write(driver, 'bad-object', 0, Buffer.from('x'));
  const leaf = path.dirname(filesOf(root)[0]);
  let fails = true;
  watch('fsync', async (directory) => {
    if (fails && directory === leaf) throw Object.assign(new Error('EIO'), { code: 'EIO' });
  });
  const lost = { code: 'EIO', message: expect.stringContaining(leaf) };
  await expect(driver.flush(['bad-object'])).rejects.toMatchObject(lost);
  fails = false;
  await expect(driver.flush(['bad-object'])).rejects.toMatchObject(lost);
  await expect(driver.flush(null)).rejects.toMatchObject(lost);
  await expect(write(driver, 'bad-object', 0, Buffer.from('y'), { fua: true })).rejects.toMatchObject({ code: 'EIO' });
  await write(driver, 'good-object', 0, Buffer.from('x'));
  await driver.flush(['good-object']);
});

it('a flush that finds no descriptor for its directories closes other dirty files, and ends', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root);
  await driver.flush(null);
  for (let i = 0; i < 12; i++) await write(driver, `object-${i}`, 0, Buffer.from('x'));
  const openFiles = () => (driver.status() as { openFiles: number }).openFiles;
  let refused = 0;
  watch('open', async (file) => {
    if (openFiles() > 8 && fs.statSync(file, { throwIfNoEntry: false })?.isDirectory()) {
      refused++;
      throw Object.assign(new Error('EMFILE'), { code: 'EMFILE' });
    }
  });
  await driver.flush(['object-0']);
  expect(refused).toBeGreaterThan(1);
  await driver.flush(null);
  expect(driver.status()).toMatchObject({ dirtyFiles: 0, dirtyDirectories: 0, failedObjects: 0 });
});
