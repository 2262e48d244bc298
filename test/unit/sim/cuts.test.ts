/** Power cuts at any change of the disk, under a random workload: nothing promised is lost. See also more-cuts.test.ts. */
import { afterAll, expect, it } from 'vitest';
import { destroySegments } from '../../sim/node.js';
import { simulate } from '../../sim/simulation.js';
import { cutMany } from './many.js';

afterAll(destroySegments);

it('survives 2,500 power cuts', async () => {
  expect(await cutMany(1, 2500)).toBeGreaterThanOrEqual(2500);
}, 900_000);

it('loses nothing that was said to be durable where the disk does not take all blocks', async () => {
  let cuts = 0;
  for (let seed = 1; cuts < 600; seed++) {
    cuts += (await simulate({ seed, cuts: 60, local: true, flushes: seed % 2 === 0, fails: true })).cuts;
  }
  expect(cuts).toBeGreaterThanOrEqual(600);
}, 300_000);

it('does the same again for the same seed, and something else for another', async () => {
  const once = await simulate({ seed: 7, cuts: 20 });
  expect(await simulate({ seed: 7, cuts: 20 })).toEqual(once);
  expect((await simulate({ seed: 8, cuts: 20 })).hash).not.toBe(once.hash);
}, 300_000);
