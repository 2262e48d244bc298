/** A lock that was lost: nothing more reaches the store, everybody is told, and closing the volume is the way out. */
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Flag, Op } from '../../../src/requests/ops.js';
import { errnos } from '../../../src/sys/errno.js';
import type { Request } from '../../../src/xseg/index.js';
import { Rig } from './rig.js';
import { pattern } from './stack.js';

const BLOCK = 512;
const REASON = 'the lock of volume volume was taken by b_1002 at 10:04';
const LOST = { code: 'EIO', message: REASON };
let rig: Rig;

afterEach(() => {
  vi.restoreAllMocks();
  expect(rig.wrongHints).toEqual([]);
  expect(rig.stop()).toEqual([]);
});

const asked = (op: number): number => rig.mapper.log.filter((request) => request.op === op).length;
const lose = (): Promise<void> => rig.revoke('volume', Flag.LOST, REASON);
/** What a mapper answers to every LEASE (or another operation) of a volume whose lock it lost, from now on. */
async function refusing(op: number): Promise<void> {
  const request = await rig.mapper.take(op);
  request.fail(errnos.EIO, REASON);
}
const failed = (promise: Promise<unknown>): Promise<void> => expect(promise).rejects.toMatchObject(LOST);

function rigOf(blocks: number): Rig {
  const made = new Rig({ blocks, blockSize: BLOCK });
  for (let i = 0; i < blocks; i++) made.put(i, `object-${i}`, pattern(BLOCK, i));
  return made;
}

/** Is it over? Asked after the composer has certainly had its turn: it answered other requests. */
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

describe('the loss of a lock', () => {
  it('is answered when what was sent is over, and nothing more is sent of what was half done', async () => {
    rig = rigOf(100);
    await rig.read(0, 100 * BLOCK);
    rig.blocker.hold(Op.WRITE);
    // More pieces than are sent at a time.
    const writing = rig.write(0, pattern(100 * BLOCK, 7));
    const subs: Request[] = [await rig.blocker.take(Op.WRITE)];
    while (rig.blocker.waiting(Op.WRITE) > 0) subs.push(await rig.blocker.take(Op.WRITE));
    expect(subs).toHaveLength(64);
    rig.mapper.hold(Op.LEASE);
    const told = lose();
    const late = rig.write(0, pattern(10, 8));
    expect(await isOver(told)).toBe(false);
    for (const sub of subs) rig.blocker.answer(sub);
    await failed(writing);
    await told;
    // What came meanwhile asks the mapper, and hears the same.
    await Promise.all([refusing(Op.LEASE), failed(late)]);
    expect(rig.blocker.log.filter(({ op }) => op === Op.WRITE)).toHaveLength(64);
    await Promise.all([refusing(Op.LEASE), failed(rig.read(0, 10))]);
    await Promise.all([refusing(Op.LEASE), failed(rig.extents(0, 10))]);
  });

  it('fails what waits for a copy-up, an entry, a zeroing or a lock, and sends nothing when these come', async () => {
    rig = rigOf(8);
    rig.put(0, 'shared-object', pattern(BLOCK, 0), false);
    await rig.read(0, 4 * BLOCK);
    await rig.zero(Op.TRIM, 7 * BLOCK, BLOCK);
    rig.mapper.log.length = 0;
    rig.blocker.log.length = 0;
    for (const op of [Op.MAPW, Op.MAPZERO, Op.MAPFETCH]) rig.mapper.hold(op);
    const all = [
      rig.write(0, pattern(10, 1)),
      rig.write(20, pattern(10, 1)),
      rig.zero(Op.WRITE_ZEROES, 30, 10),
      rig.zero(Op.WRITE_ZEROES, 3 * BLOCK, BLOCK + 10),
      rig.write(3 * BLOCK + 10, pattern(10, 2)),
      rig.write(7 * BLOCK, pattern(10, 3)),
      rig.read(7 * BLOCK, 10),
    ];
    const held = [
      await rig.mapper.take(Op.MAPW),
      await rig.mapper.take(Op.MAPZERO),
      await rig.mapper.take(Op.MAPFETCH),
    ];
    const rest = rig.mapper.waiting(Op.MAPW);
    const told = lose();
    // A mapper that has lost the lock fails them; even if it did not, nothing may follow.
    for (const request of held) rig.mapper.answer(request);
    for (let i = 0; i < rest; i++) rig.mapper.answer(await rig.mapper.take(Op.MAPW));
    await Promise.all(all.map(failed));
    await told;
    expect(rig.blocker.log).toEqual([]);
    for (const op of [Op.MAPW, Op.MAPZERO, Op.MAPFETCH]) expect(rig.mapper.waiting(op)).toBe(0);
  });

  it('reaches those who wait for a lease, for the lock, and for a request record', async () => {
    rig = rigOf(2);
    rig.mapper.hold(Op.LEASE);
    const waiting = rig.write(0, pattern(10, 1));
    const lease = await rig.mapper.take(Op.LEASE);
    await Promise.all([lose(), failed(waiting)]);
    // Granted before the loss: it is not used.
    rig.mapper.answer(lease);
    rig.mapper.release(Op.LEASE);
    rig.lease = { granted: 'none', holder: 'b_1002' };
    await rig.read(0, 1);
    rig.mapper.hold(Op.LEASE);
    const patient = rig.write(0, pattern(10, 1));
    const wait = await rig.mapper.take(Op.LEASE);
    await Promise.all([lose(), failed(patient)]);
    wait.fail(errnos.EBUSY, 'late');
    rig.mapper.release(Op.LEASE);
    rig.lease = {};
    await rig.read(0, 1);
    const taken: Request[] = [];
    for (let record = rig.port.getRequest(); record; record = rig.port.getRequest()) taken.push(record);
    const starving = [rig.write(0, pattern(10, 1)), rig.read(BLOCK, 10)];
    expect(await isOver(Promise.race(starving))).toBe(false);
    await Promise.all([lose(), ...starving.map(failed)]);
    for (const record of taken) rig.port.putRequest(record);
  });

  it('fails a flush that runs and all later ones, which flush nothing', async () => {
    rig = rigOf(2);
    await rig.write(0, pattern(10, 1));
    await rig.flush();
    await rig.write(0, pattern(10, 2));
    rig.blocker.hold(Op.FLUSH);
    const running = rig.flush();
    const waiting = rig.flush();
    const sub = await rig.blocker.take(Op.FLUSH);
    await lose();
    const maps = asked(Op.FLUSH);
    rig.blocker.answer(sub);
    await failed(running);
    await failed(waiting);
    await failed(rig.flush());
    await failed(rig.send(Op.SNAPSHOT));
    expect(rig.blocker.waiting(Op.FLUSH)).toBe(0);
    expect(asked(Op.FLUSH)).toBe(maps);
    expect(asked(Op.SNAPSHOT)).toBe(0);
    rig.blocker.release(Op.FLUSH);
  });

  it('fails a FUA write that was done and waits for the mapper’s word', async () => {
    rig = rigOf(2);
    rig.mapper.hold(Op.FLUSH);
    const writing = rig.write(0, pattern(10, 1), Flag.FUA);
    const word = await rig.mapper.take(Op.FLUSH);
    const told = lose();
    rig.mapper.answer(word);
    await Promise.all([told, failed(writing)]);
    rig.mapper.release(Op.FLUSH);
  });

  it('is told in words of the composer where the mapper sends none', async () => {
    rig = rigOf(1);
    rig.blocker.hold(Op.READ);
    const reading = rig.read(0, 10);
    const sub = await rig.blocker.take(Op.READ);
    const told = rig.revoke('volume', Flag.LOST);
    await rig.send(Op.PING);
    rig.blocker.answer(sub);
    await expect(reading).rejects.toMatchObject({ code: 'EIO', message: expect.stringContaining('vlmc close volume') });
    await told;
    rig.blocker.release(Op.READ);
  });

  it('lets no renewal through', async () => {
    rig = rigOf(1);
    rig.lease = { until: 1e12 };
    await rig.read(0, 1);
    rig.blocker.hold(Op.READ);
    const reading = rig.read(0, 10);
    const sub = await rig.blocker.take(Op.READ);
    const told = lose();
    await rig.renew(2e12);
    rig.blocker.answer(sub);
    await Promise.all([told, failed(reading)]);
    rig.blocker.release(Op.READ);
  });
});

describe('the way out', () => {
  const volumes = (): unknown[] => (rig.composer.status() as { volumes: unknown[] }).volumes;

  it('is a close, which flushes nothing and reaches the mapper; then all is forgotten', async () => {
    for (const flags of [0, Flag.IMPLICIT]) {
      rig = rigOf(2);
      await rig.read(0, 1);
      await rig.write(0, pattern(10, 1));
      await lose();
      expect(volumes()).toHaveLength(1);
      const flushes = rig.flushed.length;
      await rig.client.call(500, { op: Op.CLOSE, target: 'volume', flags });
      expect(rig.flushed).toHaveLength(flushes);
      expect(rig.mapper.log.at(-1)).toMatchObject({ op: Op.CLOSE, flags });
      expect(volumes()).toEqual([]);
      await rig.write(0, pattern(10, 2));
      await rig.flush();
      if (flags === 0) expect(rig.stop()).toEqual([]);
    }
  });

  it('is a close also while the flush before it finds out', async () => {
    rig = rigOf(2);
    await rig.write(0, pattern(10, 1));
    rig.blocker.hold(Op.FLUSH);
    const closing = rig.send(Op.CLOSE);
    const sub = await rig.blocker.take(Op.FLUSH);
    await lose();
    sub.fail(errnos.EIO, 'the store is gone');
    await closing;
    expect(asked(Op.CLOSE)).toBe(1);
    expect(volumes()).toEqual([]);
    rig.blocker.release(Op.FLUSH);
  });

  it('is an open too', async () => {
    rig = rigOf(2);
    await rig.write(0, pattern(10, 1));
    await lose();
    await failed(rig.flush());
    await rig.send(Op.OPEN);
    await rig.flush();
    await rig.write(0, pattern(10, 1));
    await rig.flush();
  });

  it('taken by somebody else costs the next flush an error, once: what was written before may be gone', async () => {
    rig = rigOf(2);
    await rig.write(0, pattern(10, 1));
    await lose();
    // The mapper grants a lease: the volume was closed or opened without this composer.
    await rig.write(0, pattern(10, 2), Flag.FUA);
    await failed(rig.flush());
    await rig.flush();
  });
});
