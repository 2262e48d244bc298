/** A partial object and more than one process: one changes it, others read it, and each may be the next to change it. */
import fs from 'node:fs';
import { describe, expect, it, vi } from 'vitest';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { hashedPath } from '../../../src/blockers/file/paths.js';
import { runIo } from '../../../src/blockers/object-io.js';
import {
  aloneWithTheKernel,
  basesOf,
  changed,
  changes,
  content,
  copy,
  expectComplete,
  isPartial,
  pattern,
  powerCut,
  SETTINGS,
  SIZE,
  same,
  soon,
  statesOf,
  store,
  UNIT,
  writeInTime,
} from './partial-rig.js';
import { fileDriver, read, write } from './support.js';

aloneWithTheKernel();

const SOURCE = pattern(SIZE, 1);

async function two() {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  return { root, one: driver, other: await fileDriver(root, SETTINGS) };
}

describe('a process that reads', () => {
  it('reads each write of the one that changes it, with the file open all the time and opened anew', async () => {
    const { root, one, other } = await two();
    let expected = SOURCE;
    same(await read(other, 'target', 0, SIZE), expected);
    for (const [step, [offset, length]] of [
      [0, 10],
      [UNIT - 5, 10],
      [3 * UNIT, UNIT],
      [0, SIZE - 5],
      [SIZE - 10, 10],
    ].entries()) {
      const data = pattern(length, step + 2);
      expected = changed(expected, offset, data);
      await writeInTime(one, 'target', offset, data);
      same(await read(other, 'target', 0, SIZE), expected);
      same((await runIo(other, 'read', { name: 'target', offset: 0, length: SIZE, uncached: true })).data, expected);
      const { hint } = await runIo(other, 'read', { name: 'target', offset: 0, length: 1 });
      same(await read(other, 'target', 0, SIZE, hint), expected);
      expect((await runIo(other, 'read', { name: 'target', offset: 0, length: 9, uncached: true })).data).toEqual(
        expected.subarray(0, 9),
      );
    }
    await changes(one, 'trim', 'target', UNIT + 1, 2 * UNIT);
    expected = changed(expected, UNIT + 1, Buffer.alloc(2 * UNIT));
    same(await read(other, 'target', 0, SIZE), expected);
    await one.flush(null);
    expectComplete(root, 'target', expected);
    same(await read(other, 'target', 0, SIZE), expected);
    await writeInTime(one, 'target', 7, pattern(3 * UNIT, 9));
    same(await read(other, 'target', 0, SIZE), changed(expected, 7, pattern(3 * UNIT, 9)));
  });

  it('reads what is written after another start of the machine, which it saw the object before', async () => {
    const { root, one } = await two();
    await writeInTime(one, 'target', 0, pattern(UNIT, 2));
    await one.flush(null);
    await writeInTime(one, 'target', 4 * UNIT, pattern(UNIT, 3));
    powerCut();
    const reader = await fileDriver(root);
    const writer = await fileDriver(root);
    const before = changed(SOURCE, 0, pattern(UNIT, 2));
    same(await read(reader, 'target', 0, SIZE), before);
    await writeInTime(writer, 'target', 9 * UNIT + 5, pattern(10, 4));
    same(await read(reader, 'target', 0, SIZE), changed(before, 9 * UNIT + 5, pattern(10, 4)));
    same(await read(writer, 'target', 0, SIZE), changed(before, 9 * UNIT + 5, pattern(10, 4)));
  });

  it('does not settle away what the other does: both flush, write and end it', async () => {
    const { root, one, other } = await two();
    let expected = SOURCE;
    for (let unit = 0; unit < 24; unit++) {
      await writeInTime(one, 'target', unit * UNIT, pattern(UNIT, unit));
      expected = changed(expected, unit * UNIT, pattern(UNIT, unit));
      same(await read(other, 'target', 0, SIZE), expected);
      await Promise.all([one.flush(null), other.flush(null), other.flush(['target'])]);
    }
    await Promise.all([one.flush(null), other.flush(null)]);
    expectComplete(root, 'target', expected);
    for (const driver of [one, other]) same(await read(driver, 'target', 0, SIZE), expected);
  });
});

describe('a process that has it open when another completed it', () => {
  /** The other has all of it written and ends it; `one` knows nothing of that. */
  async function completed() {
    const { root, one, other } = await two();
    await writeInTime(one, 'target', 0, pattern(UNIT, 2));
    await one.flush(null);
    other.forget();
    await writeInTime(other, 'target', 0, pattern(SIZE, 3));
    await other.flush(null);
    expectComplete(root, 'target', pattern(SIZE, 3));
    return { root, one, other };
  }

  it.each(['at once', 'after it got the lock'])('changes it as any other object, %s', async (when) => {
    const { root, one } = await completed();
    if (when !== 'at once') one.forget();
    await one.truncate('target', SIZE + 5);
    expectComplete(root, 'target', changed(pattern(SIZE, 3), SIZE, Buffer.alloc(5)));
    await write(one, 'target', 2 * UNIT, pattern(100, 4));
    same(
      await read(one, 'target', 0, SIZE + 9),
      changed(changed(pattern(SIZE, 3), 2 * UNIT, pattern(100, 4)), SIZE, Buffer.alloc(9)),
    );
  });

  it.each(['at once', 'after it got the lock'])('writes behind its end, and without a deadline, %s', async (when) => {
    for (const deadline of [0, undefined]) {
      const { root, one } = await completed();
      if (when !== 'at once') one.forget();
      await writeInTime(one, 'target', SIZE - 5, pattern(100, 4), deadline === 0 ? { deadline } : {});
      expectComplete(root, 'target', changed(pattern(SIZE, 3), SIZE - 5, pattern(100, 4)));
    }
  });

  it('takes nothing for its tail that was written behind the end since', async () => {
    const { root, one, other } = await completed();
    // Zeros where the states of the units were, and other bytes.
    const more = Buffer.concat([Buffer.alloc(UNIT), pattern(UNIT, 5)]);
    await writeInTime(other, 'target', SIZE, more);
    const expected = changed(pattern(SIZE, 3), SIZE, more);
    one.forget();
    same(await read(one, 'target', 0, expected.length), expected);
    await writeInTime(one, 'target', 5 * UNIT, pattern(UNIT, 6));
    await one.flush(null);
    expectComplete(root, 'target', changed(expected, 5 * UNIT, pattern(UNIT, 6)));
  });
});

it('what a process read of the tail while another had the lock counts for nothing once it got it', async () => {
  const { one, other } = await two();
  const { read: readOnPool } = kernel;
  let go = (): void => {};
  const held = vi.spyOn(kernel, 'read').mockImplementation((fd, bytes, start, count, offset, done) => {
    readOnPool.call(kernel, fd, bytes, start, count, offset, (error, n) => {
      go = () => done(error, n);
    });
  });
  const early = read(other, 'target', 5 * UNIT, 10);
  await vi.waitFor(() => expect(go.length + held.mock.calls.length).toBe(1));
  await new Promise((resolve) => setTimeout(resolve, 20));
  held.mockRestore();
  await writeInTime(one, 'target', 0, pattern(UNIT, 7));
  // The lock is its own from here on.
  other.forget();
  go();
  await early;
  const { data } = await runIo(other, 'read', { name: 'target', offset: 0, length: UNIT, deadline: soon() });
  same(data, pattern(UNIT, 7));
});

describe('an object that others are copies of', () => {
  it('is seen to be gone by a process that has it open, as soon as one that is not', async () => {
    const { one, other } = await two();
    await write(one, 'plain', 0, Buffer.from('plain'));
    for (const name of ['plain', 'source']) {
      await read(other, name, 0, 5);
      await one.delete(name);
      await vi.waitFor(() => expect(read(other, name, 0, 5)).rejects.toMatchObject({ code: 'ENOENT' }));
    }
  });

  it('is not written by a process that has it open when another object took its place', async () => {
    const { root, one, other } = await two();
    same(await read(other, 'source', 0, SIZE), SOURCE);
    await one.delete('source');
    await write(one, 'source', 0, Buffer.from('another'));
    await vi.waitFor(async () => expect((await read(other, 'source', 0, 7)).toString()).toBe('another'));
    await write(other, 'source', 0, Buffer.from('anyone'));
    expect(content(root, 'source').toString()).toBe('anyoner');
    same(await read(one, 'target', 0, SIZE), SOURCE);
  });
});

it('a partial object that another made anew is let go of by who has it open, though its file has a name as a base', async () => {
  const { root, one, other } = await two();
  await writeInTime(one, 'target', 0, pattern(UNIT, 2));
  await copy(one, 'target', 'second');
  same(await read(other, 'target', 0, UNIT), pattern(UNIT, 2));
  await one.delete('target');
  await copy(one, 'any', 'target');
  await vi.waitFor(async () => expect((await read(other, 'target', 0, 3)).toString()).toBe('any'));
  same(await read(one, 'second', 0, SIZE), changed(SOURCE, 0, pattern(UNIT, 2)));
  expect(basesOf(root)).toHaveLength(2);
  expect(fs.statSync(hashedPath(root, 'second')).nlink).toBe(1);
  expect([isPartial(root, 'second'), statesOf(root, 'second')]).toEqual([true, `1${'0'.repeat(23)}`]);
});
