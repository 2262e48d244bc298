/** What runs at the same time on one volume. */
import { expect, it, onTestFinished, vi } from 'vitest';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { checkInvariants } from './invariants.js';
import { createSmall, DriverClient, failure, memoryNode, memoryStores, readVolume, writeVolume } from './support.js';

const BLOCK = 256;

/** The volume's own object of a block, made under this epoch. */
const object = (volume: string, epoch: number, block: number): string =>
  `${volume}_${epoch.toString(16).padStart(16, '0')}_${block.toString(16).padStart(16, '0')}`;

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

it('blocks from all over a volume become writable by one request to the store, and are told in the order asked for', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', 8 * BLOCK - 100, BLOCK);
  await writeVolume(node, 'volume', 2 * BLOCK, Buffer.alloc(BLOCK, 2));
  await node.mapper.snapshot('volume', 'snapshot');
  const resets = vi.spyOn(DriverClient.prototype, 'reset');
  onTestFinished(() => resets.mockRestore());
  const segments = await node.mapper.mapOwn('volume', [7, 0, 2, 5, 0], 500);
  expect(resets.mock.calls.map(([names]) => names)).toEqual([[0, 5, 7].map((block) => object('volume', 2, block))]);
  const whole = (block: number) => ({ target: object('volume', 2, block), zero: false, offset: 0, size: BLOCK });
  expect(segments).toEqual([{ ...whole(7), size: BLOCK - 100 }, whole(0), whole(2), whole(5), whole(0)]);
  expect((await readVolume(node, 'volume', 2 * BLOCK, BLOCK)).equals(Buffer.alloc(BLOCK, 2))).toBe(true);
  await checkInvariants(node);
});

it('blocks of which there are none, and more than the answer has room for, are refused, and nothing is done', async () => {
  const stores = memoryStores();
  const node = memoryNode(stores);
  await createSmall(node, 'volume', 4 * BLOCK, BLOCK);
  await expect(node.mapper.mapOwn('volume', [0, 4], 500)).rejects.toEqual(failure('EINVAL', 'block 4'));
  await expect(node.mapper.mapOwn('volume', [0, 1, 2], 500, undefined, 2)).rejects.toEqual(failure('ERANGE'));
  expect(await node.mapper.mapOwn('volume', [], 500)).toEqual([]);
  expect(stores.blocks.objects.size).toBe(0);
});

it('of blocks that become writable together one that fails lets none be told, and each works by itself', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', 4 * BLOCK, BLOCK);
  node.blocks.before = (operation, name) => {
    if (operation === 'reset' && name === object('volume', 1, 1))
      throw new SystemError(errnos.ENOSPC, 'no space is left');
  };
  await expect(node.mapper.mapOwn('volume', [0, 1, 3], 500)).rejects.toEqual(failure('ENOSPC'));
  await writeVolume(node, 'volume', 3 * BLOCK, Buffer.alloc(BLOCK, 3));
  await expect(node.mapper.mapOwn('volume', [1], 500)).rejects.toEqual(failure('ENOSPC'));
  const expected = Buffer.alloc(4 * BLOCK);
  expected.fill(3, 3 * BLOCK);
  expect((await readVolume(node, 'volume', 0, 4 * BLOCK)).equals(expected)).toBe(true);
  await checkInvariants(node);
});

it('blocks that are asked for together by several, in any order, are made once each', async () => {
  const node = memoryNode();
  await createSmall(node, 'volume', 8 * BLOCK, BLOCK);
  const resets: string[] = [];
  node.blocks.before = async (operation, name) => {
    if (operation !== 'reset') return;
    resets.push(name);
    for (let turn = 0; turn < 50; turn++) await null;
  };
  const asked = [
    [7, 1, 4],
    [1, 2],
    [4, 7, 2],
    [0, 7],
  ];
  await Promise.all([
    ...asked.map((blocks) => node.mapper.mapOwn('volume', blocks, 500)),
    node.mapper.mapWrite('volume', 0, 8 * BLOCK, 500),
  ]);
  expect([...resets].sort()).toEqual(Array.from({ length: 8 }, (_, block) => object('volume', 1, block)));
  await checkInvariants(node);
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
