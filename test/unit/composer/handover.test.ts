/** Giving the lock to another node: what was written is durable before the mapper hears that it may let go. */
import { afterEach, describe, expect, it } from 'vitest';
import { Flag, Op } from '../../../src/requests/ops.js';
import { errnos } from '../../../src/sys/errno.js';
import { Rig } from './rig.js';
import { pattern } from './stack.js';

const BLOCK = 512;
let rig: Rig;

afterEach(() => {
  expect(rig.stop()).toEqual([]);
});

const asked = (op: number): number => rig.mapper.log.filter((request) => request.op === op).length;
const handOver = (): Promise<void> => rig.revoke('volume', Flag.FLUSH);

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

/** A rig with own objects and nothing that a flush owes. */
async function clean(): Promise<Rig> {
  const made = new Rig({ blocks: 4, blockSize: BLOCK });
  for (let i = 0; i < 4; i++) made.put(i, `object-${i}`, pattern(BLOCK, i));
  rig = made;
  await made.write(0, pattern(10, 1));
  await made.flush();
  made.flushed.length = 0;
  made.mapper.log.length = 0;
  return made;
}

describe('a hand-over', () => {
  it('drains, flushes the data, and is answered then; what comes meanwhile waits', async () => {
    await clean();
    rig.blocker.hold(Op.WRITE);
    rig.blocker.hold(Op.FLUSH);
    const running = rig.write(0, pattern(10, 2));
    const sub = await rig.blocker.take(Op.WRITE);
    const given = handOver();
    const late = rig.write(BLOCK, pattern(10, 3));
    expect(await isOver(given)).toBe(false);
    expect(rig.blocker.waiting(Op.FLUSH)).toBe(0);
    rig.blocker.answer(sub);
    await running;
    const flush = await rig.blocker.take(Op.FLUSH);
    const second = handOver();
    expect(await isOver(Promise.race([given, second, late]))).toBe(false);
    rig.blocker.release(Op.WRITE);
    rig.blocker.answer(flush);
    await Promise.all([given, second, late]);
    expect(rig.flushed).toEqual([['object-0']]);
    // The map is the mapper's to flush.
    expect(asked(Op.FLUSH)).toBe(0);
    expect(asked(Op.LEASE)).toBe(1);
    rig.blocker.release(Op.FLUSH);
  });

  it('leaves nothing for a later flush, which must not ask for the lock again', async () => {
    await clean();
    await rig.write(0, pattern(10, 2));
    await handOver();
    await rig.flush();
    expect(rig.flushed).toEqual([['object-0']]);
    expect(asked(Op.LEASE)).toBe(0);
    expect(rig.mapper.log.filter(({ op, flags }) => op === Op.FLUSH && flags & Flag.WRITTEN)).toEqual([]);
  });

  it('covers what was written under an earlier lease', async () => {
    await clean();
    await rig.write(0, pattern(10, 2));
    await rig.revoke();
    await handOver();
    expect(rig.flushed).toEqual([['object-0']]);
  });

  it('that cannot flush says so, and the next flush still owes it', async () => {
    await clean();
    await rig.write(0, pattern(10, 2));
    rig.blocker.hold(Op.FLUSH);
    const given = handOver();
    (await rig.blocker.take(Op.FLUSH)).fail(errnos.EIO, 'a bad disk');
    await expect(given).rejects.toMatchObject({ code: 'EIO', message: 'a bad disk' });
    rig.blocker.release(Op.FLUSH);
    await rig.flush();
    expect(rig.flushed).toEqual([['object-0']]);
    expect(rig.mapper.log.at(-1)).toMatchObject({ op: Op.FLUSH, flags: Flag.WRITTEN });
  });

  it('whose lock is lost meanwhile is none', async () => {
    await clean();
    await rig.write(0, pattern(10, 2));
    rig.blocker.hold(Op.WRITE);
    const running = rig.write(0, pattern(10, 3));
    const sub = await rig.blocker.take(Op.WRITE);
    const given = handOver();
    const told = rig.revoke('volume', Flag.LOST, 'it is gone');
    await rig.send(Op.PING);
    rig.blocker.answer(sub);
    const lost = { code: 'EIO', message: 'it is gone' };
    await expect(given).rejects.toMatchObject(lost);
    await expect(running).rejects.toMatchObject(lost);
    await told;
    expect(rig.flushed).toEqual([]);
    rig.blocker.release(Op.WRITE);
  });
});

describe('the mapper’s word in a flush', () => {
  it('is asked for while the data is flushed, unless an entry must wait for that', async () => {
    await clean();
    await rig.write(0, pattern(10, 2));
    rig.blocker.hold(Op.FLUSH);
    rig.mapper.hold(Op.FLUSH);
    const flushing = rig.flush();
    const data = await rig.blocker.take(Op.FLUSH);
    const word = await rig.mapper.take(Op.FLUSH);
    expect(word.flags).toBe(Flag.WRITTEN);
    rig.blocker.answer(data);
    expect(await isOver(flushing)).toBe(false);
    rig.mapper.answer(word);
    await flushing;
    // A first write changes the map.
    rig.put(3, 'shared-object', pattern(BLOCK, 3), false);
    await rig.revoke();
    await rig.write(3 * BLOCK, pattern(10, 2));
    const ordered = rig.flush();
    const first = await rig.blocker.take(Op.FLUSH);
    await rig.send(Op.PING);
    expect(rig.mapper.waiting(Op.FLUSH)).toBe(0);
    rig.blocker.answer(first);
    rig.mapper.answer(await rig.mapper.take(Op.FLUSH));
    await ordered;
    rig.blocker.release(Op.FLUSH);
    rig.mapper.release(Op.FLUSH);
  });

  it('that the lock is lost fails the flush, and keeps it owed', async () => {
    await clean();
    await rig.write(0, pattern(10, 2));
    rig.mapper.hold(Op.FLUSH);
    const flushing = rig.flush();
    (await rig.mapper.take(Op.FLUSH)).fail(errnos.EIO, 'it is gone');
    await expect(flushing).rejects.toMatchObject({ code: 'EIO', message: 'it is gone' });
    const again = rig.flush();
    const word = await rig.mapper.take(Op.FLUSH);
    expect(word.flags).toBe(Flag.WRITTEN);
    rig.mapper.answer(word);
    await again;
    rig.mapper.release(Op.FLUSH);
  });

  it('is needed after a trim, and after the last unflushed change only once', async () => {
    await clean();
    await rig.zero(Op.TRIM, 3 * BLOCK, BLOCK);
    await rig.flush();
    expect(rig.mapper.log.at(-1)).toMatchObject({ op: Op.FLUSH, flags: Flag.WRITTEN });
    await rig.write(0, pattern(10, 2), Flag.FUA);
    const before = asked(Op.FLUSH);
    const data = rig.flushed.length;
    await rig.flush();
    await rig.read(0, 10);
    await rig.flush();
    expect(asked(Op.FLUSH)).toBe(before);
    expect(rig.flushed).toHaveLength(data);
  });

  it('is shared by flushes and FUA writes that wait for it together', async () => {
    await clean();
    await rig.write(0, pattern(10, 2));
    rig.mapper.hold(Op.FLUSH);
    const first = rig.flush();
    const word = await rig.mapper.take(Op.FLUSH);
    await rig.write(BLOCK, pattern(10, 2));
    const others = [
      rig.flush(),
      rig.flush(),
      ...[0, 1, 2, 3].map((i) => rig.write(i * BLOCK, pattern(10, 3), Flag.FUA)),
    ];
    expect(await isOver(Promise.race(others))).toBe(false);
    rig.mapper.answer(word);
    rig.mapper.answer(await rig.mapper.take(Op.FLUSH));
    await Promise.all([first, ...others]);
    expect(asked(Op.FLUSH)).toBe(2);
    rig.mapper.release(Op.FLUSH);
  });

  it('of a volume that was given back is asked for under a new lease', async () => {
    await clean();
    await rig.write(0, pattern(10, 2));
    await rig.revoke();
    rig.mapper.hold(Op.LEASE);
    const flushing = rig.flush();
    (await rig.mapper.take(Op.LEASE)).fail(errnos.EIO, 'it is gone');
    await expect(flushing).rejects.toMatchObject({ code: 'EIO', message: 'it is gone' });
    expect(rig.flushed).toEqual([]);
    rig.mapper.release(Op.LEASE);
    await rig.flush();
    expect(rig.flushed).toEqual([['object-0']]);
  });
});
