/** What happens at the same time: writes with snapshots, writes with zeroing, more requests than records, lost and foreign locks. */
import { afterEach, describe, expect, it } from 'vitest';
import { Flag, Op } from '../../../src/requests/ops.js';
import { PORTS, pattern, Stack } from './stack.js';

const BLOCK = 65536;
let stack: Stack;

afterEach(async () => {
  expect(await stack.stop()).toEqual([]);
});

describe('the composer under concurrency', () => {
  it('gives every snapshot one moment of the volume while writes go on', async () => {
    stack = await Stack.start();
    await stack.create('busy-volume', 4 * BLOCK, BLOCK);
    let running = true;
    let acknowledged = 0;
    // One writer stamps all blocks with a growing number, one after the other: in any snapshot the numbers never rise from block
    // to block, and the first is at most one above the last.
    const writer = (async () => {
      for (let stamp = 1; running; stamp++) {
        for (let block = 0; block < 4; block++) {
          const data = Buffer.alloc(8);
          data.writeDoubleLE(stamp);
          await stack.write('busy-volume', block * BLOCK + 512, data);
        }
        acknowledged = stamp;
      }
    })();
    const seen: number[] = [];
    for (let i = 0; i < 12; i++) {
      const before = acknowledged;
      await stack.snapshot('busy-volume', `moment-${i}`);
      const stamps: number[] = [];
      for (let block = 0; block < 4; block++) {
        stamps.push((await stack.read(`moment-${i}`, block * BLOCK + 512, 8)).readDoubleLE());
      }
      expect(stamps.toSorted((a, b) => b - a)).toEqual(stamps);
      expect(stamps[0] - stamps[3]).toBeLessThanOrEqual(1);
      expect(stamps[3]).toBeGreaterThanOrEqual(before);
      seen.push(stamps[0]);
    }
    running = false;
    await writer;
    for (let i = 0; i < 12; i++) {
      expect((await stack.read(`moment-${i}`, 512, 8)).readDoubleLE()).toBe(seen[i]);
    }
  });

  it('never lets a write that came after a trim be lost, nor one before it come back', async () => {
    stack = await Stack.start();
    await stack.create('trim-volume', 8 * BLOCK, BLOCK);
    for (let round = 0; round < 40; round++) {
      await stack.write('trim-volume', 0, pattern(4 * BLOCK, round));
      // In flight together: whole-block zeroing of blocks 0..3 and writes of block 4, which it must not touch.
      const zeroing = stack.writeZeroes('trim-volume', 0, 4 * BLOCK);
      const others = stack.write('trim-volume', 4 * BLOCK, pattern(BLOCK, round + 1));
      await Promise.all([zeroing, others]);
      expect((await stack.read('trim-volume', 0, 4 * BLOCK)).every((byte) => byte === 0)).toBe(true);
      // After its answer a write to the same block finds no old bytes around it.
      await stack.write('trim-volume', BLOCK + 100, pattern(50, round));
      const block = await stack.read('trim-volume', BLOCK, BLOCK);
      expect(block.subarray(100, 150).equals(pattern(50, round))).toBe(true);
      expect(block.subarray(0, 100).every((byte) => byte === 0)).toBe(true);
      expect(block.subarray(150).every((byte) => byte === 0)).toBe(true);
      expect((await stack.read('trim-volume', 4 * BLOCK, BLOCK)).equals(pattern(BLOCK, round + 1))).toBe(true);
    }
  });

  it('ends overlapping writes and zeroing in one of the two orders, block by block', async () => {
    stack = await Stack.start();
    await stack.create('race-volume', 4 * BLOCK, BLOCK);
    for (let round = 0; round < 40; round++) {
      const data = pattern(BLOCK, round);
      await stack.write('race-volume', BLOCK, pattern(BLOCK, 200));
      await Promise.all([stack.write('race-volume', BLOCK, data), stack.writeZeroes('race-volume', 0, 3 * BLOCK)]);
      const now = await stack.read('race-volume', BLOCK, BLOCK);
      const zeros = now.every((byte) => byte === 0);
      expect(zeros || now.equals(data)).toBe(true);
    }
  });

  it('serves many more requests at once than it may have in flight', async () => {
    stack = await Stack.start({ nrOps: 4 });
    await stack.create('crowd-volume', 16 * BLOCK, BLOCK);
    const writes = Array.from({ length: 300 }, (_, i) =>
      stack.write('crowd-volume', (i * 3001) % (16 * BLOCK - 512), Buffer.alloc(512, (i % 255) + 1)),
    );
    await Promise.all(writes);
    const reads = Array.from({ length: 300 }, (_, i) => stack.read('crowd-volume', (i * 4096) % (15 * BLOCK), 4096));
    for (const data of await Promise.all(reads)) expect(data.length).toBe(4096);
  });

  it('copies a shared block up once when many writes hit it together', async () => {
    stack = await Stack.start();
    await stack.create('base-volume', 2 * BLOCK, BLOCK);
    await stack.write('base-volume', 0, pattern(2 * BLOCK, 1));
    await stack.snapshot('base-volume', 'base-snapshot');
    await stack.clone('child-volume', 'base-snapshot');
    await Promise.all(
      Array.from({ length: 64 }, (_, i) => stack.write('child-volume', i * 1024, Buffer.alloc(512, 100 + (i % 100)))),
    );
    const expected = pattern(2 * BLOCK, 1);
    for (let i = 0; i < 64; i++) expected.fill(100 + (i % 100), i * 1024, i * 1024 + 512);
    expect((await stack.read('child-volume', 0, 2 * BLOCK)).equals(expected)).toBe(true);
    expect((await stack.read('base-snapshot', 0, 2 * BLOCK)).equals(pattern(2 * BLOCK, 1))).toBe(true);
  });
});

describe('locks of other nodes', () => {
  it('reads on uncached, and a write waits, then names the holder', async () => {
    stack = await Stack.start({ lockWait: 0 });
    await stack.create('their-volume', 2 * BLOCK, BLOCK);
    await stack.write('their-volume', 10, Buffer.from('ours'));
    await stack.close('their-volume');
    const rival = stack.rivalMaps();
    await rival.acquire('their-volume');
    expect((await stack.read('their-volume', 10, 4)).toString()).toBe('ours');
    await expect(stack.write('their-volume', 10, Buffer.from('oops'))).rejects.toMatchObject({
      code: 'EBUSY',
      message: expect.stringContaining('rival_1002'),
    });
    expect((await stack.read('their-volume', 10, 4)).toString()).toBe('ours');
    await rival.release('their-volume', false);
    await stack.write('their-volume', 10, Buffer.from('free'));
    expect((await stack.read('their-volume', 10, 4)).toString()).toBe('free');
  });

  it('lets a waiting write go on when the holder releases', async () => {
    stack = await Stack.start({ lockWait: 20 });
    await stack.create('wait-volume', BLOCK, BLOCK);
    await stack.close('wait-volume');
    const rival = stack.rivalMaps();
    await rival.acquire('wait-volume');
    const write = stack.write('wait-volume', 0, Buffer.from('late'));
    expect((await stack.read('wait-volume', 0, 4)).equals(Buffer.alloc(4))).toBe(true);
    await rival.release('wait-volume', false);
    await write;
    expect((await stack.read('wait-volume', 0, 4)).toString()).toBe('late');
  });
});

describe('a volume asked for as a map without header', () => {
  it('is the same volume when it has one, whoever writes', async () => {
    stack = await Stack.start();
    await stack.create('both-volume', 2 * BLOCK, BLOCK);
    const old = async (): Promise<Buffer> => {
      const init = {
        op: Op.READ,
        target: 'both-volume',
        size: BLOCK,
        capacity: BLOCK,
        flags: Flag.ASSUMEV0,
        v0Size: BLOCK,
      };
      return (await stack.client.call(PORTS.composer, init)).data;
    };
    expect((await old()).equals(Buffer.alloc(BLOCK))).toBe(true);
    for (let round = 1; round < 4; round++) {
      await stack.write('both-volume', 0, pattern(BLOCK, round));
      expect((await old()).equals(pattern(BLOCK, round))).toBe(true);
      await stack.write('both-volume', 0, pattern(100, 50), Flag.ASSUMEV0);
      await stack.snapshot('both-volume', `both-snapshot-${round}`);
      expect((await stack.read('both-volume', 0, 100)).equals(pattern(100, 50))).toBe(true);
      await stack.writeZeroes('both-volume', 0, BLOCK);
      expect((await old()).equals(Buffer.alloc(BLOCK))).toBe(true);
    }
  });
});

describe('requests the composer refuses', () => {
  it('names the volume and the limit', async () => {
    stack = await Stack.start();
    await stack.create('small-volume', 1000, BLOCK);
    await expect(stack.read('small-volume', 900, 200)).rejects.toMatchObject({ code: 'EINVAL' });
    await expect(stack.write('small-volume', 900, Buffer.alloc(200))).rejects.toMatchObject({
      code: 'ENOSPC',
      message: expect.stringContaining('past the end of volume small-volume (1000 bytes)'),
    });
    await expect(stack.read('no-such-volume', 0, 1)).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(stack.client.call(PORTS.composer, { op: Op.HASH, target: 'small-volume' })).rejects.toMatchObject({
      code: 'EOPNOTSUPP',
    });
    const unsound = { op: Op.WRITE, target: 'small-volume', offset: 0, size: 512, data: Buffer.alloc(4) };
    await expect(stack.client.call(PORTS.composer, unsound)).rejects.toMatchObject({ code: 'EINVAL' });
  });

  it('refuses zeroing that cannot be fast, and does it without that flag', async () => {
    stack = await Stack.start();
    await stack.create('slow-volume', 2 * BLOCK, BLOCK);
    await stack.write('slow-volume', 0, pattern(BLOCK, 9));
    await stack.snapshot('slow-volume', 'slow-snapshot');
    await expect(stack.writeZeroes('slow-volume', 100, 100, Flag.FAST_ZERO)).rejects.toMatchObject({
      code: 'EOPNOTSUPP',
    });
    await stack.writeZeroes('slow-volume', 100, 100);
    const expected = pattern(BLOCK, 9);
    expected.fill(0, 100, 200);
    expect((await stack.read('slow-volume', 0, BLOCK)).equals(expected)).toBe(true);
  });

  it('fails a read of a shared block whose object is gone, and reads an own one as zeros', async () => {
    stack = await Stack.start();
    await stack.create('gone-volume', 2 * BLOCK, BLOCK);
    await stack.write('gone-volume', 0, pattern(2 * BLOCK, 3));
    await stack.snapshot('gone-volume', 'gone-snapshot');
    await stack.write('gone-volume', BLOCK, pattern(10, 4));
    const { names } = await stack.blocks.list(null, 100);
    for (const name of names) await stack.blocks.delete(name);
    await expect(stack.read('gone-snapshot', 0, 10)).rejects.toMatchObject({
      code: 'EIO',
      message: expect.stringContaining('block 0'),
    });
    expect((await stack.read('gone-volume', BLOCK, 10)).equals(Buffer.alloc(10))).toBe(true);
    await expect(stack.write('gone-volume', 0, Buffer.alloc(1))).rejects.toMatchObject({ code: 'EIO' });
  });
});
