/** Volumes that another node has locked: reads go on, writes wait, and waiting ends when nobody is there for it. */
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Flag, Op } from '../../../src/requests/ops.js';
import { EntryFlag } from '../../../src/requests/resolved-map.js';
import { errnos } from '../../../src/sys/errno.js';
import type { Request } from '../../../src/xseg/index.js';
import { Rig, type RigOptions } from './rig.js';
import { pattern } from './stack.js';

const BLOCK = 512;
let rig: Rig;

afterEach(() => {
  vi.useRealTimers();
  expect(rig.stop()).toEqual([]);
});

const asked = (op: number): number => rig.mapper.log.filter((request) => request.op === op).length;

/** A rig whose volume another node has locked, and was read. */
async function locked(options: Partial<RigOptions> = {}): Promise<void> {
  rig = new Rig({ blocks: 2, blockSize: BLOCK, ...options });
  rig.put(0, 'first-object', pattern(BLOCK, 1), false);
  rig.put(1, 'second-object', pattern(BLOCK, 2), false);
  rig.lease = { granted: 'none', holder: 'b_1002' };
  await rig.read(0, 1);
}

/** A write whose end and record are in reach; its data is one byte. */
function send(offset: number, byte: number, target = 'volume'): { request: Request; over: Promise<string> } {
  const request = rig.client.getRequest()!;
  const buffer = rig.client.allocate(1);
  request.setData(buffer, 1);
  request.data[0] = byte;
  Object.assign(request, { op: Op.WRITE, target, offset, size: 1 });
  const over = new Promise<string>((resolve) => {
    request.onReply = (): void => {
      const { served, errno } = request;
      rig.client.free(buffer);
      rig.client.putRequest(request);
      resolve(served ? 'done' : errno === errnos.ECANCELED ? 'abandoned' : `errno ${errno}`);
    };
  });
  rig.client.submit(request, 500);
  return { request, over };
}

async function abandon(...requests: Request[]): Promise<void> {
  const data = Buffer.alloc(requests.length * 4);
  requests.forEach(({ index }, i) => {
    data.writeUInt32LE(index, i * 4);
  });
  await rig.client.call(500, { op: Op.ABANDON, data });
}

describe('reads under a foreign lock', () => {
  it('tell the blocker that nothing it keeps of the object counts', async () => {
    await locked();
    await rig.read(BLOCK - 5, 10);
    expect(rig.blocker.log.map(({ flags }) => flags)).toEqual([Flag.UNCACHED, Flag.UNCACHED, Flag.UNCACHED]);
  });

  it('look again as often as the holder drops what they were about to read', async () => {
    await locked();
    rig.blocker.hold(Op.READ);
    const read = rig.read(0, 10);
    for (let drops = 0; drops < 6; drops++) (await rig.blocker.take(Op.READ)).fail(errnos.ENOENT, 'dropped');
    rig.blocker.answer(await rig.blocker.take(Op.READ));
    expect((await read).equals(pattern(BLOCK, 1).subarray(0, 10))).toBe(true);
    rig.blocker.release(Op.READ);
  });

  it('say in the end that an object is missing, and what tells more', async () => {
    await locked();
    rig.objects.delete('second-object');
    await expect(rig.read(BLOCK, 10)).rejects.toMatchObject({
      code: 'EIO',
      message: expect.stringMatching(/second-object of volume volume is missing; see vlmc check volume/),
    });
  });

  it('get a better lease also when they never pause, and none of them waits for that', async () => {
    vi.useFakeTimers({ toFake: ['Date'] });
    await locked();
    rig.blocker.hold(Op.READ);
    const first = rig.read(0, 10);
    const running = await rig.blocker.take(Op.READ);
    vi.setSystemTime(Date.now() + 5000);
    rig.mapper.hold(Op.LEASE);
    rig.lease = {};
    const second = rig.read(BLOCK, 10);
    const lease = await rig.mapper.take(Op.LEASE);
    // Not one of its own asks again meanwhile.
    const third = rig.read(BLOCK + 10, 10);
    rig.blocker.answer(await rig.blocker.take(Op.READ));
    rig.blocker.answer(await rig.blocker.take(Op.READ));
    expect((await second).equals(pattern(BLOCK, 2).subarray(0, 10))).toBe(true);
    await third;
    rig.mapper.release(Op.LEASE);
    rig.mapper.answer(lease);
    await vi.waitUntil(() => JSON.stringify(rig.composer.status()).includes('exclusive'));
    // Under the lease its object may become another one; who reads the old one has begun before.
    const leased = rig.read(BLOCK, 10);
    const sub = await rig.blocker.take(Op.READ);
    expect(sub.flags).toBe(0);
    rig.blocker.release(Op.READ);
    rig.blocker.answer(sub);
    rig.blocker.answer(running);
    await Promise.all([leased, first]);
    expect(asked(Op.LEASE)).toBe(2);
  });

  it('that found the object gone look at the map again, also when the volume got a lease meanwhile', async () => {
    vi.useFakeTimers({ toFake: ['Date'] });
    await locked();
    rig.blocker.hold(Op.READ);
    const reading = rig.read(0, 10);
    const sub = await rig.blocker.take(Op.READ);
    rig.lease = {};
    vi.setSystemTime(Date.now() + 5000);
    const other = rig.read(BLOCK, 10);
    rig.blocker.release(Op.READ);
    await other;
    rig.map.set(0, EntryFlag.ZERO, '');
    sub.fail(errnos.ENOENT, 'gone');
    expect((await reading).equals(Buffer.alloc(10))).toBe(true);
  });
});

describe('writes under a foreign lock', () => {
  it('hold no place of those who go on: reads of the volume, and writes to others', async () => {
    await locked({ nrOps: 4 });
    rig.mapper.hold(Op.LEASE);
    const waiting = Array.from({ length: 200 }, (_, i) => send(i, i + 1).over);
    const lease = await rig.mapper.take(Op.LEASE);
    expect((await rig.read(BLOCK, 10)).equals(pattern(BLOCK, 2).subarray(0, 10))).toBe(true);
    rig.mapper.release(Op.LEASE);
    rig.lease = {};
    await rig.client.call(500, { op: Op.WRITE, target: 'other', offset: 0, data: pattern(10, 3) });
    expect(rig.composer.status()).toMatchObject({ active: 0 });
    expect(asked(Op.LEASE)).toBe(3);
    rig.mapper.answer(lease);
    expect(new Set(await Promise.all(waiting))).toEqual(new Set(['done']));
    expect((await rig.read(0, 200)).equals(Buffer.from(Array.from({ length: 200 }, (_, i) => i + 1)))).toBe(true);
  });

  it('come back to who can keep them, all but one of each asker', async () => {
    await locked();
    rig.mapper.hold(Op.LEASE);
    const others = send(0, 1);
    const lease = await rig.mapper.take(Op.LEASE);
    // Another asker's wait is no use to this one.
    const port = rig.segment.bind(2, { name: 'second' });
    const init = { op: Op.WRITE, target: 'volume', offset: 10, data: Buffer.alloc(1), flags: Flag.MAY_PARK };
    const first = port.call(500, init);
    await port.call(500, { op: Op.PING });
    const parked = expect(port.call(500, init)).rejects.toMatchObject({ code: 'EAGAIN' });
    const zeroes = { op: Op.WRITE_ZEROES, target: 'volume', offset: 0, size: 10, flags: Flag.MAY_PARK };
    await Promise.all([parked, expect(port.call(500, zeroes)).rejects.toMatchObject({ code: 'EAGAIN' })]);
    rig.lease = {};
    rig.mapper.answer(lease);
    rig.mapper.release(Op.LEASE);
    await Promise.all([first, others.over]);
    await port.call(500, init);
    port.close();
  });

  it('end when their client is gone, and the mapper hears when nobody waits any more', async () => {
    await locked();
    rig.mapper.hold(Op.LEASE);
    const mine = [send(0, 1), send(1, 2)];
    const theirs = send(2, 3);
    const lease = await rig.mapper.take(Op.LEASE);
    await abandon(...mine.map(({ request }) => request));
    expect(await Promise.all(mine.map(({ over }) => over))).toEqual(['abandoned', 'abandoned']);
    expect(asked(Op.ABANDON)).toBe(0);
    await abandon(theirs.request);
    expect(await theirs.over).toBe('abandoned');
    await vi.waitUntil(() => asked(Op.ABANDON) === 1);
    expect(rig.mapper.log.at(-1)).toMatchObject({ op: Op.ABANDON, target: 'volume' });
    lease.fail(errnos.ECANCELED, 'nobody waits');
    rig.mapper.release(Op.LEASE);
    expect(rig.blocker.log.filter(({ op }) => op === Op.WRITE)).toEqual([]);
  });

  it('of a client that came after the last was gone are not ended with those before', async () => {
    await locked();
    rig.mapper.hold(Op.LEASE);
    const gone = send(0, 1);
    const lease = await rig.mapper.take(Op.LEASE);
    await abandon(gone.request);
    const next = send(1, 2);
    await rig.send(Op.PING);
    lease.fail(errnos.ECANCELED, 'nobody waits');
    rig.lease = {};
    rig.mapper.answer(await rig.mapper.take(Op.LEASE));
    expect(await next.over).toBe('done');
    expect(await gone.over).toBe('abandoned');
    rig.mapper.release(Op.LEASE);
    expect((await rig.read(0, 2)).equals(Buffer.from([pattern(1, 1)[0], 2]))).toBe(true);
  });

  it('do not begin to wait for a client that is gone by then', async () => {
    rig = new Rig({ blocks: 1, blockSize: BLOCK });
    rig.mapper.hold(Op.LEASE);
    rig.lease = { granted: 'none', holder: 'b_1002' };
    const early = send(0, 1);
    const lease = await rig.mapper.take(Op.LEASE);
    await abandon(early.request);
    rig.mapper.answer(lease);
    expect(await early.over).toBe('abandoned');
    expect(rig.mapper.waiting(Op.LEASE)).toBe(0);
    rig.mapper.release(Op.LEASE);
  });

  it('that run go on though their client is gone, and nobody else’s are touched by wrong numbers', async () => {
    rig = new Rig({ blocks: 1, blockSize: BLOCK });
    await rig.read(0, 1);
    rig.blocker.hold(Op.WRITE);
    const running = send(0, 1);
    const sub = await rig.blocker.take(Op.WRITE);
    // One of the composer's own requests, one that is free, one that there is not.
    const wrong = [sub, { index: rig.segment.geometry.requests - 1 }, { index: 2 ** 32 - 1 }] as Request[];
    await abandon(running.request, ...wrong);
    const odd = { op: Op.ABANDON, data: Buffer.alloc(7) };
    await expect(rig.client.call(500, odd)).rejects.toMatchObject({ code: 'EINVAL' });
    rig.blocker.answer(sub);
    expect(await running.over).toBe('done');
    rig.blocker.release(Op.WRITE);
  });
});

describe('the end of a composer', () => {
  it('does not wait for a mapper that is gone, and says what it could not do', async () => {
    rig = new Rig({ blocks: 2, blockSize: BLOCK });
    rig.put(0, 'own-object', pattern(BLOCK, 1));
    await rig.write(0, pattern(10, 1));
    await rig.flush();
    expect(await rig.composer.drain(10)).toEqual([]);
    await rig.write(0, pattern(10, 1));
    rig.mapper.hold(Op.MAPW);
    rig.mapper.hold(Op.FLUSH);
    const stuck = rig.write(BLOCK, pattern(10, 1));
    const copyUp = await rig.mapper.take(Op.MAPW);
    const left = await rig.composer.drain(10);
    expect(left).toEqual([
      expect.stringContaining('operations that run'),
      expect.stringContaining('what was written to volume volume since its last flush may not be durable'),
    ]);
    rig.mapper.release(Op.FLUSH);
    rig.mapper.release(Op.MAPW);
    rig.mapper.answer(copyUp);
    await stuck;
    expect(await rig.composer.drain()).toEqual([]);
    rig.flushed.length = 0;
    await rig.flush();
    expect(rig.flushed).toEqual([]);
  });
});
