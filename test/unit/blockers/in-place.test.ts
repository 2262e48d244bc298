/** Flushes that are waited for by the thread that asks: on a quick disk, alone, and as good as those that are not. */
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { SyncsInPlace } from '../../../src/blockers/file/in-place.js';
import type { FileDriver } from '../../../src/blockers/file/index.js';
import { kernel } from '../../../src/blockers/file/kernel.js';
import type { FileSystem } from '../../../src/blockers/file/system.js';
import { runIo } from '../../../src/blockers/object-io.js';
import { errnos } from '../../../src/sys/errno.js';
import { fileDriver, temporaryDirectory, write } from './support.js';

const NAME = 'object-of-a-volume';

/** A store on a disk whose syncs take `disk.ms`; what was synced how. */
async function rig() {
  const disk = { ms: 0.2, clock: 0, local: true };
  const calls = { inPlace: 0, onPool: 0 };
  const { fdatasync, fdatasyncNow } = kernel;
  const inPlace = vi.spyOn(kernel as Required<typeof kernel>, 'fdatasyncNow').mockImplementation((fd) => {
    calls.inPlace++;
    disk.clock += disk.ms;
    return fdatasyncNow?.call(kernel, fd) ?? -1;
  });
  const spies = [
    inPlace,
    vi.spyOn(kernel, 'now').mockImplementation(() => disk.clock),
    vi.spyOn(kernel, 'isLocal').mockImplementation(() => disk.local),
    vi.spyOn(kernel, 'fdatasync').mockImplementation((fd) => {
      calls.onPool++;
      disk.clock += disk.ms;
      return fdatasync.call(kernel, fd);
    }),
  ];
  onTestFinished(() => {
    for (const spy of spies) spy.mockRestore();
  });
  const open = async (): Promise<FileDriver> => {
    const driver = await fileDriver(temporaryDirectory());
    await write(driver, NAME, 0, Buffer.from('a'));
    await driver.flush(null);
    Object.assign(calls, { inPlace: 0, onPool: 0 });
    return driver;
  };
  return { disk, calls, inPlace, open };
}

/** A write and its flush. */
async function pair(driver: FileDriver, alone = true): Promise<void> {
  const { hint } = await write(driver, NAME, 0, Buffer.from('b'));
  await runIo(driver, 'flushObject', { name: NAME, offset: 0, length: 0, hint, alone });
}

async function pairs(driver: FileDriver, count: number, alone = true): Promise<void> {
  for (let i = 0; i < count; i++) await pair(driver, alone);
}

describe('a flush that is alone', () => {
  it('is waited for in place when eight before it were quick, and none that is not alone', async () => {
    const { calls, open } = await rig();
    const driver = await open();
    await pairs(driver, 8);
    expect(calls).toEqual({ inPlace: 0, onPool: 8 });
    await pairs(driver, 3);
    expect(calls).toEqual({ inPlace: 3, onPool: 8 });
    await pairs(driver, 2, false);
    expect(calls).toEqual({ inPlace: 3, onPool: 10 });
  });

  it('goes to the pool again while the disk is slow, sooner the slower it is', async () => {
    const { disk, calls, open } = await rig();
    const driver = await open();
    await pairs(driver, 24);
    disk.ms = 1.5;
    await pairs(driver, 10);
    // Sixteen quick ones count for as much as four slow ones; eight are needed.
    expect(calls).toEqual({ inPlace: 16 + 3, onPool: 8 + 7 });
    disk.ms = 0.2;
    await pairs(driver, 16);
    expect(calls).toEqual({ inPlace: 19 + 8, onPool: 15 + 8 });
    disk.ms = 50;
    await pairs(driver, 2);
    expect(calls).toEqual({ inPlace: 27 + 1, onPool: 23 + 1 });
  });

  it('is the pool’s on a disk that hangs now and then, however quick it is between; in place again once it has not for long', () => {
    let clock = 0;
    const system = { isLocal: () => true, fdatasyncNow: () => 0, now: () => clock };
    const syncs = new SyncsInPlace(system as unknown as FileSystem, '/');
    /** Whether it was in place. */
    const sync = (ms: number): boolean => {
      const { allowed } = syncs;
      const started = clock;
      clock += ms;
      syncs.learn(started);
      return allowed;
    };
    let hung = 0;
    for (let i = 1; i <= 1500; i++) if (sync(i % 50 === 0 ? 500 : 0.2) && i % 50 === 0) hung++;
    expect(hung).toBe(1);
    let quick = 1;
    while (!sync(0.2)) quick++;
    expect(quick).toBeGreaterThan(10_000);
    expect(quick).toBeLessThan(100_000);
    // One more, and it is out of favour for as long as the last time, or longer.
    sync(500);
    for (let i = 0; i < 1000; i++) expect(sync(0.2)).toBe(false);
  });

  it('is the pool’s on a file system of a server, however quick', async () => {
    const { disk, calls, open } = await rig();
    disk.local = false;
    await pairs(await open(), 20);
    expect(calls.inPlace).toBe(0);
  });

  it('is the pool’s while another sync of the object is under way, and covers what was written since that began', async () => {
    const { calls, open } = await rig();
    const driver = await open();
    await pairs(driver, 12);
    const { hint } = await write(driver, NAME, 0, Buffer.from('c'));
    const flushes = [driver.flush([NAME])];
    await write(driver, NAME, 0, Buffer.from('d'), { hint });
    flushes.push(runIo(driver, 'flushObject', { name: NAME, offset: 0, length: 0, hint, alone: true }).then(() => {}));
    await Promise.all(flushes);
    expect(calls).toEqual({ inPlace: 4, onPool: 10 });
  });

  it('that the disk does not take fails, and so does each later flush of the object', async () => {
    const { inPlace, open } = await rig();
    const driver = await open();
    await pairs(driver, 10);
    inPlace.mockImplementationOnce(() => -1);
    const errno = vi.spyOn(kernel, 'errno').mockReturnValueOnce(errnos.EIO);
    onTestFinished(() => errno.mockRestore());
    await expect(pair(driver)).rejects.toMatchObject({ errno: errnos.EIO });
    await expect(driver.flush([NAME])).rejects.toMatchObject({ errno: errnos.EIO });
    await expect(pair(driver)).rejects.toMatchObject({ errno: errnos.EIO });
  });

  it('that a signal interrupts is made again', async () => {
    const { inPlace, calls, open } = await rig();
    const driver = await open();
    await pairs(driver, 10);
    inPlace.mockImplementationOnce(() => -1);
    const errno = vi.spyOn(kernel, 'errno').mockReturnValueOnce(errnos.EINTR);
    onTestFinished(() => errno.mockRestore());
    await pair(driver);
    expect(calls.inPlace).toBe(3);
  });
});
