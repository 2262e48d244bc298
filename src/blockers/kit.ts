/**
 * The driver kit: what every driver must do, as tests. A driver outside this project runs it with its own test runner:
 *
 *     import { describe, expect, it } from 'vitest';
 *     import { driverKit } from 'archipelago/driver-kit';
 *     driverKit({ name: 'mine', make: async () => ({ … }) }, { describe, expect, it });
 */
import { createHash } from 'node:crypto';
import type { Driver } from './driver.js';
import { type OneIo, runIo } from './object-io.js';

/** The part of a test runner that the kit needs; vitest and jest have it. */
export interface TestRunner {
  describe(name: string, body: () => void): void;
  it(name: string, body: () => Promise<void>): void;
  expect(value: unknown): Expectation;
}

export interface Expectation {
  toBe(expected: unknown): void;
  toEqual(expected: unknown): void;
  toMatchObject(expected: object): void;
  toMatch(expected: RegExp): void;
  readonly rejects: { toMatchObject(expected: object): Promise<void> };
}

/** One empty store for one test. */
export interface KitStore {
  /** Opened; its locks are owned by `owner` of make. */
  readonly driver: Driver;
  /** Another opened driver on the same store, as a second node has it. */
  another(owner: string): Promise<Driver>;
  /** Closes all drivers and removes the store. */
  dispose(): Promise<void>;
}

export interface KitOptions {
  /** For the tests' names. */
  readonly name: string;
  make(owner: string): Promise<KitStore>;
}

/** Small numbers that look random and are the same in every run. */
function randoms(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const pattern = (length: number, seed: number): Buffer => {
  const next = randoms(seed);
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i++) bytes[i] = 1 + next(255);
  return bytes;
};

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const ALL_ZERO = sha256(Buffer.alloc(0));

const write = (driver: Driver, name: string, offset: number, data: Uint8Array, more: Partial<OneIo> = {}) =>
  runIo(driver, 'write', { name, offset, length: data.length, data, ...more });
const read = async (driver: Driver, name: string, offset: number, length: number) =>
  (await runIo(driver, 'read', { name, offset, length })).data;

/** Registers the kit's tests. */
export function driverKit(options: KitOptions, { describe, it, expect }: TestRunner): void {
  /** A test with a store of its own. */
  const test = (name: string, body: (driver: Driver, store: KitStore) => Promise<void>) =>
    it(name, async () => {
      const store = await options.make('kit_1000');
      try {
        await body(store.driver, store);
      } finally {
        await store.dispose();
      }
    });
  const isEqual = (got: Uint8Array, wanted: Uint8Array) => expect(Buffer.compare(got, wanted)).toBe(0);

  describe(`driver ${options.name}: reads and writes`, () => {
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

  describe(`driver ${options.name}: trim and zeroes`, () => {
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

  describe(`driver ${options.name}: objects`, () => {
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

  describe(`driver ${options.name}: copies`, () => {
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

  describe(`driver ${options.name}: content addressing`, () => {
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

  describe(`driver ${options.name}: locks`, () => {
    test('a lock is taken once, again by its owner, and refused to others by name', async (driver, store) => {
      const other = await store.another('kit_10001');
      expect(await driver.lockHolder('volume1')).toBe(null);
      await driver.acquire('volume1');
      await driver.acquire('volume1');
      expect(await other.lockHolder('volume1')).toMatchObject({ owner: 'kit_1000' });
      await expect(other.acquire('volume1')).rejects.toMatchObject({ code: 'EBUSY' });
      await other.acquire('volume1').catch((error: Error) => expect(error.message).toMatch(/kit_1000\b/));
      await expect(other.release('volume1', false)).rejects.toMatchObject({ code: 'EPERM' });
      await driver.release('volume1', false);
      await other.acquire('volume1');
      await expect(driver.acquire('volume1')).rejects.toMatchObject({ code: 'EBUSY' });
    });

    test('an owner whose name begins like the holder’s is another owner', async (driver, store) => {
      const longer = await store.another('kit_10001');
      await longer.acquire('volume1');
      await expect(driver.acquire('volume1')).rejects.toMatchObject({ code: 'EBUSY' });
      await expect(driver.release('volume1', false)).rejects.toMatchObject({ code: 'EPERM' });
      expect(await driver.lockHolder('volume1')).toMatchObject({ owner: 'kit_10001' });
    });

    test('a forced release removes another owner’s lock; releasing no lock is ENOENT', async (driver, store) => {
      const other = await store.another('other_1000');
      await other.acquire('volume1');
      await driver.release('volume1', true);
      expect(await driver.lockHolder('volume1')).toBe(null);
      await expect(driver.release('volume1', true)).rejects.toMatchObject({ code: 'ENOENT' });
      await expect(driver.release('volume1', false)).rejects.toMatchObject({ code: 'ENOENT' });
    });

    test('of many that want a lock at once, one gets it', async (driver, store) => {
      const drivers = [driver, ...(await Promise.all([1, 2, 3].map((i) => store.another(`node${i}_1000`))))];
      for (let round = 0; round < 10; round++) {
        const outcomes = await Promise.allSettled(drivers.map((one) => one.acquire('wanted')));
        const winners = drivers.filter((_, i) => outcomes[i].status === 'fulfilled');
        expect(winners.length).toBe(1);
        await winners[0].release('wanted', false);
      }
    });

    test('a lock needs no object, and does not make one of its target', async (driver) => {
      await driver.acquire('nosuch');
      await expect(driver.info('nosuch')).rejects.toMatchObject({ code: 'ENOENT' });
    });

    test('the name of a lock is checked', async (driver) => {
      await expect(driver.acquire('')).rejects.toMatchObject({ code: 'EINVAL' });
      await expect(driver.acquire('a/b')).rejects.toMatchObject({ code: 'EINVAL' });
      await expect(driver.acquire('x'.repeat(251))).rejects.toMatchObject({ code: 'ENAMETOOLONG' });
    });
  });

  describe(`driver ${options.name}: against a model`, () => {
    for (const seed of [1, 2, 3]) {
      test(`300 random operations, seed ${seed}`, async (driver) => {
        const next = randoms(seed);
        const model = new Map<string, Buffer>();
        const hints = new Map<string, number>();
        const names = ['model-a', 'model-b', 'model-c', 'model-d'];
        const grown = (name: string, length: number) => {
          const old = model.get(name) ?? Buffer.alloc(0);
          return old.length >= length ? old : Buffer.concat([old], length);
        };
        for (let step = 0; step < 300; step++) {
          const name = names[next(names.length)];
          const other = names[next(names.length)];
          const offset = next(3) === 0 ? next(20) * 4096 : next(80_000);
          const length = next(4) === 0 ? (1 + next(20)) * 4096 : next(30_000);
          const one: OneIo = { name, offset, length, hint: hints.get(name) ?? 0, fua: next(20) === 0 };
          const present = model.get(name);
          switch (next(9)) {
            case 0:
            case 1: {
              const data = pattern(length, step);
              hints.set(name, (await runIo(driver, 'write', { ...one, data })).hint);
              const bytes = length === 0 ? (present ?? Buffer.alloc(0)) : grown(name, offset + length);
              data.copy(bytes, offset);
              model.set(name, bytes);
              break;
            }
            case 2:
            case 3: {
              await runIo(driver, next(2) ? 'trim' : 'writeZeroes', one);
              present?.fill(0, Math.min(offset, present.length), Math.min(offset + length, present.length));
              break;
            }
            case 4: {
              await driver.reset(name, next(2) === 0);
              model.set(name, Buffer.alloc(0));
              break;
            }
            case 5: {
              const copy = driver.copy(name, other, length, { durable: next(2) === 0, exclusive: false });
              if (present) {
                await copy;
                model.set(other, Buffer.from(present.subarray(0, length)));
              } else await expect(copy).rejects.toMatchObject({ code: 'ENOENT' });
              break;
            }
            case 6: {
              if (next(3)) break;
              if (present) await driver.delete(name);
              else await expect(driver.delete(name)).rejects.toMatchObject({ code: 'ENOENT' });
              model.delete(name);
              break;
            }
            case 7: {
              if (!present) break;
              await driver.truncate(name, length);
              model.set(name, Buffer.concat([present.subarray(0, length)], length));
              break;
            }
            default:
              await driver.flush(next(2) ? null : [name, other]);
          }
          const checked = names[next(names.length)];
          const wanted = model.get(checked);
          const got = runIo(driver, 'read', {
            name: checked,
            offset: 0,
            length: 130_000,
            hint: hints.get(checked) ?? 0,
          });
          if (wanted) {
            const { data, hint } = await got;
            hints.set(checked, hint);
            isEqual(data, Buffer.concat([wanted], 130_000));
            expect((await driver.info(checked)).size).toBe(wanted.length);
          } else await expect(got).rejects.toMatchObject({ code: 'ENOENT' });
        }
      });
    }
  });
}
