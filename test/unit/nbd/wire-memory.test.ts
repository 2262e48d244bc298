/** What a connection's memory costs while its client sends nothing. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { WireMemory } from '../../../src/nbd/wire-memory.js';

/** Memory of this process that is its own, in KiB. */
const resident = (): number => Number(/RssAnon:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]);

it('takes a few pages of memory for a connection that receives nothing', () => {
  const before = resident();
  const taken = Array.from({ length: 1000 }, () => WireMemory.take());
  // 5 KiB of arrays for sendmsg, and what JavaScript has of each; the stage and the headers would be 137.
  expect((resident() - before) / taken.length).toBeLessThan(20);
  for (const memory of taken) {
    expect(memory.msghdr.every((word) => word === 0)).toBe(true);
    expect(memory.iovecs.every((word) => word === 0)).toBe(true);
    memory.giveBack();
  }
});
