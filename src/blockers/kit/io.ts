/** Kit: reads, writes, trim and zeroes. */

import { runIo } from '../object-io.js';
import { type Kit, pattern, read, write } from './context.js';

export function ioTests({ expect, group, test, isEqual }: Kit): void {
  group('reads and writes', () => {
    test('what is written is read, at any offset and length', async (driver) => {
      for (const [offset, length] of [
        [0, 4096],
        [1, 511],
        [4095, 2],
        [123_457, 65_537],
        [1 << 20, 1 << 20],
      ]) {
        const data = pattern(length, offset);
        await write(driver, 'any-object', offset, data);
        isEqual(await read(driver, 'any-object', offset, length), data);
      }
    });

    test('a write of the largest size is read back', async (driver) => {
      const data = pattern(driver.capabilities.maxIo, 3);
      await write(driver, 'large-object', 512, data);
      isEqual(await read(driver, 'large-object', 512, data.length), data);
    });

    test('bytes never written, and past the end, are zeros', async (driver) => {
      await write(driver, 'sparse-object', 10_000, pattern(100, 1));
      const got = await read(driver, 'sparse-object', 0, 20_000);
      isEqual(got.subarray(0, 10_000), Buffer.alloc(10_000));
      isEqual(got.subarray(10_100), Buffer.alloc(9900));
      isEqual(await read(driver, 'sparse-object', 1 << 30, 4096), Buffer.alloc(4096));
      expect((await driver.info('sparse-object')).size).toBe(10_100);
    });

    test('a missing object is not an empty one: reading it is ENOENT', async (driver) => {
      await expect(read(driver, 'missing-object', 0, 512)).rejects.toMatchObject({ code: 'ENOENT' });
      await write(driver, 'empty-object', 0, Buffer.alloc(0));
      isEqual(await read(driver, 'empty-object', 0, 512), Buffer.alloc(512));
      expect((await driver.info('empty-object')).size).toBe(0);
    });

    test('many reads of a missing object beside its first write all end', async (driver) => {
      const outcomes = await Promise.allSettled([
        ...Array.from({ length: 8 }, () => read(driver, 'racing-object', 0, 512)),
        write(driver, 'racing-object', 0, pattern(512, 1)),
        ...Array.from({ length: 8 }, () => read(driver, 'racing-object', 0, 512)),
      ]);
      expect(outcomes.length).toBe(17);
      expect(outcomes[8].status).toBe('fulfilled');
      isEqual(await read(driver, 'racing-object', 0, 512), pattern(512, 1));
    });

    test('a hint leads to the same object, and a stale one to no other', async (driver) => {
      const first = await write(driver, 'hinted-a', 0, pattern(512, 1));
      await write(driver, 'hinted-b', 0, pattern(512, 2));
      isEqual(
        (await runIo(driver, 'read', { name: 'hinted-a', offset: 0, length: 512, hint: first.hint })).data,
        pattern(512, 1),
      );
      await driver.delete('hinted-a');
      await expect(
        runIo(driver, 'read', { name: 'hinted-a', offset: 0, length: 512, hint: first.hint }),
      ).rejects.toMatchObject({ code: 'ENOENT' });
      for (const hint of [first.hint, first.hint + 1, 1, -1, 2 ** 40, Number.NaN, 0.5]) {
        isEqual(
          (await runIo(driver, 'read', { name: 'hinted-b', offset: 0, length: 512, hint })).data,
          pattern(512, 2),
        );
      }
    });

    test('an acknowledged write is seen by every read after it', async (driver) => {
      let hint = 0;
      for (let round = 1; round <= 50; round++) {
        const length = round % 5 === 0 ? 1 << 20 : 4096;
        const result = await write(driver, 'seen-object', 0, Buffer.alloc(length, round), { hint });
        hint = result.hint;
        isEqual(await read(driver, 'seen-object', 0, length), Buffer.alloc(length, round));
      }
    });

    test('operations on many objects at once do not mix', async (driver) => {
      const names = Array.from({ length: 64 }, (_, i) => `crowd-${i}`);
      await Promise.all(names.map((name, i) => write(driver, name, i * 512, pattern(4096, i))));
      const contents = await Promise.all(names.map((name, i) => read(driver, name, i * 512, 4096)));
      contents.forEach((content, i) => {
        isEqual(content, pattern(4096, i));
      });
    });

    test('a durable write is acknowledged and read', async (driver) => {
      await write(driver, 'fua-object', 100, pattern(512, 9), { fua: true });
      isEqual(await read(driver, 'fua-object', 100, 512), pattern(512, 9));
    });
  });

  group('trim and zeroes', () => {
    for (const operation of ['trim', 'writeZeroes'] as const) {
      test(`${operation} makes the range zeros and leaves the rest and the length`, async (driver) => {
        const data = pattern(200_000, 4);
        await write(driver, 'holed-object', 0, data);
        await runIo(driver, operation, { name: 'holed-object', offset: 1000, length: 100_000 });
        data.fill(0, 1000, 101_000);
        isEqual(await read(driver, 'holed-object', 0, 200_000), data);
        await runIo(driver, operation, { name: 'holed-object', offset: 199_000, length: 500_000 });
        data.fill(0, 199_000);
        isEqual(await read(driver, 'holed-object', 0, 200_000), data);
        expect((await driver.info('holed-object')).size).toBe(200_000);
      });

      test(`${operation} of a missing object succeeds and leaves it missing`, async (driver) => {
        await runIo(driver, operation, { name: 'never-object', offset: 0, length: 4096 });
        await expect(driver.info('never-object')).rejects.toMatchObject({ code: 'ENOENT' });
      });
    }

    test('writeZeroes without holes makes zeros, and the object when it is missing', async (driver) => {
      await write(driver, 'zeroed-object', 0, pattern(10_000, 5));
      await runIo(driver, 'writeZeroes', { name: 'zeroed-object', offset: 5000, length: 10_000, noHole: true });
      isEqual(await read(driver, 'zeroed-object', 5000, 10_000), Buffer.alloc(10_000));
      isEqual(await read(driver, 'zeroed-object', 0, 5000), pattern(10_000, 5).subarray(0, 5000));
      await runIo(driver, 'writeZeroes', { name: 'created-object', offset: 0, length: 4096, noHole: true, fua: true });
      isEqual(await read(driver, 'created-object', 0, 4096), Buffer.alloc(4096));
    });

    test('trim gives space back where the driver says so', async (driver) => {
      if (!driver.capabilities.sparse) return;
      await write(driver, 'space-object', 0, pattern(1 << 20, 6));
      await driver.flush(null);
      const before = (await driver.info('space-object')).allocated;
      await runIo(driver, 'trim', { name: 'space-object', offset: 0, length: 1 << 20 });
      await driver.flush(['space-object']);
      const after = (await driver.info('space-object')).allocated;
      expect(before >= 1 << 20 && after < before / 2).toBe(true);
    });
  });
}
