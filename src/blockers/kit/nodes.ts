/** Kit: what one node sees of another's changes, and what it does not begin any more. */
import { monotonicMs } from '../../sys/clock.js';
import type { Driver } from '../driver.js';
import { runIo } from '../object-io.js';
import { type Kit, pattern, read, write } from './context.js';

const OBJECT = 'shared-object';
const LENGTH = 10_000;

/** How another node makes an object anew: each leaves a different trace in a store. */
const remakes: readonly [how: string, (other: Driver) => Promise<void>][] = [
  [
    'deletes it and makes it anew',
    async (other) => {
      await other.delete(OBJECT);
      await write(other, OBJECT, 0, pattern(LENGTH, 2));
    },
  ],
  [
    'copies another object over it',
    async (other) => {
      await write(other, 'source-object', 0, pattern(LENGTH, 2));
      await other.copy('source-object', OBJECT, LENGTH, { durable: true, exclusive: false });
    },
  ],
  [
    'resets it and writes to it',
    async (other) => {
      await other.reset(OBJECT, true);
      await write(other, OBJECT, 0, pattern(LENGTH, 2));
    },
  ],
];

export function nodeTests({ expect, group, test, isEqual }: Kit): void {
  group('two nodes', () => {
    for (const [how, remake] of remakes) {
      test(`another node ${how}: after forget that is what is read and written`, async (driver, store) => {
        const other = await store.another('other_1000');
        const { hint } = await write(driver, OBJECT, 0, pattern(LENGTH, 1));
        await driver.flush([OBJECT]);
        await remake(other);
        driver.forget();
        const got = await runIo(driver, 'read', { name: OBJECT, offset: 0, length: LENGTH, hint });
        isEqual(got.data, pattern(LENGTH, 2));
        await write(driver, OBJECT, 0, pattern(512, 3), { hint });
        isEqual(await read(other, OBJECT, 0, 512), pattern(512, 3));
        await write(driver, OBJECT, 512, pattern(512, 4), { hint: got.hint, fua: true });
        isEqual(await read(other, OBJECT, 512, 512), pattern(512, 4));
        await driver.flush(null);
      });

      test(`another node ${how}: an uncached read sees that, and what follows it too`, async (driver, store) => {
        const other = await store.another('other_1000');
        const { hint } = await write(driver, OBJECT, 0, pattern(LENGTH, 1));
        await driver.flush([OBJECT]);
        await remake(other);
        const one = { name: OBJECT, offset: 0, length: LENGTH, hint, uncached: true };
        isEqual((await runIo(driver, 'read', one)).data, pattern(LENGTH, 2));
        isEqual((await runIo(driver, 'read', { ...one, uncached: false })).data, pattern(LENGTH, 2));
        await write(driver, OBJECT, 0, pattern(512, 3), { hint });
        isEqual(await read(other, OBJECT, 0, 512), pattern(512, 3));
      });
    }

    test('an object that another node deleted is missing after forget, and for an uncached read', async (driver, store) => {
      const other = await store.another('other_1000');
      const names = ['first-object', 'second-object'];
      for (const name of names) await write(driver, name, 0, pattern(512, 1));
      await driver.flush(null);
      for (const name of names) await other.delete(name);
      const uncached = { name: names[0], offset: 0, length: 512, uncached: true };
      await expect(runIo(driver, 'read', uncached)).rejects.toMatchObject({ code: 'ENOENT' });
      await expect(read(driver, names[0], 0, 512)).rejects.toMatchObject({ code: 'ENOENT' });
      driver.forget();
      await expect(read(driver, names[1], 0, 512)).rejects.toMatchObject({ code: 'ENOENT' });
      await driver.flush(null);
    });

    test('forget loses nothing that was written and not flushed', async (driver) => {
      const names = Array.from({ length: 20 }, (_, i) => `dirty-${i}`);
      const hints = new Map<string, number>();
      for (const [i, name] of names.entries()) hints.set(name, (await write(driver, name, 0, pattern(4096, i))).hint);
      driver.forget();
      await Promise.all(
        names.map((name, i) => write(driver, name, 4096, pattern(512, i + 50), { hint: hints.get(name) })),
      );
      driver.forget();
      await driver.flush(names);
      for (const [i, name] of names.entries()) {
        isEqual(await read(driver, name, 0, 4608), Buffer.concat([pattern(4096, i), pattern(512, i + 50)]));
      }
    });

    test('operations at the same time as forget all end, and none is lost', async (driver) => {
      const names = Array.from({ length: 8 }, (_, i) => `busy-${i}`);
      const hints = new Map<string, number>();
      for (let round = 1; round <= 20; round++) {
        const writes = names.map(async (name) => {
          hints.set(name, (await write(driver, name, 0, Buffer.alloc(4096, round), { hint: hints.get(name) })).hint);
        });
        driver.forget();
        const reads = names.map((name) =>
          runIo(driver, 'read', { name, offset: 0, length: 1, uncached: round % 2 === 0 }).catch(() => null),
        );
        driver.forget();
        await Promise.all([...writes, ...reads]);
        for (const name of names) isEqual(await read(driver, name, 0, 4096), Buffer.alloc(4096, round));
      }
    });

    test('an uncached read of what this node has just written sees it', async (driver) => {
      for (let round = 1; round <= 10; round++) {
        await write(driver, OBJECT, 0, Buffer.alloc(4096, round));
        const one = { name: OBJECT, offset: 0, length: 8192, uncached: true };
        isEqual((await runIo(driver, 'read', one)).data, Buffer.concat([Buffer.alloc(4096, round)], 8192));
      }
    });
  });

  group('deadlines', () => {
    test('what comes after its deadline is ETIME and changes nothing', async (driver) => {
      await write(driver, 'kept-object', 0, pattern(512, 1));
      const late = monotonicMs() - 1;
      const wanted = { code: 'ETIME' };
      await expect(driver.reset('kept-object', true, late)).rejects.toMatchObject(wanted);
      await expect(driver.reset('new-object', true, late)).rejects.toMatchObject(wanted);
      await expect(driver.delete('kept-object', late)).rejects.toMatchObject(wanted);
      await expect(driver.truncate('kept-object', 0, late)).rejects.toMatchObject(wanted);
      for (const exclusive of [false, true]) {
        const options = { durable: true, exclusive, deadline: late };
        await expect(driver.copy('kept-object', 'new-object', 512, options)).rejects.toMatchObject(wanted);
      }
      isEqual(await read(driver, 'kept-object', 0, 1024), Buffer.concat([pattern(512, 1)], 1024));
      expect((await driver.info('kept-object')).size).toBe(512);
      await expect(driver.info('new-object')).rejects.toMatchObject({ code: 'ENOENT' });
      expect((await driver.list(null, 100)).names).toEqual(['kept-object']);
    });

    test('what comes before its deadline is done', async (driver) => {
      const deadline = monotonicMs() + 60_000;
      await write(driver, 'kept-object', 0, pattern(512, 1), { deadline });
      await driver.copy('kept-object', 'new-object', 512, { durable: false, exclusive: true, deadline });
      await driver.truncate('new-object', 256, deadline);
      expect((await driver.info('new-object')).size).toBe(256);
      await driver.reset('new-object', false, deadline);
      await driver.delete('new-object', deadline);
      await expect(driver.delete('new-object', deadline)).rejects.toMatchObject({ code: 'ENOENT' });
    });
  });
}
