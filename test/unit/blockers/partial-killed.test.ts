import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { kernel } from '../../../src/blockers/file/kernel.js';
import { Mortal } from './mortal-system.js';
import {
  aloneWithTheKernel,
  changes,
  content,
  copy,
  isPartial,
  marks,
  mortalDriver,
  pattern,
  prepared,
  SETTINGS,
  SIZE,
  same,
  UNIT,
} from './partial-rig.js';
import { fileDriver, read, write } from './support.js';

aloneWithTheKernel();

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
