/** MAPSTATUS: what the maps tell of a range, in bounded pieces, exact at block granularity. */
import { crc32 } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { ZERO_NAME } from '../../../src/mapper/formats/header.js';
import { noV0 } from '../../../src/mapper/map-store.js';
import { decodeExtents, EXTENT_BYTES, ObjectFlag, type PackedExtent } from '../../../src/requests/extents.js';
import type { MapStatusRequest } from '../../../src/requests/json.js';
import { CHUNK_ENTRIES } from '../../../src/requests/resolved-map.js';
import { createSmall, failure, memoryNode, memoryStores, type Node, writeVolume } from './support.js';

const BLOCK = 256;
const ROOM = 1 << 20;

async function status(
  node: Node,
  name: string,
  request: MapStatusRequest,
  offset: number,
  size: number,
  room = ROOM,
): Promise<PackedExtent[]> {
  return decodeExtents(await node.mapper.mapStatus(name, request, offset, size, room));
}

/** `[length, flags]` of each extent of a whole volume, from as many requests as it takes. */
async function scan(node: Node, name: string, request: MapStatusRequest, room = ROOM): Promise<[number, number][]> {
  const { size } = await node.mapper.describe(name);
  const found: [number, number][] = [];
  for (let at = 0; at < size; ) {
    const extents = await status(node, name, request, at, size - at, room);
    expect(extents.length).toBeGreaterThan(0);
    for (const { length, flags } of extents) {
      expect(length).toBeGreaterThan(0);
      at += length;
      const last = found.at(-1);
      if (last?.[1] === flags) last[0] += length;
      else found.push([length, flags]);
    }
    expect(at).toBeLessThanOrEqual(size);
  }
  return found;
}

const object = (name: string, flags: number) => ({ flags: flags >>> 0, flagsHigh: crc32(name) });

/** Blocks: 0 shared and written again, 1 shared, 2 own, 3 and 4 zero, 5 partial. */
async function prepare(): Promise<Node> {
  const node = memoryNode();
  await createSmall(node, 'the-volume', 5 * BLOCK + 100, BLOCK);
  await writeVolume(node, 'the-volume', 0, Buffer.alloc(2 * BLOCK, 1));
  await node.mapper.snapshot('the-volume', 'the-snapshot');
  await writeVolume(node, 'the-volume', 10, Buffer.alloc(10, 2));
  await writeVolume(node, 'the-volume', 2 * BLOCK, Buffer.alloc(1, 3));
  return node;
}

describe('depth', () => {
  it('tells zeros, own and shared blocks, merged and cut at the ends of the range', async () => {
    const node = await prepare();
    expect(await scan(node, 'the-volume', { what: 'depth' })).toEqual([
      [BLOCK, 1],
      [BLOCK, 2],
      [BLOCK, 1],
      [2 * BLOCK + 100, 0],
    ]);
    expect(await status(node, 'the-volume', { what: 'depth' }, 100, BLOCK)).toEqual([
      { length: BLOCK - 100, flags: 1 },
      { length: 100, flags: 2 },
    ]);
    expect(await status(node, 'the-volume', { what: 'depth' }, 5 * BLOCK + 99, 1)).toEqual([{ length: 1, flags: 0 }]);
    expect(await scan(node, 'the-snapshot', { what: 'depth' })).toEqual([
      [2 * BLOCK, 2],
      [3 * BLOCK + 100, 0],
    ]);
  });

  it('is the same in pieces, however little room there is', async () => {
    const node = await prepare();
    const whole = await scan(node, 'the-volume', { what: 'depth' });
    for (const room of [EXTENT_BYTES, EXTENT_BYTES + 7, 2 * EXTENT_BYTES]) {
      expect(await scan(node, 'the-volume', { what: 'depth' }, room)).toEqual(whole);
    }
  });
});

describe('object', () => {
  it('tells the generation, whether it is written in place, and whose it is', async () => {
    const node = await prepare();
    await node.mapper.close('the-volume');
    await node.mapper.clone('the-clone', 'the-snapshot', 0);
    await writeVolume(node, 'the-clone', 3 * BLOCK, Buffer.alloc(1, 9));
    const name = (volume: string, epoch: number, i: number): string =>
      `${volume}_${epoch.toString(16).padStart(16, '0')}_${i.toString(16).padStart(16, '0')}`;
    const { PRESENT, WRITABLE, OTHER_VOLUME } = ObjectFlag;
    const all = 5 * BLOCK + 100;
    expect(await status(node, 'the-volume', { what: 'object' }, 0, all)).toEqual([
      { length: BLOCK, ...object(name('the-volume', 2, 0), PRESENT | WRITABLE | 2) },
      { length: BLOCK, ...object(name('the-volume', 1, 1), PRESENT | 1) },
      { length: BLOCK, ...object(name('the-volume', 2, 2), PRESENT | WRITABLE | 2) },
      { length: 2 * BLOCK + 100, flags: 0 },
    ]);
    expect(await status(node, 'the-clone', { what: 'object' }, 0, all)).toEqual([
      { length: BLOCK, ...object(name('the-volume', 1, 0), PRESENT | OTHER_VOLUME | 1) },
      { length: BLOCK, ...object(name('the-volume', 1, 1), PRESENT | OTHER_VOLUME | 1) },
      { length: BLOCK, flags: 0 },
      { length: BLOCK, ...object(name('the-clone', 1, 3), PRESENT | WRITABLE | 1) },
      { length: BLOCK + 100, flags: 0 },
    ]);
  });

  it('tells content-addressed objects, and names of another block, for what they are', async () => {
    const node = memoryNode();
    const hash = 'ab'.repeat(32);
    const other = 'some-image_0000000000000007_0000000000000009';
    await node.mapper.createFromObjects('an-image', 2 * BLOCK, {
      blockSize: BLOCK,
      readOnly: true,
      objects: [
        { name: hash, readOnly: true },
        { name: other, readOnly: true },
      ],
    });
    const { PRESENT, FOREIGN, OTHER_VOLUME } = ObjectFlag;
    expect(await status(node, 'an-image', { what: 'object' }, 0, 2 * BLOCK)).toEqual([
      { length: BLOCK, ...object(hash, PRESENT | FOREIGN) },
      { length: BLOCK, ...object(other, PRESENT | OTHER_VOLUME | 7) },
    ]);
  });
});

describe('diff', () => {
  const diff: MapStatusRequest = { what: 'diff', from: 'the-snapshot' };

  it('tells written, trimmed and grown blocks', async () => {
    const node = await prepare();
    expect(await scan(node, 'the-volume', diff)).toEqual([
      [BLOCK, 1],
      [BLOCK, 0],
      [BLOCK, 1],
      [2 * BLOCK + 100, 0],
    ]);
    await node.mapper.mapZero('the-volume', BLOCK, BLOCK, 500);
    await node.mapper.resize('the-volume', 8 * BLOCK, false);
    await writeVolume(node, 'the-volume', 7 * BLOCK, Buffer.alloc(1, 3));
    // Zeros past the end of the snapshot are no difference, nor are zeros in its last, partial block.
    expect(await scan(node, 'the-volume', diff)).toEqual([
      [3 * BLOCK, 1],
      [4 * BLOCK, 0],
      [BLOCK, 1],
    ]);
    // The other way round, seen from a snapshot.
    await node.mapper.snapshot('the-volume', 'new-snapshot');
    expect(await scan(node, 'the-snapshot', { what: 'diff', from: 'new-snapshot' })).toEqual([
      [3 * BLOCK, 1],
      [2 * BLOCK + 100, 0],
    ]);
    expect(await scan(node, 'the-volume', { what: 'diff', from: 'new-snapshot' })).toEqual([[8 * BLOCK, 0]]);
  });

  it('takes a block for different where one of the maps ends within it', async () => {
    const node = memoryNode();
    await createSmall(node, 'the-volume', 2 * BLOCK + 100, BLOCK);
    await writeVolume(node, 'the-volume', 0, Buffer.alloc(2 * BLOCK + 100, 1));
    await node.mapper.snapshot('the-volume', 'the-snapshot');
    await node.mapper.resize('the-volume', 3 * BLOCK, false);
    expect(await scan(node, 'the-volume', diff)).toEqual([
      [2 * BLOCK, 0],
      [BLOCK, 1],
    ]);
    await node.mapper.resize('the-volume', BLOCK + 50, true);
    expect(await scan(node, 'the-volume', diff)).toEqual([
      [BLOCK, 0],
      [50, 1],
    ]);
  });

  it('of a volume and itself is none', async () => {
    const node = await prepare();
    expect(await scan(node, 'the-volume', { what: 'diff', from: 'the-volume' })).toEqual([[5 * BLOCK + 100, 0]]);
    expect(await scan(node, 'the-snapshot', diff)).toEqual([[5 * BLOCK + 100, 0]]);
  });

  it('is none from another snapshot that was made under the name since', async () => {
    const node = await prepare();
    const { epoch } = await node.mapper.describe('the-snapshot');
    expect(await scan(node, 'the-volume', { ...diff, epoch })).toEqual(await scan(node, 'the-volume', diff));
    await node.mapper.remove('the-snapshot');
    await node.mapper.snapshot('the-volume', 'the-snapshot');
    await expect(scan(node, 'the-volume', { ...diff, epoch })).rejects.toEqual(
      failure('ENOENT', 'another made under that name'),
    );
    const { epoch: newer } = await node.mapper.describe('the-snapshot');
    expect(newer).not.toBe(epoch);
    expect(await scan(node, 'the-volume', { ...diff, epoch: newer })).toEqual([[5 * BLOCK + 100, 0]]);
  });

  it('never mixes a snapshot with one that another node makes under its name', async () => {
    const stores = memoryStores();
    const [node, other] = [memoryNode(stores), memoryNode(stores, 'node2_1002')];
    const size = (CHUNK_ENTRIES + 10) * BLOCK;
    await createSmall(node, 'the-volume', size, BLOCK);
    await writeVolume(node, 'the-volume', size - BLOCK, Buffer.alloc(BLOCK, 1));
    await node.mapper.snapshot('the-volume', 'the-snapshot');
    // A client on this node has it open, and has read of its first chunk.
    node.holders.set(500, async () => {});
    await node.mapper.lease('the-snapshot', { write: false }, 500);
    await node.mapper.mapFetch('the-snapshot', 0, 10, ROOM);
    await node.mapper.close('the-volume');
    await other.mapper.remove('the-snapshot');
    expect(await node.mapper.mapFetch('the-snapshot', 0, 10, ROOM)).toBeInstanceOf(Buffer);
    const gone = failure('ENOENT', 'removed, and perhaps another made');
    // From the removal on: the entries of the next one are written before its header.
    await expect(node.mapper.mapFetch('the-snapshot', CHUNK_ENTRIES, 10, ROOM)).rejects.toEqual(gone);
    await writeVolume(other, 'the-volume', size - BLOCK, Buffer.alloc(BLOCK, 2));
    await other.mapper.snapshot('the-volume', 'the-snapshot');
    await expect(node.mapper.mapFetch('the-snapshot', CHUNK_ENTRIES, 10, ROOM)).rejects.toEqual(gone);
    await expect(scan(other, 'the-volume', diff)).resolves.toEqual([[size, 0]]);
    await expect(scan(node, 'the-volume', diff)).rejects.toEqual(gone);
    // Nothing of the new one stays behind.
    await expect(node.mapper.mapFetch('the-snapshot', CHUNK_ENTRIES, 10, ROOM)).rejects.toEqual(gone);
  });

  it('takes an object that a map writes in place for different from itself', async () => {
    const node = memoryNode();
    const objects = [
      { name: 'object-one', readOnly: false },
      { name: 'object-two', readOnly: true },
      { name: ZERO_NAME, readOnly: true },
    ];
    await node.mapper.createFromObjects('an-image', 3 * BLOCK, { blockSize: BLOCK, readOnly: true, objects });
    await node.mapper.createFromObjects('the-volume', 3 * BLOCK, { blockSize: BLOCK, readOnly: false, objects });
    expect(await scan(node, 'the-volume', { what: 'diff', from: 'an-image' })).toEqual([
      [BLOCK, 1],
      [2 * BLOCK, 0],
    ]);
  });

  it('needs a snapshot with blocks of the same size', async () => {
    const node = await prepare();
    await createSmall(node, 'volume-two', 4 * BLOCK, 2 * BLOCK);
    const ask = (name: string, from: string) => status(node, name, { what: 'diff', from }, 0, BLOCK);
    await expect(ask('the-snapshot', 'the-volume')).rejects.toEqual(failure('EINVAL', 'change in place'));
    await expect(ask('volume-two', 'the-snapshot')).rejects.toEqual(failure('EINVAL', 'blocks of 512 bytes'));
    await expect(ask('the-volume', 'no-such-snap')).rejects.toEqual(failure('ENOENT', 'no-such-snap'));
    await expect(ask('no-such-vol', 'the-snapshot')).rejects.toEqual(failure('ENOENT', 'no-such-vol'));
    await expect(ask('the-volume', '')).rejects.toEqual(failure('EINVAL'));
  });
});

it('refuses ranges that are empty or past the end, and buffers without room', async () => {
  const node = await prepare();
  const ask = (offset: number, size: number, room = ROOM) =>
    status(node, 'the-volume', { what: 'depth' }, offset, size, room);
  await expect(ask(0, 0)).rejects.toEqual(failure('EINVAL', 'no bytes'));
  await expect(ask(0, 5 * BLOCK + 101)).rejects.toEqual(failure('EINVAL', 'past its end'));
  await expect(ask(6 * BLOCK, 1)).rejects.toEqual(failure('EINVAL', 'past its end'));
  await expect(ask(0, 1, EXTENT_BYTES - 1)).rejects.toEqual(failure('ERANGE'));
});

describe('a damaged map', () => {
  const twoDataObjects = 4;
  const size = twoDataObjects * BLOCK;

  it.each([
    ['map data is missing', (node: Node) => node.maps.delete('the-volume_0000000000000001')],
    ['an entry is garbage', (node: Node) => node.maps.write('the-volume_0000000000000001', 0, Buffer.alloc(128, 255))],
    [
      'map data cannot be read',
      (node: Node) => {
        node.maps.before = (operation, name) => {
          if (operation === 'read' && name === 'the-volume_0000000000000001') throw failureOf(name);
        };
      },
    ],
  ])('fails only its own blocks when %s', async (_what, damage) => {
    // Map-data objects of two entries.
    const stores = memoryStores();
    const writer = memoryNode(stores);
    await createSmall(writer, 'the-volume', size, BLOCK);
    await writeVolume(writer, 'the-volume', 0, Buffer.alloc(size, 1));
    await writer.mapper.snapshot('the-volume', 'the-snapshot');
    await writer.mapper.stop();
    const node = memoryNode(stores);
    await damage(node);
    for (const request of [{ what: 'depth' }, { what: 'object' }, { what: 'diff', from: 'the-snapshot' }] as const) {
      const before = await status(node, 'the-volume', request, 0, size);
      expect(before.reduce((sum, { length }) => sum + length, 0)).toBe(2 * BLOCK);
      await expect(status(node, 'the-volume', request, 2 * BLOCK, BLOCK)).rejects.toEqual(failure('EIO'));
    }
    // Where the damage is in the map that is compared with.
    const other = await status(node, 'the-snapshot', { what: 'depth' }, 0, size);
    expect(other).toEqual([{ length: size, flags: 2 }]);
  });

  const failureOf = (name: string): Error => Object.assign(new Error(`${name} is made to fail`), { errno: 5 });
});

it('scans a large map in pieces of bounded work, reading each piece of map data once', async () => {
  const stores = memoryStores();
  const writer = memoryNode(stores);
  const blocks = 20 * CHUNK_ENTRIES + 100;
  const block = 4096;
  await createSmall(writer, 'the-volume', blocks * block, block);
  await writer.mapper.mapWrite('the-volume', 10 * block, 2 * block, 500);
  await writer.mapper.mapWrite('the-volume', (blocks - 1) * block, block, 500);
  await writer.mapper.snapshot('the-volume', 'the-snapshot');
  await writer.mapper.mapWrite('the-volume', 11 * block, block, 500);
  await writer.mapper.stop();
  const node = memoryNode(stores);
  let bytes = 0;
  const read = node.maps.read.bind(node.maps);
  node.maps.read = (name, offset, length) => {
    bytes += length;
    return read(name, offset, length);
  };
  const first = await status(node, 'the-volume', { what: 'diff', from: 'the-snapshot' }, 0, blocks * block);
  expect(first).toEqual([
    { length: 11 * block, flags: 0 },
    { length: block, flags: 1 },
    { length: (16 * CHUNK_ENTRIES - 12) * block, flags: 0 },
  ]);
  bytes = 0;
  expect(await scan(node, 'the-volume', { what: 'depth' })).toEqual([
    [10 * block, 0],
    [block, 2],
    [block, 1],
    [(blocks - 13) * block, 0],
    [block, 2],
  ]);
  expect(bytes).toBeLessThan(blocks * 128 + 20_000);
  // A small question costs little.
  bytes = 0;
  await status(node, 'the-volume', { what: 'depth' }, 1000 * block, block);
  expect(bytes).toBeLessThan(2048);
  expect((await node.mapper.stat('the-snapshot', noV0)).blocks.shared).toBe(3);
}, 60_000);
