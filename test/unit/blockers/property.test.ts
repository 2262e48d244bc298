/** Random operations, also at the same time, do to files what they do to memory. */
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { Driver } from '../../../src/blockers/driver.js';
import { MemoryDriver } from '../../../src/blockers/memory/index.js';
import { type OneIo, runIo } from '../../../src/blockers/object-io.js';
import { errnoName, errnoOf } from '../../../src/sys/errno.js';
import { fileDriver, listAll, read, temporaryDirectory } from './support.js';

const NAMES = ['property-a', 'property-b', 'c'.repeat(64)];
const LONGEST = 40_000;

const name = fc.constantFrom(...NAMES);
/** Near page and sector borders more often than elsewhere. */
const position = fc.oneof(
  fc.nat(LONGEST),
  fc.tuple(fc.nat(9), fc.integer({ min: -2, max: 2 })).map(([page, by]) => Math.max(0, page * 4096 + by)),
);

type Step =
  | {
      kind: 'write' | 'trim' | 'writeZeroes';
      name: string;
      offset: number;
      length: number;
      fill: number;
      fua: boolean;
      noHole: boolean;
    }
  | {
      kind: 'reset' | 'truncate' | 'copy';
      name: string;
      other: string;
      size: number;
      durable: boolean;
      exclusive: boolean;
    }
  | { kind: 'delete' | 'flush'; name: string };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constantFrom('write' as const, 'write' as const, 'trim' as const, 'writeZeroes' as const),
      name,
      offset: position,
      length: position,
      fill: fc.integer({ min: 1, max: 255 }),
      fua: fc.boolean(),
      noHole: fc.boolean(),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constantFrom('reset' as const, 'truncate' as const, 'copy' as const),
      name,
      other: name,
      size: position,
      durable: fc.boolean(),
      exclusive: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom('delete' as const, 'flush' as const), name }) },
);

/** Runs one step; resolves to how it ended. */
async function run(driver: Driver, one: Step, hints: Map<string, number>): Promise<string> {
  try {
    switch (one.kind) {
      case 'write':
      case 'trim':
      case 'writeZeroes': {
        const { kind, fill, ...rest } = one;
        const io: OneIo = { ...rest, hint: hints.get(one.name) ?? 0 };
        const { hint } = await runIo(
          driver,
          kind,
          kind === 'write' ? { ...io, data: Buffer.alloc(one.length, fill) } : io,
        );
        hints.set(one.name, hint);
        break;
      }
      case 'reset':
        await driver.reset(one.name, one.durable);
        break;
      case 'truncate':
        await driver.truncate(one.name, one.size);
        break;
      case 'copy':
        await driver.copy(one.name, one.other, one.size, one);
        break;
      case 'delete':
        await driver.delete(one.name);
        break;
      default:
        await driver.flush([one.name]);
    }
    return 'done';
  } catch (error) {
    return errnoName(errnoOf(error));
  }
}

async function contents(driver: Driver): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const object of await listAll(driver, 2)) {
    const { size } = await driver.info(object);
    found[object] = `${size} ${createHash('sha256')
      .update(await read(driver, object, 0, 2 * LONGEST + 8))
      .digest('hex')}`;
  }
  return found;
}

it('a sequence of operations ends as it does in memory, step by step', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30 }), fc.constantFrom(4, 512), async (steps, fdcache) => {
      const driver = await fileDriver(temporaryDirectory(), { fdcache, dirtyFiles: fdcache });
      const model = new MemoryDriver();
      const hints = new Map<string, number>();
      const modelHints = new Map<string, number>();
      for (const one of steps) expect(await run(driver, one, hints)).toBe(await run(model, one, modelHints));
      expect(await contents(driver)).toEqual(await contents(model));
      await driver.close();
    }),
    { numRuns: 60 },
  );
});

it('operations on different objects at the same time end as one after another', async () => {
  const sequences = fc.tuple(
    ...NAMES.map((own) =>
      fc.array(
        step.map((one) => ({ ...one, name: own, other: own })),
        { maxLength: 20 },
      ),
    ),
  );
  await fc.assert(
    fc.asyncProperty(sequences, async (lanes) => {
      const driver = await fileDriver(temporaryDirectory(), { fdcache: 4, dirtyFiles: 0 });
      const model = new MemoryDriver();
      const outcomes = await Promise.all(
        lanes.map(async (steps) => {
          const hints = new Map<string, number>();
          const ends: string[] = [];
          for (const one of steps) ends.push(await run(driver, one as Step, hints));
          return ends;
        }),
      );
      for (const [lane, steps] of lanes.entries()) {
        const hints = new Map<string, number>();
        for (const [i, one] of steps.entries()) expect(outcomes[lane][i]).toBe(await run(model, one as Step, hints));
      }
      expect(await contents(driver)).toEqual(await contents(model));
      await driver.close();
    }),
    { numRuns: 40 },
  );
});
