/** The other half of cuts.test.ts. */
import { expect, it } from 'vitest';
import { cutMany } from './many.js';

it('survives 2,500 more power cuts', async () => {
  expect(await cutMany(100_001, 2500)).toBeGreaterThanOrEqual(2500);
}, 900_000);
