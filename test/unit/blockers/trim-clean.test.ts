/** When a trim has the range written out before its hole is made: only where the disk may not have it. */
import { expect, it, onTestFinished, vi } from 'vitest';
import type { FileDriver } from '../../../src/blockers/file/index.js';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { runIo } from '../../../src/blockers/object-io.js';
import { monotonicMs } from '../../../src/sys/clock.js';
import { errnos } from '../../../src/sys/errno.js';
import { fileDriver, read, temporaryDirectory, write } from './support.js';

const NAME = 'object-of-a-volume';
const SIZE = 64 * 1024;

/** A store on a disk of this machine; how often a range was written out before a hole was made, and how often that was not needed. */
async function rig() {
  const root = temporaryDirectory();
  const counts = { writtenOut: 0, holes: 0 };
  const local = vi.spyOn(kernel, 'isLocal').mockReturnValue(true);
  const memory = vi.spyOn(kernel, 'isMemory').mockReturnValue(false);
  const real = { writeOut: kernel.writeOut?.bind(kernel), fallocate: kernel.fallocateNow?.bind(kernel) };
  const writeOut = vi.spyOn(kernel as Required<typeof kernel>, 'writeOut').mockImplementation(async (...range) => {
    counts.writtenOut++;
    await real.writeOut?.(...range);
  });
  const hole = vi.spyOn(kernel as Required<typeof kernel>, 'fallocateNow').mockImplementation((...range) => {
    counts.holes++;
    return real.fallocate?.(...range) ?? -1;
  });
  onTestFinished(() => {
    for (const spy of [local, memory, writeOut, hole]) spy.mockRestore();
  });
  return { root, counts, writeOut, driver: await fileDriver(root) };
}

const trim = (driver: FileDriver, offset: number): Promise<unknown> =>
  runIo(driver, 'trim', { name: NAME, offset, length: 4096, deadline: monotonicMs() + 60_000 });

const fill = (driver: FileDriver): Promise<unknown> => write(driver, NAME, 0, Buffer.alloc(SIZE, 7));

it('trims of what was flushed wait for no disk, one after another; after a write they do until the next flush', async () => {
  const { counts, driver } = await rig();
  await fill(driver);
  await trim(driver, 0);
  expect(counts).toEqual({ writtenOut: 1, holes: 1 });
  await driver.flush([NAME]);
  await trim(driver, 4096);
  await trim(driver, 8192);
  expect(counts).toEqual({ writtenOut: 1, holes: 3 });
  await write(driver, NAME, SIZE, Buffer.alloc(10, 8));
  await trim(driver, 12_288);
  expect(counts).toEqual({ writtenOut: 2, holes: 4 });
  await driver.flush(null);
  await trim(driver, 16_384);
  expect(counts).toEqual({ writtenOut: 2, holes: 5 });
  const content = Buffer.alloc(SIZE, 7).fill(0, 0, 20_480);
  expect(await read(driver, NAME, 0, SIZE)).toEqual(content);
});

it('a write while the sync runs keeps it from being clean', async () => {
  const { counts, driver } = await rig();
  await fill(driver);
  await driver.flush(null);
  await fill(driver);
  const real = kernel.fdatasync.bind(kernel);
  const sync = vi.spyOn(kernel, 'fdatasync').mockImplementation(async (fd) => {
    await write(driver, NAME, 0, Buffer.alloc(10, 9));
    await real(fd);
  });
  await driver.flush([NAME]);
  sync.mockRestore();
  await trim(driver, 4096);
  expect(counts).toEqual({ writtenOut: 1, holes: 1 });
});

it('of a file that is opened anew nothing is known until its first flush', async () => {
  const { root, counts, driver } = await rig();
  await fill(driver);
  await driver.flush(null);
  await driver.close();
  const next = await fileDriver(root);
  await trim(next, 0);
  expect(counts).toEqual({ writtenOut: 1, holes: 1 });
  await next.flush(null);
  await trim(next, 4096);
  expect(counts).toEqual({ writtenOut: 1, holes: 2 });
});

const failure = (code: 'EIO' | 'EINVAL'): Error => Object.assign(new Error(code), { code });

/** Each way in which a guest is told that its writes are durable. */
async function flushes(driver: FileDriver): Promise<unknown[]> {
  const { hint } = await write(driver, NAME, 0, Buffer.from('w'));
  const object = { name: NAME, offset: 0, length: 0, hint };
  const asked = [
    () => driver.flush([NAME]),
    () => runIo(driver, 'flushObject', object),
    () => runIo(driver, 'flushObject', { ...object, alone: true }),
    () => write(driver, NAME, 0, Buffer.from('v'), { fua: true }),
    () => driver.flush(null),
  ];
  const outcomes: unknown[] = [];
  for (const ask of asked)
    outcomes.push(
      await ask().then(
        () => 'durable',
        ({ errno }) => errno,
      ),
    );
  return outcomes;
}

it('what the write-out of a trim hears of the disk, which no sync is told any more, fails each flush', async () => {
  const { driver, writeOut } = await rig();
  await fill(driver);
  writeOut.mockRejectedValueOnce(failure('EIO'));
  await trim(driver, 0);
  expect(await flushes(driver)).toEqual(Array(5).fill(errnos.EIO));
  expect(await flushes(driver)).toEqual(Array(5).fill(errnos.EIO));
});

it('nor does a sync beside that write-out pass for one that has heard of everything', async () => {
  const { driver, writeOut } = await rig();
  await fill(driver);
  await driver.flush(null);
  await fill(driver);
  let fail = (_: Error): void => {};
  writeOut.mockReturnValueOnce(new Promise((_, reject) => (fail = reject)));
  const trimmed = trim(driver, 0);
  await expect.poll(() => writeOut.mock.calls.length).toBe(1);
  const synced = vi.spyOn(kernel, 'fdatasync');
  const flushed = driver.flush([NAME]).then(
    () => 'durable',
    ({ errno }) => errno,
  );
  await expect.poll(() => synced.mock.settledResults.filter(({ type }) => type === 'fulfilled').length).toBe(1);
  await new Promise((resolve) => setImmediate(resolve));
  synced.mockRestore();
  fail(failure('EIO'));
  await trimmed;
  expect(await flushed).toBe(errnos.EIO);
});

it('a file system that cannot write out a range has failed at nothing', async () => {
  const { driver, writeOut } = await rig();
  await fill(driver);
  writeOut.mockRejectedValueOnce(failure('EINVAL'));
  await trim(driver, 0);
  expect(await flushes(driver)).toEqual(Array(5).fill('durable'));
});
