/** Small parts: the gather budget, extents, the buffer pool, the memory disk. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BufferPool } from '../../../src/nbd/buffer-pool.js';
import { wireError } from '../../../src/nbd/errors.js';
import { clampExtents } from '../../../src/nbd/extents.js';
import { GatherBudget } from '../../../src/nbd/gather.js';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import { errnos } from '../../../src/sys/errno.js';

describe('the gather budget', () => {
  test('is never exceeded, and what came back is there for the next', () => {
    const budget = new GatherBudget(100);
    const a = budget.take(60);
    expect(budget.take(60)).toBeNull();
    const c = budget.take(40);
    expect(budget.take(1)).toBeNull();
    if (a === null || c === null) throw new Error('refused');
    budget.give(c);
    expect(budget.take(60)).toBeNull();
    budget.give(a);
    expect(budget.take(100)).toHaveLength(100);
  });
});

describe('extents for the wire', () => {
  const extents = fc.array(fc.record({ length: fc.integer({ min: 0, max: 2 ** 33 }), flags: fc.nat(3) }), {
    maxLength: 20,
  });
  test('cover a prefix of the request, none empty, none past its end', () => {
    fc.assert(
      fc.property(extents, fc.integer({ min: 1, max: 0xffffffff }), fc.boolean(), (list, length, one) => {
        const out = clampExtents(list, length, one, false);
        if (out === null) {
          expect(list.every((extent) => extent.length === 0)).toBe(true);
          return;
        }
        expect(out.every((extent) => extent.length > 0 && extent.length <= 0xffffffff)).toBe(true);
        const sum = out.reduce((total, extent) => total + extent.length, 0);
        expect(sum).toBe(
          Math.min(length, one ? out[0].length : list.reduce((total, extent) => total + extent.length, 0)),
        );
        if (one) expect(out).toHaveLength(1);
      }),
    );
  });

  test('are at most 2^20', () => {
    const many = Array.from({ length: 2 ** 20 + 5 }, (_, i) => ({ length: 512, flags: i & 1 }));
    expect(clampExtents(many, 0xffffffff, false, false)).toHaveLength(2 ** 20);
  });
});

describe('the buffer pool', () => {
  test('hands out at most its count and tells when one is back', () => {
    const pool = new BufferPool(4096, 2);
    const [a, b] = [pool.allocate(), pool.allocate()];
    if (a === null || b === null) throw new Error('refused');
    expect(a.address).not.toBe(b.address);
    expect(pool.allocate()).toBeNull();
    let told = 0;
    pool.whenAvailable(() => {
      told++;
    });
    pool.release(a);
    pool.release(b);
    expect(told).toBe(1);
    expect(pool.inUse).toBe(0);
    expect(pool.allocate()).not.toBeNull();
  });
});

describe('the memory disk', () => {
  test('is a byte array with holes', () => {
    const size = 400_000;
    const place = { offset: fc.integer({ min: 0, max: size - 1 }), length: fc.integer({ min: 1, max: 150_000 }) };
    const step = fc.record({
      ...place,
      what: fc.constantFrom('write', 'trim', 'zero'),
      byte: fc.integer({ min: 1, max: 255 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
        const disk = new MemoryDisk({ size });
        const model = Buffer.alloc(size);
        for (const { what, offset, length: wanted, byte } of steps) {
          const length = Math.min(wanted, size - offset);
          if (what === 'write') disk.write(Buffer.alloc(length, byte), offset, length);
          else disk.zero(offset, length, what === 'zero');
          model.fill(what === 'write' ? byte : 0, offset, offset + length);
        }
        const read = Buffer.alloc(size, 0xee);
        disk.read(read, 0, size);
        expect(read.equals(model)).toBe(true);
        let at = 0;
        for (const extent of disk.extents(0, size)) {
          if (extent.flags !== 0)
            expect(model.subarray(at, at + extent.length).every((value) => value === 0)).toBe(true);
          at += extent.length;
        }
        expect(at).toBe(size);
      }),
      { numRuns: 50 },
    );
  });
});

test('no errno of a device becomes a value the protocol does not know', () => {
  const known = new Set([1, 5, 12, 22, 28, 95, 108]);
  for (const errno of Object.values(errnos)) {
    expect(known.has(wireError(errno, true))).toBe(true);
    expect(wireError(errno, false)).not.toBe(95);
  }
});
