/** Processes that are killed, and machines that lose power, with partial objects: what was acknowledged is read, what was flushed is there for good. */
import fs from 'node:fs';
import { describe, expect, it, vi } from 'vitest';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { hashedPath } from '../../../src/blockers/file/paths.js';
import { NativeError } from '../../../src/blockers/file/pool.js';
import { errnos } from '../../../src/sys/errno.js';
import { Mortal } from './mortal-system.js';
import {
  aloneWithTheKernel,
  basesOf,
  changed,
  changes,
  content,
  copy,
  expectComplete,
  isPartial,
  ledgersOf,
  mortalDriver,
  pattern,
  powerCut,
  prepared,
  SETTINGS,
  SIZE,
  same,
  statesOf,
  store,
  tailOf,
  UNIT,
  writeInTime,
} from './partial-rig.js';
import { fileDriver, read } from './support.js';

aloneWithTheKernel();

const SOURCE = pattern(SIZE, 1);

/** A partial object with units that are there for good, some written since, and a trim, of a process that was killed. */
async function leftBehind(
  work: (driver: Awaited<ReturnType<typeof mortalDriver>>) => Promise<unknown> = async () => {},
) {
  const root = await prepared();
  const mortal = new Mortal();
  const killed = await mortalDriver(root, mortal);
  await copy(killed, 'source', 'target');
  await writeInTime(killed, 'target', 0, pattern(UNIT, 2));
  await killed.flush(null);
  await writeInTime(killed, 'target', 5 * UNIT + 9, pattern(UNIT, 3));
  await changes(killed, 'trim', 'target', 10 * UNIT, UNIT);
  await work(killed);
  await mortal.kill();
  const flushed = changed(SOURCE, 0, pattern(UNIT, 2));
  const acknowledged = changed(changed(flushed, 5 * UNIT + 9, pattern(UNIT, 3)), 10 * UNIT, Buffer.alloc(UNIT));
  return { root, flushed, acknowledged };
}

describe('a process that is killed', () => {
  it('has all that it acknowledged read by the next, which goes on with it', async () => {
    const { root, acknowledged } = await leftBehind();
    expect(statesOf(root, 'target')).toBe('200001100010000000000000');
    const driver = await fileDriver(root);
    same(await read(driver, 'target', 0, SIZE), acknowledged);
    await writeInTime(driver, 'target', 5 * UNIT, pattern(20, 4));
    await driver.flush(['target']);
    same(await read(driver, 'target', 0, SIZE), changed(acknowledged, 5 * UNIT, pattern(20, 4)));
    expect(statesOf(root, 'target')).toBe('200002200020000000000000');
  });

  it.each([['all'], ['another name'], ['a hot flush']])(
    'has it made durable by the first flush of the next, of %s, which never opened it',
    async (what) => {
      const { root, acknowledged } = await leftBehind();
      expect(ledgersOf(root)).toHaveLength(1);
      const driver = await fileDriver(root);
      if (what === 'all') await driver.flush(null);
      else if (what === 'another name') await driver.flush(['source']);
      else await writeInTime(driver, 'other', 0, Buffer.from('x'), { fua: true });
      expect(statesOf(root, 'target')).toBe('200002200020000000000000');
      // Its own, and not that of the killed one.
      expect(ledgersOf(root)).toHaveLength(1);
      powerCut();
      same(await read(await fileDriver(root), 'target', 0, SIZE), acknowledged);
    },
  );

  it('leaves what a power cut takes: what was flushed is there, and nothing of the rest, whatever is written then', async () => {
    const { root, flushed } = await leftBehind();
    powerCut();
    const reader = await fileDriver(root);
    const driver = await fileDriver(root);
    same(await read(driver, 'target', 0, SIZE), flushed);
    await driver.flush(null);
    same(await read(driver, 'target', 0, SIZE), flushed);
    await writeInTime(driver, 'target', 6 * UNIT + 100, pattern(10, 5));
    const expected = changed(flushed, 6 * UNIT + 100, pattern(10, 5));
    for (const one of [driver, reader, await fileDriver(root)]) same(await read(one, 'target', 0, SIZE), expected);
    expect(statesOf(root, 'target')).toBe('200000100000000000000000');
    await driver.flush(null);
    powerCut('a third start');
    same(await read(await fileDriver(root), 'target', 0, SIZE), expected);
  });

  it('has its ledger left to it while it lives', async () => {
    const { root, driver } = await store();
    await copy(driver, 'source', 'target');
    await writeInTime(driver, 'target', 0, pattern(UNIT, 2));
    const next = await fileDriver(root);
    await next.flush(null);
    expect(statesOf(root, 'target')).toBe(`2${'0'.repeat(23)}`);
    expect(ledgersOf(root)).toHaveLength(2);
    await driver.close();
    await next.close();
    expect(ledgersOf(root)).toHaveLength(0);
  });

  it('may leave names in its ledger that are nobody’s, whole again, or another object’s by now', async () => {
    const { root } = await leftBehind(async (driver) => {
      for (const name of ['gone', 'reset', 'whole']) {
        await copy(driver, 'source', name);
        await writeInTime(driver, name, 0, pattern(UNIT, 5));
      }
      await driver.delete('gone');
      await driver.reset('reset', false);
      await driver.truncate('whole', SIZE);
    });
    fs.appendFileSync(ledgersOf(root)[0], '../../etc/passwd\0half a na');
    const driver = await fileDriver(root);
    await driver.flush(null);
    expect(ledgersOf(root)).toHaveLength(1);
    expectComplete(root, 'whole', changed(SOURCE, 0, pattern(UNIT, 5)));
    expectComplete(root, 'reset', Buffer.alloc(0));
  });

  it('between the content of a unit and its note leaves what was there before', async () => {
    const root = await prepared();
    const mortal = new Mortal();
    const killed = await mortalDriver(root, mortal);
    await copy(killed, 'source', 'target');
    const { pwrite } = kernel;
    const spy = vi
      .spyOn(kernel, 'pwrite')
      .mockImplementation((fd, address, count, offset) =>
        offset >= SIZE ? 0 : pwrite.call(kernel, fd, address, count, offset),
      );
    await expect(writeInTime(killed, 'target', UNIT, pattern(UNIT, 5))).rejects.toMatchObject({ code: 'EIO' });
    spy.mockRestore();
    await mortal.kill();
    expect(content(root, 'target').subarray(UNIT, 2 * UNIT)).toEqual(pattern(UNIT, 5));
    const driver = await fileDriver(root);
    same(await read(driver, 'target', 0, SIZE), SOURCE);
    await writeInTime(driver, 'target', UNIT + 5, Buffer.from('x'));
    same(await read(driver, 'target', 0, SIZE), changed(SOURCE, UNIT + 5, Buffer.from('x')));
  });

  it('while all of it ends leaves an object that is whole, or goes on to be: at any of its calls', async () => {
    const expected = changed(pattern(SIZE, 2), 7, pattern(UNIT, 3));
    const calls = ['fsync', 'fdatasync', 'ftruncate', 'unlink'] as const;
    let ended = false;
    for (let last = 0; !ended; last++) {
      const root = await prepared();
      const mortal = new Mortal();
      const killed = await mortalDriver(root, mortal);
      await copy(killed, 'source', 'target');
      await writeInTime(killed, 'target', 0, pattern(SIZE, 2));
      await writeInTime(killed, 'target', 7, pattern(UNIT, 3));
      // From the call on that is its turn nothing is done any more.
      let count = 0;
      const spies = calls.map((call) => {
        const isSync = call === 'fsync' || call === 'fdatasync';
        const original = isSync ? () => Promise.resolve() : (kernel[call] as (...args: never[]) => Promise<void>);
        return vi.spyOn(kernel, call).mockImplementation((...args: unknown[]) => {
          if (count++ >= last) return Promise.reject(Object.assign(new Error('killed'), { code: 'EIO', errno: -5 }));
          return original.apply(kernel, args as never[]);
        });
      });
      ended = await killed.flush(['target']).then(
        () => count <= last,
        () => false,
      );
      for (const spy of spies) spy.mockRestore();
      for (const call of ['fsync', 'fdatasync'] as const) vi.spyOn(kernel, call).mockResolvedValue();
      await mortal.kill();
      const what = `killed at call ${last + 1}`;
      const driver = await fileDriver(root);
      expect(await driver.info('target'), what).toMatchObject({ size: SIZE });
      same(await read(driver, 'target', 0, SIZE + 5), changed(expected, SIZE, Buffer.alloc(5)));
      await copy(driver, 'target', 'second', SIZE);
      same(await read(driver, 'second', 0, SIZE), expected);
      // Killed right before the last call of all: the base's name is left, and goes when it is an hour old.
      const isLast = !ended && /^2+$/.test(statesOf(root, 'target'));
      await driver.flush(null);
      if (isLast) same(content(root, 'target').subarray(0, SIZE), expected);
      else expectComplete(root, 'target', expected);
      expect(last, 'it ends sometime').toBeLessThan(20);
    }
  });

  it('leaves names of bases that nobody needs, which go when they are an hour old', async () => {
    const { root, acknowledged } = await leftBehind(async (driver) => {
      await copy(driver, 'source', 'deleted');
      await copy(driver, 'source', 'made anew');
      await copy(driver, 'source', 'young');
    });
    const directory = `${root}/.archipelago-bases`;
    // As a process that was killed right after it had unlinked an object.
    for (const name of ['deleted', 'made anew', 'young']) fs.unlinkSync(hashedPath(root, name));
    const old = (Date.now() - 3_700_000).toString(36);
    for (const base of basesOf(root)) {
      if (base.endsWith('-young') || base.endsWith('-target')) continue;
      fs.renameSync(`${directory}/${base}`, `${directory}/${base.replace(/^[^-]+/, old)}`);
    }
    fs.linkSync(hashedPath(root, 'source'), `${directory}/${old}-0123456789ab0-target`);
    fs.writeFileSync(`${directory}/not ours`, 'x');
    const driver = await fileDriver(root, SETTINGS);
    await copy(driver, 'source', 'made anew');
    await driver.flush(null);
    await vi.waitFor(() => expect(basesOf(root).filter((base) => base.startsWith(old))).toEqual([]));
    expect(
      basesOf(root)
        .map((base) => base.replace(/^.*-/, ''))
        .toSorted(),
    ).toEqual(['made anew', 'not ours', 'target', 'young']);
    same(await read(driver, 'target', 0, SIZE), acknowledged);
    same(await read(driver, 'made anew', 0, SIZE), SOURCE);
  });

  it('has no base swept of an object that is partial, however old, though its tail cannot be read now', async () => {
    const { root, acknowledged } = await leftBehind();
    const directory = `${root}/.archipelago-bases`;
    const { base } = tailOf(root, 'target');
    const old = `${(Date.now() - 3_700_000).toString(36)}${base.slice(base.indexOf('-'))}`;
    // The tail says so, too.
    fs.renameSync(`${directory}/${base}`, `${directory}/${old}`);
    const file = hashedPath(root, 'target');
    const bytes = fs.readFileSync(file);
    const fd = fs.openSync(file, 'r+');
    fs.writeSync(fd, old, bytes.indexOf(base));
    fs.closeSync(fd);
    const { read: readOnPool } = kernel;
    let failed = 0;
    const broken = vi.spyOn(kernel, 'read').mockImplementation((...args) => {
      if (args[4] < SIZE) return readOnPool.apply(kernel, args);
      failed++;
      args[5](new NativeError('pread', errnos.EIO), 0);
    });
    const driver = await fileDriver(root);
    await vi.waitFor(() => expect(failed).toBeGreaterThan(0));
    await expect(driver.flush(null)).rejects.toMatchObject({ code: 'EIO' });
    await driver.close().catch(() => {});
    broken.mockRestore();
    expect(basesOf(root)).toEqual([old]);
    same(await read(await fileDriver(root), 'target', 0, SIZE), acknowledged);
  });
});

it('an object that one process ends while another settles what was left of it gets nothing behind its end', async () => {
  const { root } = await leftBehind((driver) => writeInTime(driver, 'target', 0, pattern(SIZE, 4)));
  const one = await fileDriver(root);
  await read(one, 'target', 0, 1);
  const other = await fileDriver(root);
  const { ino } = fs.statSync(hashedPath(root, 'target'));
  let go = (): void => {};
  const held = vi.spyOn(kernel, 'fsync').mockImplementation((fd) => {
    if (fs.fstatSync(fd).ino !== ino) return Promise.resolve();
    held.mockResolvedValue();
    return new Promise((resolve) => {
      go = resolve;
    });
  });
  const settled = other.flush(['source']);
  await vi.waitFor(() => expect(go.length).toBe(1));
  await one.flush(['target']);
  expectComplete(root, 'target', pattern(SIZE, 4));
  go();
  await settled;
  expectComplete(root, 'target', pattern(SIZE, 4));
});

it('what was settled stays so for a process that has it open since before', async () => {
  const { root, acknowledged } = await leftBehind();
  const one = await fileDriver(root);
  same(await read(one, 'target', 0, SIZE), acknowledged);
  const other = await fileDriver(root);
  await other.flush(null);
  await writeInTime(one, 'target', 9 * UNIT, pattern(UNIT, 6));
  await one.flush(null);
  expect([isPartial(root, 'target'), statesOf(root, 'target')]).toEqual([true, '200002200220000000000000']);
  same(await read(other, 'target', 0, SIZE), changed(acknowledged, 9 * UNIT, pattern(UNIT, 6)));
});
