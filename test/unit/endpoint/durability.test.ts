/** Write-through, for one export and for a node: what was acknowledged is durable, counted at the store. */
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { ObjectIo } from '../../../src/blockers/driver.js';
import { type BlockDevice, IoCommand } from '../../../src/nbd/index.js';
import { Op } from '../../../src/requests/ops.js';
import { pattern, Stack } from '../composer/stack.js';
import { Endpoint, run } from './support.js';

const BLOCK = 65536;

afterEach(() => {
  vi.restoreAllMocks();
});

/** Counts the changes that reach a store of data: those that are durable when they are answered, and the others. */
function count(stack: Stack): { durable: number; others: number } {
  const counts = { durable: 0, others: 0 };
  // The memory driver does one of them by another.
  let within = false;
  for (const method of ['write', 'trim', 'writeZeroes'] as const) {
    const original = stack.blocks[method].bind(stack.blocks);
    vi.spyOn(stack.blocks, method).mockImplementation((io: ObjectIo) => {
      if (!within && io.fua) counts.durable++;
      else if (!within) counts.others++;
      const outer = !within;
      within = true;
      original(io);
      if (outer) within = false;
    });
  }
  return counts;
}

/** Changes of all kinds, each within one block that has its object: as many requests to the store. */
async function change(device: BlockDevice): Promise<number> {
  await run(device, IoCommand.WRITE, { data: pattern(BLOCK, 1) });
  await run(device, IoCommand.WRITE, { offset: 100, data: pattern(100, 2) });
  await run(device, IoCommand.WRITE_ZEROES, { offset: 300, length: 50 });
  await run(device, IoCommand.WRITE_ZEROES, { offset: 400, length: 50, noHole: true });
  await run(device, IoCommand.TRIM, { offset: 500, length: 50 });
  return 5;
}

describe('write-through', () => {
  it('of a mapping makes each change durable before its answer; without it none is', async () => {
    const endpoint = await Endpoint.start();
    await endpoint.stack.create('first-volume', 4 * BLOCK, BLOCK);
    const counts = count(endpoint.stack);
    const plain = await endpoint.open('first-volume');
    expect(counts).toEqual({ durable: 0, others: 0 });
    const changes = await change(plain);
    expect(counts).toEqual({ durable: 0, others: changes });
    await plain.close();
    await endpoint.ask(Op.MAP, { name: 'first-volume', writeThrough: true });
    const mapped = await endpoint.open('first-volume');
    await change(mapped);
    expect(counts).toEqual({ durable: changes, others: changes });
    await mapped.close();
    expect(await endpoint.stop()).toEqual([]);
  });

  it('of a node is that of all, and the map’s changes are durable as well', async () => {
    const stack = await Stack.start({ writeThrough: true });
    await stack.create('first-volume', 4 * BLOCK, BLOCK);
    const counts = count(stack);
    const flushes = vi.spyOn(stack.maps, 'flush');
    for (let block = 0; block < 4; block++) {
      const before = flushes.mock.calls.length;
      await stack.write('first-volume', block * BLOCK, pattern(100, block));
      // The first write to a block makes an entry of the map.
      expect(flushes.mock.calls.length).toBeGreaterThan(before);
    }
    expect(counts).toEqual({ durable: 4, others: 0 });
    expect(await stack.stop()).toEqual([]);
  });
});
