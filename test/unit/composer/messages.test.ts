/** The hot path sends one request to the store for each block it touches, and asks the mapper nothing. */
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Flag, Op } from '../../../src/requests/ops.js';
import { monotonicMs } from '../../../src/sys/clock.js';
import { Rig } from './rig.js';
import { pattern } from './stack.js';

const BLOCK = 512;
let rig: Rig;

beforeEach(async () => {
  rig = new Rig({ blocks: 4, blockSize: BLOCK });
  for (let block = 0; block < 4; block++) rig.put(block, `object-${block}`, pattern(BLOCK, block), true);
  rig.lease = { granted: 'exclusive', until: monotonicMs() + 60_000 };
  await rig.read(0, 4 * BLOCK);
  rig.mapper.log.length = 0;
  rig.blocker.log.length = 0;
});

afterEach(() => {
  expect(rig.stop()).toEqual([]);
});

it('reads and writes within a block are one message each, over two blocks two', async () => {
  for (let i = 0; i < 50; i++) {
    await rig.read((i % 4) * BLOCK, 100);
    await rig.write((i % 4) * BLOCK + 100, pattern(100, i));
  }
  await rig.read(BLOCK - 10, 20);
  expect(rig.mapper.log).toEqual([]);
  expect(rig.blocker.log.filter(({ op }) => op === Op.READ)).toHaveLength(52);
  expect(rig.blocker.log.filter(({ op }) => op === Op.WRITE)).toHaveLength(50);
  expect(rig.blocker.log).toHaveLength(102);
});

it('a FUA write is one more, to the mapper; a flush one to each, however much was written', async () => {
  await rig.write(0, pattern(100, 1));
  await rig.flush();
  rig.mapper.log.length = 0;
  rig.blocker.log.length = 0;
  await rig.write(0, pattern(100, 2), Flag.FUA);
  expect(rig.mapper.log.map(({ op }) => op)).toEqual([Op.FLUSH]);
  expect(rig.blocker.log.map(({ op }) => op)).toEqual([Op.WRITE]);
  for (let i = 0; i < 20; i++) await rig.write(i * 10, pattern(10, i));
  await rig.flush();
  expect(rig.mapper.log.map(({ op }) => op)).toEqual([Op.FLUSH, Op.FLUSH]);
  expect(rig.blocker.log.filter(({ op }) => op === Op.FLUSH)).toHaveLength(1);
});
