/** What is said of units that they are there for good, and what goes with that, is true whoever has the volume's lock by then. */
import fs from 'node:fs';
import { expect, it, vi } from 'vitest';
import type { FileDriver } from '../../../src/blockers/file/index.js';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { encodeTail, tailOffset } from '../../../src/blockers/file/partial/tail.js';
import { hashedPath } from '../../../src/blockers/file/paths.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { Mortal } from './mortal-system.js';
import {
  aloneWithTheKernel,
  basesOf,
  changed,
  copy,
  copyWhole,
  ledgersOf,
  marks,
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

const SOURCE = pattern(SIZE, 1);
const ZEROS = '0'.repeat(22);

aloneWithTheKernel();

/** Puts a tail into the object's file, as another process may at any time. */
function putTail(root: string, name: string, change: { stamp?: string; states?: Uint8Array }): void {
  const tail = tailOf(root, name);
  const fd = fs.openSync(hashedPath(root, name), 'r+');
  const bytes = encodeTail({ ...tail, ...change });
  fs.writeSync(fd, bytes, 0, bytes.length, tailOffset(tail.length));
  fs.closeSync(fd);
}

/** A driver that cannot tell what is partial, and opened the store before there was anything: the directory tells nothing. */
async function withoutMarks(root: string): Promise<FileDriver> {
  vi.spyOn(marks, 'suits').mockReturnValue(false);
  fs.renameSync(`${root}/.archipelago-bases`, `${root}/bases`);
  const driver = await fileDriver(root, SETTINGS);
  vi.mocked(marks.suits).mockReturnValue(true);
  fs.renameSync(`${root}/bases`, `${root}/.archipelago-bases`);
  return driver;
}

/** Does something at the end of the `n`th sync of a file's content. */
function afterSync(n: number, work: () => unknown): void {
  let left = n;
  for (const call of ['fsync', 'fdatasync'] as const) {
    vi.spyOn(kernel, call).mockImplementation(async () => {
      if (--left === 0) await work();
    });
  }
}

it('a unit that another process has made absent meanwhile is not said to be there', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  await writeInTime(driver, 'target', 0, pattern(2 * UNIT, 2));
  await driver.flush(null);
  await writeInTime(driver, 'target', 0, pattern(UNIT, 3));
  await writeInTime(driver, 'target', 2 * UNIT, pattern(2 * UNIT, 3));
  const states = Uint8Array.from(tailOf(root, 'target').states);
  states[2] = 0;
  afterSync(1, () => putTail(root, 'target', { states }));
  await driver.flush(['target']);
  expect(statesOf(root, 'target')).toBe(`2202${'0'.repeat(20)}`);
});

it('nothing is said under another stamp, and the flush fails', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  await writeInTime(driver, 'target', 0, pattern(2 * UNIT, 2));
  const states = new Uint8Array(24);
  afterSync(1, () => putTail(root, 'target', { stamp: 'another', states }));
  await expect(driver.flush(['target'])).rejects.toMatchObject({ code: 'EIO' });
  expect(statesOf(root, 'target')).toBe('0'.repeat(24));
  expect(basesOf(root)).toHaveLength(1);
});

it('a base stays while what another process says of units may not be on the disk', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  await writeInTime(driver, 'target', 0, pattern(SIZE - UNIT, 2));
  const states = new Uint8Array(24).fill(2);
  // The second is of what was said after the first.
  let syncs = 0;
  vi.spyOn(kernel, 'fdatasync').mockImplementation(async () => {
    if (++syncs !== 1) return;
    putTail(root, 'target', { states });
    await read(driver, 'target', SIZE - UNIT, UNIT);
  });
  await driver.flush(['target']);
  expect(syncs).toBeGreaterThan(0);
  expect(statesOf(root, 'target')).toBe('2'.repeat(24));
  expect(basesOf(root)).toHaveLength(1);
});

it('the next flush of who gets a lock makes durable what a living process wrote under it, and leaves that its ledger', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  await writeInTime(driver, 'target', 0, pattern(UNIT, 2));
  const next = await fileDriver(root, SETTINGS);
  await next.flush(null);
  await writeInTime(driver, 'target', UNIT, pattern(UNIT, 2));
  expect(statesOf(root, 'target')).toBe(`21${ZEROS}`);
  // Of another object: the lock that it got may have been this one's, too.
  next.forget();
  await next.flush(['any']);
  expect(statesOf(root, 'target')).toBe(`22${ZEROS}`);
  expect(ledgersOf(root)).toHaveLength(2);
  powerCut();
  const expected = changed(changed(SOURCE, 0, pattern(UNIT, 2)), UNIT, pattern(UNIT, 2));
  same(await read(await fileDriver(root), 'target', 0, SIZE), expected);
});

it('what a failed sync lost is not said to be there by the next one', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  await driver.flush(null);
  await writeInTime(driver, 'target', 0, pattern(UNIT, 2));
  const failing = [vi.spyOn(kernel, 'fsync'), vi.spyOn(kernel, 'fdatasync')];
  for (const spy of failing) spy.mockRejectedValue(Object.assign(new Error('disk'), { code: 'EIO' }));
  await expect(driver.flush(['target'])).rejects.toMatchObject({ code: 'EIO' });
  for (const spy of failing) spy.mockResolvedValue();
  await writeInTime(driver, 'target', UNIT, pattern(UNIT, 2));
  await expect(driver.flush(['target'])).rejects.toMatchObject({ code: 'EIO' });
  expect(statesOf(root, 'target')).toBe(`11${ZEROS}`);
});

it.each(['a whole copy', 'a change of its length'])(
  'the tail of a base that was partial once is no content: %s',
  async (what) => {
    const { root, driver } = await store();
    const short = 10 * UNIT;
    await copy(driver, 'source', 'first', short);
    await writeInTime(driver, 'first', 0, pattern(short, 2));
    await driver.flush(null);
    expect(statesOf(root, 'first')).toBe('2'.repeat(10));
    await copy(driver, 'first', 'second');
    await writeInTime(driver, 'second', 0, pattern(7 * UNIT, 3));
    await driver.flush(null);
    const expected = Buffer.alloc(SIZE);
    pattern(short, 2).copy(expected);
    pattern(7 * UNIT, 3).copy(expected);
    same(await read(driver, 'second', 0, SIZE), expected);
    if (what === 'a whole copy') await copyWhole(driver, 'second', 'third');
    else await driver.truncate('second', SIZE + UNIT);
    same(await read(driver, what === 'a whole copy' ? 'third' : 'second', 0, SIZE), expected);
  },
);

it('a claim that is cut short counts nothing that did not count before', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  await writeInTime(driver, 'target', 0, pattern(UNIT, 2));
  powerCut();
  const next = await fileDriver(root, SETTINGS);
  const original = kernel.pwrite.bind(kernel);
  let isFirst = true;
  vi.spyOn(kernel, 'pwrite').mockImplementation((fd, address, length, offset) => {
    if (offset < tailOffset(SIZE) || !isFirst) return original(fd, address, length, offset);
    isFirst = false;
    return original(fd, address, length >> 1, offset);
  });
  await expect(writeInTime(next, 'target', 5 * UNIT, pattern(UNIT, 3))).rejects.toMatchObject({ code: 'ENOSPC' });
  expect(isFirst).toBe(false);
  same(await read(await fileDriver(root, SETTINGS), 'target', 0, SIZE), SOURCE);
});

it('who cannot tell what is partial refuses what is, however it is read, copied or looked at', async () => {
  const { root, driver } = await store();
  const other = await withoutMarks(root);
  await copy(driver, 'source', 'target');
  await writeInTime(driver, 'target', UNIT, pattern(UNIT, 2));
  await driver.flush(null);
  const refused = { code: 'EIO' };
  for (const length of [512, UNIT, SIZE])
    await expect(read(other, 'target', 0, length), `${length}`).rejects.toMatchObject(refused);
  await expect(writeInTime(other, 'target', 0, pattern(UNIT, 5))).rejects.toMatchObject(refused);
  await expect(copyWhole(other, 'target', 'third')).rejects.toMatchObject(refused);
  same(await read(other, 'source', 0, SIZE), SOURCE);
  same(await read(driver, 'target', 0, SIZE), changed(SOURCE, UNIT, pattern(UNIT, 2)));
});

it('a base is not begun anew in place by who cannot tell what is one', async () => {
  const { root, driver } = await store();
  const other = await withoutMarks(root);
  await copy(driver, 'source', 'target');
  await other.reset('source', false);
  same(await read(driver, 'target', 0, SIZE), SOURCE);
});

it('where they cannot be, a store that was prepared for them is refused', async () => {
  const { root, driver } = await store();
  await driver.close();
  vi.spyOn(marks, 'suits').mockReturnValue(false);
  await expect(fileDriver(root)).rejects.toMatchObject({ code: 'EOPNOTSUPP' });
});

it('nor is what is partial begun anew in place', async () => {
  const { root, driver } = await store();
  const other = await withoutMarks(root);
  await copy(driver, 'source', 'target');
  await writeInTime(driver, 'target', 0, pattern(UNIT, 2));
  await driver.flush(null);
  await other.reset('target', false);
  await writeInTime(other, 'target', 0, pattern(UNIT, 3));
  await other.flush(['target']);
  const expected = Buffer.alloc(SIZE);
  pattern(UNIT, 3).copy(expected);
  for (const one of [other, await fileDriver(root, SETTINGS)]) same(await read(one, 'target', 0, SIZE), expected);
});

it.each(['lives', 'was killed'])(
  'what a failed sync of a process that %s lost nobody else says to be there',
  async (what) => {
    const root = await prepared();
    const mortal = new Mortal();
    const driver = await mortalDriver(root, mortal);
    await copy(driver, 'source', 'target');
    await copy(driver, 'source', 'other');
    await driver.flush(null);
    await writeInTime(driver, 'target', 0, pattern(UNIT, 2));
    await writeInTime(driver, 'other', 0, pattern(UNIT, 2));
    const failing = vi.spyOn(kernel, 'fdatasync');
    failing.mockRejectedValue(Object.assign(new Error('disk'), { code: 'EIO' }));
    await expect(driver.flush(['target'])).rejects.toMatchObject({ code: 'EIO' });
    failing.mockResolvedValue();
    if (what !== 'lives') await mortal.kill();
    const next = await fileDriver(root, SETTINGS);
    await next.flush(null);
    expect(statesOf(root, 'target')).toBe(`1${'0'.repeat(23)}`);
    expect(statesOf(root, 'other')).toBe(`2${'0'.repeat(23)}`);
  },
);

it('an object of others that cannot be read fails no flush but its own', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  await writeInTime(driver, 'target', 0, pattern(UNIT, 2));
  const next = await fileDriver(root, SETTINGS);
  vi.spyOn(marks, 'get').mockImplementation(() => {
    throw new SystemError(errnos.EIO, 'the disk says no');
  });
  await next.flush(['any']);
  await expect(next.flush(['target'])).rejects.toMatchObject({ code: 'EIO' });
});

it('what a ledger has of earlier names, however they end beside the new ones, is not taken for a failure', async () => {
  const root = await prepared();
  const mortal = new Mortal();
  const driver = await mortalDriver(root, mortal);
  await copy(driver, 'source', 'target');
  await driver.flush(null);
  await writeInTime(driver, 'target', 0, pattern(UNIT, 2));
  const [file] = ledgersOf(root);
  // As a rest of an older, longer entry: its end, and a name behind it.
  fs.appendFileSync(file, '\0target\0');
  await mortal.kill();
  await (await fileDriver(root, SETTINGS)).flush(null);
  expect(statesOf(root, 'target')).toBe(`2${'0'.repeat(23)}`);
});
