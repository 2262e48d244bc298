/** Flushes at the same time share what they sync; what fails is not forgotten; what runs out does not stop them. */
import fs from 'node:fs';
import path from 'node:path';
import { expect, it, onTestFinished, vi } from 'vitest';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { runIo } from '../../../src/blockers/object-io.js';
import { fileDriver, filesOf, temporaryDirectory, write } from './support.js';

type Step = 'fdatasync' | 'fsync' | 'open' | 'syncfs';

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

/** `first` runs before this thread opens a file. */
function watchOpens(first: (file: string) => void): void {
  const { changesNow } = kernel;
  if (!changesNow) throw new Error('the kernel makes changes at once');
  const real = changesNow.open;
  const spy = vi.spyOn(changesNow, 'open').mockImplementation((file, flags, mode) => {
    first(file);
    return real(file, flags, mode);
  });
  onTestFinished(() => spy.mockRestore());
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

it.each([
  { where: 'a disk of this machine', local: true },
  { where: 'a server', local: false },
])(
  'a flush that finds no descriptor for its directories on $where closes other dirty files, and ends',
  async ({ local }) => {
    const spy = vi.spyOn(kernel, 'isLocal').mockReturnValue(local);
    onTestFinished(() => spy.mockRestore());
    const root = temporaryDirectory();
    const driver = await fileDriver(root);
    await driver.flush(null);
    for (let i = 0; i < 12; i++) await write(driver, `object-${i}`, 0, Buffer.from('x'));
    const openFiles = () => (driver.status() as { openFiles: number }).openFiles;
    let refused = 0;
    const refuse = (file: string): void => {
      if (openFiles() <= 8 || !fs.statSync(file, { throwIfNoEntry: false })?.isDirectory()) return;
      refused++;
      throw Object.assign(new Error('EMFILE'), { code: 'EMFILE' });
    };
    if (local) watchOpens(refuse);
    else watch('open', async (file) => refuse(file));
    await driver.flush(['object-0']);
    expect(refused).toBeGreaterThan(1);
    await driver.flush(null);
    expect(driver.status()).toMatchObject({ dirtyFiles: 0, dirtyDirectories: 0, failedObjects: 0 });
  },
);

/** FLUSH of one object, by the hint of a write to it. */
async function flushObject(driver: Awaited<ReturnType<typeof fileDriver>>, name: string, hint: number): Promise<void> {
  await runIo(driver, 'flushObject', { name, offset: 0, length: 0, hint });
}

it('a flush of one object syncs its file, once for all that share it, and no other', async () => {
  const driver = await fileDriver(temporaryDirectory());
  const { hint } = await write(driver, 'one-object', 0, Buffer.from('a'));
  await write(driver, 'other-object', 0, Buffer.from('a'));
  await driver.flush(null);
  await write(driver, 'one-object', 0, Buffer.from('b'), { hint });
  await write(driver, 'other-object', 0, Buffer.from('b'));
  const { open, passed } = gate();
  const files = watch('fdatasync', () => passed);
  const first = flushObject(driver, 'one-object', hint);
  await expect.poll(() => files.length).toBe(1);
  await write(driver, 'one-object', 0, Buffer.from('c'), { hint });
  const after = Array.from({ length: 5 }, () => flushObject(driver, 'one-object', hint));
  open();
  await Promise.all([first, ...after]);
  expect(files.map((file) => path.basename(file))).toEqual(['one-object', 'one-object']);
  // Nothing is owed: nothing is synced.
  await flushObject(driver, 'one-object', hint);
  expect(files).toHaveLength(2);
  expect(driver.status()).toMatchObject({ dirtyFiles: 1 });
});

it('a flush of one object makes durable what leads to it, also without a hint, and what an earlier process left', async () => {
  const root = temporaryDirectory();
  const driver = await fileDriver(root);
  const everything = watch('syncfs');
  const directories = watch('fsync');
  const { hint } = await write(driver, 'new-object', 0, Buffer.from('a'));
  await flushObject(driver, 'new-object', hint);
  expect(everything).toHaveLength(2);
  const [file] = filesOf(root);
  expect(directories).toEqual(expect.arrayContaining([path.dirname(file), path.dirname(path.dirname(file))]));
  await write(driver, 'second-object', 0, Buffer.from('a'));
  const before = directories.length;
  await flushObject(driver, 'second-object', 0);
  expect(directories.length).toBeGreaterThan(before);
  expect(driver.status()).toMatchObject({ dirtyFiles: 0, dirtyDirectories: 0 });
});

it('a flush of one object that the disk did not take says so, and each later one, by its name', async () => {
  const driver = await fileDriver(temporaryDirectory());
  const { hint } = await write(driver, 'bad-object', 0, Buffer.from('a'));
  await driver.flush(null);
  await write(driver, 'bad-object', 0, Buffer.from('b'), { hint });
  let fails = true;
  watch('fdatasync', async () => {
    if (fails) throw Object.assign(new Error('EIO'), { code: 'EIO' });
  });
  const lost = { code: 'EIO', message: expect.stringContaining('bad-object') };
  await expect(flushObject(driver, 'bad-object', hint)).rejects.toMatchObject(lost);
  fails = false;
  await expect(flushObject(driver, 'bad-object', hint)).rejects.toMatchObject(lost);
  await expect(write(driver, 'bad-object', 0, Buffer.from('c'), { hint, fua: true })).rejects.toMatchObject({
    code: 'EIO',
  });
});

it('a flush and a FUA write that waited behind a sync which failed fail with it: the kernel tells that once', async () => {
  const driver = await fileDriver(temporaryDirectory());
  const name = 'bad-object';
  const { hint } = await write(driver, name, 0, Buffer.from('a'));
  await driver.flush(null);
  await write(driver, name, 0, Buffer.from('b'), { hint });
  const { open, passed } = gate();
  let calls = 0;
  watch('fdatasync', async () => {
    if (++calls > 1) return;
    await passed;
    throw Object.assign(new Error('EIO'), { code: 'EIO' });
  });
  const first = write(driver, name, 1, Buffer.from('c'), { hint, fua: true });
  await expect.poll(() => calls).toBe(1);
  await write(driver, name, 2, Buffer.from('d'), { hint });
  const after = [
    runIo(driver, 'flushObject', { name, offset: 0, length: 0, hint }),
    write(driver, name, 3, Buffer.from('e'), { hint, fua: true }),
  ];
  const ended = Promise.allSettled([first, ...after]);
  open();
  expect((await ended).map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected']);
});
