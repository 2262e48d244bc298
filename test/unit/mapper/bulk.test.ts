/** Snapshots and clones are made of stored bytes: what they then hold, and what a damaged or newer map means for them. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ZERO_NAME } from '../../../src/mapper/formats/header.js';
import * as v2 from '../../../src/mapper/formats/v2.js';
import { countBytes, shareBytes, zeroBytes } from '../../../src/mapper/formats/v2-bytes.js';
import { EntryFlag, ResolvedMap } from '../../../src/requests/resolved-map.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { createSmall, failure, memoryNode, readVolume, writeVolume } from './support.js';

const BLOCK = 4096;
const KEEP = EntryFlag.ARCHIP | EntryFlag.ZERO;

const entries = fc.record({
  flags: fc.integer({ min: 0, max: 17 }),
  length: fc.oneof(fc.integer({ min: 0, max: 124 }), fc.constantFrom(64, 1 << 8, 1 << 24)),
  name: fc.oneof(
    fc.constant(ZERO_NAME),
    fc.constant('volume_0000000000000001_0000000000000000'),
    fc.stringMatching(/^[a-z/\0]{1,123}$/),
  ),
});

function stored(list: readonly { flags: number; length: number; name: string }[]): Buffer {
  const bytes = Buffer.alloc(list.length * v2.ENTRY_SIZE);
  for (const [i, { flags, length, name }] of list.entries()) {
    const at = i * v2.ENTRY_SIZE;
    bytes[at] = flags;
    bytes.writeUInt32LE(length, at + 1);
    bytes.write(name, at + 5, 123, 'latin1');
  }
  return bytes;
}

describe('countBytes', () => {
  it('counts stored entries as decoding each does', () => {
    fc.assert(
      fc.property(fc.array(entries, { minLength: 1, maxLength: 20 }), (list) => {
        const bytes = stored(list);
        const map = new ResolvedMap(list.length);
        const expected = { zero: 0, own: 0, shared: 0, foreign: 0, damaged: 0 };
        for (let i = 0; i < list.length; i++) {
          const fine = v2.decodeEntry(map, i, bytes, i * v2.ENTRY_SIZE) === null;
          const flags = fine ? map.flags(i) : EntryFlag.DELETED;
          if (flags & EntryFlag.DELETED) expected.damaged++;
          else if (flags & EntryFlag.ZERO) expected.zero++;
          else if ((flags & EntryFlag.ARCHIP) === 0) expected.foreign++;
          else if (flags & EntryFlag.WRITABLE) expected.own++;
          else expected.shared++;
        }
        const counts = { zero: 0, own: 0, shared: 0, foreign: 0, damaged: 0 };
        countBytes(bytes, counts);
        expect(counts).toEqual(expected);
      }),
    );
  });
});

it('stat counts what is known of a volume where the stored map does not tell it yet', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', 8 * BLOCK, BLOCK);
  await writeVolume(node, 'volume', 2 * BLOCK, Buffer.alloc(3 * BLOCK, 1));
  const { blocks } = await node.mapper.stat('volume');
  expect(blocks).toEqual({ total: 8, zero: 5, own: 3, shared: 0, foreign: 0, damaged: 0 });
  await node.mapper.snapshot('volume', 'snapshot');
  expect((await node.mapper.stat('volume')).blocks).toMatchObject({ zero: 5, own: 0, shared: 3 });
  expect((await node.mapper.stat('snapshot')).blocks).toMatchObject({ zero: 5, own: 0, shared: 3 });
});

describe('shareBytes', () => {
  it('does to stored entries what decoding, dropping flags and encoding does', () => {
    fc.assert(
      fc.property(fc.array(entries, { minLength: 1, maxLength: 20 }), (list) => {
        const bytes = stored(list);
        const map = new ResolvedMap(list.length);
        const usable = list.map((_, i) => {
          const fine = v2.decodeEntry(map, i, bytes, i * v2.ENTRY_SIZE) === null;
          return fine && (map.flags(i) & EntryFlag.DELETED) === 0;
        });
        const { damaged, writable } = shareBytes(bytes);
        expect(damaged).toBe(usable.indexOf(false));
        if (damaged >= 0) return;
        expect(writable).toBe(list.some((_, i) => (map.flags(i) & EntryFlag.WRITABLE) !== 0));
        const shared = new ResolvedMap(list.length);
        for (let i = 0; i < list.length; i++) {
          v2.decodeEntry(shared, i, bytes, i * v2.ENTRY_SIZE);
          const zero = (map.flags(i) & EntryFlag.ZERO) !== 0;
          expect(shared.flags(i)).toBe(zero ? EntryFlag.ZERO : map.flags(i) & (KEEP | EntryFlag.LITERAL));
          expect(shared.objectName(i)).toBe(map.objectName(i));
        }
      }),
    );
  });

  it('leaves what a snapshot holds already as it is', () => {
    const list = [2, 0, EntryFlag.ZERO].map((flags) => ({
      flags,
      length: 64,
      name: flags ? ZERO_NAME : 'f'.repeat(64),
    }));
    list[0] = { flags: 2, length: 5, name: 'entry' };
    const bytes = stored(list);
    const before = Buffer.from(bytes);
    expect(shareBytes(bytes)).toEqual({ damaged: -1, writable: false });
    expect(bytes.equals(before)).toBe(true);
  });
});

it('zero entries in bulk are those that are encoded one by one', () => {
  for (const count of [0, 1, 2, 3, 1000]) {
    const expected = Buffer.alloc(count * v2.ENTRY_SIZE);
    for (let i = 0; i < count; i++) v2.encodeZeroEntry(expected, i * v2.ENTRY_SIZE);
    expect(zeroBytes(count).equals(expected)).toBe(true);
  }
});

describe('a snapshot', () => {
  // Map-data objects of 32 entries: three of them, the last one short.
  const BLOCKS = 70;

  it('and its clone hold every block of a map of several objects, and the volume goes on by itself', async () => {
    const node = memoryNode();
    await createSmall(node, 'volume-a', BLOCKS * BLOCK, BLOCK);
    for (let i = 0; i < BLOCKS; i += 3) await writeVolume(node, 'volume-a', i * BLOCK, Buffer.alloc(BLOCK, i + 1));
    const before = await readVolume(node, 'volume-a', 0, BLOCKS * BLOCK);
    await node.mapper.snapshot('volume-a', 'snapshot-a');
    await node.mapper.clone('volume-b', 'snapshot-a', (BLOCKS + 40) * BLOCK);
    for (let i = 0; i < BLOCKS; i++) await writeVolume(node, 'volume-a', i * BLOCK, Buffer.alloc(BLOCK, 255));
    expect((await readVolume(node, 'snapshot-a', 0, BLOCKS * BLOCK)).equals(before)).toBe(true);
    const clone = await readVolume(node, 'volume-b', 0, (BLOCKS + 40) * BLOCK);
    expect(clone.equals(Buffer.concat([before, Buffer.alloc(40 * BLOCK)]))).toBe(true);
  });

  /** Names of the objects that are written while `work` fails as expected, and those of the snapshot that are there afterwards. */
  async function failing(node: ReturnType<typeof memoryNode>, work: () => Promise<void>) {
    const written = new Set<string>();
    const { before } = node.maps;
    node.maps.before = async (operation, name) => {
      if (operation === 'write') written.add(name);
      await before(operation, name);
    };
    await work();
    const { names } = await node.maps.list(null, 100);
    return {
      written: [...written].sort(),
      left: names.filter((name) => name.startsWith('snap')),
    };
  }

  it('of a map with one damaged entry is refused before anything of the volume changes, and nothing of it is left', async () => {
    const node = memoryNode();
    await createSmall(node, 'volume-a', BLOCKS * BLOCK, BLOCK);
    await writeVolume(node, 'volume-a', 0, Buffer.alloc(BLOCK, 1));
    await node.mapper.close('volume-a');
    await node.maps.write('volume-a_0000000000000002', 5 * v2.ENTRY_SIZE, Buffer.alloc(v2.ENTRY_SIZE, 0xff));
    const { written, left } = await failing(node, () =>
      expect(node.mapper.snapshot('volume-a', 'snapshot-a')).rejects.toEqual(failure('EIO', 'entry of block 69')),
    );
    expect(written).toEqual(['snapshot-a_0000000000000000', 'snapshot-a_0000000000000001']);
    expect(left).toEqual([]);
  });

  it('for which the store has no room leaves the volume as it was, and can be taken when there is', async () => {
    const node = memoryNode();
    await createSmall(node, 'volume-a', BLOCKS * BLOCK, BLOCK);
    await writeVolume(node, 'volume-a', 0, Buffer.alloc(BLOCK, 1));
    await node.mapper.flush('volume-a');
    let full = true;
    node.maps.before = (operation, name) => {
      if (full && operation === 'write' && name === 'snapshot-a_0000000000000001') {
        throw new SystemError(errnos.ENOSPC, 'full');
      }
    };
    const { written, left } = await failing(node, () =>
      expect(node.mapper.snapshot('volume-a', 'snapshot-a')).rejects.toEqual(failure('ENOSPC', 'full')),
    );
    expect(written.filter((name) => name.startsWith('volume-a'))).toEqual([]);
    expect(left).toEqual([]);
    full = false;
    await node.mapper.snapshot('volume-a', 'snapshot-a');
    expect((await readVolume(node, 'snapshot-a', 0, BLOCK)).equals(Buffer.alloc(BLOCK, 1))).toBe(true);
  });

  it('has what is in memory of the map, should the store say something else', async () => {
    const node = memoryNode();
    await createSmall(node, 'volume-a', BLOCKS * BLOCK, BLOCK);
    await writeVolume(node, 'volume-a', 33 * BLOCK, Buffer.alloc(BLOCK, 7));
    // The entry is lost in the store; requests were served by the one in memory.
    await node.maps.write('volume-a_0000000000000001', v2.ENTRY_SIZE, zeroBytes(1));
    await node.mapper.snapshot('volume-a', 'snapshot-a');
    expect((await readVolume(node, 'snapshot-a', 33 * BLOCK, BLOCK)).equals(Buffer.alloc(BLOCK, 7))).toBe(true);
  });

  it("has its header written when all entries, the volume's and its own, are durable", async () => {
    const node = memoryNode();
    await createSmall(node, 'volume-a', BLOCKS * BLOCK, BLOCK);
    await writeVolume(node, 'volume-a', 0, Buffer.alloc(BLOCK, 1));
    const dirty = new Set<string>();
    let atHeader: string[] | null = null;
    node.maps.before = (operation, name) => {
      if (operation === 'write' && name === 'snapshot-a') atHeader = [...dirty];
      if (operation === 'write') dirty.add(name);
      if (operation === 'flush') for (const flushed of name.split(' ')) dirty.delete(flushed);
    };
    await node.mapper.snapshot('volume-a', 'snapshot-a');
    expect(atHeader).toEqual([]);
  });
});

it('a clone of a v0 map, whose entries are stored in another way, holds its blocks, and zeros past its end', async () => {
  const node = memoryNode();
  const name = 'ab'.repeat(32);
  await node.maps.write('pithos-map', 0, Buffer.from(name, 'hex'));
  await node.blocks.write(name, 0, Buffer.alloc(BLOCK, 9));
  const size = 4 << 20;
  await node.mapper.clone('volume-a', 'pithos-map', 2 * size, { assumeV0: true, v0Size: -1 });
  const read = await readVolume(node, 'volume-a', 0, 2 * size);
  expect(read.subarray(0, BLOCK).equals(Buffer.alloc(BLOCK, 9))).toBe(true);
  expect(read.subarray(BLOCK).every((byte) => byte === 0)).toBe(true);
});
