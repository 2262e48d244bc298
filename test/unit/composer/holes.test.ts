/** Reads that may be answered with a hole, block status of large maps, zeroing that is fast or does nothing. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { decodeExtents, EXTENT_BYTES } from '../../../src/requests/extents.js';
import { Flag, Op } from '../../../src/requests/ops.js';
import { PORTS, pattern, type SparseRead, Stack } from './stack.js';

const BLOCK = 4096;
let stack: Stack;

beforeEach(async () => {
  stack = await Stack.start();
});

afterEach(async () => {
  expect(await stack.stop()).toEqual([]);
});

const read = (name: string, offset: number, length: number, flags: number = Flag.MAY_BE_HOLE): Promise<SparseRead> =>
  stack.sparseRead(name, offset, length, flags);

const untouched = (length: number): Buffer => Buffer.alloc(length, 0xa5);

describe('a read that may be a hole', () => {
  it('is one where all of the range has no object, and leaves the buffer alone', async () => {
    await stack.create('hole-volume', 4 * BLOCK + 100, BLOCK);
    await stack.write('hole-volume', BLOCK, pattern(BLOCK, 1));
    expect(await read('hole-volume', 0, BLOCK)).toEqual({ hole: true, data: untouched(BLOCK) });
    expect(await read('hole-volume', 2 * BLOCK + 1, 2 * BLOCK)).toEqual({ hole: true, data: untouched(2 * BLOCK) });
    expect(await read('hole-volume', 4 * BLOCK, 100)).toEqual({ hole: true, data: untouched(100) });
  });

  it('is data where a part of the range has an object, before or behind', async () => {
    await stack.create('hole-volume', 3 * BLOCK, BLOCK);
    await stack.write('hole-volume', BLOCK, pattern(BLOCK, 1));
    const whole = Buffer.concat([Buffer.alloc(BLOCK), pattern(BLOCK, 1), Buffer.alloc(BLOCK)]);
    expect(await read('hole-volume', 0, 3 * BLOCK)).toEqual({ hole: false, data: whole });
    expect(await read('hole-volume', BLOCK, 2 * BLOCK)).toEqual({ hole: false, data: whole.subarray(BLOCK) });
    expect(await read('hole-volume', BLOCK - 1, 2)).toEqual({
      hole: false,
      data: whole.subarray(BLOCK - 1, BLOCK + 1),
    });
  });

  it('is data where an object holds zeros: that is for the asker to find out', async () => {
    await stack.create('hole-volume', BLOCK, BLOCK);
    await stack.write('hole-volume', 0, Buffer.alloc(BLOCK));
    expect(await read('hole-volume', 0, BLOCK)).toEqual({ hole: false, data: Buffer.alloc(BLOCK) });
  });

  it('is one again after a trim, and in a snapshot what it was', async () => {
    await stack.create('hole-volume', 2 * BLOCK, BLOCK);
    await stack.write('hole-volume', 0, pattern(BLOCK, 1));
    await stack.snapshot('hole-volume', 'hole-snapshot');
    await stack.trim('hole-volume', 0, BLOCK);
    expect((await read('hole-volume', 0, 2 * BLOCK)).hole).toBe(true);
    expect(await read('hole-snapshot', 0, BLOCK)).toEqual({ hole: false, data: pattern(BLOCK, 1) });
    expect((await read('hole-snapshot', BLOCK, BLOCK)).hole).toBe(true);
  });

  it('is none for who does not ask for one', async () => {
    await stack.create('hole-volume', BLOCK, BLOCK);
    expect(await read('hole-volume', 0, BLOCK, 0)).toEqual({ hole: false, data: Buffer.alloc(BLOCK) });
  });

  it('is none because a composer before this one found one and died before its answer was heard of', async () => {
    await stack.create('hole-volume', 2 * BLOCK, BLOCK);
    await stack.write('hole-volume', 0, pattern(BLOCK, 1));
    const again = Flag.MAY_BE_HOLE | Flag.HOLE;
    expect(await read('hole-volume', 0, BLOCK, again)).toEqual({ hole: false, data: pattern(BLOCK, 1) });
    expect(await read('hole-volume', BLOCK, BLOCK, again)).toEqual({ hole: true, data: untouched(BLOCK) });
  });

  it('is told of a volume that another node has locked, too', async () => {
    await stack.create('their-volume', 3 * BLOCK, BLOCK);
    await stack.write('their-volume', BLOCK, pattern(BLOCK, 1));
    await stack.close('their-volume');
    const rival = stack.rivalMaps();
    await rival.acquire('their-volume');
    expect(await read('their-volume', 0, BLOCK)).toEqual({ hole: true, data: untouched(BLOCK) });
    expect(await read('their-volume', 0, BLOCK, 0)).toEqual({ hole: false, data: Buffer.alloc(BLOCK) });
    expect(await read('their-volume', BLOCK - 10, 20)).toEqual({
      hole: false,
      data: Buffer.concat([Buffer.alloc(10), pattern(BLOCK, 1).subarray(0, 10)]),
    });
    await rival.release('their-volume', false);
  });
});

describe('block status', () => {
  /** A blank volume of many chunks of map entries. */
  const blocks = 3 * 4096 + 5;

  it('covers a range of many chunks of the map in one answer', async () => {
    await stack.create('large-volume', blocks * 512, 512);
    await stack.write('large-volume', 5000 * 512, pattern(1024, 1));
    expect(await stack.extents('large-volume', 0, blocks * 512)).toEqual([
      { length: 5000 * 512, flags: 3 },
      { length: 1024, flags: 0 },
      { length: (blocks - 5002) * 512, flags: 3 },
    ]);
  });

  it('ends where the buffer is full, and looks no further than the last extent goes', async () => {
    await stack.create('large-volume', blocks * 512, 512);
    await stack.write('large-volume', 0, pattern(512, 1));
    await stack.write('large-volume', 9000 * 512, pattern(512, 1));
    const init = { op: Op.BLOCK_STATUS, target: 'large-volume', offset: 0, size: blocks * 512 };
    const ask = async (count: number) => {
      const reply = await stack.client.call(PORTS.composer, { ...init, capacity: count * EXTENT_BYTES });
      return decodeExtents(reply.data.subarray(0, reply.serviced));
    };
    expect(await ask(1)).toEqual([{ length: 512, flags: 0 }]);
    expect(await ask(2)).toEqual([
      { length: 512, flags: 0 },
      { length: 8999 * 512, flags: 3 },
    ]);
    expect(await ask(4)).toHaveLength(4);
  });
});

describe('fast zeroing', () => {
  it('changes nothing when any part of it would be slow', async () => {
    await stack.create('fast-volume', 4 * BLOCK, BLOCK);
    await stack.write('fast-volume', 0, pattern(4 * BLOCK, 1));
    await stack.snapshot('fast-volume', 'fast-snapshot');
    // The head is own and could be zeroed, the middle is whole; the tail would be copied.
    await stack.write('fast-volume', 0, pattern(BLOCK, 1));
    const refused = { code: 'EOPNOTSUPP' };
    await expect(stack.writeZeroes('fast-volume', 10, 3 * BLOCK, Flag.FAST_ZERO)).rejects.toMatchObject(refused);
    expect((await stack.read('fast-volume', 0, 4 * BLOCK)).equals(pattern(4 * BLOCK, 1))).toBe(true);
    await stack.write('fast-volume', 3 * BLOCK, pattern(4 * BLOCK, 1).subarray(3 * BLOCK));
    await stack.writeZeroes('fast-volume', 10, 3 * BLOCK, Flag.FAST_ZERO);
    const zeroed = pattern(4 * BLOCK, 1).fill(0, 10, 3 * BLOCK + 10);
    expect((await stack.read('fast-volume', 0, 4 * BLOCK)).equals(zeroed)).toBe(true);
  });

  it('is done for parts of blocks that are zero already, and for the short block at the end', async () => {
    await stack.create('fast-volume', 2 * BLOCK + 100, BLOCK);
    await stack.write('fast-volume', 2 * BLOCK, pattern(100, 1));
    await stack.snapshot('fast-volume', 'fast-snapshot');
    await stack.writeZeroes('fast-volume', 5, BLOCK, Flag.FAST_ZERO);
    await stack.writeZeroes('fast-volume', 2 * BLOCK, 100, Flag.FAST_ZERO);
    expect((await stack.read('fast-volume', 0, 2 * BLOCK + 100)).equals(Buffer.alloc(2 * BLOCK + 100))).toBe(true);
    expect((await stack.read('fast-snapshot', 2 * BLOCK, 100)).equals(pattern(100, 1))).toBe(true);
  });
});
