import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CHUNK_ENTRIES, EntryFlag, pieceRange, ResolvedMap } from '../../../src/requests/resolved-map.js';

const hex16 = (n: number): string => n.toString(16).padStart(16, '0');
const ownName = (prefix: string, epoch: number, i: number): string => `${prefix}_${hex16(epoch)}_${hex16(i)}`;

const anyName = (i: number) =>
  fc.oneof(
    fc
      .tuple(fc.constantFrom('vol-one', 'vol-two', 'ünïcode', 'a_b_c'), fc.nat({ max: 2 ** 40 }))
      .map(([p, e]) => ownName(p, e, i)),
    fc.constantFrom('archip_'.padEnd(71, 'a'), 'f'.repeat(64), ownName('vol-one', 3, i + 1), 'x', 'y'.repeat(255)),
  );

const entries = (count: number) =>
  fc.tuple(
    ...Array.from({ length: count }, (_, i) =>
      fc.oneof(
        fc.constant({ flags: EntryFlag.ZERO as number, name: '' }),
        fc.record({ flags: fc.constantFrom(0, 1, 2, 3), name: anyName(i) }),
      ),
    ),
  );

describe('resolved map', () => {
  it('gives back the flags and names stored in it, and carries them over in a piece', () => {
    fc.assert(
      fc.property(entries(12), (list) => {
        const map = new ResolvedMap(list.length);
        for (const [i, e] of list.entries()) map.set(i, e.flags, e.name);
        const copy = new ResolvedMap(list.length);
        const piece = map.serialiseChunk(0, list.length, 1 << 20);
        expect(copy.setChunk(piece)).toEqual({ first: 0, count: list.length });
        for (const m of [map, copy]) {
          for (const [i, e] of list.entries()) {
            expect(m.flags(i) & ~EntryFlag.LITERAL).toBe(e.flags);
            expect(m.objectName(i)).toBe(e.name);
            const target = new Uint8Array(260);
            const length = m.writeName(i, target, 3);
            expect(Buffer.from(target.subarray(3, 3 + length)).toString('utf8')).toBe(e.name);
            expect(m.nameLength(i)).toBe(length);
          }
        }
      }),
    );
  });

  it('keeps names with 64-bit epochs and high block indexes exact', () => {
    const map = new ResolvedMap(2 ** 32);
    const i = 2 ** 32 - 1;
    const name = `volume_fedcba9876543210_${hex16(i)}`;
    map.set(i, 3, name);
    expect(map.objectName(i)).toBe(name);
    expect(map.flags(i)).toBe(3);
    expect(map.has(i - 1)).toBe(false);
    expect(() => map.flags(0)).toThrow(RangeError);
  });

  it('marks a name that is not of its own block, or has upper-case digits, as a literal', () => {
    const map = new ResolvedMap(4);
    map.set(1, 3, ownName('volume', 1, 2));
    map.set(2, 3, ownName('volume', 0xabc, 2).toUpperCase());
    map.set(3, 3, ownName('volume', 0xabc, 3));
    expect(map.flags(1) & EntryFlag.LITERAL).toBeTruthy();
    expect(map.flags(2) & EntryFlag.LITERAL).toBeTruthy();
    expect(map.flags(3) & EntryFlag.LITERAL).toBe(0);
    expect(map.objectName(2)).toBe(ownName('volume', 0xabc, 2).toUpperCase());
  });

  it('costs at most 16 bytes an entry for own names', () => {
    const map = new ResolvedMap(16 * CHUNK_ENTRIES);
    for (let i = 0; i < map.blockCount; i++) map.setOwn(i, 3, 'a-volume-with-a-name', 7);
    expect(map.memoryUsage / map.blockCount).toBeLessThanOrEqual(16);
    expect(map.objectName(65535)).toBe(ownName('a-volume-with-a-name', 7, 65535));
  });

  it('takes no memory for blocks that a small volume does not have', () => {
    const map = new ResolvedMap(8);
    for (let i = 0; i < 8; i++) map.setOwn(i, 3, 'small-volume', 1);
    expect(map.memoryUsage).toBeLessThanOrEqual(8 * 16 + 'small-volume'.length);
  });

  it('keeps its entries while the volume grows and shrinks', () => {
    const names = fc.constantFrom('vol-one', 'vol-two');
    const change = fc.oneof(
      fc.record({ set: fc.nat({ max: 3 * CHUNK_ENTRIES }), name: names, literal: fc.boolean() }),
      fc.record({ size: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 3 * CHUNK_ENTRIES })) }),
    );
    fc.assert(
      fc.property(fc.array(change, { maxLength: 30 }), (changes) => {
        const map = new ResolvedMap(5);
        const known = new Map<number, string>();
        for (const each of changes) {
          if ('size' in each) {
            map.resize(each.size);
            for (const i of known.keys()) if (i >= each.size) known.delete(i);
          } else {
            const i = each.set % map.blockCount;
            const name = each.literal ? `literal-${each.name}-${i}` : ownName(each.name, 7, i);
            map.set(i, 3, name);
            known.set(i, name);
          }
          for (const [i, name] of known) expect(map.objectName(i)).toBe(name);
          for (const i of [0, 4, 5, 39, 4095, 4096, map.blockCount - 1]) expect(map.has(i)).toBe(known.has(i));
        }
      }),
    );
  });

  it('forgets what resize cuts off and what it is told to', () => {
    const map = new ResolvedMap(CHUNK_ENTRIES * 2 + 5);
    for (let i = 0; i < map.blockCount; i++) map.setZero(i);
    map.forget(10, 2);
    expect([9, 10, 11, 12].map((i) => map.has(i))).toEqual([true, false, false, true]);
    map.resize(CHUNK_ENTRIES + 1);
    map.resize(CHUNK_ENTRIES * 3);
    expect(map.has(CHUNK_ENTRIES)).toBe(true);
    expect(map.has(CHUNK_ENTRIES + 1)).toBe(false);
    expect(map.has(CHUNK_ENTRIES * 2 + 2)).toBe(false);
    expect(() => map.setZero(CHUNK_ENTRIES * 3)).toThrow(RangeError);
  });

  it('changes flags without losing the name', () => {
    const map = new ResolvedMap(2);
    map.set(0, 3, 'literal-name');
    map.setFlags(0, EntryFlag.ARCHIP);
    expect(map.flags(0)).toBe(EntryFlag.ARCHIP | EntryFlag.LITERAL);
    expect(map.objectName(0)).toBe('literal-name');
  });

  it('stops a piece at the size limit, at an absent entry and at the end of a chunk', () => {
    const map = new ResolvedMap(CHUNK_ENTRIES + 10);
    for (let i = 0; i < map.blockCount; i++) map.set(i, 0, `${'b'.repeat(50)}${i}`);
    const piece = map.serialiseChunk(0, CHUNK_ENTRIES + 10, 1000);
    expect(piece.length).toBeLessThanOrEqual(1000);
    const range = pieceRange(piece);
    expect(range.count).toBeGreaterThan(5);
    expect(range.count).toBeLessThan(20);
    map.forget(20, 1);
    expect(pieceRange(map.serialiseChunk(15, 100, 1 << 20))).toEqual({ first: 15, count: 5 });
    expect(pieceRange(map.serialiseChunk(CHUNK_ENTRIES - 2, 100, 1 << 20))).toEqual({
      first: CHUNK_ENTRIES - 2,
      count: 2,
    });
    expect(() => map.serialiseChunk(0, 1, 40)).toThrow(expect.objectContaining({ code: 'ERANGE' }));
  });

  it('refuses damaged pieces with EINVAL and changes nothing', () => {
    const source = new ResolvedMap(3);
    source.set(0, 3, ownName('volume', 1, 0));
    source.set(1, 0, 'foreign-object');
    source.setZero(2);
    const good = source.serialiseChunk(0, 3, 4096);
    fc.assert(
      fc.property(fc.nat({ max: good.length - 1 }), fc.integer({ min: 1, max: 255 }), (at, xor) => {
        const bad = Buffer.from(good);
        bad[at] ^= xor;
        const map = new ResolvedMap(3);
        try {
          map.setChunk(bad);
        } catch (error) {
          expect(error).toMatchObject({ code: 'EINVAL' });
          expect([map.has(0), map.has(1), map.has(2)]).toEqual([false, false, false]);
          return;
        }
        // Damage inside a name or an epoch cannot be seen; the map must still be usable.
        for (let i = 0; i < 3; i++) if (map.has(i)) map.objectName(i);
      }),
      { numRuns: 1000 },
    );
    for (let cut = 0; cut < good.length; cut++) {
      expect(() => new ResolvedMap(3).setChunk(good.subarray(0, cut))).toThrow(
        expect.objectContaining({ code: 'EINVAL' }),
      );
    }
    expect(() => new ResolvedMap(2).setChunk(good)).toThrow(expect.objectContaining({ code: 'EINVAL' }));
  });
});
