/** The hints of a volume's blocks, beside a plain table of them. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { Hints } from '../../../src/composer/hints.js';

it('never tell of another block, nor what was forgotten', () => {
  const block = fc.oneof(fc.nat({ max: 100 }), fc.nat({ max: 5000 }), fc.nat({ max: 2 ** 32 - 1 }));
  const change = fc.oneof(
    fc.record({ block, hint: fc.integer({ min: 1 }) }),
    fc.record({ first: block, count: fc.oneof(fc.nat({ max: 40 }), fc.nat({ max: 5000 })) }),
  );
  fc.assert(
    fc.property(fc.array(change, { maxLength: 200 }), (changes) => {
      const hints = new Hints();
      const said = new Map<number, number>();
      for (const each of changes) {
        if ('hint' in each) {
          hints.set(each.block, each.hint);
          said.set(each.block, each.hint);
          expect(hints.get(each.block)).toBe(each.hint);
        } else {
          hints.forget(each.first, each.first + each.count);
          for (const b of said.keys()) if (b >= each.first && b < each.first + each.count) said.set(b, 0);
        }
        for (const [b, hint] of said) expect([0, hint]).toContain(hints.get(b));
      }
    }),
  );
});

it('are there for all of 1024 blocks in a row, whatever the order they came in', () => {
  const hints = new Hints();
  for (let i = 0; i < 1024; i++) hints.set((i * 37) % 1024, i + 1);
  for (let i = 0; i < 1024; i++) expect(hints.get((i * 37) % 1024)).toBe(i + 1);
});

it('are there for the one of two blocks with the same slot that came last', () => {
  const hints = new Hints();
  hints.set(5, 1);
  hints.set(5 + 1024, 2);
  expect([hints.get(5), hints.get(5 + 1024)]).toEqual([0, 2]);
});
