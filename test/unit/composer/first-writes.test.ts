/** First writes that arrive together are one request to the mapper; what goes wrong with one of them is no other's trouble. */
import { afterEach, beforeEach, expect, it } from 'vitest';
import { CHANGE_BLOCKS } from '../../../src/composer/first-writes.js';
import { Op } from '../../../src/requests/ops.js';
import { decodeBlocks, encodeMapReply } from '../../../src/requests/structs.js';
import { errnos } from '../../../src/sys/errno.js';
import type { Request } from '../../../src/xseg/index.js';
import { Rig } from './rig.js';
import { pattern } from './stack.js';

const BLOCK = 512;
const BLOCKS = 3 * CHANGE_BLOCKS;
let rig: Rig;

beforeEach(async () => {
  rig = new Rig({ blocks: BLOCKS, blockSize: BLOCK });
  // The lease, and the entries.
  await rig.read(0, BLOCK);
  rig.mapper.log.length = 0;
});

afterEach(() => {
  expect(rig.stop()).toEqual([]);
});

const writeAll = (blocks: readonly number[]): Promise<unknown> =>
  Promise.all(blocks.map((block) => rig.write(block * BLOCK + 10, pattern(20, block))));

const asked = (): number[] => rig.mapper.log.map(({ op }) => op);

/** Each of these has what writeAll wrote, and zeros around it. */
async function expectWritten(blocks: readonly number[]): Promise<void> {
  for (const block of blocks) {
    const expected = Buffer.alloc(BLOCK);
    pattern(20, block).copy(expected, 10);
    expect((await rig.read(block * BLOCK, BLOCK)).equals(expected)).toBe(true);
  }
}

const blocksOf = (request: Request): number[] => decodeBlocks(request.data.subarray(0, request.size));

it('to blocks all over a volume are one request to the mapper, each block in it once', async () => {
  rig.mapper.hold(Op.MAPOWN);
  const writes = writeAll([7, 0, 130, 7, 7, 2]);
  const request = await rig.mapper.take(Op.MAPOWN);
  expect(blocksOf(request)).toEqual([7, 0, 130, 2]);
  rig.mapper.answer(request);
  await writes;
  expect(asked()).toEqual([Op.MAPOWN]);
  await expectWritten([7, 0, 130, 2]);
});

it('one alone is asked for by its range, with the blocks that it goes over', async () => {
  await rig.write(3 * BLOCK + 5, pattern(2 * BLOCK, 1));
  expect(rig.mapper.log).toMatchObject([{ op: Op.MAPW, offset: 3 * BLOCK, size: 3 * BLOCK }]);
});

it('to shared blocks are a request each: the copy of one does not wait for that of another', async () => {
  for (const block of [3, 5]) rig.put(block, `shared-${block}`, pattern(BLOCK, block), false);
  await rig.revoke();
  await rig.read(0, BLOCK);
  rig.mapper.log.length = 0;
  await writeAll([0, 3, 1, 5]);
  expect(asked().sort()).toEqual([Op.MAPW, Op.MAPW, Op.MAPOWN]);
  await expectWritten([0, 1]);
  for (const block of [3, 5]) {
    const expected = pattern(BLOCK, block);
    pattern(20, block).copy(expected, 10);
    expect((await rig.read(block * BLOCK, BLOCK)).equals(expected)).toBe(true);
  }
});

it('that are many are several requests', async () => {
  const blocks = Array.from({ length: 2 * CHANGE_BLOCKS + 1 }, (_, i) => i);
  await writeAll(blocks);
  const sizes = rig.mapper.log.map(({ op, size }) => (op === Op.MAPOWN ? size / 8 : 1));
  expect(sizes).toEqual([CHANGE_BLOCKS, CHANGE_BLOCKS, 1]);
  await expectWritten(blocks);
});

it('of two volumes are a request for each', async () => {
  await rig.client.call(500, { op: Op.READ, target: 'another', size: BLOCK, capacity: BLOCK });
  rig.mapper.log.length = 0;
  const write = (target: string, block: number): Promise<unknown> =>
    rig.client.call(500, { op: Op.WRITE, target, offset: block * BLOCK, data: pattern(10, block) });
  await Promise.all([write('volume', 0), write('another', 1), write('volume', 2), write('another', 3)]);
  expect(rig.mapper.log).toMatchObject([
    { op: Op.MAPOWN, target: 'volume', size: 16 },
    { op: Op.MAPOWN, target: 'another', size: 16 },
  ]);
});

it('fail one by one where they cannot be made together: only who wrote to the block in trouble is told', async () => {
  rig.mapper.hold(Op.MAPOWN);
  rig.mapper.hold(Op.MAPW);
  const writes = Promise.allSettled([0, 5, 9].map((block) => rig.write(block * BLOCK + 10, pattern(20, block))));
  (await rig.mapper.take(Op.MAPOWN)).fail(errnos.EIO, 'object of block 5 is missing');
  for (const block of [0, 5, 9]) {
    const request = await rig.mapper.take(Op.MAPW);
    expect([request.offset, request.size]).toEqual([block * BLOCK, BLOCK]);
    if (block === 5) request.fail(errnos.EIO, 'object of block 5 is missing');
    else rig.mapper.answer(request);
  }
  expect(await writes).toMatchObject([
    { status: 'fulfilled' },
    { status: 'rejected', reason: { code: 'EIO', message: expect.stringContaining('block 5') } },
    { status: 'fulfilled' },
  ]);
  await expectWritten([0, 9]);
});

it('are asked for one by one, too, when the answer is not of all of them', async () => {
  rig.mapper.hold(Op.MAPOWN);
  const writes = writeAll([0, 5]);
  const request = await rig.mapper.take(Op.MAPOWN);
  const short = encodeMapReply([{ target: 'an-object', zero: false, offset: 0, size: BLOCK }]);
  request.data.set(short);
  request.succeed(short.length);
  await writes;
  expect(asked()).toEqual([Op.MAPOWN, Op.MAPW, Op.MAPW]);
  await expectWritten([0, 5]);
  expect(rig.objects.has('an-object')).toBe(false);
});

it.each([
  ['before', false],
  ['after', true],
])('and a zeroing of one of their blocks, answered %s them, leave what the map says', async (_order, isAfter) => {
  rig.mapper.hold(Op.MAPOWN);
  rig.mapper.hold(Op.MAPZERO);
  const writes = writeAll([1, 4]);
  const own = await rig.mapper.take(Op.MAPOWN);
  const zeroing = rig.zero(Op.TRIM, 4 * BLOCK, BLOCK);
  const zero = await rig.mapper.take(Op.MAPZERO);
  for (const request of isAfter ? [own, zero] : [zero, own]) rig.mapper.answer(request);
  await Promise.all([writes, zeroing]);
  const object = rig.objects.get(rig.map.objectName(4)) ?? Buffer.alloc(0);
  const stored = Buffer.concat([object, Buffer.alloc(BLOCK)]).subarray(0, BLOCK);
  expect(stored.includes(pattern(20, 4))).toBe(true);
  expect((await rig.read(4 * BLOCK, BLOCK)).equals(stored)).toBe(true);
  await expectWritten([1]);
});
