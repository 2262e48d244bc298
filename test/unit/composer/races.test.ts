/**
 * Random operations at the same time on the whole stack. Whatever their order was: afterwards every byte is what one of those that
 * changed it left, or what it was before if none did; and a read or a snapshot among them sees, byte by byte, nothing else.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Flag } from '../../../src/requests/ops.js';
import { Stack } from './stack.js';

const BLOCK = 512;
const BLOCKS = 90;
const SIZE = BLOCKS * BLOCK - 100;

type Change = { kind: 'write' | 'trim' | 'zero' | 'keep'; at: number; length: number; value: number; fua: boolean };
type Other = { kind: 'read'; at: number; length: number } | { kind: 'snapshot' | 'close' | 'flush' | 'extents' };

const at = fc.oneof(
  fc.integer({ min: 0, max: SIZE - 1 }),
  fc.integer({ min: 0, max: BLOCKS - 1 }).map((block) => block * BLOCK),
);
const length = fc.oneof(
  fc.integer({ min: 1, max: 3 * BLOCK }),
  fc.integer({ min: 1, max: 8 }).map((blocks) => blocks * BLOCK),
  fc.constant(SIZE),
);
const kinds = <K extends string>(...all: K[]) => fc.constantFrom(...all);
const change: fc.Arbitrary<Change> = fc.record({
  kind: kinds('write', 'write', 'trim', 'zero', 'keep'),
  at,
  length,
  value: fc.integer({ min: 1, max: 255 }),
  fua: fc.boolean(),
});
const other: fc.Arbitrary<Other> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('read' as const), at, length }) },
  { weight: 2, arbitrary: fc.record({ kind: kinds('snapshot', 'close', 'flush', 'extents') }) },
);
const round = fc.record({
  changes: fc.array(change, { minLength: 1, maxLength: 7 }),
  others: fc.array(other, { maxLength: 5 }),
  /** How they are mixed. */
  order: fc.array(fc.nat(), { minLength: 12, maxLength: 12 }),
});

/** The values that each byte may have: what a change leaves there, and what was there before. */
function allowed(before: Buffer, changes: readonly Change[], after: boolean): Set<number>[] {
  const out = Array.from(before, () => new Set<number>());
  const replaced = new Uint8Array(before.length);
  for (const { kind, at: from, length: bytes, value } of changes) {
    for (let i = from; i < Math.min(from + bytes, before.length); i++) {
      out[i].add(kind === 'write' ? value : 0);
      // In the end what was there before may stay only under trims, which are hints.
      if (after && kind !== 'trim') replaced[i] = 1;
    }
  }
  for (let i = 0; i < before.length; i++) if (!replaced[i]) out[i].add(before[i]);
  return out;
}

function check(bytes: Buffer, from: number, values: readonly Set<number>[], what: string): void {
  for (let i = 0; i < bytes.length; i++) {
    if (values[from + i].has(bytes[i])) continue;
    throw new Error(`${what}: byte ${from + i} is ${bytes[i]}, not one of ${[...values[from + i]].join(', ')}`);
  }
}

describe('operations at the same time', () => {
  it.each([
    ['memory' as const, 8],
    ['file' as const, 3],
  ])(
    'leave every byte as one of them made it, on a %s store',
    async (store, numRuns) => {
      await fc.assert(
        fc.asyncProperty(fc.array(round, { minLength: 3, maxLength: 12 }), async (rounds) => {
          const stack = await Stack.start({ store, nrOps: 6, sizeMiB: 8 });
          let snapshots = 0;
          try {
            await stack.create('race-volume', SIZE, BLOCK);
            let now: Buffer = Buffer.alloc(SIZE);
            for (const { changes, others, order } of rounds) {
              const during = allowed(now, changes, false);
              const checks: (() => Promise<void>)[] = [];
              const start = (operation: Change | Other): Promise<unknown> => {
                const { kind } = operation;
                switch (kind) {
                  case 'snapshot': {
                    const name = `race-snapshot-${snapshots++}`;
                    checks.push(async () => check(await stack.read(name, 0, SIZE), 0, during, name));
                    return stack.snapshot('race-volume', name);
                  }
                  case 'close':
                    return stack.close('race-volume');
                  case 'flush':
                    return stack.flush('race-volume');
                  case 'extents':
                    return stack.extents('race-volume', 0, SIZE);
                }
                const bytes = Math.min(operation.length, SIZE - operation.at);
                if (kind === 'read') {
                  return stack.sparseRead('race-volume', operation.at, bytes).then(({ hole, data }) => {
                    check(hole ? Buffer.alloc(bytes) : data, operation.at, during, hole ? 'a hole' : 'a read');
                  });
                }
                const fua = operation.fua ? Flag.FUA : 0;
                if (kind === 'write') {
                  return stack.write('race-volume', operation.at, Buffer.alloc(bytes, operation.value), fua);
                }
                if (kind === 'trim') return stack.trim('race-volume', operation.at, bytes);
                const keep = kind === 'keep' ? Flag.NO_HOLE : 0;
                return stack.writeZeroes('race-volume', operation.at, bytes, fua | keep);
              };
              const mixed = [...changes, ...others]
                .map((operation, i) => ({ operation, key: order[i % order.length] }))
                .toSorted((a, b) => a.key - b.key);
              await Promise.all(mixed.map(({ operation }) => start(operation)));
              const after = await stack.read('race-volume', 0, SIZE);
              check(after, 0, allowed(now, changes, true), 'afterwards');
              for (const checkMoment of checks) await checkMoment();
              now = after;
            }
          } finally {
            expect(await stack.stop()).toEqual([]);
          }
        }),
        // A failure names its seed; making it smaller would take a stack for every try.
        { numRuns, endOnFailure: true },
      );
    },
    120_000,
  );
});
