/** Flushes of a few objects: a message for each, with its name and its hint; what fails is owed again. */
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { Flag, Op } from '../../../src/requests/ops.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { Rig } from './rig.js';
import { pattern } from './stack.js';

const BLOCK = 512;
const BLOCKS = 12;
let rig: Rig;

beforeEach(async () => {
  rig = new Rig({ blocks: BLOCKS, blockSize: BLOCK });
  for (let block = 0; block < BLOCKS; block++) rig.put(block, `object-${block}`, pattern(BLOCK, block), true);
  await rig.read(0, BLOCKS * BLOCK);
  await rig.write(0, pattern(10, 1));
  await rig.flush();
  rig.flushed.length = 0;
});

afterEach(() => {
  expect(rig.wrongHints).toEqual([]);
  expect(rig.stop()).toEqual([]);
});

const dirty = async (blocks: number): Promise<void> => {
  for (let block = 0; block < blocks; block++) await rig.write(block * BLOCK, pattern(10, block));
};

it('each dirty object once, until there are so many that a list is less', async () => {
  await dirty(8);
  await dirty(8);
  await rig.flush();
  expect(rig.flushed.toSorted()).toEqual(Array.from({ length: 8 }, (_, block) => [`object-${block}`]));
  rig.flushed.length = 0;
  await dirty(9);
  await rig.flush();
  expect(rig.flushed).toEqual([Array.from({ length: 9 }, (_, block) => `object-${block}`)]);
});

it('the answer waits for all of them; what failed is owed, and only that', async () => {
  await dirty(3);
  rig.blocker.hold(Op.FLUSH);
  let over = false;
  const flush = rig.flush().finally(() => {
    over = true;
  });
  const [first, second, third] = [
    await rig.blocker.take(Op.FLUSH),
    await rig.blocker.take(Op.FLUSH),
    await rig.blocker.take(Op.FLUSH),
  ];
  const failed = second.target;
  second.fail(errnos.EIO, `the disk did not take ${failed}`);
  rig.blocker.answer(first);
  await rig.send(Op.PING);
  expect(over).toBe(false);
  rig.blocker.answer(third);
  await expect(flush).rejects.toMatchObject({ code: 'EIO', message: expect.stringContaining(failed) });
  rig.blocker.release(Op.FLUSH);
  rig.flushed.length = 0;
  await rig.flush();
  expect(rig.flushed).toEqual([[failed]]);
});

it('flushes that come meanwhile share the next, which has what was written since', async () => {
  await dirty(1);
  rig.blocker.hold(Op.FLUSH);
  const first = rig.flush();
  const held = await rig.blocker.take(Op.FLUSH);
  await dirty(2);
  const more = [rig.flush(), rig.flush(), rig.flush()];
  await rig.send(Op.PING);
  rig.blocker.release(Op.FLUSH);
  rig.blocker.answer(held);
  await Promise.all([first, ...more]);
  expect(rig.flushed.toSorted()).toEqual([['object-0'], ['object-0'], ['object-1']]);
});

it('without records, or with the blocker’s queue full, one list does for all', async () => {
  await dirty(2);
  const taken = vi.spyOn(rig.port, 'getRequest').mockReturnValueOnce(null);
  await rig.flush();
  taken.mockRestore();
  expect(rig.flushed).toEqual([['object-0', 'object-1']]);
  rig.flushed.length = 0;
  await dirty(2);
  const full = vi.spyOn(rig.port, 'submit').mockImplementationOnce(() => {
    throw new SystemError(errnos.EAGAIN, 'the queue is full');
  });
  await rig.flush();
  full.mockRestore();
  expect(rig.flushed).toEqual([['object-1'], ['object-0']]);
});

it('one object of a client that has nothing else under way is flushed as such; two are not, nor one beside other requests', async () => {
  const flush = async (flags: number): Promise<number[]> => {
    rig.blocker.log.length = 0;
    await rig.zero(Op.FLUSH, 0, 0, flags);
    return rig.blocker.log.filter(({ op }) => op === Op.FLUSH).map((asked) => asked.flags & Flag.ALONE);
  };
  await dirty(1);
  expect(await flush(Flag.ALONE)).toEqual([Flag.ALONE]);
  await dirty(1);
  expect(await flush(0)).toEqual([0]);
  await dirty(2);
  expect(await flush(Flag.ALONE)).toEqual([0, 0]);
  await dirty(1);
  rig.blocker.hold(Op.READ);
  const read = rig.read(BLOCK, 10);
  const held = await rig.blocker.take(Op.READ);
  expect(await flush(Flag.ALONE)).toEqual([0]);
  rig.blocker.answer(held);
  await read;
});

it('a flush that waits for the one before it is not alone any more', async () => {
  await dirty(1);
  rig.blocker.hold(Op.FLUSH);
  const first = rig.flush();
  const held = await rig.blocker.take(Op.FLUSH);
  await dirty(1);
  const second = rig.zero(Op.FLUSH, 0, 0, Flag.ALONE);
  await rig.send(Op.PING);
  rig.blocker.release(Op.FLUSH);
  rig.blocker.answer(held);
  await Promise.all([first, second]);
  expect(rig.blocker.log.at(-1)).toMatchObject({ op: Op.FLUSH, flags: 0 });
});

it('a block that became zero has no object to flush', async () => {
  await dirty(2);
  await rig.zero(Op.TRIM, 0, BLOCK);
  await rig.flush();
  expect(rig.flushed.flat()).not.toContain('');
  expect(rig.flushed).not.toContain(null);
});

it('what the disk did not take of blocks that are zero since is not asked for again, but where a snapshot may have it, too', async () => {
  await dirty(4);
  rig.blocker.hold(Op.FLUSH);
  const flush = rig.flush();
  for (let object = 0; object < 4; object++)
    (await rig.blocker.take(Op.FLUSH)).fail(errnos.EIO, 'the disk did not take it');
  await expect(flush).rejects.toMatchObject({ code: 'EIO' });
  rig.blocker.release(Op.FLUSH);
  await rig.revoke();
  rig.put(1, 'object-1', pattern(BLOCK, 1), false);
  await rig.read(0, BLOCKS * BLOCK);
  await rig.zero(Op.TRIM, 0, 3 * BLOCK);
  rig.flushed.length = 0;
  await rig.flush();
  expect(rig.flushed.flat().toSorted()).toEqual(['object-1', 'object-3']);
});
