/** Packed extents: what the answers of BLOCK_STATUS and MAPSTATUS are made of. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { decodeExtents, EXTENT_BYTES, ExtentPacker, encodeExtents } from '../../../src/requests/extents.js';

const extents = fc.array(
  fc.record({
    length: fc.integer({ min: 1, max: 2 ** 45 }),
    flags: fc.constantFrom(0, 1, 2, 0xffffffff),
    flagsHigh: fc.constantFrom(0, 0x80000001),
  }),
  { minLength: 1, maxLength: 20 },
);

it('are packed as they are encoded, merged with neighbours of the same flags, as many as fit', () => {
  fc.assert(
    fc.property(extents, fc.nat({ max: 25 * EXTENT_BYTES }), (list, spare) => {
      const room = EXTENT_BYTES + spare;
      const packer = new ExtentPacker(room);
      const taken = list.findIndex(({ length, flags, flagsHigh }) => !packer.add(length, flags, flagsHigh));
      const packed = packer.finish();
      const merged: typeof list = [];
      for (const extent of taken < 0 ? list : list.slice(0, taken)) {
        const last = merged.at(-1);
        if (last && last.flags === extent.flags && last.flagsHigh === extent.flagsHigh) last.length += extent.length;
        else merged.push({ ...extent });
      }
      const expected = Buffer.alloc(merged.length * EXTENT_BYTES);
      expect(encodeExtents(merged, expected)).toBe(expected.length);
      expect(packed).toEqual(expected);
      expect(packed.length).toBeLessThanOrEqual(room);
      // What was refused had no room.
      if (taken >= 0) expect(packed.length + EXTENT_BYTES).toBeGreaterThan(room);
      const total = decodeExtents(packed).reduce((sum, { length }) => sum + length, 0);
      expect(total).toBe((taken < 0 ? list : list.slice(0, taken)).reduce((sum, { length }) => sum + length, 0));
    }),
  );
});

it('of nothing are no bytes', () => {
  expect(new ExtentPacker(64).finish().length).toBe(0);
});
