/** What happens to partial objects while something else is under way: a flush beside their end, another process that had the lock, a sync that fails. */
import fs from 'node:fs';
import { describe, expect, it, vi } from 'vitest';
import type { FileDriver } from '../../../src/blockers/file/index.js';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { hashedPath } from '../../../src/blockers/file/paths.js';
import { NativeError } from '../../../src/blockers/file/pool.js';
import { runIo } from '../../../src/blockers/object-io.js';
import { errnos } from '../../../src/sys/errno.js';
import { Mortal } from './mortal-system.js';
import {
  aloneWithTheKernel,
  basesOf,
  copy,
  mortalDriver,
  pattern,
  prepared,
  SETTINGS,
  SIZE,
  same,
  soon,
  statesOf,
  store,
  tailOf,
  UNIT,
  writeInTime,
} from './partial-rig.js';
import { fileDriver, read } from './support.js';

aloneWithTheKernel();

const failures = (driver: FileDriver) => (driver.status() as { failedObjects: number }).failedObjects;

/** Syncs of files and directories wait until they are let go on. */
function heldSyncs(): () => void {
  let letGo = (): void => {};
  const going = new Promise<void>((resolve) => {
    letGo = resolve;
  });
  vi.spyOn(kernel, 'fsync').mockImplementation(() => going);
  return letGo;
}

describe('a flush', () => {
  it.each(['delete', 'reset'] as const)('beside a %s of the object fails nothing of what comes after', async (what) => {
    const { driver } = await store();
    await driver.flush(['any']);
    await copy(driver, 'source', 'target');
    await writeInTime(driver, 'target', 0, pattern(UNIT, 9));
    const letGo = heldSyncs();
    const flushed = driver.flush(['target']);
    await new Promise((resolve) => setTimeout(resolve, 20));
    const ended = what === 'delete' ? driver.delete('target', soon()) : driver.reset('target', false, soon());
    await new Promise((resolve) => setTimeout(resolve, 20));
    letGo();
    await Promise.all([flushed, ended]);
    expect(failures(driver)).toBe(0);
    await driver.flush(['target']);
    await driver.flush(null);
  });

  it('for which there is no descriptor to open the base is tried again, and loses nothing', async () => {
    const { root, driver } = await store();
    await copy(driver, 'source', 'first');
    await writeInTime(driver, 'first', 0, pattern(UNIT, 9));
    await driver.flush(null);
    // Its base is not open.
    await copy(driver, 'first', 'target');
    const { open } = kernel;
    const none = vi.spyOn(kernel, 'open').mockImplementation((file, flags, mode) => {
      if (!file.includes('.archipelago-bases/')) return open.call(kernel, file, flags, mode);
      return Promise.reject(new NativeError('open', errnos.EMFILE));
    });
    await expect(driver.flush(['target'])).rejects.toMatchObject({ errno: errnos.EMFILE });
    expect(none).toHaveBeenCalled();
    none.mockRestore();
    await driver.flush(['target']);
    expect(statesOf(root, 'target')).toMatch(/^2/);
  });

  it('after another process had the lock makes durable what that one wrote', async () => {
    const { root, driver } = await store();
    await copy(driver, 'source', 'target');
    const other = await fileDriver(root, SETTINGS);
    await read(other, 'target', 0, UNIT);
    await writeInTime(driver, 'target', 3 * UNIT, pattern(UNIT, 4));
    other.forget();
    const { data } = await runIo(other, 'read', { name: 'target', offset: 3 * UNIT, length: UNIT, deadline: soon() });
    same(data, pattern(UNIT, 4));
    await other.flush(['target']);
    expect(tailOf(root, 'target').states[3]).toBe(2);
  });
});

describe('what a killed process left', () => {
  async function leftBehind(...names: string[]): Promise<string> {
    const root = await prepared();
    const mortal = new Mortal();
    const killed = await mortalDriver(root, mortal);
    for (const name of names) {
      await copy(killed, 'source', name);
      await writeInTime(killed, name, 0, pattern(UNIT, 9));
    }
    await mortal.kill();
    return root;
  }

  it('and cannot be synced fails the flushes that cover it, and no others, for good', async () => {
    const root = await leftBehind('bad', 'good');
    const { ino } = fs.statSync(hashedPath(root, 'bad'));
    let failed = 0;
    vi.spyOn(kernel, 'fsync').mockImplementation((fd) => {
      if (fs.fstatSync(fd).ino !== ino || failed++ > 0) return Promise.resolve();
      return Promise.reject(new NativeError('fsync', errnos.EIO));
    });
    const driver = await fileDriver(root, SETTINGS);
    await driver.flush(['good']);
    expect(failed).toBe(1);
    expect(statesOf(root, 'good')).toMatch(/^2/);
    expect(statesOf(root, 'bad')).toMatch(/^1/);
    for (const names of [['bad'], null]) await expect(driver.flush(names)).rejects.toMatchObject({ code: 'EIO' });
    await driver.reset('bad', false, soon());
    await driver.flush(null);
  });

  it('keeps its base until it is durable that it does without', async () => {
    const root = await leftBehind('target');
    const directory = `${root}/.archipelago-bases`;
    const { base } = tailOf(root, 'target');
    const old = `${(Date.now() - 3_700_000).toString(36)}${base.slice(base.indexOf('-'))}`;
    fs.renameSync(`${directory}/${base}`, `${directory}/${old}`);
    const file = hashedPath(root, 'target');
    const bytes = fs.readFileSync(file);
    const fd = fs.openSync(file, 'r+');
    fs.writeSync(fd, old, bytes.indexOf(base));
    // All of it is there, says the kernel.
    fs.writeSync(fd, Buffer.alloc(SIZE / UNIT, 2), 0, SIZE / UNIT, bytes.length - SIZE / UNIT);
    fs.closeSync(fd);
    const order: string[] = [];
    vi.spyOn(kernel, 'fdatasync').mockImplementation(async () => void order.push('sync'));
    const { unlink } = kernel;
    vi.spyOn(kernel, 'unlink').mockImplementation((name) => {
      if (name.endsWith(old)) order.push('unlink');
      return unlink.call(kernel, name);
    });
    await fileDriver(root, SETTINGS);
    await vi.waitFor(() => expect(basesOf(root)).toEqual([]));
    expect(order).toEqual(['sync', 'unlink']);
  });
});
