/** Flushes and FUA of a volume whose lock can be looked at without the mapper: when it is asked all the same, and in which order. */
import { afterEach, expect, it } from 'vitest';
import type { LockLook, LockSeal } from '../../../src/requests/lock-look.js';
import { Flag, Op } from '../../../src/requests/ops.js';
import { monotonicMs } from '../../../src/sys/clock.js';
import { errnos } from '../../../src/sys/errno.js';
import { Rig } from './rig.js';
import { pattern } from './stack.js';

const BLOCK = 512;

/** A lock whose changes the test makes. */
class Lock implements LockLook {
  /** Which lock it is now; 0: not this node's. */
  id = 1;
  looks = 0;
  seal(name: string): LockSeal | null {
    return this.id === 0 ? null : ({ name, id: this.id } as LockSeal);
  }
  holds(seal: LockSeal): boolean {
    this.looks++;
    return this.id !== 0 && (seal as LockSeal & { id: number }).id === this.id;
  }
}

let rig: Rig;
let lock: Lock;

/** A volume that has flushed once, so that the mapper has vouched for its lock. */
async function ready(): Promise<void> {
  lock = new Lock();
  rig = new Rig({ blocks: 4, blockSize: BLOCK, lockLook: lock });
  for (let block = 0; block < 3; block++) rig.put(block, `object-${block}`, pattern(BLOCK, block), true);
  rig.lease = { granted: 'exclusive', until: monotonicMs() + 60_000 };
  await rig.read(0, 3 * BLOCK);
  await rig.write(0, pattern(10, 1));
  await rig.flush();
  rig.mapper.log.length = 0;
}

const asked = (): number => rig.mapper.log.filter(({ op }) => op === Op.FLUSH).length;

afterEach(() => {
  expect(rig.stop()).toEqual([]);
});

it('the mapper is not asked while the lock is the one it has vouched for', async () => {
  await ready();
  for (let i = 0; i < 5; i++) {
    await rig.write(20 * i, pattern(10, i));
    await rig.flush();
    await rig.write(20 * i, pattern(10, i), Flag.FUA);
  }
  expect(asked()).toBe(0);
  expect(lock.looks).toBe(10);
});

it('the look comes after the data is durable: a lock that was lost meanwhile is found so', async () => {
  await ready();
  rig.blocker.hold(Op.FLUSH);
  await rig.write(0, pattern(10, 1));
  const flush = rig.flush();
  const data = await rig.blocker.take(Op.FLUSH);
  expect(lock.looks).toBe(0);
  lock.id = 0;
  rig.mapper.hold(Op.FLUSH);
  rig.blocker.answer(data);
  const word = await rig.mapper.take(Op.FLUSH);
  expect(word.flags).toBe(Flag.WRITTEN);
  word.fail(errnos.EIO, 'the lock was taken away');
  await expect(flush).rejects.toMatchObject({ code: 'EIO' });
  rig.mapper.release(Op.FLUSH);
  rig.blocker.release(Op.FLUSH);
});

it('another lock, though it is this node’s, is the mapper’s to judge; once it has, that one counts', async () => {
  await ready();
  lock.id = 2;
  await rig.write(0, pattern(10, 1), Flag.FUA);
  expect(asked()).toBe(1);
  await rig.write(0, pattern(10, 1));
  await rig.flush();
  expect(asked()).toBe(1);
});

it('a lock that changed while the mapper looked does not count', async () => {
  await ready();
  lock.id = 2;
  rig.mapper.hold(Op.FLUSH);
  const write = rig.write(0, pattern(10, 1), Flag.FUA);
  const word = await rig.mapper.take(Op.FLUSH);
  lock.id = 3;
  rig.mapper.answer(word);
  await write;
  rig.mapper.release(Op.FLUSH);
  await rig.write(0, pattern(10, 1), Flag.FUA);
  expect(asked()).toBe(2);
});

it('a changed map is made durable by the mapper, and under a new lease its word is asked for anew', async () => {
  await ready();
  await rig.write(3 * BLOCK, pattern(10, 1));
  await rig.flush();
  expect(asked()).toBe(1);
  await rig.zero(Op.TRIM, BLOCK, BLOCK);
  await rig.flush();
  expect(asked()).toBe(2);
  await rig.write(0, pattern(10, 2));
  await rig.revoke();
  await rig.write(0, pattern(10, 3));
  await rig.flush();
  expect(asked()).toBe(3);
});

it('a loss that the mapper has told counts, whatever the lock looks like', async () => {
  await ready();
  await rig.write(0, pattern(10, 1));
  await rig.revoke('volume', Flag.LOST, 'the lock is another node’s');
  await expect(rig.flush()).rejects.toMatchObject({ code: 'EIO' });
  expect(lock.looks).toBe(0);
});

it('under a lease that is not exclusive, and where no look is possible, the mapper is asked each time', async () => {
  await ready();
  await rig.revoke();
  lock.id = 0;
  for (let i = 1; i <= 3; i++) {
    await rig.write(0, pattern(10, i));
    await rig.flush();
    expect(asked()).toBe(i);
  }
});
