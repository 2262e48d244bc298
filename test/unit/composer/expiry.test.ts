/** Leases that run out: what a blocker refuses to begin is not done, and done later under a lease that is good. */
import { afterEach, describe, expect, it } from 'vitest';
import { Flag, Op } from '../../../src/requests/ops.js';
import { EntryFlag } from '../../../src/requests/resolved-map.js';
import { monotonicMs } from '../../../src/sys/clock.js';
import { errnos } from '../../../src/sys/errno.js';
import type { Request } from '../../../src/xseg/index.js';
import { Rig } from './rig.js';
import { pattern } from './stack.js';

const BLOCK = 512;
let rig: Rig;

afterEach(() => {
  expect(rig.wrongHints).toEqual([]);
  expect(rig.stop()).toEqual([]);
});

const asked = (op: number): number => rig.mapper.log.filter((request) => request.op === op).length;
const refuse = (request: Request): void => request.fail(errnos.ETIME, 'too late');
/** A lease that is as good as over: whoever looks at the clock finds it so. */
const over = (): number => monotonicMs() - 1;
const good = (): number => Math.floor(monotonicMs()) + 60_000;

/** A rig whose lease has run out, with one block of data in each object. */
function expired(blocks: number): Rig {
  const made = new Rig({ blocks, blockSize: BLOCK });
  for (let i = 0; i < blocks; i++) made.put(i, `object-${i}`, pattern(BLOCK, i));
  made.lease = { until: over() };
  return made;
}

describe('the deadline', () => {
  it('is that of the lease in all that goes to the store, and that of its last renewal', async () => {
    rig = new Rig({ blocks: 3, blockSize: BLOCK });
    for (let i = 0; i < 3; i++) rig.put(i, `object-${i}`, pattern(BLOCK, i));
    const first = good();
    rig.lease = { until: first };
    const deadlines = (): number[] => rig.blocker.log.splice(0).map(({ deadline }) => deadline);
    await rig.write(0, pattern(2 * BLOCK, 5));
    await rig.read(0, 10);
    await rig.zero(Op.WRITE_ZEROES, 5, 10);
    await rig.zero(Op.WRITE_ZEROES, 0, BLOCK, Flag.NO_HOLE);
    await rig.zero(Op.TRIM, 5, 10);
    expect(deadlines()).toEqual([first, first, first, first, first, first]);
    await rig.renew(first + 1000);
    await rig.write(0, pattern(10, 6));
    // Never back: a renewal may be overtaken by the lease.
    await rig.renew(first + 500);
    await rig.zero(Op.TRIM, 5, 10);
    expect(deadlines()).toEqual([first + 1000, first + 1000]);
  });

  it('is none under leases that nobody can take away, and is not renewed there', async () => {
    rig = new Rig({ blocks: 1, blockSize: BLOCK });
    rig.put(0, 'object', pattern(BLOCK, 1), false);
    rig.lease = { granted: 'shared', readOnly: true };
    await rig.read(0, 10);
    await rig.renew(good());
    await rig.read(0, 10);
    await rig.revoke();
    rig.lease = { granted: 'none', holder: 'their node' };
    await rig.read(0, 10);
    await rig.renew(good());
    await rig.read(0, 10);
    expect(rig.blocker.log.map(({ deadline }) => deadline)).toEqual([0, 0, 0, 0]);
  });
});

describe('a refusal by the blocker', () => {
  it('is a pause for who writes: under a new lease all of it is done, and what was done before counts as written', async () => {
    rig = expired(4);
    await rig.flush();
    rig.blocker.hold(Op.WRITE);
    const writing = rig.write(0, pattern(3 * BLOCK, 9));
    const subs = [await rig.blocker.take(Op.WRITE), await rig.blocker.take(Op.WRITE), await rig.blocker.take(Op.WRITE)];
    rig.lease = { until: good() };
    rig.blocker.answer(subs[0]);
    refuse(subs[1]);
    rig.blocker.answer(subs[2]);
    // All of it again, under the second lease.
    const again = [
      await rig.blocker.take(Op.WRITE),
      await rig.blocker.take(Op.WRITE),
      await rig.blocker.take(Op.WRITE),
    ];
    expect(again.map(({ deadline }) => deadline > monotonicMs())).toEqual([true, true, true]);
    expect(asked(Op.LEASE)).toBe(2);
    rig.blocker.release(Op.WRITE);
    for (const sub of again) rig.blocker.answer(sub);
    await writing;
    expect((await rig.read(0, 3 * BLOCK)).equals(pattern(3 * BLOCK, 9))).toBe(true);
    rig.flushed.length = 0;
    await rig.flush();
    expect(rig.flushed.flat().toSorted()).toEqual(['object-0', 'object-1', 'object-2']);
  });

  it('leaves no write unknown to a flush, though the object be another one under the new lease', async () => {
    rig = expired(2);
    await rig.flush();
    rig.blocker.hold(Op.WRITE);
    const writing = rig.write(0, pattern(2 * BLOCK, 9));
    const first = await rig.blocker.take(Op.WRITE);
    const second = await rig.blocker.take(Op.WRITE);
    rig.lease = { until: good() };
    rig.mapper.hold(Op.LEASE);
    rig.blocker.answer(first);
    refuse(second);
    const lease = await rig.mapper.take(Op.LEASE);
    rig.put(0, 'other-object', pattern(BLOCK, 1));
    rig.blocker.release(Op.WRITE);
    rig.mapper.release(Op.LEASE);
    rig.mapper.answer(lease);
    await writing;
    rig.flushed.length = 0;
    await rig.flush();
    expect(rig.flushed.flat().toSorted()).toEqual(['object-0', 'object-1', 'other-object']);
  });

  it('is no reason for a new lease when the mapper has renewed this one meanwhile', async () => {
    rig = expired(3);
    rig.blocker.hold(Op.WRITE);
    const writing = rig.write(0, pattern(3 * BLOCK, 9));
    const subs = [await rig.blocker.take(Op.WRITE), await rig.blocker.take(Op.WRITE), await rig.blocker.take(Op.WRITE)];
    await rig.renew(good());
    rig.blocker.answer(subs[0]);
    refuse(subs[1]);
    refuse(subs[2]);
    // It goes on where it was refused.
    const again = [await rig.blocker.take(Op.WRITE), await rig.blocker.take(Op.WRITE)];
    expect(again.map(({ target }) => target)).toEqual(['object-1', 'object-2']);
    rig.blocker.release(Op.WRITE);
    for (const sub of again) rig.blocker.answer(sub);
    await writing;
    expect(asked(Op.LEASE)).toBe(1);
    expect((await rig.read(0, 3 * BLOCK)).equals(pattern(3 * BLOCK, 9))).toBe(true);
  });

  it('is a pause for all kinds of requests, and what comes meanwhile waits for the new lease', async () => {
    rig = expired(6);
    rig.put(4, 'shared-object', pattern(BLOCK, 4), false);
    await rig.read(5 * BLOCK, 1);
    for (const op of [Op.READ, Op.WRITE, Op.TRIM, Op.WRITE_ZEROES]) rig.blocker.hold(op);
    const all = [
      rig.read(0, BLOCK),
      rig.write(BLOCK, pattern(10, 7), Flag.FUA),
      rig.zero(Op.WRITE_ZEROES, 2 * BLOCK, BLOCK, Flag.NO_HOLE),
      rig.zero(Op.WRITE_ZEROES, 3 * BLOCK + 5, 10),
      rig.zero(Op.TRIM, 5 * BLOCK + 5, 10),
      rig.write(4 * BLOCK, pattern(10, 8)),
    ];
    const reading = await rig.blocker.take(Op.READ);
    const writes = [await rig.blocker.take(Op.WRITE), await rig.blocker.take(Op.WRITE)];
    const zeroes = [await rig.blocker.take(Op.WRITE_ZEROES), await rig.blocker.take(Op.WRITE_ZEROES)];
    const trim = await rig.blocker.take(Op.TRIM);
    rig.mapper.hold(Op.LEASE);
    refuse(reading);
    const late = rig.read(2 * BLOCK, 1);
    for (const sub of [...writes, ...zeroes, trim]) refuse(sub);
    rig.lease = { until: good() };
    const lease = await rig.mapper.take(Op.LEASE);
    for (const op of [Op.READ, Op.WRITE, Op.TRIM, Op.WRITE_ZEROES]) rig.blocker.release(op);
    rig.mapper.release(Op.LEASE);
    rig.mapper.answer(lease);
    const results = await Promise.all([...all, late]);
    expect((results[0] as Buffer).equals(pattern(BLOCK, 0))).toBe(true);
    expect(asked(Op.LEASE)).toBe(2);
    const volume = await rig.read(0, 6 * BLOCK);
    const expected = Buffer.concat([0, 1, 2, 3, 4, 5].map((i) => pattern(BLOCK, i)));
    pattern(10, 7).copy(expected, BLOCK);
    pattern(10, 8).copy(expected, 4 * BLOCK);
    expected
      .fill(0, 2 * BLOCK, 3 * BLOCK)
      .fill(0, 3 * BLOCK + 5, 3 * BLOCK + 15)
      .fill(0, 5 * BLOCK + 5, 5 * BLOCK + 15);
    expect(volume.equals(expected)).toBe(true);
  });

  it('by the mapper is one as well, and a write that waits behind a zeroing goes on', async () => {
    rig = expired(3);
    rig.put(1, 'shared-object', pattern(BLOCK, 4), false);
    await rig.read(BLOCK, 1);
    rig.mapper.hold(Op.MAPZERO);
    rig.mapper.hold(Op.MAPW);
    rig.lease = { until: good() };
    // The lease of now is good by the composer's clock: only the mapper's requests came too late.
    await rig.renew(good());
    const zeroing = rig.zero(Op.TRIM, 0, BLOCK);
    const behind = rig.write(10, pattern(10, 5));
    const copying = rig.write(BLOCK + 10, pattern(10, 6));
    refuse(await rig.mapper.take(Op.MAPZERO));
    refuse(await rig.mapper.take(Op.MAPW));
    rig.mapper.answer(await rig.mapper.take(Op.MAPZERO));
    rig.mapper.release(Op.MAPW);
    rig.mapper.release(Op.MAPZERO);
    await Promise.all([zeroing, copying, behind]);
    expect((await rig.read(BLOCK + 10, 10)).equals(pattern(10, 6))).toBe(true);
  });

  it('that is none, but an error of the store, is told', async () => {
    rig = new Rig({ blocks: 1, blockSize: BLOCK });
    rig.put(0, 'object', pattern(BLOCK, 1));
    rig.lease = { until: good() };
    rig.blocker.hold(Op.READ);
    const reading = rig.read(0, 10);
    (await rig.blocker.take(Op.READ)).fail(errnos.ETIME, 'the disk took too long');
    await expect(reading).rejects.toMatchObject({ code: 'ETIME', message: 'the disk took too long' });
    rig.blocker.release(Op.READ);
  });
});

describe('what is answered without asking the store', () => {
  it('is not answered from a map that may be another node’s by now', async () => {
    rig = new Rig({ blocks: 2, blockSize: BLOCK });
    await rig.read(0, 2 * BLOCK);
    expect(asked(Op.LEASE)).toBe(1);
    for (const ask of [
      async () => expect((await rig.read(0, 10)).equals(pattern(10, 3))).toBe(true),
      async () => expect(await rig.extents(0, BLOCK)).toEqual([{ length: BLOCK, flags: 0 }]),
      () => rig.zero(Op.WRITE_ZEROES, 5, 10),
    ]) {
      rig.map.set(0, EntryFlag.ZERO, '');
      rig.lease = { until: over() };
      await rig.revoke();
      rig.mapper.hold(Op.MAPFETCH);
      // An entry is fetched under a lease that runs out meanwhile.
      const asking = ask();
      const fetch = await rig.mapper.take(Op.MAPFETCH);
      rig.mapper.answer(fetch);
      rig.lease = { until: good() };
      rig.put(0, 'new-object', pattern(BLOCK, 3));
      rig.mapper.release(Op.MAPFETCH);
      await asking;
    }
    expect((await rig.read(5, 10)).equals(Buffer.alloc(10))).toBe(true);
  });
});

describe('a lease that is always too old', () => {
  it('is asked for again, but not in a rush', async () => {
    rig = expired(1);
    rig.blocker.hold(Op.READ);
    const reading = rig.read(0, 10);
    refuse(await rig.blocker.take(Op.READ));
    const second = rig.blocker.take(Op.READ);
    // Had it been asked for at once, it would be here: requests of one asker are served in order.
    for (let i = 0; i < 20; i++) await rig.send(Op.PING);
    expect(asked(Op.LEASE)).toBe(1);
    rig.blocker.answer(await second);
    expect(asked(Op.LEASE)).toBe(2);
    expect((await reading).equals(pattern(10, 0))).toBe(true);
    rig.blocker.release(Op.READ);
  });
});
