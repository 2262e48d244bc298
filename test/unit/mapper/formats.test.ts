import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  blockCount,
  checkNewSize,
  DEFAULT_BLOCK_SIZE,
  fits,
  type MapHeader,
  validBlockSize,
  ZERO_NAME,
} from '../../../src/mapper/formats/header.js';
import type { Lineage } from '../../../src/mapper/formats/lineage.js';
import * as v0 from '../../../src/mapper/formats/v0.js';
import * as v1 from '../../../src/mapper/formats/v1.js';
import * as v2 from '../../../src/mapper/formats/v2.js';
import { EntryFlag, ResolvedMap } from '../../../src/requests/resolved-map.js';
import { failure } from './support.js';

const ids = fc.stringMatching(/^[0-9a-f]{31}[1-9a-f]$/);
const lineages = fc.record<Lineage>({
  id: ids,
  created: fc.option(fc.integer({ min: 1, max: 8.64e15 })),
  parentId: fc.option(ids),
  parentName: fc.option(fc.stringMatching(/^[a-zé]{6,80}$/)),
});
const headers = fc.record<MapHeader>({
  version: fc.constant(2),
  size: fc.nat({ max: 2 ** 48 }),
  blockSize: fc.constantFrom(1 << 16, 1 << 20, DEFAULT_BLOCK_SIZE, 1 << 30),
  readOnly: fc.boolean(),
  deleted: fc.boolean(),
  epoch: fc.maxSafeNat(),
  lineage: fc.option(lineages),
});

const hex16 = (n: number): string => n.toString(16).padStart(16, '0');

describe('v2 header', () => {
  it('decodes to what was encoded, padded or not', () => {
    fc.assert(
      fc.property(headers, fc.uint8Array({ maxLength: 480 }), (header, rest) => {
        const bytes = Buffer.concat([v2.encodeHeader(header), rest]);
        expect(v2.isV2(bytes)).toBe(true);
        expect(v2.decodeHeader('volume', bytes)).toEqual(header.deleted ? { ...header, lineage: null } : header);
      }),
    );
  });

  it('is the bytes of the format: big endian, 32 long, padded to a sector', () => {
    const header: MapHeader = {
      version: 2,
      size: 0x123456789a,
      blockSize: DEFAULT_BLOCK_SIZE,
      readOnly: true,
      deleted: true,
      epoch: 7,
      lineage: null,
    };
    const bytes = v2.encodeHeader(header);
    expect(bytes.toString('hex', 0, 32)).toBe(
      '414d462e' + '00000002' + '000000123456789a' + '00400000' + '00000003' + '0000000000000007',
    );
    expect(bytes.subarray(32)).toEqual(Buffer.alloc(480));
  });

  it.each([
    ['cut short', (b: Buffer) => [b.subarray(0, 31)], 'EIO'],
    ['of version 3', (b: Buffer) => [b, b.writeUInt32BE(3, 4)], 'EOPNOTSUPP'],
    ['of version 1', (b: Buffer) => [b, b.writeUInt32BE(1, 4)], 'EOPNOTSUPP'],
    ['with block size 0', (b: Buffer) => [b, b.writeUInt32BE(0, 16)], 'EIO'],
    ['with block size 128', (b: Buffer) => [b, b.writeUInt32BE(128, 16)], 'EIO'],
    ['with block size 5000', (b: Buffer) => [b, b.writeUInt32BE(5000, 16)], 'EIO'],
    ['with a size of 2^63', (b: Buffer) => [b, b.writeBigUInt64BE(2n ** 63n, 8)], 'EIO'],
    [
      'with more blocks than a map can have',
      (b: Buffer) => [b, b.writeBigUInt64BE(2n ** 52n, 8), b.writeUInt32BE(256, 16)],
      'EIO',
    ],
    ['with an epoch of 2^64-1', (b: Buffer) => [b, b.writeBigUInt64BE(2n ** 64n - 1n, 24)], 'EIO'],
    ['with unknown flags', (b: Buffer) => [b, b.writeUInt32BE(0x80, 20)], 'EIO'],
  ] as const)('refuses one %s, naming the object', (_what, spoil, code) => {
    const header: MapHeader = {
      version: 2,
      size: 5e6,
      blockSize: DEFAULT_BLOCK_SIZE,
      readOnly: false,
      deleted: false,
      epoch: 1,
      lineage: null,
    };
    const [bytes] = spoil(v2.encodeHeader(header)) as [Buffer];
    let error: unknown;
    try {
      v2.decodeHeader('vol-name', bytes);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toEqual(failure(code, 'vol-name'));
  });
});

describe('lineage', () => {
  const lineage: Lineage = {
    id: '000102030405060708090a0b0c0d0e0f',
    created: 0x19a,
    parentId: 'f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff',
    parentName: 'parent',
  };
  const header: MapHeader = {
    version: 2,
    size: 5e6,
    blockSize: DEFAULT_BLOCK_SIZE,
    readOnly: true,
    deleted: false,
    epoch: 3,
    lineage,
  };

  it('is the bytes of the format, and leaves those of the header as they are', () => {
    const bytes = v2.encodeHeader(header);
    expect(bytes.length).toBe(512);
    expect(bytes.subarray(0, 32)).toEqual(v2.encodeHeader({ ...header, lineage: null }).subarray(0, 32));
    const crc = crc32(Buffer.concat([bytes.subarray(16, 40), bytes.subarray(44, 90)]));
    expect(bytes.toString('hex', 32, 90)).toBe(
      '4c4e4745' +
        '0001' +
        '003a' +
        crc.toString(16).padStart(8, '0') +
        '000000000000019a' +
        lineage.id +
        lineage.parentId +
        Buffer.from('parent').toString('hex'),
    );
    expect(bytes.subarray(90)).toEqual(Buffer.alloc(422));
  });

  it('with any byte changed is none, and no error', () => {
    const good = v2.encodeHeader(header);
    for (let at = 32; at < 90; at++) {
      const bytes = Buffer.from(good);
      bytes[at] ^= 1;
      expect(v2.decodeHeader('volume', bytes).lineage, `byte ${at}`).toBeNull();
    }
    for (let length = 32; length < 90; length++) {
      expect(v2.decodeHeader('volume', good.subarray(0, length)).lineage, `${length} bytes`).toBeNull();
    }
    expect(v2.decodeHeader('volume', good.subarray(0, 90)).lineage).toEqual(lineage);
  });

  it('is void under a header that another program wrote, but for a new size', () => {
    const bytes = v2.encodeHeader(header);
    const under = (changed: Partial<MapHeader>): Lineage | null => {
      const out = Buffer.from(bytes);
      v2.encodeHeader({ ...header, ...changed, lineage: null }).copy(out, 0, 0, 32);
      return v2.decodeHeader('volume', out).lineage;
    };
    expect(under({ epoch: 4 })).toBeNull();
    expect(under({ readOnly: false })).toBeNull();
    expect(under({ deleted: true })).toBeNull();
    expect(under({ blockSize: 1 << 16 })).toBeNull();
    expect(under({ size: 6e6 })).toEqual(lineage);
  });

  it('never makes the decoder throw, whatever the bytes behind the header', () => {
    const bare = v2.encodeHeader({ ...header, lineage: null });
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 480 }), (rest) => {
        const bytes = Buffer.concat([bare.subarray(0, 32), rest]);
        expect(v2.decodeHeader('volume', bytes)).toEqual({ ...header, lineage: null });
      }),
    );
  });
});

describe('v2 entries', () => {
  const names = fc.oneof(
    fc
      .tuple(fc.constantFrom('volume-a', 'volume-b'), fc.nat({ max: 9 }))
      .map(([v, e]) => `${v}_${hex16(e)}_${hex16(3)}`),
    fc.stringMatching(/^[0-9a-f]{64}$/),
    fc.constantFrom('x', 'y'.repeat(123)),
  );

  it('decode to what was encoded', () => {
    fc.assert(
      fc.property(fc.constantFrom(0, 1, 2, 3, 8, 11), names, (flags, name) => {
        const map = new ResolvedMap(4);
        map.set(3, flags, name);
        const out = Buffer.alloc(v2.ENTRY_SIZE * 2);
        v2.encodeEntry(map, 3, out, v2.ENTRY_SIZE);
        const again = new ResolvedMap(4);
        expect(v2.decodeEntry(again, 3, out, v2.ENTRY_SIZE)).toBeNull();
        expect(again.objectName(3)).toBe(name);
        expect(again.flags(3) & 15).toBe(flags);
        const direct = Buffer.alloc(v2.ENTRY_SIZE * 2);
        v2.encodeNamedEntry(direct, v2.ENTRY_SIZE, flags, name);
        expect(direct.equals(out)).toBe(true);
      }),
    );
  });

  it('are the bytes of the format: little endian length, zero filled', () => {
    const out = Buffer.alloc(v2.ENTRY_SIZE);
    v2.encodeNamedEntry(out, 0, 3, 'abc');
    expect(out.toString('hex')).toBe(`03${'03000000'}616263${'00'.repeat(120)}`);
    const zero = Buffer.alloc(v2.ENTRY_SIZE);
    v2.encodeZeroEntry(zero, 0);
    expect(zero.toString('latin1', 5, 69)).toBe(ZERO_NAME);
    expect([zero[0], zero.readUInt32LE(1)]).toEqual([4, 64]);
  });

  it('take the zero name for a zero block whatever the flags say', () => {
    const out = Buffer.alloc(v2.ENTRY_SIZE);
    v2.encodeNamedEntry(out, 0, 0, ZERO_NAME);
    const map = new ResolvedMap(1);
    expect(v2.decodeEntry(map, 0, out, 0)).toBeNull();
    expect(map.flags(0)).toBe(EntryFlag.ZERO);
  });

  it('are refused when empty, too long, or with bytes no name has', () => {
    const map = new ResolvedMap(1);
    const entry = (flags: number, length: number, name: string): Buffer => {
      const out = Buffer.alloc(v2.ENTRY_SIZE);
      out[0] = flags;
      out.writeUInt32LE(length, 1);
      out.write(name, 5, 'latin1');
      return out;
    };
    expect(v2.decodeEntry(map, 0, Buffer.alloc(128), 0)).toMatch(/empty/);
    expect(v2.decodeEntry(map, 0, entry(3, 0, ''), 0)).toMatch(/empty/);
    expect(v2.decodeEntry(map, 0, entry(3, 124, 'n'), 0)).toMatch(/124 bytes/);
    expect(v2.decodeEntry(map, 0, entry(3, 0xffffffff, 'n'), 0)).toMatch(/4294967295 bytes/);
    expect(v2.decodeEntry(map, 0, entry(16, 3, 'abc'), 0)).toMatch(/flags/);
    expect(v2.decodeEntry(map, 0, entry(3, 3, 'a/b'), 0)).toMatch(/slash/);
    expect(v2.decodeEntry(map, 0, entry(3, 4, 'abc'), 0)).toMatch(/NUL/);
    expect(map.has(0)).toBe(false);
    expect(() => v2.encodeNamedEntry(Buffer.alloc(128), 0, 3, 'n'.repeat(124))).toThrow(/longer than/);
  });

  it('never make the decoder throw, whatever the bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 128, maxLength: 128 }), (bytes) => {
        const map = new ResolvedMap(1);
        const complaint = v2.decodeEntry(map, 0, Buffer.from(bytes), 0);
        expect(map.has(0)).toBe(complaint === null);
      }),
    );
  });

  it('lie in map-data objects of block size / 128 entries', () => {
    const runs = [...v2.entryRuns('volume', 65536, 510, 1030, 4096)];
    expect(runs).toEqual([
      { object: `volume_${hex16(0)}`, offset: 510 * 128, first: 510, count: 2 },
      { object: `volume_${hex16(1)}`, offset: 0, first: 512, count: 512 },
      { object: `volume_${hex16(2)}`, offset: 0, first: 1024, count: 512 },
      { object: `volume_${hex16(3)}`, offset: 0, first: 1536, count: 4 },
    ]);
    expect([...v2.entryRuns('volume', DEFAULT_BLOCK_SIZE, 0, 5000, 4096)].map((run) => run.count)).toEqual([4096, 904]);
  });
});

describe('v1 maps', () => {
  const map = (size: number, entries: [number, string][]): Buffer => {
    const out = Buffer.alloc(12 + 33 * entries.length);
    out.writeUInt32LE(1, 0);
    out.writeBigUInt64LE(BigInt(size), 4);
    entries.forEach(([flag, hex], i) => {
      out[12 + 33 * i] = flag;
      out.write(hex, 13 + 33 * i, 'hex');
    });
    return out;
  };

  it('are recognised by signature and length, exact or padded to 512', () => {
    const bytes = map(9e6, [
      [1, 'ab'.repeat(32)],
      [0, ZERO_NAME],
      [0, 'cd'.repeat(32)],
    ]);
    expect(v1.isV1(bytes, 12 + 99)).toBe(true);
    expect(v1.isV1(bytes, 512)).toBe(true);
    for (const length of [12 + 98, 12 + 100, 1024, 0]) expect(v1.isV1(bytes, length)).toBe(false);
    const entries = new ResolvedMap(3);
    for (let i = 0; i < 3; i++) v1.decodeEntry(entries, i, bytes, v1.entryOffset(i));
    expect([0, 1, 2].map((i) => [entries.flags(i) & 15, entries.objectName(i)])).toEqual([
      [3, `archip_${'ab'.repeat(32)}`],
      [4, ''],
      [0, 'cd'.repeat(32)],
    ]);
    expect(v1.decodeHeader('old-volume', bytes)).toMatchObject({ version: 1, size: 9e6, epoch: 0, readOnly: false });
  });

  it('with an absurd size are not taken for v1', () => {
    const bytes = map(0, []);
    bytes.writeBigUInt64LE(2n ** 64n - 1n, 4);
    expect(v1.isV1(bytes, 512)).toBe(false);
  });
});

describe('v0 maps', () => {
  it('end at the first hash of zeros, or at the end', () => {
    const one = Buffer.alloc(32, 7);
    const none = Buffer.alloc(32);
    expect(v0.countEntries(Buffer.concat([one, one]))).toEqual({ count: 2, ended: false });
    expect(v0.countEntries(Buffer.concat([one, none, one]))).toEqual({ count: 1, ended: true });
    expect(v0.countEntries(none)).toEqual({ count: 0, ended: true });
  });

  it('take a size only if it goes with the number of hashes', () => {
    expect(v0.makeHeader('map', 4, -1).size).toBe(4 * DEFAULT_BLOCK_SIZE);
    expect(v0.makeHeader('map', 4, 15_000_000)).toMatchObject({ size: 15_000_000, readOnly: true, version: 0 });
    expect(() => v0.makeHeader('map', 4, 12_000_000)).toThrow(/does not go with/);
    expect(() => v0.makeHeader('map', 4, 17_000_000)).toThrow(/does not go with/);
    expect(() => v0.checkLength('map', 33)).toThrow(/32-byte hashes/);
    expect(() => v0.checkLength('map', 2 ** 40)).toThrow(/too many/);
  });
});

describe('limits', () => {
  it('block sizes are powers of two over 128', () => {
    expect([256, 4096, DEFAULT_BLOCK_SIZE, 2 ** 31].every(validBlockSize)).toBe(true);
    expect([0, 1, 128, 129, 5000, 2 ** 32, -256, Number.NaN].some(validBlockSize)).toBe(false);
  });

  it('sizes are whole, over 0, and of not more blocks than a map can have', () => {
    expect(blockCount(1, 4096)).toBe(1);
    expect(blockCount(4097, 4096)).toBe(2);
    checkNewSize('volume', 1, DEFAULT_BLOCK_SIZE);
    checkNewSize('volume', 2 ** 44 + 1, DEFAULT_BLOCK_SIZE);
    for (const size of [0, -1, 1.5, Number.NaN]) {
      expect(() => checkNewSize('volume', size, 4096)).toThrow(/at least 1/);
    }
    expect(() => checkNewSize('volume', 2 ** 50, 256)).toThrow(/too many/);
    expect(fits(33, 33) && fits(512, 33) && !fits(34, 33)).toBe(true);
  });
});
