/** A volume of which the removal was cut short. */
import { afterEach, beforeEach, expect, it } from 'vitest';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { pattern, Stack } from './stack.js';

const BLOCK = 4096;
let stack: Stack;

beforeEach(async () => {
  stack = await Stack.start();
});

afterEach(async () => {
  expect(await stack.stop()).toEqual([]);
});

it('blocks that are marked deleted are no data, though their objects are there: what was written to them last may be missing', async () => {
  await stack.create('volume', 2 * BLOCK, BLOCK);
  await stack.write('volume', 0, pattern(BLOCK, 1));
  const remove = stack.blocks.delete.bind(stack.blocks);
  stack.blocks.delete = () => Promise.reject(new SystemError(errnos.EIO, 'the disk says no'));
  await expect(stack.remove('volume')).rejects.toThrow('could not be deleted');
  expect((await stack.blocks.list(null, 10)).names.length).toBe(1);
  await expect(stack.read('volume', 0, BLOCK)).rejects.toThrow('marked deleted');
  expect(await stack.read('volume', BLOCK, BLOCK)).toEqual(Buffer.alloc(BLOCK));
  stack.blocks.delete = remove;
  await stack.remove('volume');
  expect(await stack.sizeOf('volume')).toBeNull();
});
