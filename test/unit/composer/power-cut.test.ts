/**
 * The power goes. Every store has a cache that loses it: what was not made durable is there, is not, or is half there, sector by sector.
 * What was promised to be durable must be there all the same: everything with FUA on all changes, everything before a flush without.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ObjectIo } from '../../../src/blockers/driver.js';
import { MemoryDriver, MemoryStore } from '../../../src/blockers/memory/index.js';
import { Family, step } from './family.js';
import { Stack } from './stack.js';

const SECTOR = 512;

/** A memory driver behind a cache: only what was flushed, or done durably, is sure to be there after a cut. */
class CachedDriver extends MemoryDriver {
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
  }

  override async flush(names: readonly string[] | null = null): Promise<void> {
    for (const name of names ?? [...this.#cache.objects.keys(), ...this.#durable.keys()]) this.#sync(name);
  }
  override async reset(name: string, durable = false): Promise<void> {
    await super.reset(name);
    if (durable) this.#sync(name);
  }
  override async copy(
    source: string,
    target: string,
    size: number,
    options: { durable?: boolean; exclusive: boolean },
  ): Promise<void> {
    await super.copy(source, target, size, options);
    if (options.durable) this.#sync(target);
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
    (chance() < 0.5 ? old : now).copy(bytes, at, at, Math.min(at + SECTOR, bytes.length));
  }
  return bytes;
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
        fc.asyncProperty(fc.array(life, { minLength: 1, maxLength: 4 }), fc.integer(), async (lives, seed) => {
          const chance = random(seed);
          let drivers = { blocks: new CachedDriver('test_1000'), maps: new CachedDriver('test_1002') };
          let stack = await Stack.start({ drivers });
          const family = new Family(stack, alwaysFua);
          try {
            await family.begin();
            for (const steps of lives) {
              for (const next of steps) await family.run(next);
              if (!alwaysFua) for (const { name } of family.disks) await stack.flush(name);
              drivers = { blocks: drivers.blocks.cut(chance), maps: drivers.maps.cut(chance) };
              expect(await stack.stop()).toEqual([]);
              stack = await Stack.start({ drivers });
              family.stack = stack;
              await family.compare();
              await family.compareMaps();
            }
          } finally {
            await stack.stop();
          }
        }),
        { numRuns: 25, endOnFailure: true },
      );
    },
    120_000,
  );
});
