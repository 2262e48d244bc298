/** Orders of the mapper's writes that power cuts on a modelled disk (test/sim) showed to be wrong once. */
import { expect, it } from 'vitest';
import { MemoryDriver } from '../../../src/blockers/memory/index.js';
import * as v2 from '../../../src/mapper/formats/v2.js';
import { MapStore } from '../../../src/mapper/map-store.js';
import { createSmall, DriverClient, memoryNode, memoryStores, type Node, readVolume, writeVolume } from './support.js';

const BLOCK = 4096;

it('a flush under an entry that is being written leaves it to the next flush', async () => {
  const maps = new DriverClient(new MemoryDriver('node1_1002', memoryStores().maps));
  const store = new MapStore(maps);
  const touched = new Set<string>();
  const flushed: string[] = [];
  let write = (): void => {};
  const held = new Promise<void>((resolve) => (write = resolve));
  maps.before = async (operation, name) => {
    if (operation === 'write') await held;
    if (operation === 'flush') flushed.push(name);
  };
  const writing = store.writeEntries('volume', BLOCK, 0, 1, () => {}, touched);
  await store.flush(touched);
  expect(flushed).toEqual(['volume_0000000000000000']);
  write();
  await writing;
  await store.flush(touched);
  expect(flushed).toEqual(['volume_0000000000000000', 'volume_0000000000000000']);
});

it('the entry of a trimmed block is durable before its object is deleted', async () => {
  const node = memoryNode();
  await createSmall(node, 'trimmed', 4 * BLOCK, BLOCK);
  await writeVolume(node, 'trimmed', 0, Buffer.alloc(BLOCK, 1));
  const order: string[] = [];
  node.maps.before = (operation, name) => {
    if (operation === 'write' || operation === 'flush') order.push(`${operation} ${name}`);
  };
  node.blocks.before = (operation) => {
    if (operation === 'delete') order.push(operation);
  };
  await node.mapper.mapZero('trimmed', 0, BLOCK, 500);
  const entries = 'trimmed_0000000000000000';
  expect(order).toEqual([`write ${entries}`, `flush ${entries}`, 'delete']);
});

it('a map that an interrupted upgrade left under the legacy name goes before the volume does, and stays away', async () => {
  const node = memoryNode();
  const v1 = Buffer.alloc(12 + 33);
  v1.writeUInt32LE(1, 0);
  v1.writeBigUInt64LE(5000n, 4);
  v1.fill(7, 12);
  await node.maps.write('archip_old-volume', 0, v1);
  await node.blocks.write(`archip_${'07'.repeat(32)}`, 0, Buffer.alloc(5000, 3));
  await node.mapper.upgrade('old-volume');
  // As if it had not been deleted yet.
  await node.maps.write('archip_old-volume', 0, v1);
  await node.mapper.remove('old-volume');
  await expect(node.mapper.describe('old-volume')).rejects.toMatchObject({ code: 'ENOENT' });
});

it('a map that merely has the legacy name of a volume is not taken for a leftover', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', 4 * BLOCK, BLOCK);
  await writeVolume(node, 'volume', 0, Buffer.alloc(BLOCK, 1));
  const v1 = Buffer.alloc(12 + 33);
  v1.writeUInt32LE(1, 0);
  v1.writeBigUInt64LE(5000n, 4);
  v1.fill(9, 12);
  await node.maps.write('archip_volume', 0, v1);
  await node.mapper.remove('volume');
  expect((await node.mapper.describe('volume')).version).toBe(1);
});

/** The header as the original writes it. */
async function forgetLineage(node: Node, name: string): Promise<void> {
  const header = v2.decodeHeader(name, await node.maps.read(name, 0, 512));
  expect(header.lineage).not.toBeNull();
  await node.maps.write(name, 0, v2.encodeHeader({ ...header, lineage: null }));
}

it.each(['snapshot', 'rename'] as const)(
  'a %s of a volume of the original shares no own object that its crash left missing: it is made first',
  async (change) => {
    const node = memoryNode();
    await createSmall(node, 'volume', 4 * BLOCK, BLOCK);
    await writeVolume(node, 'volume', 0, Buffer.alloc(3 * BLOCK, 1));
    await node.mapper.close('volume');
    await forgetLineage(node, 'volume');
    const missing = 'volume_0000000000000001_0000000000000001';
    await node.blocks.delete(missing);
    const made: string[] = [];
    const seen: string[] = [];
    node.blocks.before = (operation, name) => {
      if (operation === 'reset') made.push(name);
      if (operation === 'info') seen.push(name);
    };
    await node.mapper[change]('volume', 'another');
    expect(made).toEqual([missing]);
    expect(seen.length).toBe(3);
    const content = Buffer.alloc(4 * BLOCK, 1)
      .fill(0, BLOCK, 2 * BLOCK)
      .fill(0, 3 * BLOCK);
    for (const name of change === 'snapshot' ? ['volume', 'another'] : ['another']) {
      expect((await readVolume(node, name, 0, 4 * BLOCK)).equals(content)).toBe(true);
    }
    // Once: the map has a lineage now, and all its objects.
    await writeVolume(node, change === 'snapshot' ? 'volume' : 'another', 0, Buffer.alloc(BLOCK, 2));
    await node.mapper.snapshot(change === 'snapshot' ? 'volume' : 'another', 'later-1');
    expect(seen.length).toBe(3);
  },
);
