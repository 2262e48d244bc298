/** Kit: objects as wholes: delete, reset, truncate, flush, names, lists. */

import { runIo } from '../object-io.js';
import { type Kit, pattern, read, write } from './context.js';

export function objectTests({ expect, group, test, isEqual }: Kit): void {
  group('objects', () => {
    test('delete makes an object missing; deleting a missing one is ENOENT', async (driver) => {
      await write(driver, 'gone-object', 0, pattern(512, 1));
      await driver.delete('gone-object');
      await expect(read(driver, 'gone-object', 0, 512)).rejects.toMatchObject({ code: 'ENOENT' });
      await expect(driver.delete('gone-object')).rejects.toMatchObject({ code: 'ENOENT' });
      await expect(driver.info('gone-object')).rejects.toMatchObject({ code: 'ENOENT' });
    });

    test('an object made again after delete holds nothing of the old one', async (driver) => {
      await write(driver, 'again-object', 0, pattern(8192, 1));
      await driver.delete('again-object');
      await write(driver, 'again-object', 4096, pattern(512, 2));
      isEqual(await read(driver, 'again-object', 0, 4096), Buffer.alloc(4096));
    });

    for (const durable of [false, true]) {
      test(`reset (durable: ${durable}) makes an object empty, or makes it`, async (driver) => {
        const { hint } = await write(driver, 'reset-object', 0, pattern(8192, 1));
        await driver.reset('reset-object', durable);
        expect((await driver.info('reset-object')).size).toBe(0);
        isEqual(
          (await runIo(driver, 'read', { name: 'reset-object', offset: 0, length: 8192, hint })).data,
          Buffer.alloc(8192),
        );
        await driver.reset('fresh-object', durable);
        isEqual(await read(driver, 'fresh-object', 0, 512), Buffer.alloc(512));
      });
    }

    test('truncate cuts, and what grows again is zeros', async (driver) => {
      await write(driver, 'cut-object', 0, pattern(10_000, 1));
      await driver.truncate('cut-object', 5000);
      expect((await driver.info('cut-object')).size).toBe(5000);
      await driver.truncate('cut-object', 10_000);
      expect((await driver.info('cut-object')).size).toBe(10_000);
      const got = await read(driver, 'cut-object', 0, 10_000);
      isEqual(got.subarray(0, 5000), pattern(10_000, 1).subarray(0, 5000));
      isEqual(got.subarray(5000), Buffer.alloc(5000));
      await expect(driver.truncate('no-object', 1)).rejects.toMatchObject({ code: 'ENOENT' });
    });

    test('flush of some, of missing and of all objects succeeds', async (driver) => {
      await Promise.all([1, 2, 3].map((i) => write(driver, `flushed-${i}`, 0, pattern(4096, i))));
      await driver.flush(['flushed-1', 'missing-object']);
      await Promise.all([driver.flush(null), driver.flush(['flushed-2']), driver.flush([]), driver.flush(null)]);
      isEqual(await read(driver, 'flushed-3', 0, 4096), pattern(4096, 3));
    });

    test('a name that no store can keep is refused, the longest one is not', async (driver) => {
      for (const [name, code] of [
        ['', 'EINVAL'],
        ['.', 'EINVAL'],
        ['..', 'EINVAL'],
        ['a/b', 'EINVAL'],
        ['a\0b', 'EINVAL'],
        ['a\nb', 'EINVAL'],
        ['x'.repeat(256), 'ENAMETOOLONG'],
        ['é'.repeat(128), 'ENAMETOOLONG'],
      ]) {
        await expect(read(driver, name, 0, 512)).rejects.toMatchObject({ code });
        await expect(write(driver, name, 0, Buffer.alloc(512))).rejects.toMatchObject({ code });
        await expect(driver.info(name)).rejects.toMatchObject({ code });
        await expect(driver.reset(name, false)).rejects.toMatchObject({ code });
        await expect(driver.delete(name)).rejects.toMatchObject({ code });
        await expect(driver.copy(name, 'some-object', 1, { durable: false, exclusive: false })).rejects.toMatchObject({
          code,
        });
      }
      const longest = 'y'.repeat(255);
      await write(driver, longest, 0, pattern(512, 1));
      isEqual(await read(driver, longest, 0, 512), pattern(512, 1));
    });

    test('list has every name once, over pages', async (driver) => {
      const names = Array.from({ length: 57 }, (_, i) => `listed-${i}`).concat(['é'.repeat(20), 'a'.repeat(64)]);
      await Promise.all(names.map((name) => write(driver, name, 0, pattern(10, 1))));
      for (const limit of [1, 7, 1000]) {
        const found: string[] = [];
        let cursor: string | null = null;
        do {
          const page = await driver.list(cursor, limit);
          expect(page.names.length <= limit).toBe(true);
          found.push(...page.names);
          cursor = page.cursor;
        } while (cursor !== null);
        expect(found.sort()).toEqual([...names].sort());
      }
    });
  });
}
