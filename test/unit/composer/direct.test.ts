/** The short way between roles of one process: the same bytes as by requests, and nothing done that a request would not have done. */
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { Op } from '../../../src/requests/ops.js';
import { errnos } from '../../../src/sys/errno.js';
import { DirectClient } from './direct-client.js';
import { Family, step } from './family.js';
import { PORTS, pattern, Stack } from './stack.js';

const BLOCK = 65536;
/** Of the family's volumes. */
const SMALL = 4096;

/** A stack whose reads and writes without flags take the short way where it leads, a block at a time. */
async function shortStack(options: { writeThrough?: boolean; nrOps?: number } = {}, block = BLOCK) {
  const stack = await Stack.start({ ...options, store: 'file', sizeMiB: 8 });
  const direct = new DirectClient(stack.client);
  const { write, read } = stack;
  const end = (from: number, to: number): number => Math.min(to, from - (from % block) + block);
  stack.write = async (name, offset, data, flags = 0) => {
    if (flags !== 0 || data.length === 0) return await write.call(stack, name, offset, data, flags);
    for (let at = 0; at < data.length; at = end(offset + at, offset + data.length) - offset) {
      await direct.write(name, offset + at, data.subarray(at, end(offset + at, offset + data.length) - offset));
    }
  };
  stack.read = async (name, offset, length) => {
    if (length === 0) return await read.call(stack, name, offset, length);
    const pieces: Buffer[] = [];
    for (let at = offset; at < offset + length; at = end(at, offset + length)) {
      pieces.push(await direct.read(name, at, end(at, offset + length) - at));
    }
    return Buffer.concat(pieces);
  };
  return { stack, direct };
}

describe('the short way against a model', () => {
  it('keeps every byte of every volume through writes, trims, snapshots, clones, resizes, renames and removals', async () => {
    let served = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40, size: 'max' }), async (steps) => {
        const { stack, direct } = await shortStack({}, SMALL);
        const family = new Family(stack);
        try {
          await family.begin();
          for (const next of steps) {
            await family.run(next);
            await family.compare();
          }
          await family.compareMaps();
        } finally {
          expect(await stack.stop()).toEqual([]);
        }
        served += direct.served;
      }),
      { numRuns: 8, endOnFailure: true },
    );
    expect(served).toBeGreaterThan(50);
  }, 120_000);
});

describe('the short way', () => {
  let stack: Stack;
  let direct: DirectClient;

  async function open(options = {}): Promise<void> {
    ({ stack, direct } = await shortStack(options));
    await stack.create('short-volume', 4 * BLOCK, BLOCK);
    // The first makes the object and brings the hints.
    await stack.write('short-volume', 0, pattern(BLOCK, 1));
    await stack.read('short-volume', 0, 16);
  }

  const served = async (work: () => Promise<unknown>): Promise<number> => {
    const before = direct.served;
    await work();
    return direct.served - before;
  };

  afterEach(async () => {
    expect(await stack.stop()).toEqual([]);
  });

  it('serves reads and writes of an object that is there, by no message to anybody', async () => {
    await open();
    expect(await served(() => stack.write('short-volume', 100, pattern(512, 2)))).toBe(1);
    expect(await served(() => stack.read('short-volume', 100, 512))).toBe(1);
    const expected = pattern(BLOCK, 1);
    pattern(512, 2).copy(expected, 100);
    expect((await stack.read('short-volume', 0, BLOCK)).equals(expected)).toBe(true);
  });

  it('reads zeros past the end of the object', async () => {
    await open();
    await stack.write('short-volume', BLOCK, pattern(100, 3));
    await stack.read('short-volume', BLOCK, 16);
    const data = await stack.read('short-volume', BLOCK, 300);
    expect(await served(() => stack.read('short-volume', BLOCK + 50, 300))).toBe(1);
    expect(data.subarray(0, 100).equals(pattern(100, 3))).toBe(true);
    expect(data.subarray(100).every((byte) => byte === 0)).toBe(true);
  });

  it('counts what it wrote among what the next flush has to make durable', async () => {
    await open();
    await stack.flush('short-volume');
    const dirty = (): number => (stack.blocks as unknown as { status(): { dirtyFiles: number } }).status().dirtyFiles;
    expect(dirty()).toBe(0);
    expect(await served(() => stack.write('short-volume', 8, pattern(64, 4)))).toBe(1);
    expect(dirty()).toBe(1);
    await stack.flush('short-volume');
    expect(dirty()).toBe(0);
  });

  it('serves the first read of an object that the blocker can open at once', async () => {
    await open();
    for (let block = 1; block < 4; block++) await stack.write('short-volume', block * BLOCK, pattern(BLOCK, block));
    await stack.snapshot('short-volume', 'short-snapshot');
    // The map of the snapshot comes with it, and the hint of one object.
    await stack.read('short-snapshot', 0, 16);
    stack.blocks.forget?.();
    for (let block = 1; block < 4; block++) {
      expect(await served(() => stack.read('short-snapshot', block * BLOCK, 512))).toBe(1);
      expect((await stack.read('short-snapshot', block * BLOCK, BLOCK)).equals(pattern(BLOCK, block))).toBe(true);
    }
  });

  it.each([
    ['what is not there yet', 2 * BLOCK, 512],
    ['what lies in two blocks', BLOCK - 256, 512],
  ])('leaves %s to requests', async (_, offset, length) => {
    await open();
    const before = direct.served;
    await direct.write('short-volume', offset, pattern(length, 5));
    expect(direct.served).toBe(before);
    expect((await stack.read('short-volume', offset, length)).equals(pattern(length, 5))).toBe(true);
  });

  it('leaves what is past the end of the volume, and writes to a snapshot, to requests, which say what is wrong', async () => {
    await open();
    await stack.snapshot('short-volume', 'short-snapshot');
    await stack.read('short-snapshot', 0, 16);
    expect(await served(() => stack.read('short-snapshot', 0, 16))).toBe(1);
    await expect(direct.write('short-snapshot', 0, pattern(16, 6))).rejects.toMatchObject({ errno: errnos.EROFS });
    await expect(direct.read('short-volume', 4 * BLOCK - 8, 16)).rejects.toMatchObject({ errno: errnos.EINVAL });
  });

  it('copies a block of a snapshot before it writes it', async () => {
    await open();
    await stack.snapshot('short-volume', 'short-snapshot');
    expect(await served(() => stack.write('short-volume', 0, pattern(512, 7)))).toBe(0);
    expect(await served(() => stack.write('short-volume', 0, pattern(512, 8)))).toBe(1);
    expect((await stack.read('short-snapshot', 0, BLOCK)).equals(pattern(BLOCK, 1))).toBe(true);
    expect((await stack.read('short-volume', 0, 512)).equals(pattern(512, 8))).toBe(true);
  });

  it('leaves every write to requests when each is to be durable before its answer', async () => {
    await open({ writeThrough: true });
    expect(await served(() => stack.write('short-volume', 0, pattern(512, 9)))).toBe(0);
    expect(await served(() => stack.read('short-volume', 0, 512))).toBe(1);
  });

  it('takes a handle only for the volume of that name', async () => {
    await open();
    const request = stack.client.getRequest()!;
    request.op = Op.FLUSH;
    request.target = 'short-volume';
    const handle = await new Promise<number>((resolve) => {
      request.onReply = () => resolve(request.hint);
      stack.client.submit(request, PORTS.composer);
    });
    stack.client.putRequest(request);
    const at = stack.client.allocate(512);
    const { memory } = stack.segment;
    const ask = (name: string, hint: number) =>
      stack.client.directTo(PORTS.composer)?.({
        op: Op.READ,
        offset: 0,
        size: 512,
        address: memory.base + at,
        hint,
        deadline: 0,
        isNamed: (other) => Buffer.from(name).equals(other),
        clear: () => {},
      });
    const known = await Promise.all([handle, 1, 2, 3].map(async (hint) => ask('short-volume', hint)));
    expect(known).toContain(true);
    expect([handle, 0, 1, 2, 3, 4].map((hint) => ask('other-volume', hint))).not.toContain(true);
    stack.client.free(at);
  });

  it('gives every snapshot one moment of the volume while writes go on', async () => {
    await open();
    for (let block = 1; block < 4; block++) await stack.write('short-volume', block * BLOCK, pattern(BLOCK, block));
    let running = true;
    let acknowledged = 0;
    const stampOf = async (name: string, block: number): Promise<number> =>
      (await stack.read(name, block * BLOCK + 512, 8)).readDoubleLE();
    const before = direct.served;
    // As in concurrency.test.ts: in any snapshot the numbers never rise from block to block.
    const writer = (async () => {
      for (let stamp = 1; running; stamp++) {
        const data = Buffer.alloc(8);
        data.writeDoubleLE(stamp);
        for (let block = 0; block < 4; block++) await stack.write('short-volume', block * BLOCK + 512, data);
        acknowledged = stamp;
      }
    })();
    while (acknowledged === 0) await new Promise((resolve) => setImmediate(resolve));
    for (let i = 0; i < 8; i++) {
      const least = acknowledged;
      await stack.snapshot('short-volume', `moment-${i}`);
      const stamps: number[] = [];
      for (let block = 0; block < 4; block++) stamps.push(await stampOf(`moment-${i}`, block));
      expect(stamps.toSorted((a, b) => b - a)).toEqual(stamps);
      expect(stamps[0] - stamps[3]).toBeLessThanOrEqual(1);
      expect(stamps[3]).toBeGreaterThanOrEqual(least);
    }
    // However few of them came between the snapshots: some do go the short way, and go on to.
    while (direct.served - before <= 16) await new Promise((resolve) => setImmediate(resolve));
    running = false;
    await writer;
  });

  it('loses no write to a trim that was answered before it, and brings back none before', async () => {
    await open();
    for (let round = 0; round < 20; round++) {
      await stack.write('short-volume', 0, pattern(BLOCK, round));
      const zeroing = stack.writeZeroes('short-volume', 0, BLOCK);
      const during = stack.write('short-volume', 0, pattern(100, round + 100));
      await Promise.all([zeroing, during]);
      await stack.write('short-volume', 200, pattern(50, round));
      const block = await stack.read('short-volume', 0, BLOCK);
      const first = block.subarray(0, 100);
      expect(first.equals(pattern(100, round + 100)) || first.every((byte) => byte === 0)).toBe(true);
      expect(block.subarray(100, 200).every((byte) => byte === 0)).toBe(true);
      expect(block.subarray(200, 250).equals(pattern(50, round))).toBe(true);
      expect(block.subarray(250).every((byte) => byte === 0)).toBe(true);
    }
  });
});
