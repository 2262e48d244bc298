/** Kit: copies and content addressing. */

import { runIo } from '../object-io.js';
import { type Kit, pattern, read, sha256, write } from './context.js';

/** The hash of no bytes. */
const ALL_ZERO = sha256(Buffer.alloc(0));

export function copyTests({ expect, group, test, isEqual }: Kit): void {
  group('copies', () => {
    for (const durable of [false, true]) {
      test(`a copy (durable: ${durable}) is exactly the source, whatever the target was`, async (driver) => {
        const data = pattern(300_000, 7);
        await write(driver, 'source-object', 0, data);
        const { hint } = await write(driver, 'target-object', 0, pattern(500_000, 8));
        await driver.copy('source-object', 'target-object', 4 << 20, { durable, exclusive: false });
        expect((await driver.info('target-object')).size).toBe(300_000);
        const got = await runIo(driver, 'read', { name: 'target-object', offset: 0, length: 300_000, hint });
        isEqual(got.data, data);
        await write(driver, 'target-object', 0, pattern(512, 9));
        isEqual(await read(driver, 'source-object', 0, 300_000), data);
        await driver.copy('source-object', 'target-object', 1000, { durable, exclusive: false });
        expect((await driver.info('target-object')).size).toBe(1000);
        await driver.copy('source-object', 'newborn-object', 4 << 20, { durable, exclusive: true });
        isEqual(await read(driver, 'newborn-object', 0, 300_000), data);
      });
    }

    test('a copy of a sparse object has its length, content and holes', async (driver) => {
      await write(driver, 'source-object', 1 << 20, pattern(4096, 1));
      await driver.truncate('source-object', 3 << 20);
      await driver.copy('source-object', 'target-object', 4 << 20, { durable: true, exclusive: false });
      const { size, allocated } = await driver.info('target-object');
      expect(size).toBe(3 << 20);
      if (driver.capabilities.sparse) expect(allocated < 1 << 20).toBe(true);
      isEqual(await read(driver, 'target-object', 0, 3 << 20), await read(driver, 'source-object', 0, 3 << 20));
    });

    test('a copy of an empty object is empty', async (driver) => {
      await driver.reset('source-object', false);
      await write(driver, 'target-object', 0, pattern(512, 8));
      await driver.copy('source-object', 'target-object', 4 << 20, { durable: false, exclusive: false });
      expect((await driver.info('target-object')).size).toBe(0);
    });

    test('a copy of a missing object is ENOENT and leaves the target alone', async (driver) => {
      await write(driver, 'target-object', 0, pattern(512, 8));
      const options = { durable: true, exclusive: false };
      await expect(driver.copy('no-object', 'target-object', 512, options)).rejects.toMatchObject({ code: 'ENOENT' });
      await expect(driver.copy('no-object', 'other-object', 512, options)).rejects.toMatchObject({ code: 'ENOENT' });
      isEqual(await read(driver, 'target-object', 0, 512), pattern(512, 8));
      await expect(driver.info('other-object')).rejects.toMatchObject({ code: 'ENOENT' });
    });

    test('an exclusive copy refuses an existing target: EEXIST', async (driver) => {
      await write(driver, 'source-object', 0, pattern(512, 1));
      await write(driver, 'target-object', 0, pattern(512, 2));
      await expect(
        driver.copy('source-object', 'target-object', 512, { durable: false, exclusive: true }),
      ).rejects.toMatchObject({ code: 'EEXIST' });
      isEqual(await read(driver, 'target-object', 0, 512), pattern(512, 2));
    });

    test('a copy of an object onto itself keeps it', async (driver) => {
      await write(driver, 'self-object', 0, pattern(10_000, 1));
      await driver.copy('self-object', 'self-object', 4 << 20, { durable: true, exclusive: false });
      expect((await driver.info('self-object')).size).toBe(10_000);
      isEqual(await read(driver, 'self-object', 0, 10_000), pattern(10_000, 1));
    });

    test('writes beside copies of their object end, and the last one is read', async (driver) => {
      await write(driver, 'source-object', 0, pattern(100_000, 1));
      await Promise.all(
        Array.from({ length: 10 }, (_, i) => [
          driver.copy('source-object', 'target-object', 4 << 20, { durable: false, exclusive: false }),
          write(driver, 'target-object', i * 512, pattern(512, i)),
        ]).flat(),
      );
      await write(driver, 'target-object', 0, pattern(512, 99));
      isEqual(await read(driver, 'target-object', 0, 512), pattern(512, 99));
    });
  });

  group('content addressing', () => {
    test('hash stores the content under its SHA-256, without trailing zeros, and remembers it', async (driver) => {
      const data = Buffer.concat([pattern(5000, 1), Buffer.alloc(3000)]);
      await write(driver, 'plain-object', 0, data);
      const digest = await driver.hash('plain-object', 4 << 20);
      expect(digest).toBe(sha256(data.subarray(0, 5000)));
      isEqual(await read(driver, digest, 0, 8000), data);
      expect((await driver.info(digest)).size).toBe(5000);
      expect((await read(driver, 'plain-object_hash', 0, 64)).toString('latin1')).toBe(digest);
      expect((await driver.info('plain-object_hash')).size).toBe(64);
      expect(await driver.hash('plain-object', 4 << 20)).toBe(digest);
    });

    test('the same content in another object answers the same hash and remembers it too', async (driver) => {
      await write(driver, 'first-object', 0, pattern(5000, 1));
      await write(driver, 'second-object', 0, pattern(5000, 1));
      const digest = await driver.hash('first-object', 4 << 20);
      expect(await driver.hash('second-object', 4 << 20)).toBe(digest);
      expect((await read(driver, 'second-object_hash', 0, 64)).toString('latin1')).toBe(digest);
    });

    test('an object of zeros is the hash of nothing; a missing one is ENOENT', async (driver) => {
      await write(driver, 'zeros-object', 0, Buffer.alloc(4096));
      expect(await driver.hash('zeros-object', 4 << 20)).toBe(ALL_ZERO);
      expect((await driver.info(ALL_ZERO)).size).toBe(0);
      await expect(driver.hash('no-object', 4096)).rejects.toMatchObject({ code: 'ENOENT' });
      await expect(driver.info('no-object_hash')).rejects.toMatchObject({ code: 'ENOENT' });
    });
  });
}
