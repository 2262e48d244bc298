/** What runs at the same time on one volume. */
import { expect, it } from 'vitest';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { checkInvariants } from './invariants.js';
import { createSmall, failure, memoryNode, readVolume, writeVolume } from './support.js';

const BLOCK = 256;

it('writes to one zero block at the same time make its object once; none loses what the other wrote', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', 4 * BLOCK, BLOCK);
  const resets: string[] = [];
  node.blocks.before = async (operation, name) => {
    if (operation !== 'reset') return;
    resets.push(name);
    // Let others run: a second reset of the same object would now come after the first one's data.
    for (let turn = 0; turn < 50; turn++) await null;
  };
  const byte = Buffer.alloc(1);
  const writes = Array.from({ length: 40 }, (_, i) => {
    byte[0] = i + 1;
    return writeVolume(node, 'volume', i * 24, Buffer.from(byte));
  });
  await Promise.all(writes);
  expect(resets.length).toBe(new Set(resets).size);
  const read = await readVolume(node, 'volume', 0, 4 * BLOCK);
  for (let i = 0; i < 40; i++) expect(read[i * 24]).toBe(i + 1);
});

it('writes to shared blocks at the same time copy each once', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', 4 * BLOCK, BLOCK);
  await writeVolume(node, 'volume', 0, Buffer.alloc(4 * BLOCK, 200));
  await node.mapper.snapshot('volume', 'snapshot');
  const copies: string[] = [];
  node.blocks.before = async (operation, name) => {
    if (operation !== 'copy') return;
    copies.push(name);
    for (let turn = 0; turn < 50; turn++) await null;
  };
  // Ranges that overlap in every way.
  await Promise.all([
    writeVolume(node, 'volume', 0, Buffer.alloc(2 * BLOCK, 1)),
    writeVolume(node, 'volume', 3 * BLOCK, Buffer.alloc(BLOCK, 4)),
    writeVolume(node, 'volume', 2 * BLOCK + 5, Buffer.alloc(5, 3)),
    writeVolume(node, 'volume', 2 * BLOCK + 50, Buffer.alloc(BLOCK - 50, 3)),
  ]);
  expect(copies.length).toBe(4);
  const expected = Buffer.alloc(4 * BLOCK, 200);
  expected.fill(1, 0, 2 * BLOCK);
  expected.fill(3, 2 * BLOCK + 5, 2 * BLOCK + 10);
  expected.fill(3, 2 * BLOCK + 50, 3 * BLOCK);
  expected.fill(4, 3 * BLOCK);
  expect((await readVolume(node, 'volume', 0, 4 * BLOCK)).equals(expected)).toBe(true);
  expect((await readVolume(node, 'snapshot', 0, 4 * BLOCK)).equals(Buffer.alloc(4 * BLOCK, 200))).toBe(true);
});

it('zeroing and writing one block at the same time leaves a map that agrees with the objects', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', 2 * BLOCK, BLOCK);
  await writeVolume(node, 'volume', 0, Buffer.alloc(2 * BLOCK, 1));
  node.blocks.before = async () => {
    for (let turn = 0; turn < 20; turn++) await null;
  };
  await Promise.all([
    node.mapper.mapZero('volume', 0, 2 * BLOCK, 500),
    node.mapper.mapWrite('volume', 0, 2 * BLOCK, 500),
    node.mapper.mapZero('volume', BLOCK, BLOCK, 500),
    node.mapper.mapWrite('volume', BLOCK, 1, 500),
  ]);
  await node.mapper.close('volume');
  expect((await readVolume(node, 'volume', 0, 2 * BLOCK)).equals(Buffer.alloc(2 * BLOCK))).toBe(true);
  await checkInvariants(node, []);
});

it('a copy-up that fails for lack of space changes nothing, and works when there is space', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', 3 * BLOCK, BLOCK);
  await writeVolume(node, 'volume', 0, Buffer.alloc(3 * BLOCK, 1));
  await node.mapper.snapshot('volume', 'snapshot');
  node.blocks.before = (operation, name) => {
    if (operation === 'copy' && name.endsWith('1')) throw new SystemError(errnos.ENOSPC, 'no space is left');
  };
  await expect(node.mapper.mapWrite('volume', 0, 3 * BLOCK, 500)).rejects.toEqual(failure('ENOSPC'));
  const shared = await node.mapper.mapRead('snapshot', 0, 3 * BLOCK);
  expect(await node.mapper.mapRead('volume', 0, 3 * BLOCK)).toEqual(shared);
  node.blocks.before = () => {};
  await writeVolume(node, 'volume', BLOCK, Buffer.alloc(BLOCK, 2));
  expect((await readVolume(node, 'volume', BLOCK, BLOCK)).equals(Buffer.alloc(BLOCK, 2))).toBe(true);
  await checkInvariants(node);
});

it('an object of a zeroed block that cannot be deleted is left over, logged, and never seen again', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', BLOCK, BLOCK);
  await writeVolume(node, 'volume', 0, Buffer.alloc(BLOCK, 1));
  node.blocks.before = (operation) => {
    if (operation === 'delete') throw new SystemError(errnos.EACCES, 'not allowed');
  };
  await node.mapper.mapZero('volume', 0, BLOCK, 500);
  expect(node.warnings.join()).toMatch(/volume volume: an object of a zeroed block is left over.*not allowed/);
  expect((await readVolume(node, 'volume', 0, BLOCK)).equals(Buffer.alloc(BLOCK))).toBe(true);
  await writeVolume(node, 'volume', 3, Buffer.from('x'));
  const expected = Buffer.alloc(BLOCK);
  expected.write('x', 3);
  expect((await readVolume(node, 'volume', 0, BLOCK)).equals(expected)).toBe(true);
});
