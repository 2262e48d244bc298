/** The original's defects, one test each, named by their numbers (docs: what differs from the original). */
import { expect, it } from 'vitest';
import * as v2 from '../../../src/mapper/formats/v2.js';
import { MapStore, noV0 } from '../../../src/mapper/map-store.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { checkInvariants } from './invariants.js';
import { createSmall, failure, memoryNode, memoryStores, readVolume, writeVolume } from './support.js';

const BLOCK = 256;
const hex16 = (n: number): string => n.toString(16).padStart(16, '0');
const own = (volume: string, epoch: number, i: number): string => `${volume}_${hex16(epoch)}_${hex16(i)}`;

it('D1: a volume that shrank and grew again reads zeros where it grew, and after a write to part of it', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', 4 * BLOCK, BLOCK);
  await writeVolume(node, 'volume', 0, Buffer.alloc(4 * BLOCK, 1));
  await node.mapper.resize('volume', BLOCK + 10, true);
  // The original, too, must find nothing there when it grows the volume.
  expect((await node.blocks.info(own('volume', 1, 1))).size).toBe(10);
  expect((await node.blocks.list(null, 100)).names.sort()).toEqual([own('volume', 1, 0), own('volume', 1, 1)]);
  await node.mapper.resize('volume', 4 * BLOCK, false);
  const expected = Buffer.concat([Buffer.alloc(BLOCK + 10, 1)], 4 * BLOCK);
  expect((await readVolume(node, 'volume', 0, 4 * BLOCK)).equals(expected)).toBe(true);
  await writeVolume(node, 'volume', 3 * BLOCK, Buffer.from('x'));
  expected.write('x', 3 * BLOCK);
  expect((await readVolume(node, 'volume', 0, 4 * BLOCK)).equals(expected)).toBe(true);
});

it('D1: a volume that the original shrank shows nothing of its past when it grows, nor does a larger clone', async () => {
  const stores = memoryStores();
  const node = memoryNode(stores);
  await createSmall(node, 'volume', 3 * BLOCK, BLOCK);
  await writeVolume(node, 'volume', 0, Buffer.alloc(3 * BLOCK, 1));
  await node.mapper.close('volume');
  // What the original does: only the header changes.
  const store = new MapStore(node.maps);
  const { map } = await store.lookup('volume', noV0);
  await store.writeHeader('volume', { ...map!.header, size: BLOCK + 10 });
  await node.mapper.snapshot('volume', 'the-snapshot');
  await node.mapper.clone('the-clone', 'the-snapshot', 3 * BLOCK);
  await node.mapper.resize('volume', 3 * BLOCK, false);
  const expected = Buffer.concat([Buffer.alloc(BLOCK + 10, 1)], 3 * BLOCK);
  expect((await readVolume(node, 'volume', 0, 3 * BLOCK)).equals(expected)).toBe(true);
  expect((await readVolume(node, 'the-clone', 0, 3 * BLOCK)).equals(expected)).toBe(true);
  await writeVolume(node, 'volume', 2 * BLOCK, Buffer.from('x'));
  expected.write('x', 2 * BLOCK);
  expect((await readVolume(node, 'volume', 0, 3 * BLOCK)).equals(expected)).toBe(true);
  await checkInvariants(node);
});

it('D1: the first write to a zero block finds an empty object, whatever an object of that name held', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', 2 * BLOCK, BLOCK);
  await node.blocks.write(own('volume', 1, 1), 0, Buffer.alloc(BLOCK, 9));
  await writeVolume(node, 'volume', BLOCK + 5, Buffer.from('x'));
  const expected = Buffer.alloc(2 * BLOCK);
  expected.write('x', BLOCK + 5);
  expect((await readVolume(node, 'volume', 0, 2 * BLOCK)).equals(expected)).toBe(true);
});

it('D2: a clone keeps the block size of its parent', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', 5 * BLOCK, BLOCK);
  const bytes = Buffer.from(Array.from({ length: 5 * BLOCK }, (_, i) => i % 251));
  await writeVolume(node, 'volume', 0, bytes);
  await node.mapper.snapshot('volume', 'the-snapshot');
  await node.mapper.clone('the-clone', 'the-snapshot', 7 * BLOCK);
  expect(await node.mapper.describe('the-clone')).toMatchObject({ blockSize: BLOCK, size: 7 * BLOCK });
  expect((await readVolume(node, 'the-clone', 0, 5 * BLOCK)).equals(bytes)).toBe(true);
});

it('D3: growing leaves own blocks writable; no object is copied onto itself, not even in maps that the original grew', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', 2 * BLOCK, BLOCK);
  await writeVolume(node, 'volume', 0, Buffer.alloc(2 * BLOCK, 1));
  await node.mapper.resize('volume', 3 * BLOCK, false);
  let copies = 0;
  node.blocks.before = (operation) => {
    if (operation === 'copy') copies++;
  };
  await writeVolume(node, 'volume', 10, Buffer.from('own'));
  expect(copies).toBe(0);
  await node.mapper.close('volume');

  // The original's grow: WRITABLE is gone, the epoch is the same.
  const entry = Buffer.alloc(v2.ENTRY_SIZE);
  v2.encodeNamedEntry(entry, 0, 2, own('volume', 1, 1));
  await node.maps.write(v2.mapDataName('volume', 0), v2.ENTRY_SIZE, entry);
  await writeVolume(node, 'volume', BLOCK + 5, Buffer.from('new'));
  const [{ target }] = await node.mapper.mapRead('volume', BLOCK, 1);
  expect(target).toBe(own('volume', 2, 1));
  expect(copies).toBe(1);
  const expected = Buffer.alloc(BLOCK, 1);
  expected.write('new', 5);
  expect((await readVolume(node, 'volume', BLOCK, BLOCK)).equals(expected)).toBe(true);
  expect((await node.mapper.describe('volume')).epoch).toBe(2);
});

it('D4: a copy-up from a missing object fails with its name and never yields zeros', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', BLOCK, BLOCK);
  await writeVolume(node, 'volume', 0, Buffer.alloc(BLOCK, 1));
  await node.mapper.snapshot('volume', 'the-snapshot');
  await node.blocks.delete(own('volume', 1, 0));
  await expect(node.mapper.mapWrite('volume', 0, 1, 500)).rejects.toEqual(failure('EIO', own('volume', 1, 0)));
  expect((await node.blocks.list(null, 100)).names).toEqual([]);
  expect(await node.mapper.mapRead('volume', 0, 1)).toMatchObject([{ target: own('volume', 1, 0), zero: false }]);
});

it('D6: the name of a deleted volume or snapshot can be used for a snapshot and a rename', async () => {
  const node = memoryNode();
  for (const name of ['volume', 'second', 'fourth']) await createSmall(node, name, BLOCK, BLOCK);
  await writeVolume(node, 'volume', 0, Buffer.alloc(BLOCK, 1));
  await node.mapper.remove('second');
  await node.mapper.snapshot('volume', 'second');
  await node.mapper.remove('second');
  await node.mapper.snapshot('volume', 'second');
  await node.mapper.remove('fourth');
  await node.mapper.rename('volume', 'fourth');
  expect((await readVolume(node, 'fourth', 0, BLOCK)).equals(Buffer.alloc(BLOCK, 1))).toBe(true);
  await createSmall(node, 'volume', BLOCK, BLOCK);
  await writeVolume(node, 'volume', 0, Buffer.alloc(BLOCK, 2));
  expect((await readVolume(node, 'fourth', 0, BLOCK)).equals(Buffer.alloc(BLOCK, 1))).toBe(true);
  await checkInvariants(node);
});

it('D6: a name that was a volume, then a snapshot, then a volume again uses no object name twice', async () => {
  const node = memoryNode();
  const { mapper } = node;
  await createSmall(node, 'reused', BLOCK, BLOCK);
  await writeVolume(node, 'reused', 0, Buffer.alloc(BLOCK, 1));
  await mapper.snapshot('reused', 'keeper');
  await mapper.remove('reused');
  await createSmall(node, 'other-volume', BLOCK, BLOCK);
  await mapper.snapshot('other-volume', 'reused');
  await mapper.remove('reused');
  await createSmall(node, 'reused', BLOCK, BLOCK);
  await writeVolume(node, 'reused', 0, Buffer.alloc(BLOCK, 2));
  expect((await readVolume(node, 'keeper', 0, BLOCK)).equals(Buffer.alloc(BLOCK, 1))).toBe(true);
});

it('D11: deleted entries are marked deleted and not zero', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', 2 * BLOCK, BLOCK);
  await writeVolume(node, 'volume', 0, Buffer.alloc(BLOCK, 1));
  await node.mapper.remove('volume');
  const data = await node.maps.read(v2.mapDataName('volume', 0), 0, 256);
  expect([data[0], data[128]]).toEqual([0x0b, 0x04]);
  expect((await node.maps.read('volume', 0, 32)).readUInt32BE(20)).toBe(2);
});

it('D12: closing while a copy-up is in flight waits for it and ends', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', BLOCK, BLOCK);
  let reached: () => void = () => {};
  let release: () => void = () => {};
  const inCopyUp = new Promise<void>((resolve) => (reached = resolve));
  const held = new Promise<void>((resolve) => (release = resolve));
  node.blocks.before = async (operation) => {
    if (operation !== 'reset') return;
    reached();
    await held;
  };
  const order: string[] = [];
  const write = node.mapper.mapWrite('volume', 0, 1, 500).then(() => order.push('write'));
  await inCopyUp;
  const close = node.mapper.close('volume').then(() => order.push('close'));
  release();
  await Promise.all([write, close]);
  expect(order).toEqual(['write', 'close']);
  await checkInvariants(node, []);
});

it('D13: a write to a volume that another node has locked fails at once and names the holder; reads go on', async () => {
  const stores = memoryStores();
  const other = memoryNode(stores, 'node2_1002');
  await createSmall(other, 'volume', BLOCK, BLOCK);
  await writeVolume(other, 'volume', 0, Buffer.alloc(BLOCK, 1));
  const node = memoryNode(stores);
  await expect(node.mapper.mapWrite('volume', 0, 1, 500)).rejects.toEqual(
    failure('EBUSY', 'is locked by node2_1002 since'),
  );
  await expect(node.mapper.snapshot('volume', 'the-snapshot')).rejects.toEqual(
    failure('EBUSY', 'run vlmc close volume there, or vlmc unlock -f volume here once node2 is down'),
  );
  expect((await readVolume(node, 'volume', 0, BLOCK)).equals(Buffer.alloc(BLOCK, 1))).toBe(true);
  await node.mapper.close('volume');
  await checkInvariants(other, ['volume']);
  await other.mapper.close('volume');
  await writeVolume(node, 'volume', 0, Buffer.from('now'));
});

it('D15: a failed operation leaves nothing locked that it locked itself', async () => {
  const node = memoryNode();
  const { mapper } = node;
  await createSmall(node, 'volume', BLOCK, BLOCK);
  await createSmall(node, 'second', BLOCK, BLOCK);
  await expect(mapper.rename('volume', 'second')).rejects.toEqual(failure('EEXIST', 'second'));
  await expect(mapper.snapshot('volume', 'second')).rejects.toEqual(failure('EEXIST', 'second'));
  await expect(mapper.upgrade('no-volume')).rejects.toEqual(failure('ENOENT', 'no-volume'));
  await expect(mapper.open('no-volume')).rejects.toEqual(failure('ENOENT', 'no-volume'));
  await expect(mapper.remove('no-volume')).rejects.toEqual(failure('ENOENT', 'no-volume'));
  await checkInvariants(node, []);
  await mapper.open('volume');
  await expect(mapper.rename('volume', 'second')).rejects.toEqual(failure('EEXIST'));
  await checkInvariants(node, ['volume']);
});

it('D18: a volume with missing objects can be deleted', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', 2 * BLOCK, BLOCK);
  await writeVolume(node, 'volume', 0, Buffer.alloc(2 * BLOCK, 1));
  await node.blocks.delete(own('volume', 1, 0));
  await node.mapper.remove('volume');
  expect((await node.blocks.list(null, 100)).names).toEqual([]);
  await expect(node.mapper.describe('volume')).rejects.toEqual(failure('ENOENT'));
});

it('D18: a volume whose objects cannot be deleted stays, and its deletion can be repeated', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', 2 * BLOCK, BLOCK);
  await writeVolume(node, 'volume', 0, Buffer.alloc(2 * BLOCK, 1));
  node.blocks.before = (operation, name) => {
    if (operation === 'delete' && name === own('volume', 1, 0)) throw new SystemError(errnos.EACCES, 'not allowed');
  };
  await expect(node.mapper.remove('volume')).rejects.toEqual(failure('EACCES', '1 of 2 objects could not be deleted'));
  await expect(node.mapper.mapRead('volume', 0, 1)).rejects.toEqual(failure('EIO', 'remove the volume again'));
  node.blocks.before = () => {};
  await node.mapper.remove('volume');
  expect((await node.blocks.list(null, 100)).names).toEqual([]);
});

it('D19: assume_v0 does not misread v1 and v2 maps, and nothing is upgraded by reading', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', BLOCK, BLOCK);
  const v1 = Buffer.alloc(12 + 33);
  v1.writeUInt32LE(1, 0);
  v1.writeBigUInt64LE(5000n, 4);
  v1.fill(7, 12);
  await node.maps.write('old-volume', 0, v1);
  const assume = { assumeV0: true, v0Size: -1 };
  expect(await node.mapper.describe('volume', assume)).toMatchObject({ version: 2 });
  expect(await node.mapper.describe('old-volume', assume)).toMatchObject({ version: 1, size: 5000, readOnly: true });
  expect(await node.mapper.lease('old-volume', { write: true }, 500, assume)).toMatchObject({
    granted: 'shared',
    readOnly: true,
    readOnlyReason: expect.stringContaining('vlmc upgrade old-volume'),
  });
  for (const attempt of [
    node.mapper.snapshot('old-volume', 'the-snapshot'),
    node.mapper.resize('old-volume', 6000, true),
    node.mapper.rename('old-volume', 'new-name'),
  ]) {
    await expect(attempt).rejects.toEqual(failure('EROFS', 'vlmc upgrade old-volume'));
  }
  expect((await node.maps.read('old-volume', 0, 45)).equals(v1)).toBe(true);
  await checkInvariants(node, []);
});

it('D20: maps longer than one request are read, written, snapshotted and upgraded', async () => {
  const node = memoryNode();
  const count = 40_000;
  const old = Buffer.alloc(12 + 33 * count);
  old.writeUInt32LE(1, 0);
  old.writeBigUInt64LE(BigInt(count) * 4194304n, 4);
  for (let i = 0; i < count; i++) old.writeUInt32LE(i + 1, 13 + 33 * i);
  await node.maps.write('large-volume', 0, old);
  await node.mapper.upgrade('large-volume');
  await node.mapper.snapshot('large-volume', 'large-snapshot');
  for (const name of ['large-volume', 'large-snapshot']) {
    const [{ target }] = await node.mapper.mapRead(name, (count - 1) * 4194304, 1);
    expect(target.slice(0, 8)).toBe('409c0000');
  }
  expect((await node.maps.info(v2.mapDataName('large-snapshot', 1))).size).toBe((count - 32768) * 128);
});

it('D21: a snapshot is read without any lock, by two nodes at the same time', async () => {
  const stores = memoryStores();
  const node = memoryNode(stores);
  const other = memoryNode(stores, 'node2_1002');
  await createSmall(node, 'volume', BLOCK, BLOCK);
  await node.mapper.snapshot('volume', 'the-snapshot');
  for (const each of [node, other]) {
    expect(await each.mapper.lease('the-snapshot', { write: false }, 500)).toMatchObject({
      granted: 'shared',
      readOnly: true,
    });
    await readVolume(each, 'the-snapshot', 0, BLOCK);
  }
  await checkInvariants(node, []);
});
