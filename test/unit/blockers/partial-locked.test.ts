/** Copies that are filled later and were made under a lock: nothing is done to them after the deadline of who asked. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { describe, expect, it, vi } from 'vitest';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { hashedPath } from '../../../src/blockers/file/paths.js';
import { runIo } from '../../../src/blockers/object-io.js';
import {
  aloneWithTheKernel,
  content,
  copyInTime,
  isPartial,
  pattern,
  SIZE,
  same,
  soon,
  store,
  UNIT,
} from './partial-rig.js';
import { fileDriver, read, write } from './support.js';

/** How far the clock is ahead, in ms. */
const passed = vi.hoisted(() => ({ ms: 0 }));
vi.mock('../../../src/sys/clock.js', async (original) => {
  const clock = await original<typeof import('../../../src/sys/clock.js')>();
  return { ...clock, monotonicMs: () => clock.monotonicMs() + passed.ms };
});

/** Every deadline passes, as for a process that was stopped. */
function standStill(): void {
  passed.ms += 600_000;
}

/** Reads of a source that is not in memory take until every deadline has passed. */
function readLate() {
  const { read: readOnPool } = kernel;
  return vi.spyOn(kernel, 'read').mockImplementation((...args) => {
    standStill();
    readOnPool.apply(kernel, args);
  });
}

/** Content, length, mark and times of the object's file. */
function stateOf(root: string, name: string) {
  const { mtimeNs, ctimeNs } = fs.statSync(hashedPath(root, name), { bigint: true });
  return {
    sha256: createHash('sha256').update(content(root, name)).digest('hex'),
    mtimeNs,
    ctimeNs,
    isPartial: isPartial(root, name),
  };
}

aloneWithTheKernel();

describe('a copy that was made under a lock', () => {
  it('is not changed by what nobody with a deadline asks for: flushes, opening other files, more copies, and the end', async () => {
    const { root, driver } = await store(undefined, { fdcache: 4, dirtyFiles: 2, partialMost: 4 });
    await copyInTime(driver, 'source', 'target');
    await write(driver, 'target', 5 * UNIT, pattern(100, 2), { deadline: soon() });
    const expected = pattern(SIZE, 1);
    pattern(100, 2).copy(expected, 5 * UNIT);
    const before = stateOf(root, 'target');
    await driver.flush(null);
    await driver.flush(['target']);
    await runIo(driver, 'flushObject', { name: 'target', offset: 0, length: 0 });
    for (let i = 0; i < 8; i++) await copyInTime(driver, 'source', `other-${i}`);
    for (let i = 0; i < 100; i++) await write(driver, `file-${i}`, 0, Buffer.from('x'));
    same((await runIo(driver, 'read', { name: 'target', offset: 0, length: SIZE, uncached: true })).data, expected);
    await driver.close();
    expect(stateOf(root, 'target')).toEqual(before);
    expect(before.isPartial).toBe(true);
    const next = await fileDriver(root);
    same(await read(next, 'target', 0, SIZE), expected);
    await next.flush(null);
    await next.flush(['target']);
    expect(stateOf(root, 'target')).toEqual(before);
    await next.flush(['target'], soon());
    expect(isPartial(root, 'target')).toBe(false);
    same(content(root, 'target'), expected);
  });

  it.each(['flush', 'trim', 'truncate', 'durable write'])(
    'is not completed after the deadline of a %s',
    async (what) => {
      const { root, driver } = await store();
      await copyInTime(driver, 'source', 'target');
      await write(driver, 'target', 0, pattern(UNIT, 2), { deadline: soon() });
      const before = stateOf(root, 'target');
      const deadline = soon();
      const held = readLate();
      const one = { name: 'target', offset: 0, length: UNIT, deadline };
      const work: Record<string, () => Promise<unknown>> = {
        flush: () => driver.flush(['target'], deadline),
        trim: () => runIo(driver, 'trim', one),
        truncate: () => driver.truncate('target', 5, deadline),
        'durable write': () => runIo(driver, 'write', { ...one, data: pattern(UNIT, 2), fua: true }),
      };
      await expect(work[what]()).rejects.toMatchObject({ code: 'ETIME' });
      expect(held).toHaveBeenCalledOnce();
      held.mockRestore();
      const after = stateOf(root, 'target');
      // The write itself came in time.
      if (what === 'durable write') expect(after).toMatchObject({ sha256: before.sha256, isPartial: true });
      else expect(after).toEqual(before);
      await driver.flush(['target'], soon());
      expect(isPartial(root, 'target')).toBe(false);
      same(await read(driver, 'target', UNIT, SIZE - UNIT), pattern(SIZE, 1).subarray(UNIT));
    },
  );

  it('is not changed any more by a process that stood still between two changes, at whichever', async () => {
    const { pwrite, changesNow } = kernel;
    const { ftruncate } = changesNow!;
    for (let last = 1; ; last++) {
      const { root, driver } = await store();
      await copyInTime(driver, 'source', 'target');
      const deadline = soon();
      let count = 0;
      let frozen: ReturnType<typeof stateOf> | null = null;
      const changed = (): void => {
        if (++count !== last) return;
        standStill();
        frozen = stateOf(root, 'target');
      };
      const spies = [
        vi.spyOn(kernel, 'pwrite').mockImplementation((...args) => {
          const n = pwrite.apply(kernel, args);
          changed();
          return n;
        }),
        vi.spyOn(changesNow!, 'ftruncate').mockImplementation((...args) => {
          ftruncate.apply(changesNow, args);
          changed();
        }),
      ];
      const outcome = await driver.flush(['target'], deadline).then(
        () => 'done',
        (error: { code: string }) => error.code,
      );
      for (const spy of spies) spy.mockRestore();
      if (frozen === null) {
        // Two writes, the note, the length: all of it came in time.
        expect([outcome, last]).toEqual(['done', 5]);
        break;
      }
      expect([outcome, last]).toEqual(['ETIME', last]);
      expect(stateOf(root, 'target')).toEqual(frozen);
      expect(isPartial(root, 'target')).toBe(true);
      same(await read(driver, 'target', 0, SIZE), pattern(SIZE, 1));
      // As it is, for a process after this one, too.
      await driver.close();
      const next = await fileDriver(root);
      same(await read(next, 'target', 0, SIZE), pattern(SIZE, 1));
      expect(stateOf(root, 'target')).toEqual(frozen);
      await next.flush(['target'], soon());
      expect(isPartial(root, 'target')).toBe(false);
      same(content(root, 'target'), pattern(SIZE, 1));
    }
  });

  it('gets no note of a write after the write’s deadline, and reads as before', async () => {
    const { root, driver } = await store();
    await copyInTime(driver, 'source', 'target');
    const deadline = soon();
    const { pwrite } = kernel;
    const spy = vi.spyOn(kernel, 'pwrite').mockImplementation((...args) => {
      const n = pwrite.apply(kernel, args);
      standStill();
      return n;
    });
    await expect(write(driver, 'target', 4 * UNIT, pattern(UNIT, 6), { deadline })).rejects.toMatchObject({
      code: 'ETIME',
    });
    expect(spy).toHaveBeenCalledOnce();
    spy.mockRestore();
    same(await read(driver, 'target', 0, SIZE), pattern(SIZE, 1));
    await driver.flush(['target'], soon());
    same(content(root, 'target'), pattern(SIZE, 1));
  });

  it('is not filled for a write whose turn comes after its deadline', async () => {
    const { root, driver } = await store();
    await copyInTime(driver, 'source', 'target');
    const before = stateOf(root, 'target');
    const deadline = soon();
    // The first waits for the disk, the others for it.
    vi.spyOn(kernel, 'preadCached').mockReturnValueOnce(-1);
    readLate();
    const late = [5, 9, UNIT].map((offset) => write(driver, 'target', offset, Buffer.from('late'), { deadline }));
    for (const outcome of await Promise.allSettled(late)) expect(outcome).toMatchObject({ reason: { code: 'ETIME' } });
    vi.restoreAllMocks();
    expect(stateOf(root, 'target')).toEqual(before);
  });

  it('is completed for who still has time when another, who began it, has not', async () => {
    const { root, driver } = await store();
    await copyInTime(driver, 'source', 'target');
    const deadline = soon();
    const { read: readOnPool } = kernel;
    let go = (): void => {};
    const held = vi.spyOn(kernel, 'read').mockImplementation((...args) => {
      go = () => void readOnPool.apply(kernel, args);
    });
    const first = driver.flush(['target'], deadline);
    await vi.waitFor(() => expect(held).toHaveBeenCalled());
    const others = [soon(900_000), deadline].map((until) => driver.flush(['target'], until));
    held.mockRestore();
    standStill();
    go();
    await Promise.all([first, ...others]);
    expect(isPartial(root, 'target')).toBe(false);
  });
});
