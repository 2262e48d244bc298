/** Answers in unlucky orders: what the composer knew when it asked is no longer so when the answer comes. */
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Flag, Op } from '../../../src/requests/ops.js';
import { errnos } from '../../../src/sys/errno.js';
import type { Request } from '../../../src/xseg/index.js';
import { Rig } from './rig.js';
import { pattern } from './stack.js';

const BLOCK = 512;
let rig: Rig;

afterEach(() => {
  vi.useRealTimers();
  expect(rig.stop()).toEqual([]);
});

describe('reads while blocks become zero', () => {
  it('go on over blocks whose entries were dropped meanwhile', async () => {
    rig = new Rig({ blocks: 100, blockSize: BLOCK });
    const content = pattern(100 * BLOCK, 1);
    for (let i = 0; i < 100; i++) rig.put(i, `object-${i}`, content.subarray(i * BLOCK, (i + 1) * BLOCK));
    rig.blocker.hold(Op.READ);
    const reading = rig.read(0, 100 * BLOCK);
    const first = await rig.blocker.take(Op.READ);
    await rig.zero(Op.WRITE_ZEROES, 80 * BLOCK, 20 * BLOCK);
    rig.blocker.answer(first);
    rig.blocker.release(Op.READ);
    const data = await reading;
    content.fill(0, 80 * BLOCK);
    expect(data.equals(content)).toBe(true);
  });

  it('find zeros where the object went away under them', async () => {
    rig = new Rig({ blocks: 2, blockSize: BLOCK });
    rig.put(0, 'gone-object', pattern(BLOCK, 1));
    rig.put(1, 'kept-object', pattern(BLOCK, 2));
    rig.blocker.hold(Op.READ);
    const reading = rig.read(0, 2 * BLOCK);
    const first = await rig.blocker.take(Op.READ);
    await rig.zero(Op.TRIM, 0, BLOCK);
    rig.blocker.answer(first);
    rig.blocker.release(Op.READ);
    expect((await reading).equals(Buffer.concat([Buffer.alloc(BLOCK), pattern(BLOCK, 2)]))).toBe(true);
    // Also when the entry is known again by then.
    rig.put(0, 'second-object', pattern(BLOCK, 3));
    await rig.revoke();
    rig.blocker.hold(Op.READ);
    const again = rig.read(0, BLOCK);
    const held = await rig.blocker.take(Op.READ);
    await rig.zero(Op.TRIM, 0, BLOCK);
    await rig.extents(0, BLOCK);
    rig.blocker.answer(held);
    expect((await again).equals(Buffer.alloc(BLOCK))).toBe(true);
  });
});

describe('zeroing', () => {
  it('of a part survives that the whole block becomes zero at the same time', async () => {
    rig = new Rig({ blocks: 2, blockSize: BLOCK });
    rig.put(0, 'shared-object', pattern(BLOCK, 1), false);
    rig.mapper.hold(Op.MAPW);
    rig.mapper.hold(Op.MAPZERO);
    const part = rig.zero(Op.WRITE_ZEROES, 100, 50);
    const copyUp = await rig.mapper.take(Op.MAPW);
    const whole = rig.zero(Op.WRITE_ZEROES, 0, BLOCK);
    const zeroing = await rig.mapper.take(Op.MAPZERO);
    // Both answers are there before the composer looks at either.
    rig.mapper.answer(copyUp);
    rig.mapper.answer(zeroing);
    await Promise.all([part, whole]);
    expect((await rig.read(0, BLOCK)).equals(Buffer.alloc(BLOCK))).toBe(true);
  });

  it('that is over does not wait for the next one', async () => {
    rig = new Rig({ blocks: 4, blockSize: BLOCK });
    for (let i = 0; i < 4; i++) rig.put(i, `object-${i}`, pattern(BLOCK, i));
    rig.mapper.hold(Op.MAPZERO);
    const first = rig.zero(Op.TRIM, 0, BLOCK);
    const one = await rig.mapper.take(Op.MAPZERO);
    const second = rig.zero(Op.TRIM, 2 * BLOCK, BLOCK);
    const parked = rig.write(0, pattern(10, 9));
    rig.mapper.answer(one);
    const two = await rig.mapper.take(Op.MAPZERO);
    await Promise.all([first, parked]);
    rig.mapper.answer(two);
    await second;
    expect((await rig.read(0, 20)).equals(Buffer.concat([pattern(10, 9), Buffer.alloc(10)]))).toBe(true);
  });

  it('that fails leaves what was written before for the next flush', async () => {
    rig = new Rig({ blocks: 2, blockSize: BLOCK });
    rig.put(0, 'dirty-object', pattern(BLOCK, 1));
    await rig.flush();
    await rig.write(0, pattern(BLOCK, 2));
    rig.mapper.hold(Op.MAPZERO);
    const zeroing = rig.zero(Op.TRIM, 0, BLOCK);
    (await rig.mapper.take(Op.MAPZERO)).fail(errnos.ENOSPC, 'no space for the map');
    await expect(zeroing).rejects.toMatchObject({ code: 'ENOSPC' });
    rig.flushed.length = 0;
    await rig.flush();
    expect(rig.flushed).toEqual([['dirty-object']]);
  });

  it('that fails lets the writes go on that waited for it, and the next zeroing', async () => {
    rig = new Rig({ blocks: 2, blockSize: BLOCK });
    rig.put(0, 'old-object', pattern(BLOCK, 1));
    rig.mapper.hold(Op.MAPZERO);
    const zeroing = rig.zero(Op.TRIM, 0, BLOCK);
    const failing = await rig.mapper.take(Op.MAPZERO);
    const parked = rig.write(10, pattern(10, 2));
    const next = rig.zero(Op.WRITE_ZEROES, 0, 2 * BLOCK);
    failing.fail(errnos.EIO, 'a bad disk');
    await expect(zeroing).rejects.toMatchObject({ code: 'EIO' });
    rig.mapper.answer(await rig.mapper.take(Op.MAPZERO));
    await Promise.all([next, parked]);
  });
});

describe('copy-up', () => {
  it('that fails for one block of a request fails no other request', async () => {
    rig = new Rig({ blocks: 4, blockSize: BLOCK });
    rig.mapper.hold(Op.MAPW);
    const wide = rig.write(0, pattern(4 * BLOCK, 1));
    const first = await rig.mapper.take(Op.MAPW);
    const narrow = rig.write(BLOCK, pattern(10, 2));
    // Known to be parked: requests of one asker are taken in order.
    await rig.read(3 * BLOCK, 1);
    first.fail(errnos.EIO, 'object of block 3 is missing');
    rig.mapper.release(Op.MAPW);
    await expect(wide).rejects.toMatchObject({ code: 'EIO' });
    await narrow;
    expect((await rig.read(BLOCK, 10)).equals(pattern(10, 2))).toBe(true);
  });
});

describe('leases', () => {
  it('keeps its map when a second, late answer grants what it has already', async () => {
    vi.useFakeTimers({ toFake: ['Date'] });
    rig = new Rig({ blocks: 4, blockSize: BLOCK });
    for (let i = 0; i < 4; i++) rig.put(i, `object-${i}`, pattern(BLOCK, i));
    rig.lease = { granted: 'none', holder: 'their node' };
    await rig.read(0, 1);
    await rig.flush();
    // A write waits for the lock; a read that comes a while later finds it free.
    rig.mapper.hold(Op.LEASE);
    const waiting = rig.write(0, pattern(10, 7));
    const patient = await rig.mapper.take(Op.LEASE);
    vi.setSystemTime(Date.now() + 5000);
    rig.lease = { granted: 'exclusive' };
    const reading = rig.read(BLOCK, 1);
    rig.mapper.answer(await rig.mapper.take(Op.LEASE));
    await reading;
    await rig.write(BLOCK, pattern(10, 8));
    rig.blocker.hold(Op.READ);
    const running = rig.read(3 * BLOCK, BLOCK);
    const read = await rig.blocker.take(Op.READ);
    rig.mapper.answer(patient);
    await waiting;
    read.fail(errnos.ENOENT, 'gone');
    expect((await running).equals(Buffer.alloc(BLOCK))).toBe(true);
    rig.flushed.length = 0;
    await rig.flush();
    expect(rig.flushed.flat().toSorted()).toEqual(['object-0', 'object-1']);
  });

  it('does not fail a write for want of a lock that it has by then', async () => {
    vi.useFakeTimers({ toFake: ['Date'] });
    rig = new Rig({ blocks: 1, blockSize: BLOCK });
    rig.lease = { granted: 'none', holder: 'their node' };
    await rig.read(0, 1);
    rig.mapper.hold(Op.LEASE);
    const waiting = rig.write(0, pattern(10, 7));
    const patient = await rig.mapper.take(Op.LEASE);
    vi.setSystemTime(Date.now() + 5000);
    rig.lease = { granted: 'exclusive' };
    const reading = rig.read(0, 1);
    rig.mapper.answer(await rig.mapper.take(Op.LEASE));
    await reading;
    patient.fail(errnos.EBUSY, 'locked by their node');
    await waiting;
    expect((await rig.read(0, 10)).equals(pattern(10, 7))).toBe(true);
  });

  it('is one for a volume that is also asked for as a map without header', async () => {
    rig = new Rig({ blocks: 2, blockSize: BLOCK });
    expect((await rig.read(0, 10, Flag.ASSUMEV0)).equals(Buffer.alloc(10))).toBe(true);
    await rig.write(0, pattern(10, 1));
    expect((await rig.read(0, 10, Flag.ASSUMEV0)).equals(pattern(10, 1))).toBe(true);
    await rig.write(20, pattern(10, 2), Flag.ASSUMEV0);
    await rig.zero(Op.WRITE_ZEROES, 0, BLOCK);
    expect((await rig.read(20, 10, Flag.ASSUMEV0)).equals(Buffer.alloc(10))).toBe(true);
    await rig.revoke();
    expect(rig.composer.status()).toMatchObject({ volumes: expect.not.arrayContaining([{ lease: 'exclusive' }]) });
    expect((await rig.read(0, 10, Flag.ASSUMEV0)).equals(Buffer.alloc(10))).toBe(true);
  });

  it('is not used when a revoke overtook it', async () => {
    rig = new Rig({ blocks: 2, blockSize: BLOCK });
    rig.mapper.hold(Op.LEASE);
    const reading = rig.read(BLOCK, 1);
    const overtaken = await rig.mapper.take(Op.LEASE);
    await rig.revoke();
    rig.mapper.answer(overtaken);
    const second = await rig.mapper.take(Op.LEASE);
    expect(rig.composer.status()).toMatchObject({ volumes: [{ lease: null }] });
    rig.mapper.answer(second);
    await reading;
  });
});

describe('without request records', () => {
  it('waits, one call-back for all that wait, and goes on in turns', async () => {
    rig = new Rig({ blocks: 64, blockSize: BLOCK });
    for (let i = 0; i < 64; i++) rig.put(i, `object-${i}`, pattern(BLOCK, i));
    await rig.read(0, 1);
    const taken: Request[] = [];
    for (let record = rig.port.getRequest(); record; record = rig.port.getRequest()) taken.push(record);
    const { segment } = rig;
    const listen = segment.whenAvailable.bind(segment);
    let listening = 0;
    let most = 0;
    vi.spyOn(segment, 'whenAvailable').mockImplementation((callback) => {
      most = Math.max(most, ++listening);
      listen(() => {
        listening--;
        callback();
      });
    });
    const reads = Array.from({ length: 8 }, (_, i) => rig.read(i * 8 * BLOCK, 8 * BLOCK));
    await vi.waitUntil(() => (rig.composer.status() as { active: number }).active === 8);
    // One record has to do for all of them.
    rig.port.putRequest(taken.pop()!);
    for (const [i, data] of (await Promise.all(reads)).entries()) {
      expect(data.subarray(3 * BLOCK, 4 * BLOCK).equals(pattern(BLOCK, i * 8 + 3))).toBe(true);
    }
    expect(most).toBe(1);
    for (const record of taken) rig.port.putRequest(record);
  });

  it('parks forwarded requests and writes too, and answers them all', async () => {
    rig = new Rig({ blocks: 4, blockSize: BLOCK });
    await rig.read(0, 1);
    const taken: Request[] = [];
    for (let record = rig.port.getRequest(); record; record = rig.port.getRequest()) taken.push(record);
    const all = Promise.all([
      rig.send(Op.OPEN),
      rig.write(0, pattern(BLOCK, 1)),
      rig.zero(Op.WRITE_ZEROES, BLOCK, BLOCK + 10),
      rig.flush(),
      rig.send(Op.CLOSE),
    ]);
    await vi.waitUntil(() => (rig.composer.status() as { active: number }).active >= 1);
    rig.port.putRequest(taken.pop()!);
    await all;
    for (const record of taken) rig.port.putRequest(record);
    expect((await rig.read(0, BLOCK)).equals(pattern(BLOCK, 1))).toBe(true);
  });
});

describe('what is remembered of volumes', () => {
  const volumes = (): unknown[] => (rig.composer.status() as { volumes: unknown[] }).volumes;

  it('is nothing after the close of what was only flushed', async () => {
    rig = new Rig({ blocks: 1, blockSize: BLOCK });
    await rig.flush('never-opened');
    await rig.send(Op.CLOSE, 'never-opened');
    expect(volumes()).toEqual([]);
  });

  it('is nothing after its removal, whatever was not flushed', async () => {
    rig = new Rig({ blocks: 1, blockSize: BLOCK });
    await rig.write(0, pattern(10, 1));
    rig.mapper.hold(Op.DELETE);
    const removing = rig.send(Op.DELETE);
    const request = await rig.mapper.take(Op.DELETE);
    await rig.revoke();
    rig.mapper.answer(request);
    await removing;
    expect(volumes()).toEqual([]);
  });

  it('is nothing when it turns out to be gone', async () => {
    rig = new Rig({ blocks: 1, blockSize: BLOCK });
    await rig.write(0, pattern(10, 1));
    await rig.revoke();
    rig.mapper.hold(Op.LEASE);
    const reading = rig.read(0, 1);
    (await rig.mapper.take(Op.LEASE)).fail(errnos.ENOENT, 'no such volume');
    await expect(reading).rejects.toMatchObject({ code: 'ENOENT' });
    expect(volumes()).toEqual([]);
  });

  it('is what a flush owes, through a revoke', async () => {
    rig = new Rig({ blocks: 1, blockSize: BLOCK });
    await rig.flush();
    await rig.read(0, 1);
    await rig.flush();
    await rig.write(0, pattern(10, 1));
    const name = rig.map.objectName(0);
    await rig.revoke();
    rig.flushed.length = 0;
    await rig.flush();
    expect(rig.flushed).toEqual([[name]]);
  });
});

describe('flush', () => {
  it('does not tear names at a line break in them', async () => {
    rig = new Rig({ blocks: 1, blockSize: BLOCK });
    rig.put(0, 'two\nlines', pattern(BLOCK, 1));
    await rig.read(0, 1);
    await rig.flush();
    await rig.write(0, pattern(10, 1));
    rig.flushed.length = 0;
    await rig.flush();
    expect(rig.flushed).toEqual([['two\nlines']]);
    // In a list the name would be two.
    await rig.write(0, pattern(10, 2));
    const records = vi.spyOn(rig.port, 'getRequest').mockReturnValueOnce(null);
    await rig.flush();
    records.mockRestore();
    expect(rig.flushed.at(-1)).toBe(null);
  });

  it('of the blocker comes before that of the map, and its failure keeps both owed', async () => {
    rig = new Rig({ blocks: 1, blockSize: BLOCK });
    await rig.read(0, 1);
    await rig.flush();
    await rig.write(0, pattern(10, 1));
    rig.blocker.hold(Op.FLUSH);
    const maps = (): number => rig.mapper.log.filter(({ op }) => op === Op.FLUSH).length;
    const before = maps();
    const failing = rig.flush();
    const held = await rig.blocker.take(Op.FLUSH);
    expect(maps()).toBe(before);
    held.fail(errnos.EIO, 'a bad disk');
    await expect(failing).rejects.toMatchObject({ code: 'EIO' });
    // So that the mapper knows that somebody is told.
    expect(maps()).toBe(before + 1);
    rig.blocker.release(Op.FLUSH);
    rig.flushed.length = 0;
    await rig.flush();
    expect(rig.flushed).toEqual([[rig.map.objectName(0)]]);
    expect(maps()).toBe(before + 2);
  });

  it('covers a write that was acknowledged while another flush ran', async () => {
    rig = new Rig({ blocks: 2, blockSize: BLOCK });
    await rig.write(0, pattern(10, 1));
    await rig.flush();
    await rig.write(0, pattern(10, 2));
    rig.flushed.length = 0;
    rig.blocker.hold(Op.FLUSH);
    const first = rig.flush();
    const held = await rig.blocker.take(Op.FLUSH);
    await rig.write(BLOCK, pattern(10, 3));
    const second = rig.flush();
    rig.blocker.answer(held);
    rig.blocker.answer(await rig.blocker.take(Op.FLUSH));
    await Promise.all([first, second]);
    expect(rig.flushed).toEqual([[rig.map.objectName(0)], [rig.map.objectName(1)]]);
  });
});
