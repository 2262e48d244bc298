/** What the composer promises whoever asks it: who waits for whom, and what is durable when an answer comes. */
import { afterEach, describe, expect, it } from 'vitest';
import { Flag, Op } from '../../../src/requests/ops.js';
import { EntryFlag } from '../../../src/requests/resolved-map.js';
import { errnos } from '../../../src/sys/errno.js';
import { Rig } from './rig.js';
import { pattern } from './stack.js';

const BLOCK = 512;
let rig: Rig;

afterEach(() => {
  expect(rig.wrongHints).toEqual([]);
  expect(rig.stop()).toEqual([]);
});

const asked = (op: number): number => rig.mapper.log.filter((request) => request.op === op).length;

/** Is it over? Asked after the composer has certainly had its turn: it answered another request. */
async function isOver(promise: Promise<unknown>): Promise<boolean> {
  let over = false;
  const end = (): void => {
    over = true;
  };
  promise.then(end, end);
  await rig.send(Op.PING);
  await rig.send(Op.PING);
  return over;
}

describe('the barrier between writes and zeroing', () => {
  it('lets running writes end before a block becomes zero, and holds later ones until it is', async () => {
    rig = new Rig({ blocks: 4, blockSize: BLOCK });
    rig.put(1, 'first-object', pattern(BLOCK, 1));
    await rig.read(0, 1);
    rig.blocker.hold(Op.WRITE);
    rig.mapper.hold(Op.MAPZERO);
    const running = rig.write(BLOCK, pattern(BLOCK, 2));
    const write = await rig.blocker.take(Op.WRITE);
    const zeroing = rig.zero(Op.WRITE_ZEROES, 0, 3 * BLOCK);
    expect(await isOver(zeroing)).toBe(false);
    expect(rig.mapper.waiting(Op.MAPZERO)).toBe(0);
    const later = rig.write(BLOCK + 10, pattern(10, 3));
    expect(await isOver(later)).toBe(false);
    rig.blocker.answer(write);
    await running;
    const zero = await rig.mapper.take(Op.MAPZERO);
    expect(await isOver(later)).toBe(false);
    expect(rig.blocker.waiting(Op.WRITE)).toBe(0);
    rig.mapper.answer(zero);
    await zeroing;
    rig.blocker.release(Op.WRITE);
    await later;
    const expected = Buffer.alloc(BLOCK);
    pattern(10, 3).copy(expected, 10);
    expect((await rig.read(BLOCK, BLOCK)).equals(expected)).toBe(true);
  });

  it('counts zeroing of parts among the writes', async () => {
    rig = new Rig({ blocks: 2, blockSize: BLOCK });
    rig.put(0, 'first-object', pattern(BLOCK, 1));
    rig.blocker.hold(Op.WRITE_ZEROES);
    rig.mapper.hold(Op.MAPZERO);
    const part = rig.zero(Op.WRITE_ZEROES, 10, 20);
    const held = await rig.blocker.take(Op.WRITE_ZEROES);
    const whole = rig.zero(Op.TRIM, 0, BLOCK);
    expect(await isOver(whole)).toBe(false);
    expect(rig.mapper.waiting(Op.MAPZERO)).toBe(0);
    rig.blocker.answer(held);
    await part;
    rig.mapper.answer(await rig.mapper.take(Op.MAPZERO));
    await whole;
  });

  it('does not let a part be zeroed in a block that becomes zero', async () => {
    rig = new Rig({ blocks: 2, blockSize: BLOCK });
    rig.put(0, 'first-object', pattern(BLOCK, 1));
    await rig.read(0, 1);
    rig.mapper.hold(Op.MAPZERO);
    const whole = rig.zero(Op.TRIM, 0, BLOCK);
    const held = await rig.mapper.take(Op.MAPZERO);
    const part = rig.zero(Op.WRITE_ZEROES, 10, 20);
    expect(await isOver(part)).toBe(false);
    expect(rig.blocker.log.filter(({ op }) => op === Op.WRITE_ZEROES)).toEqual([]);
    rig.mapper.answer(held);
    await Promise.all([whole, part]);
  });

  it('zeroes again what is being written for the first time, and what is becoming zero already', async () => {
    rig = new Rig({ blocks: 2, blockSize: BLOCK });
    await rig.read(0, 1);
    rig.mapper.hold(Op.MAPW);
    rig.mapper.hold(Op.MAPZERO);
    const write = rig.write(0, pattern(BLOCK, 1));
    const change = await rig.mapper.take(Op.MAPW);
    const zeroing = rig.zero(Op.TRIM, 0, BLOCK);
    const first = await rig.mapper.take(Op.MAPZERO);
    const again = rig.zero(Op.TRIM, 0, BLOCK);
    expect(await isOver(again)).toBe(false);
    rig.mapper.release(Op.MAPW);
    rig.mapper.answer(change);
    rig.mapper.answer(first);
    rig.mapper.release(Op.MAPZERO);
    await Promise.all([write, zeroing, again]);
  });
});

describe('hints', () => {
  it('of the object before are not given for the one after', async () => {
    rig = new Rig({ blocks: 3, blockSize: BLOCK });
    for (let i = 0; i < 3; i++) rig.put(i, `shared-${i}`, pattern(BLOCK, i), false);
    await rig.read(0, 3 * BLOCK);
    await rig.write(10, pattern(2 * BLOCK, 5));
    await rig.zero(Op.TRIM, 0, 2 * BLOCK);
    await rig.write(0, pattern(10, 6));
    // A read that was under way while its block became another object's.
    rig.blocker.hold(Op.READ);
    const reading = rig.read(2 * BLOCK, 10);
    const held = await rig.blocker.take(Op.READ);
    await rig.zero(Op.WRITE_ZEROES, 2 * BLOCK, BLOCK);
    await rig.write(2 * BLOCK, pattern(10, 7));
    rig.blocker.answer(held);
    rig.blocker.release(Op.READ);
    await reading;
    expect((await rig.read(2 * BLOCK, 10)).equals(pattern(10, 7))).toBe(true);
  });

  it('of a volume count only with its name', async () => {
    rig = new Rig({ blocks: 1, blockSize: BLOCK });
    await rig.read(0, 1);
    const ask = (target: string, flags: number, hint: number): Promise<number> =>
      new Promise((resolve) => {
        const request = rig.client.getRequest()!;
        Object.assign(request, { op: Op.BLOCK_STATUS, target, flags, hint, offset: 0, size: 10 });
        const buffer = rig.client.allocate(4096);
        request.setData(buffer, 4096);
        request.onReply = (): void => {
          const told = request.hint;
          rig.client.free(buffer);
          rig.client.putRequest(request);
          resolve(told);
        };
        rig.client.submit(request, 500);
      });
    const own = await ask('volume', 0, 0);
    expect(await ask('volume', 0, own)).toBe(own);
    expect(await ask('other', 0, own)).not.toBe(own);
    rig.lease = { granted: 'shared', version: 0, readOnly: true };
    const old = await ask('volume', Flag.ASSUMEV0, own);
    expect(old).not.toBe(own);
    expect(await ask('volume', 0, old)).toBe(own);
    expect(rig.mapper.log.filter(({ op }) => op === Op.LEASE).map(({ target }) => target)).toEqual([
      'volume',
      'other',
      'volume',
    ]);
  });
});

describe('a revoke', () => {
  it('waits for what runs, lets nothing start, and everything goes on after it', async () => {
    rig = new Rig({ blocks: 2, blockSize: BLOCK });
    rig.put(0, 'first-object', pattern(BLOCK, 1));
    await rig.read(0, 1);
    rig.blocker.hold(Op.WRITE);
    const running = rig.write(0, pattern(10, 2));
    const held = await rig.blocker.take(Op.WRITE);
    const revoke = rig.revoke();
    const second = rig.revoke();
    const reading = rig.read(0, 10);
    expect(await isOver(Promise.race([revoke, second, reading]))).toBe(false);
    rig.put(0, 'second-object', pattern(BLOCK, 9));
    rig.blocker.answer(held);
    await Promise.all([running, revoke, second]);
    expect((await reading).equals(pattern(BLOCK, 9).subarray(0, 10))).toBe(true);
    expect(asked(Op.LEASE)).toBe(2);
  });

  it('without a name is meant for all volumes in all their forms', async () => {
    rig = new Rig({ blocks: 2, blockSize: BLOCK });
    await rig.read(0, 1);
    rig.lease = { granted: 'shared', version: 0, readOnly: true };
    await rig.read(0, 1, Flag.ASSUMEV0);
    const held = (): unknown[] => (rig.composer.status() as { volumes: unknown[] }).volumes;
    expect(held()).toHaveLength(2);
    await rig.revoke();
    expect(held()).toEqual([]);
    await rig.read(0, 1);
    await rig.read(0, 1, Flag.ASSUMEV0);
    await rig.revoke('');
    expect(held()).toEqual([]);
  });
});

describe('durability', () => {
  it('FUA passes on to the object and waits for a word of the mapper that came after it; others share that word', async () => {
    rig = new Rig({ blocks: 4, blockSize: BLOCK });
    await rig.read(0, 1);
    rig.mapper.hold(Op.FLUSH);
    const first = rig.write(0, pattern(10, 1), Flag.FUA);
    const flush = await rig.mapper.take(Op.FLUSH);
    expect(rig.blocker.log.at(-1)).toMatchObject({ op: Op.WRITE, flags: Flag.FUA });
    expect(flush.flags).toBe(Flag.WRITTEN);
    // Its entry is the same block's, on its way to the disk with the flush that runs: but the lock may have been lost since that began.
    const second = rig.write(20, pattern(10, 2), Flag.FUA);
    const plain = rig.write(40, pattern(10, 3));
    await plain;
    expect(await isOver(Promise.race([first, second]))).toBe(false);
    const third = rig.write(BLOCK, pattern(10, 4), Flag.FUA);
    expect(await isOver(third)).toBe(false);
    rig.mapper.answer(flush);
    await first;
    expect(await isOver(Promise.race([second, third]))).toBe(false);
    rig.mapper.answer(await rig.mapper.take(Op.FLUSH));
    await Promise.all([second, third]);
  });

  it('FUA zeroing waits for the map; without FUA nothing is flushed', async () => {
    rig = new Rig({ blocks: 4, blockSize: BLOCK });
    for (let i = 0; i < 4; i++) rig.put(i, `object-${i}`, pattern(BLOCK, i));
    await rig.flush();
    await rig.write(0, pattern(10, 1), Flag.FUA);
    const before = asked(Op.FLUSH);
    await rig.write(0, pattern(10, 1));
    await rig.zero(Op.TRIM, BLOCK, BLOCK);
    expect(asked(Op.FLUSH)).toBe(before);
    rig.mapper.hold(Op.FLUSH);
    const zeroing = rig.zero(Op.WRITE_ZEROES, 2 * BLOCK, BLOCK, Flag.FUA);
    const flush = await rig.mapper.take(Op.FLUSH);
    expect(await isOver(zeroing)).toBe(false);
    flush.fail(errnos.EIO, 'a bad disk');
    await expect(zeroing).rejects.toMatchObject({ code: 'EIO' });
    // The map is still owed.
    const again = rig.write(0, pattern(10, 1), Flag.FUA);
    rig.mapper.answer(await rig.mapper.take(Op.FLUSH));
    await again;
  });

  it('takes nothing about the map for granted under a new lease', async () => {
    rig = new Rig({ blocks: 1, blockSize: BLOCK });
    rig.put(0, 'own-object', pattern(BLOCK, 1));
    await rig.write(0, pattern(10, 1));
    await rig.flush();
    // What is not flushed has the volume remembered.
    await rig.write(0, pattern(10, 1));
    await rig.revoke();
    const before = asked(Op.FLUSH);
    await rig.write(0, pattern(10, 1), Flag.FUA);
    expect(asked(Op.FLUSH)).toBe(before + 1);
  });

  it('FUA flushes the map for an entry that a fetch brought before the copy-up answered', async () => {
    rig = new Rig({ blocks: 2, blockSize: BLOCK });
    rig.put(1, 'own-object', pattern(BLOCK, 1));
    await rig.read(0, 2 * BLOCK);
    await rig.zero(Op.TRIM, BLOCK, BLOCK);
    await rig.flush();
    rig.mapper.hold(Op.MAPW);
    // The zeroed block's entry is not known: asking for it brings the other's, which the mapper has changed by now.
    const early = rig.write(0, pattern(10, 1));
    const copyUp = await rig.mapper.take(Op.MAPW);
    rig.put(0, 'new-object', Buffer.alloc(0));
    await rig.read(BLOCK, 1);
    const before = asked(Op.FLUSH);
    await rig.write(20, pattern(10, 2), Flag.FUA);
    expect(asked(Op.FLUSH)).toBe(before + 1);
    rig.mapper.answer(copyUp);
    await early;
  });

  it('with write-through every change is like one with FUA', async () => {
    rig = new Rig({ blocks: 2, blockSize: BLOCK, writeThrough: true });
    rig.put(0, 'own-object', pattern(BLOCK, 1));
    await rig.write(0, pattern(10, 1));
    expect(rig.blocker.log.at(-1)).toMatchObject({ op: Op.WRITE, flags: Flag.FUA });
    await rig.zero(Op.WRITE_ZEROES, 5, 10);
    expect(rig.blocker.log.at(-1)).toMatchObject({ op: Op.WRITE_ZEROES, flags: Flag.FUA });
    const before = asked(Op.FLUSH);
    await rig.zero(Op.TRIM, 0, BLOCK);
    expect(asked(Op.FLUSH)).toBe(before + 1);
  });

  it('a flush covers zeroed parts, copied blocks and writes without data', async () => {
    rig = new Rig({ blocks: 3, blockSize: BLOCK });
    rig.put(0, 'own-object', pattern(BLOCK, 1));
    rig.put(1, 'shared-object', pattern(BLOCK, 1), false);
    await rig.read(0, 1);
    await rig.flush();
    await rig.zero(Op.TRIM, 5, 10);
    await rig.zero(Op.WRITE_ZEROES, BLOCK + 5, 10);
    await rig.zero(Op.WRITE_ZEROES, 2 * BLOCK, BLOCK, Flag.NO_HOLE);
    rig.flushed.length = 0;
    const before = asked(Op.FLUSH);
    await rig.write(0, Buffer.alloc(0), Flag.FUA);
    expect(rig.flushed.flat().toSorted()).toEqual(
      ['own-object', rig.map.objectName(1), rig.map.objectName(2)].toSorted(),
    );
    expect(asked(Op.FLUSH)).toBe(before + 1);
    rig.flushed.length = 0;
    await rig.flush();
    expect(rig.flushed).toEqual([]);
  });

  it('the first flush covers everything, also when it failed once; a map flush that failed is owed', async () => {
    rig = new Rig({ blocks: 1, blockSize: BLOCK });
    await rig.read(0, 1);
    rig.blocker.hold(Op.FLUSH);
    const failing = rig.flush();
    (await rig.blocker.take(Op.FLUSH)).fail(errnos.EIO, 'a bad disk');
    await expect(failing).rejects.toMatchObject({ code: 'EIO' });
    rig.blocker.release(Op.FLUSH);
    rig.mapper.hold(Op.FLUSH);
    const half = rig.flush();
    (await rig.mapper.take(Op.FLUSH)).fail(errnos.ENOSPC, 'no space');
    await expect(half).rejects.toMatchObject({ code: 'ENOSPC' });
    expect(rig.flushed).toEqual([null]);
    const whole = rig.flush();
    rig.mapper.answer(await rig.mapper.take(Op.FLUSH));
    await whole;
  });

  it('a flush of so many objects that the whole store is flushed fails by none of another volume', async () => {
    const count = 4100;
    rig = new Rig({ blocks: count, blockSize: BLOCK });
    const names = Array.from({ length: count }, (_, i) => `object-${i}`);
    for (const [i, name] of names.entries()) rig.put(i, name, pattern(BLOCK, i));
    await rig.flush();
    for (const bad of [null, 'object-4099']) {
      await rig.write(0, pattern(count * BLOCK, 1));
      rig.flushed.length = 0;
      rig.blocker.hold(Op.FLUSH);
      const flushing = rig.flush();
      (await rig.blocker.take(Op.FLUSH)).fail(errnos.EIO, 'a bad disk');
      const first = await rig.blocker.take(Op.FLUSH);
      rig.blocker.answer(first);
      const second = await rig.blocker.take(Op.FLUSH);
      if (bad === null) rig.blocker.answer(second);
      else second.fail(errnos.EIO, 'its own disk');
      rig.blocker.release(Op.FLUSH);
      if (bad === null) await flushing;
      else await expect(flushing).rejects.toMatchObject({ code: 'EIO' });
      const asked = rig.flushed.flat();
      expect(asked.length).toBe(bad === null ? count : 4096);
      if (bad === null) expect(new Set(asked)).toEqual(new Set(names));
    }
    rig.flushed.length = 0;
    await rig.flush();
    // What failed is owed.
    expect(rig.flushed).toEqual([null]);
  });

  it('a snapshot and a close come after the flush of what was written, or not at all', async () => {
    rig = new Rig({ blocks: 1, blockSize: BLOCK });
    await rig.write(0, pattern(10, 1));
    rig.blocker.hold(Op.FLUSH);
    const snapshot = rig.send(Op.SNAPSHOT);
    const flush = await rig.blocker.take(Op.FLUSH);
    expect(asked(Op.SNAPSHOT)).toBe(0);
    rig.blocker.answer(flush);
    await snapshot;
    expect(asked(Op.SNAPSHOT)).toBe(1);
    await rig.write(0, pattern(10, 2));
    const close = rig.send(Op.CLOSE);
    (await rig.blocker.take(Op.FLUSH)).fail(errnos.EIO, 'a bad disk');
    await expect(close).rejects.toMatchObject({ code: 'EIO' });
    expect(asked(Op.CLOSE)).toBe(0);
    // Who was told may close it all the same, if the mapper finds nothing that is bad.
    const again = rig.send(Op.CLOSE);
    (await rig.blocker.take(Op.FLUSH)).fail(errnos.EIO, 'a bad disk');
    await again;
    expect(asked(Op.CLOSE)).toBe(1);
    expect(rig.mapper.log.at(-1)).toMatchObject({ op: Op.CLOSE, flags: Flag.HEARD });
    rig.blocker.release(Op.FLUSH);
  });

  it('a close after one that was refused says so, also when the disk has nothing more to say; a first one does not', async () => {
    rig = new Rig({ blocks: 1, blockSize: BLOCK });
    for (const refusals of [1, 0]) {
      await rig.write(0, pattern(10, 1));
      rig.blocker.hold(Op.FLUSH);
      for (let i = 0; i < refusals; i++) {
        const close = rig.send(Op.CLOSE);
        (await rig.blocker.take(Op.FLUSH)).fail(errnos.EIO, 'a bad disk');
        await expect(close).rejects.toMatchObject({ code: 'EIO' });
      }
      rig.blocker.release(Op.FLUSH);
      await rig.send(Op.CLOSE);
      expect(rig.mapper.log.at(-1)).toMatchObject({ op: Op.CLOSE, flags: refusals > 0 ? Flag.HEARD : 0 });
    }
  });

  it.each([Op.FLUSH, Op.CLOSE])(
    'the mapper hears that somebody is told of a bad disk (operation %i), and is asked again',
    async (op) => {
      rig = new Rig({ blocks: 1, blockSize: BLOCK });
      await rig.write(0, pattern(10, 1));
      const before = asked(Op.FLUSH);
      rig.blocker.hold(Op.FLUSH);
      const refused = op === Op.FLUSH ? rig.flush() : rig.send(op);
      (await rig.blocker.take(Op.FLUSH)).fail(errnos.EIO, 'a bad disk');
      await expect(refused).rejects.toMatchObject({ code: 'EIO' });
      expect(asked(Op.FLUSH)).toBe(before + 1);
      rig.blocker.release(Op.FLUSH);
      await rig.flush();
      expect(asked(Op.FLUSH)).toBe(before + 2);
    },
  );

  it('the end of the last client reaches the mapper though the disk is bad: nobody is left to flush again, and what is owed stays owed', async () => {
    rig = new Rig({ blocks: 1, blockSize: BLOCK });
    await rig.write(0, pattern(10, 1));
    rig.blocker.hold(Op.FLUSH);
    const close = rig.client.call(500, { op: Op.CLOSE, target: 'volume', flags: Flag.IMPLICIT });
    (await rig.blocker.take(Op.FLUSH)).fail(errnos.EIO, 'a bad disk');
    await close;
    expect(rig.mapper.log.at(-1)).toMatchObject({ op: Op.CLOSE, flags: Flag.IMPLICIT });
    const flush = rig.flush();
    (await rig.blocker.take(Op.FLUSH)).fail(errnos.EIO, 'a bad disk');
    await expect(flush).rejects.toMatchObject({ code: 'EIO' });
    rig.blocker.release(Op.FLUSH);
  });
});

describe('reads without a lease', () => {
  it('look at the map again when an object is gone, and say so in the end', async () => {
    rig = new Rig({ blocks: 2, blockSize: BLOCK });
    rig.put(0, 'first-object', pattern(BLOCK, 1), false);
    rig.put(1, 'second-object', pattern(BLOCK, 2), false);
    rig.lease = { granted: 'none', holder: 'their node' };
    expect((await rig.read(BLOCK - 5, 10)).length).toBe(10);
    rig.blocker.hold(Op.READ);
    const reading = rig.read(BLOCK, BLOCK);
    const held = await rig.blocker.take(Op.READ);
    rig.put(1, 'third-object', pattern(BLOCK, 3), false);
    held.fail(errnos.ENOENT, 'gone');
    rig.blocker.release(Op.READ);
    expect((await reading).equals(pattern(BLOCK, 3))).toBe(true);
    rig.objects.delete('third-object');
    await expect(rig.read(0, 2 * BLOCK)).rejects.toMatchObject({
      code: 'EIO',
      message: expect.stringContaining('third-object'),
    });
    rig.map.set(1, EntryFlag.ZERO, '');
    const expected = Buffer.concat([pattern(BLOCK, 1), Buffer.alloc(BLOCK)]);
    expect((await rig.read(0, 2 * BLOCK)).equals(expected)).toBe(true);
    expect(await rig.extents(0, 2 * BLOCK)).toEqual([{ length: 2 * BLOCK, flags: 0 }]);
  });
});
