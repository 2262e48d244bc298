/**
 * The power goes. Every store has a cache that loses it: what was not made durable is there, is not, or is half there, sector by sector.
 * What was promised to be durable must be there all the same: everything with FUA on all changes, everything before a flush without.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ObjectIo } from '../../../src/blockers/driver.js';
import { MemoryDriver, MemoryStore } from '../../../src/blockers/memory/index.js';
import { Family, type Step, step } from './family.js';
import { Stack } from './stack.js';

const SECTOR = 512;

/** A memory driver behind a cache: only what was flushed, or done durably, is sure to be there after a cut. */
class CachedDriver extends MemoryDriver {
  /** Called after each change and each flush. */
  after: () => void = () => {};
  readonly #cache: MemoryStore;
  readonly #durable = new Map<string, Buffer>();
  readonly #owner: string;

  constructor(owner: string, cache = new MemoryStore()) {
    super(owner, cache);
    this.#owner = owner;
    this.#cache = cache;
    for (const name of cache.objects.keys()) this.#sync(name);
  }

  #sync(name: string): void {
    const bytes = this.#cache.objects.get(name);
    if (bytes) this.#durable.set(name, Buffer.from(bytes));
    else this.#durable.delete(name);
  }

  override write(io: ObjectIo): void {
    this.#change(io, () => super.write(io));
  }
  override trim(io: ObjectIo): void {
    this.#change(io, () => super.trim(io));
  }
  override writeZeroes(io: ObjectIo): void {
    this.#change(io, () => super.writeZeroes(io));
  }
  /** The Io is its owner's again when it is complete. */
  #change({ name, fua }: ObjectIo, change: () => void): void {
    change();
    if (fua) this.#sync(name);
    this.after();
  }

  override async flush(names: readonly string[] | null = null): Promise<void> {
    for (const name of names ?? [...this.#cache.objects.keys(), ...this.#durable.keys()]) this.#sync(name);
    this.after();
  }
  override async delete(name: string): Promise<void> {
    await super.delete(name);
    this.after();
  }
  override async truncate(name: string, size: number): Promise<void> {
    await super.truncate(name, size);
    this.after();
  }
  override async reset(name: string, durable = false): Promise<void> {
    await super.reset(name);
    if (durable) this.#sync(name);
    this.after();
  }
  override async copy(
    source: string,
    target: string,
    size: number,
    options: { durable?: boolean; exclusive: boolean },
  ): Promise<void> {
    await super.copy(source, target, size, options);
    if (options.durable) this.#sync(target);
    this.after();
  }

  /** What a machine finds that is started again. @param chance a number from 0 to 1 for each thing that may be so or so */
  cut(chance: () => number): CachedDriver {
    const left = new MemoryStore();
    for (const name of new Set([...this.#cache.objects.keys(), ...this.#durable.keys()])) {
      const found = torn(this.#durable.get(name), this.#cache.objects.get(name), chance);
      if (found) left.objects.set(name, found);
    }
    return new CachedDriver(this.#owner, left);
  }
}

function torn(old: Buffer | undefined, now: Buffer | undefined, chance: () => number): Buffer | undefined {
  if (!old || !now) return chance() < 0.5 ? old : now && Buffer.from(now);
  if (old.equals(now)) return Buffer.from(now);
  const bytes = Buffer.alloc(chance() < 0.5 ? old.length : now.length);
  for (let at = 0; at < bytes.length; at += SECTOR) {
    const from = chance() < 0.5 ? old : now;
    if (at < from.length) from.copy(bytes, at, at, Math.min(at + SECTOR, bytes.length));
  }
  return bytes;
}

/** Operations of several steps. */
const mapChange: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    kind: fc.constantFrom('snapshot' as const, 'clone' as const, 'rename' as const, 'remove' as const),
    volume: fc.nat({ max: 5 }),
  }),
  fc.record({
    kind: fc.constant('resize' as const),
    volume: fc.nat({ max: 5 }),
    size: fc.integer({ min: 1, max: 40_000 }),
  }),
);

const contents = (family: Family): Map<string, Buffer> =>
  new Map(family.disks.map(({ name, bytes }) => [name, Buffer.from(bytes)]));

async function checkBetween(
  stack: Stack,
  before: Map<string, Buffer>,
  after: Map<string, Buffer>,
  kind: Step['kind'],
): Promise<void> {
  const there = new Set<string>();
  for (const name of new Set([...before.keys(), ...after.keys()])) {
    const [old, now] = [before.get(name), after.get(name)];
    const size = await stack.sizeOf(name);
    if (size === null) {
      expect(old && now, `${name} is gone`).toBeUndefined();
      continue;
    }
    there.add(name);
    const either = [old, now].filter((bytes) => bytes !== undefined);
    expect(either.map(({ length }) => length)).toContain(size);
    // A removal that was cut in the middle shows as that.
    if (kind === 'remove' && !now) continue;
    const bytes = await stack.read(name, 0, size);
    for (let i = 0; i < size; i++) {
      if (either.some((one) => bytes[i] === (one[i] ?? 0))) continue;
      throw new Error(`${name}, byte ${i} is ${bytes[i]} after a cut ${kind}, not ${either.map((one) => one[i])}`);
    }
  }
  // Under its old name, its new one, or for a moment both.
  if (kind === 'rename') expect(there.size).toBeGreaterThanOrEqual(before.size);
}

/** Numbers from 0 to 1 that a seed decides. */
function random(seed: number): () => number {
  let state = seed | 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

describe('when the power goes', () => {
  it.each([
    ['with FUA on every change' as const, true],
    ['after a flush' as const, false],
  ])(
    '%s, every byte is there and every map opens',
    async (_how, alwaysFua) => {
      const life = fc.array(step, { minLength: 1, maxLength: 12, size: 'max' });
      await fc.assert(
        fc.asyncProperty(fc.array(life, { minLength: 1, maxLength: 3 }), fc.integer(), async (lives, seed) => {
          const chance = random(seed);
          let drivers = { blocks: new CachedDriver('test_1000'), maps: new CachedDriver('test_1002') };
          let stack = await Stack.start({ sizeMiB: 8, drivers });
          const family = new Family(stack, alwaysFua);
          try {
            await family.begin();
            for (const steps of lives) {
              for (const next of steps) await family.run(next);
              if (!alwaysFua) for (const { name } of family.disks) await stack.flush(name);
              drivers = { blocks: drivers.blocks.cut(chance), maps: drivers.maps.cut(chance) };
              expect(await stack.stop()).toEqual([]);
              stack = await Stack.start({ sizeMiB: 8, drivers });
              family.stack = stack;
              await family.compare();
              await family.compareMaps();
            }
          } finally {
            await stack.stop();
          }
        }),
        { numRuns: 15, endOnFailure: true },
      );
    },
    120_000,
  );

  it('in the middle of anything, what it was done to is as before or as after, and all else as it was', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { maxLength: 8, size: 'max' }),
        fc.oneof({ weight: 1, arbitrary: step }, { weight: 3, arbitrary: mapChange }),
        fc.nat({ max: 24 }),
        fc.integer(),
        async (steps, last, count, seed) => {
          const chance = random(seed);
          const drivers = { blocks: new CachedDriver('test_1000'), maps: new CachedDriver('test_1002') };
          let stack = await Stack.start({ sizeMiB: 8, drivers });
          const family = new Family(stack, true);
          const cut = () => ({ blocks: drivers.blocks.cut(chance), maps: drivers.maps.cut(chance) });
          try {
            await family.begin();
            for (const next of steps) await family.run(next);
            const before = contents(family);
            let left = count;
            let found: typeof drivers | null = null;
            const countDown = (): void => {
              if (left-- === 0) found = cut();
            };
            drivers.blocks.after = countDown;
            drivers.maps.after = countDown;
            await family.run(last);
            found ??= cut();
            expect(await stack.stop()).toEqual([]);
            stack = await Stack.start({ sizeMiB: 8, drivers: found });
            await checkBetween(stack, before, contents(family), last.kind);
          } finally {
            await stack.stop();
          }
        },
      ),
      { numRuns: 40, endOnFailure: true },
    );
  }, 120_000);
});
