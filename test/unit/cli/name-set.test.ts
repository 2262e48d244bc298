import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NameSet, parseObjectName } from '../../../src/cli/vlmc/check/name-set.js';

const hex = (n: number): string => n.toString(16).padStart(16, '0');
const named = (volume: string, epoch: number, index: number): string => `${volume}_${hex(epoch)}_${hex(index)}`;

describe('names of objects', () => {
  it('are taken apart into volume, epoch and block', () => {
    expect(parseObjectName(named('volume1', 3, 4_194_305))).toEqual({ volume: 'volume1', epoch: 3, index: 4_194_305 });
    expect(parseObjectName(named(named('odd', 1, 2), 3, 4))).toEqual({
      volume: named('odd', 1, 2),
      epoch: 3,
      index: 4,
    });
  });

  it.each(['', 'x'.repeat(64), 'archip_0123', `volume_${hex(1)}`, `volume_${hex(1)}_${hex(2)}_hash`])(
    'of other kinds are left alone: %j',
    (name) => {
      expect(parseObjectName(name)).toBeNull();
    },
  );
});

describe('a set of object names', () => {
  const name = fc.oneof(
    fc.tuple(fc.constantFrom('volume1', 'volume2'), fc.integer({ min: 0, max: 2 }), fc.integer({ min: 0, max: 9000 })),
    fc.constantFrom('f'.repeat(64), 'archip_abc', 'plain'),
  );
  const text = name.map((n) => (typeof n === 'string' ? n : named(...n)));
  const step = fc.record({ add: fc.boolean(), name: text });

  it('behaves like a plain Set', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const set = new NameSet();
        const model = new Set<string>();
        for (const { add, name } of steps) {
          expect(set.has(name)).toBe(model.has(name));
          if (add) {
            set.add(name);
            model.add(name);
          } else {
            set.delete(name);
            model.delete(name);
          }
          expect(set.size).toBe(model.size);
        }
        expect([...set].sort()).toEqual([...model].sort());
      }),
    );
  });
});
