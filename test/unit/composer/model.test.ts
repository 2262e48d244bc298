/**
 * The whole stack against byte arrays: random operations on a family of volumes, snapshots and clones; after every step that could
 * mix things up, every byte of every volume is compared.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Family, step } from './family.js';
import { Stack } from './stack.js';

describe('the stack against a model', () => {
  it.each([
    ['memory' as const, 60],
    ['file' as const, 25],
  ])(
    'keeps every byte of every volume through writes, trims, snapshots, clones, resizes, renames and removals on a %s store',
    async (store, numRuns) => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(step, { minLength: 5, maxLength: 40, size: 'max' }),
          fc.boolean(),
          async (steps, writeThrough) => {
            const stack = await Stack.start({ writeThrough, store, sizeMiB: 8 });
            const family = new Family(stack);
            try {
              await family.begin();
              for (const [i, next] of steps.entries()) {
                await family.run(next);
                await family.compare();
                if (i % 4 === 3 || i === steps.length - 1) await family.compareMaps();
              }
            } finally {
              expect(await stack.stop()).toEqual([]);
            }
          },
        ),
        { numRuns, endOnFailure: true },
      );
    },
    120_000,
  );
});
