import fs from 'node:fs';
import path from 'node:path';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import type { FileDriver } from '../../../src/blockers/file/index.js';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { hashedPath } from '../../../src/blockers/file/paths.js';
import { NativeError } from '../../../src/blockers/file/pool.js';
import { runIo } from '../../../src/blockers/object-io.js';
import { errnos } from '../../../src/sys/errno.js';
import { Mortal } from './mortal-system.js';
import {
  aloneWithTheKernel,
  changes,
  content,
  copy,
  copyInTime,
  counts,
  isPartial,
  marks,
  mortalDriver,
  pattern,
  prepared,
  SETTINGS,
  SIZE,
  same,
  store,
  UNIT,
} from './partial-rig.js';
import { fileDriver, read, write } from './support.js';

aloneWithTheKernel();

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
