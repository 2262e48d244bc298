/** Copies that are filled later: what is read of them, what a flush makes of them, and what is left when a process ends or the disk is in trouble. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { FileDriver, type FileDriverSettings } from '../../../src/blockers/file/index.js';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { hashedPath } from '../../../src/blockers/file/paths.js';
import { NativeError } from '../../../src/blockers/file/pool.js';
import { runIo } from '../../../src/blockers/object-io.js';
import { monotonicMs } from '../../../src/sys/clock.js';
import { errnos } from '../../../src/sys/errno.js';
import { Mortal } from './mortal-system.js';
import { fileDriver, read, temporaryDirectory, write } from './support.js';

/** How far the clock is ahead, in ms. */
const passed = vi.hoisted(() => ({ ms: 0 }));
vi.mock('../../../src/sys/clock.js', async (original) => {
  const clock = await original<typeof import('../../../src/sys/clock.js')>();
  return { ...clock, monotonicMs: () => clock.monotonicMs() + passed.ms };
});

const marks = kernel.marks!;
const UNIT = 4096;
const SIZE = 24 * UNIT;
const SETTINGS: Partial<FileDriverSettings> = { partialCopies: true, partialLeast: 0 };

/** Bytes that differ from place to place. */
function pattern(length: number, seed: number): Buffer {
  const out = Buffer.alloc(length);
  for (let at = 0; at + 4 <= length; at += 4) out.writeUInt32LE(((at + 1) * 2654435761 + seed * 97) >>> 0, at);
  return out;
}

const copy = (driver: FileDriver, source: string, target: string, size = SIZE): Promise<void> =>
  driver.copy(source, target, size, { durable: false, exclusive: false });

/** A directory with object `source`, on which it is known that files cannot share their blocks. */
async function prepared(content = pattern(SIZE, 1)): Promise<string> {
  const root = temporaryDirectory();
  const driver = await fileDriver(root);
  await write(driver, 'source', 0, content);
  await write(driver, 'any', 0, Buffer.from('any'));
  await copy(driver, 'any', 'whole');
  await driver.close();
  return root;
}

async function store(content?: Buffer, more: Partial<FileDriverSettings> = {}) {
  const root = await prepared(content);
  return { root, driver: await fileDriver(root, { ...SETTINGS, ...more }) };
}

/** Never closed: it is to be killed. */
async function mortalDriver(root: string, { system }: Mortal): Promise<FileDriver> {
  const driver = new FileDriver({ root, uniqueStr: 'test_1000', ...SETTINGS, system });
  await driver.open();
  return driver;
}

const counts = (driver: FileDriver) =>
  (driver.status() as { partialCopies: { owed: number; begun: number; completed: number } }).partialCopies;

/** Is the object's file marked as partial? */
function isPartial(root: string, name: string): boolean {
  const fd = fs.openSync(hashedPath(root, name), 'r');
  const mark = marks.get(fd);
  fs.closeSync(fd);
  return mark !== null;
}

const content = (root: string, name: string): Buffer => fs.readFileSync(hashedPath(root, name));

/** As toEqual, which takes a second for a buffer of a megabyte. */
function same(found: Buffer, expected: Buffer): void {
  if (!found.equals(expected)) expect(found).toEqual(expected);
}

const changes = (driver: FileDriver, operation: 'trim' | 'writeZeroes', name: string, offset: number, length: number) =>
  runIo(driver, operation, { name, offset, length, noHole: operation === 'writeZeroes' });

const soon = (ms = 300_000): number => monotonicMs() + ms;

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

/** A copy that was made under a lock. */
const copyInTime = (driver: FileDriver, source: string, target: string): Promise<void> =>
  driver.copy(source, target, SIZE, { durable: false, exclusive: false, deadline: soon() });

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

// What was written before these drivers was written by these tests: nothing of it has to survive a power cut.
beforeEach(() => void vi.spyOn(kernel, 'syncfs').mockResolvedValue());
afterEach(() => void vi.restoreAllMocks());

describe('a copy that is filled later', () => {
  it('reads as its source and is an ordinary object once it was flushed', async () => {
    const { root, driver } = await store();
    await copy(driver, 'source', 'target');
    expect(isPartial(root, 'target')).toBe(true);
    same(await read(driver, 'target', 0, SIZE + 100), Buffer.concat([pattern(SIZE, 1), Buffer.alloc(100)]));
    expect(await driver.info('target')).toMatchObject({ size: SIZE });
    await driver.flush(['target']);
    expect(isPartial(root, 'target')).toBe(false);
    same(content(root, 'target'), pattern(SIZE, 1));
    expect(counts(driver)).toEqual({ owed: 0, begun: 1, completed: 1 });
  });

  it('says nothing of the disk when flushes pass it by: the next sync is not waited for because of them', async () => {
    vi.spyOn(kernel, 'isLocal').mockReturnValue(true);
    const inPlace = vi.spyOn(kernel as Required<typeof kernel>, 'fdatasyncNow');
    const { root, driver } = await store();
    await copyInTime(driver, 'source', 'target');
    await driver.flush(null);
    const { hint } = await write(driver, 'target', 0, Buffer.alloc(10, 1));
    for (let i = 0; i < 20; i++) {
      await runIo(driver, 'flushObject', { name: 'target', offset: 0, length: 0, hint, alone: true });
    }
    expect(isPartial(root, 'target')).toBe(true);
    const { hint: whole } = await write(driver, 'source', 0, Buffer.alloc(10, 1));
    await runIo(driver, 'flushObject', { name: 'source', offset: 0, length: 0, hint: whole, alone: true });
    expect(inPlace).not.toHaveBeenCalled();
  });

  it.each([
    ['a unit', 3 * UNIT, UNIT],
    ['a part of a unit', 3 * UNIT + 700, 512],
    ['what begins and ends within units', 2 * UNIT + 5, 3 * UNIT + 90],
    ['its last bytes', SIZE - 10, 10],
    ['all of it', 0, SIZE],
    ['what lies behind its end', SIZE + UNIT + 7, 900],
    ['what goes beyond its end', SIZE - 100, 5000],
  ])('takes a write of %s, before and after a flush', async (_what, offset, length) => {
    const { root, driver } = await store();
    await copy(driver, 'source', 'target');
    const data = pattern(length, 2);
    await write(driver, 'target', offset, data);
    const expected = Buffer.alloc(Math.max(SIZE, offset + length));
    pattern(SIZE, 1).copy(expected);
    data.copy(expected, offset);
    same(await read(driver, 'target', 0, expected.length), expected);
    await driver.flush(null);
    same(await read(driver, 'target', 0, expected.length), expected);
    same(content(root, 'target'), expected);
  });

  it('keeps the holes of its source, and a length that is no multiple of a unit', async () => {
    const length = SIZE - 1000;
    const { root, driver } = await store(Buffer.alloc(0));
    await driver.truncate('source', length);
    await write(driver, 'source', 20 * UNIT, pattern(2 * UNIT, 3));
    await driver.flush(null);
    await copy(driver, 'source', 'target');
    expect(isPartial(root, 'target')).toBe(true);
    await write(driver, 'target', 5 * UNIT + 1, Buffer.from('x'));
    await driver.flush(null);
    const expected = Buffer.alloc(length);
    pattern(2 * UNIT, 3).copy(expected, 20 * UNIT);
    expected.write('x', 5 * UNIT + 1);
    same(content(root, 'target'), expected);
    expect(fs.statSync(hashedPath(root, 'target')).blocks * 512).toBe(3 * UNIT);
  });

  it('is completed before what needs all of it: trims, zeroes, lengths, copies and hashes of it', async () => {
    const expected = pattern(SIZE, 1);
    const cases: [string, (driver: FileDriver) => Promise<unknown>, Buffer][] = [
      ['trim', (d) => changes(d, 'trim', 'target', 10, 5000), Buffer.from(expected).fill(0, 10, 5010)],
      ['zeroes', (d) => changes(d, 'writeZeroes', 'target', 10, 5000), Buffer.from(expected).fill(0, 10, 5010)],
      ['truncate', (d) => d.truncate('target', 5000), expected.subarray(0, 5000)],
      ['copy', (d) => copy(d, 'target', 'second'), expected],
      ['hash', (d) => d.hash('target', SIZE), expected],
    ];
    for (const [what, work, left] of cases) {
      const { root, driver } = await store();
      await copy(driver, 'source', 'target');
      await work(driver);
      expect(isPartial(root, 'target'), what).toBe(false);
      expect(content(root, 'target').equals(left), what).toBe(true);
      if (what === 'copy') same(await read(driver, 'second', 0, SIZE), expected);
    }
  });

  it('is gone, and not filled, when it is deleted, reset or copied onto', async () => {
    const { root, driver } = await store();
    await copy(driver, 'source', 'target');
    await driver.delete('target');
    await expect(read(driver, 'target', 0, 10)).rejects.toMatchObject({ code: 'ENOENT' });
    await copy(driver, 'source', 'target');
    await driver.reset('target', false);
    expect(content(root, 'target')).toHaveLength(0);
    await driver.delete('target');
    await copy(driver, 'source', 'target');
    await write(driver, 'other', 0, pattern(SIZE, 9));
    await copy(driver, 'other', 'target');
    same(await read(driver, 'target', 0, SIZE), pattern(SIZE, 9));
    await driver.flush(null);
    same(content(root, 'target'), pattern(SIZE, 9));
    expect(counts(driver)).toMatchObject({ owed: 0, begun: 3, completed: 0 });
  });

  it('is whole where it has to be durable, where its source has little data, and beyond the limit', async () => {
    const { root, driver } = await store(undefined, { partialLeast: SIZE + 1 });
    await copy(driver, 'source', 'target');
    expect(isPartial(root, 'target')).toBe(false);
    const other = await store(undefined, { partialMost: 2 });
    await other.driver.copy('source', 'durable', SIZE, { durable: true, exclusive: false });
    expect(counts(other.driver)).toMatchObject({ begun: 0 });
    const { copyRange } = kernel;
    let go = (): void => {};
    const going = new Promise<void>((resolve) => {
      go = resolve;
    });
    const filled = vi.spyOn(kernel, 'copyRange').mockImplementation(async (...args) => {
      await going;
      return copyRange.apply(kernel, args);
    });
    await copy(other.driver, 'source', 'a');
    await copy(other.driver, 'source', 'b');
    filled.mockRestore();
    await copy(other.driver, 'source', 'c');
    expect(['a', 'b', 'c'].map((name) => isPartial(other.root, name))).toEqual([true, true, false]);
    go();
  });

  it('is filled unasked when more than half of what may be owed is', async () => {
    const { driver } = await store(undefined, { partialMost: 4 });
    for (let i = 0; i < 12; i++) {
      await copy(driver, 'source', `target-${i}`);
      await vi.waitFor(() => expect(counts(driver).owed).toBeLessThanOrEqual(2));
    }
    expect(counts(driver)).toMatchObject({ begun: 12, completed: 10 });
  });
});

describe('a process that is killed', () => {
  it('leaves a partial copy that reads as before, and that the next flush of its name completes', async () => {
    const root = await prepared();
    const mortal = new Mortal();
    const killed = await mortalDriver(root, mortal);
    await copy(killed, 'source', 'target');
    await write(killed, 'target', 3 * UNIT + 5, Buffer.from('written'));
    await mortal.kill();
    expect(isPartial(root, 'target')).toBe(true);
    const expected = pattern(SIZE, 1);
    expected.write('written', 3 * UNIT + 5);
    const driver = await fileDriver(root);
    expect(await driver.info('target')).toMatchObject({ size: SIZE });
    await driver.flush(['target']);
    expect(isPartial(root, 'target')).toBe(false);
    same(content(root, 'target'), expected);
  });

  it('while it fills leaves what was there: at any of its calls', async () => {
    const expected = pattern(SIZE, 1);
    for (let after = 0; after < 14; after++) {
      const root = await prepared();
      const mortal = new Mortal();
      const killed = await mortalDriver(root, mortal);
      await copy(killed, 'source', 'target');
      await write(killed, 'target', 9 * UNIT, Buffer.from('written'));
      void killed.flush(['target']).catch(() => {});
      for (let i = 0; i < after; i++) await new Promise((resolve) => setImmediate(resolve));
      await mortal.kill();
      const left = Buffer.from(expected);
      left.write('written', 9 * UNIT);
      const driver = await fileDriver(root);
      expect((await read(driver, 'target', 0, SIZE)).equals(left), `killed after ${after} turns`).toBe(true);
      await driver.flush(['target']);
      expect(content(root, 'target').equals(left), `killed after ${after} turns`).toBe(true);
      expect(isPartial(root, 'target')).toBe(false);
    }
  });

  it('between the content of a unit and its note leaves what was there before', async () => {
    const root = await prepared();
    const mortal = new Mortal();
    const killed = await mortalDriver(root, mortal);
    await copy(killed, 'source', 'target');
    const { pwrite } = kernel;
    const spy = vi.spyOn(kernel, 'pwrite').mockImplementation((fd, address, count, offset) => {
      if (offset >= SIZE) return 0;
      return pwrite.call(kernel, fd, address, count, offset);
    });
    await expect(write(killed, 'target', UNIT, pattern(UNIT, 5))).rejects.toMatchObject({ code: 'EIO' });
    spy.mockRestore();
    await mortal.kill();
    const driver = await fileDriver(root);
    same(await read(driver, 'target', 0, SIZE), pattern(SIZE, 1));
    await driver.flush(['target']);
    same(content(root, 'target'), pattern(SIZE, 1));
  });

  it('leaves nothing to read, and nothing in the way, once the machine was started anew', async () => {
    const root = await prepared();
    const mortal = new Mortal();
    const killed = await mortalDriver(root, mortal);
    await copy(killed, 'source', 'target');
    await mortal.kill();
    const boot = vi.spyOn(marks, 'bootId').mockReturnValue('another start');
    onTestFinished(() => boot.mockRestore());
    const driver = await fileDriver(root, SETTINGS);
    await expect(read(driver, 'target', 0, 10)).rejects.toMatchObject({ code: 'EIO' });
    await expect(write(driver, 'target', 0, Buffer.from('x'))).rejects.toMatchObject({ code: 'EIO' });
    await copy(driver, 'source', 'target');
    same(await read(driver, 'target', 0, SIZE), pattern(SIZE, 1));
    await driver.delete('target');
  });

  it('leaves an object that can be reset, deleted and copied, and none of which the source may be missing', async () => {
    const root = await prepared();
    const mortal = new Mortal();
    const killed = await mortalDriver(root, mortal);
    for (const name of ['a', 'b', 'c', 'd']) await copy(killed, 'source', name);
    await write(killed, 'd', 7 * UNIT, pattern(UNIT, 7));
    await mortal.kill();
    const driver = await fileDriver(root);
    await driver.reset('a', false);
    same(await read(driver, 'a', 0, 100), Buffer.alloc(100));
    await driver.delete('b');
    await copy(driver, 'c', 'e');
    same(await read(driver, 'e', 0, SIZE), pattern(SIZE, 1));
    await driver.delete('source');
    // Another object of that name is not the source.
    await write(driver, 'source', 0, pattern(SIZE, 4));
    same(await read(driver, 'd', 7 * UNIT, UNIT), pattern(UNIT, 7));
    await expect(read(driver, 'd', 0, 10)).rejects.toMatchObject({
      code: 'EIO',
      message: expect.stringContaining('source'),
    });
    await expect(driver.flush(['d'])).rejects.toMatchObject({ code: 'EIO' });
    await driver.delete('d');
  });
});

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

it('a queue of many writes to one copy is served, and not within each other', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  vi.spyOn(kernel, 'preadCached').mockReturnValue(-1);
  const first = write(driver, 'target', 10, Buffer.from('first'));
  const data = pattern(UNIT, 3);
  const more = Array.from({ length: 5_000 }, () => write(driver, 'target', UNIT, data));
  await Promise.all([first, ...more]);
  await driver.flush(null);
  same(content(root, 'target').subarray(UNIT, 2 * UNIT), data);
});

it('a machine that does not say which start it is, and one that refuses the mark, copy at once', async () => {
  const { root, driver } = await store();
  const refused = vi.spyOn(marks, 'set').mockImplementation(() => {
    throw new NativeError('fsetxattr', errnos.EINVAL);
  });
  await copy(driver, 'source', 'a');
  refused.mockRestore();
  same(content(root, 'a'), pattern(SIZE, 1));
  vi.spyOn(marks, 'bootId').mockImplementation(() => {
    throw Object.assign(new Error('no such file'), { code: 'ENOENT' });
  });
  const second = await fileDriver(root, SETTINGS);
  await copy(second, 'source', 'b');
  same(content(root, 'b'), pattern(SIZE, 1));
});

describe('two processes', () => {
  it('never both have a partial copy: who comes second is told to wait, and may replace it', async () => {
    const { root, driver } = await store();
    await copy(driver, 'source', 'target');
    const second = await fileDriver(root, SETTINGS);
    await expect(read(second, 'target', 0, 10)).rejects.toMatchObject({ code: 'EDEADLK' });
    await expect(write(second, 'target', 0, Buffer.from('x'))).rejects.toMatchObject({ code: 'EDEADLK' });
    await expect(second.flush(['target'])).rejects.toMatchObject({ code: 'EDEADLK' });
    await driver.flush(['target']);
    same(await read(second, 'target', 0, SIZE), pattern(SIZE, 1));
    await copy(driver, 'source', 'other');
    await second.reset('other', false);
    await write(second, 'other', 0, Buffer.from('the second'));
    await write(driver, 'other', 0, Buffer.from('the first'));
    await driver.flush(null);
    expect(content(root, 'other').toString()).toBe('the second');
  });
});

describe('a store that others use who know nothing of this', () => {
  it('is not written by a copy that is completed when one of them has made the object another', async () => {
    const { root, driver } = await store();
    await copy(driver, 'source', 'target');
    const other = new Proxy(kernel, {
      get: (target, name) => {
        const value: unknown = name === 'marks' ? undefined : Reflect.get(target, name);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    const second = await fileDriver(root, { system: other });
    await second.reset('target', false);
    await write(second, 'target', 0, Buffer.from('another object'));
    await second.flush(['target']);
    await expect(driver.flush(['target'])).rejects.toMatchObject({ code: 'EIO' });
    await driver.flush(null);
    await driver.close();
    expect(content(root, 'target').toString()).toBe('another object');
  });

  it('and was copied without its attributes has no copy taken for complete', async () => {
    const root = await prepared();
    const mortal = new Mortal();
    await copy(await mortalDriver(root, mortal), 'source', 'target');
    await mortal.kill();
    const file = hashedPath(root, 'target');
    fs.copyFileSync(file, `${file}-`);
    fs.renameSync(`${file}-`, file);
    expect(isPartial(root, 'target')).toBe(false);
    const driver = await fileDriver(root);
    await expect(driver.flush(['target'])).rejects.toMatchObject({ code: 'EIO' });
    await expect(read(driver, 'target', 0, 10)).rejects.toMatchObject({ code: 'EIO' });
    await copy(driver, 'source', 'target');
    same(await read(driver, 'target', 0, SIZE), pattern(SIZE, 1));
  });
});

it('a client that writes what looks like a tail has an object like any other', async () => {
  const { root, driver } = await store();
  await copy(driver, 'source', 'target');
  const forged = content(root, 'target');
  forged.fill('0', SIZE + 40, SIZE + 76);
  await write(driver, 'forged', 0, forged);
  await driver.close();
  const second = await fileDriver(root);
  same(await read(second, 'forged', 0, forged.length), forged);
});

describe('a disk in trouble', () => {
  it('that cannot read the source keeps nobody from opening other files', async () => {
    const { driver } = await store(undefined, { fdcache: 4, dirtyFiles: 2 });
    const broken = vi.spyOn(kernel, 'copyRange').mockRejectedValue(new NativeError('copy_file_range', errnos.EIO));
    for (const name of ['a', 'b', 'c']) await copy(driver, 'source', name);
    for (let i = 0; i < 150; i++) await write(driver, `other-${i}`, 0, Buffer.from('x'));
    broken.mockRestore();
    await driver.flush(null);
    for (const name of ['a', 'b', 'c']) same(await read(driver, name, 0, SIZE), pattern(SIZE, 1));
  });

  it('that is full fails the write, which changes nothing then', async () => {
    const { root, driver } = await store();
    await copy(driver, 'source', 'target');
    const { pwrite } = kernel;
    const full = vi.spyOn(kernel, 'pwrite').mockImplementation((fd, address, count, offset) => {
      // The half of it finds room.
      if (count === UNIT && offset === 8 * UNIT) return pwrite.call(kernel, fd, address, 1000, offset);
      return -1;
    });
    const why = vi.spyOn(kernel, 'errno').mockReturnValue(errnos.ENOSPC);
    await expect(write(driver, 'target', 8 * UNIT, pattern(UNIT, 6))).rejects.toMatchObject({ code: 'ENOSPC' });
    full.mockRestore();
    why.mockRestore();
    same(await read(driver, 'target', 0, SIZE), pattern(SIZE, 1));
    await driver.flush(null);
    same(content(root, 'target'), pattern(SIZE, 1));
  });

  it('leaves no garbage where the source has a hole', async () => {
    const { root, driver } = await store(Buffer.alloc(0));
    await driver.truncate('source', SIZE);
    await write(driver, 'source', 0, pattern(UNIT, 1));
    await driver.flush(null);
    await copy(driver, 'source', 'target');
    const { pwrite } = kernel;
    const spy = vi.spyOn(kernel, 'pwrite').mockImplementation((fd, address, count, offset) => {
      if (offset >= SIZE) return 0;
      return pwrite.call(kernel, fd, address, count, offset);
    });
    await expect(write(driver, 'target', 8 * UNIT, pattern(UNIT, 6))).rejects.toMatchObject({ code: 'EIO' });
    spy.mockRestore();
    await driver.flush(null);
    const expected = Buffer.alloc(SIZE);
    pattern(UNIT, 1).copy(expected);
    same(content(root, 'target'), expected);
  });

  it('that has no room for all of the copy has it refused at once', async () => {
    const { root, driver } = await store();
    const full = vi.spyOn(kernel, 'fallocate').mockRejectedValue(new NativeError('fallocate', errnos.ENOSPC));
    const copying = vi.spyOn(kernel, 'copyRange').mockRejectedValue(new NativeError('copy_file_range', errnos.ENOSPC));
    onTestFinished(() => copying.mockRestore());
    onTestFinished(() => full.mockRestore());
    await expect(copy(driver, 'source', 'target')).rejects.toMatchObject({ code: 'ENOSPC' });
    expect(fs.existsSync(hashedPath(root, 'target'))).toBe(false);
    expect(fs.readdirSync(path.join(root, '.archipelago-tmp'))).toEqual([]);
    expect(counts(driver).owed).toBe(0);
  });

  it('that cannot read the source fails the flush, as often as it is asked, and loses nothing', async () => {
    const { root, driver } = await store();
    await copy(driver, 'source', 'target');
    await write(driver, 'target', UNIT, pattern(UNIT, 8));
    const broken = vi.spyOn(kernel, 'copyRange').mockRejectedValue(new NativeError('copy_file_range', errnos.EIO));
    onTestFinished(() => broken.mockRestore());
    // Not EIO: nothing is lost.
    await driver.flush(null);
    for (let i = 0; i < 2; i++) await expect(driver.flush(['target'])).rejects.toMatchObject({ code: 'ENODATA' });
    expect(isPartial(root, 'target')).toBe(true);
    broken.mockRestore();
    await driver.flush(['target']);
    const expected = pattern(SIZE, 1);
    pattern(UNIT, 8).copy(expected, UNIT);
    same(content(root, 'target'), expected);
  });

  it('that cannot sync the completed copy has lost it, as any other object', async () => {
    const { driver } = await store();
    await copy(driver, 'source', 'target');
    const { fsync } = kernel;
    const broken = vi
      .spyOn(kernel, 'fsync')
      .mockImplementation((fd) =>
        fs.fstatSync(fd).isFile() ? Promise.reject(new NativeError('fsync', errnos.EIO)) : fsync.call(kernel, fd),
      );
    onTestFinished(() => broken.mockRestore());
    await expect(driver.flush(['target'])).rejects.toMatchObject({ code: 'EIO' });
    broken.mockRestore();
    await expect(driver.flush(['target'])).rejects.toMatchObject({ code: 'EIO' });
  });

  it('whose file system takes no marks copies at once', async () => {
    const { root, driver } = await store();
    const refused = vi.spyOn(marks, 'set').mockImplementation(() => {
      throw new NativeError('fsetxattr', errnos.EOPNOTSUPP);
    });
    onTestFinished(() => refused.mockRestore());
    await copy(driver, 'source', 'target');
    same(content(root, 'target'), pattern(SIZE, 1));
  });
});

describe('random writes, flushes and kills', () => {
  it.each([1, 2, 3, 4, 5, 6])('leave what was written (seed %i)', async (seed) => {
    let state = seed * 7919;
    const random = (below: number): number => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      return (state >>> 8) % below;
    };
    const root = await prepared();
    let mortal = new Mortal();
    let driver = await mortalDriver(root, mortal);
    const model = new Map<string, Buffer>();
    for (let step = 0; step < 120; step++) {
      const name = `target-${random(3)}`;
      const present = model.get(name);
      const action = random(12);
      if (present === undefined || action === 0) {
        await copy(driver, 'source', name);
        model.set(name, pattern(SIZE, 1));
      } else if (action < 7) {
        // Several at a time, which do not overlap.
        const half = SIZE / 2;
        await Promise.all(
          [0, half].map(async (from) => {
            const offset = from + random(half - 1);
            const data = pattern(4 * (1 + random(Math.min(4 * UNIT, from + half - offset) >> 2 || 1)), step + from);
            const end = Math.min(offset + data.length, from + half);
            const part = data.subarray(0, end - offset);
            part.copy(present, offset);
            await write(driver, name, offset, part);
          }),
        );
      } else if (action === 7) {
        // Written while it is completed.
        const offset = random(SIZE - 600);
        const flushed = driver.flush(random(2) === 0 ? null : [name]);
        const data = pattern(600, step);
        data.copy(present, offset);
        await Promise.all([flushed, write(driver, name, offset, data)]);
      } else if (action === 8) {
        const offset = random(SIZE - 5000);
        present.fill(0, offset, offset + 5000);
        await changes(driver, random(2) === 0 ? 'trim' : 'writeZeroes', name, offset, 5000);
      } else if (action < 11) {
        const offset = random(SIZE);
        same(await read(driver, name, offset, SIZE - offset), present.subarray(offset));
      } else {
        if (random(2) === 0) void driver.flush(null).catch(() => {});
        for (let turns = random(8); turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve));
        await mortal.kill();
        mortal = new Mortal();
        driver = await mortalDriver(root, mortal);
      }
    }
    await driver.flush([...model.keys()]);
    for (const [name, expected] of model) {
      same(await read(driver, name, 0, SIZE), expected);
      same(content(root, name), expected);
      expect(isPartial(root, name)).toBe(false);
    }
    await driver.close();
  });
});
