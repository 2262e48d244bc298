/** Long writes where no thread is to be had, and one of another version. */
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { expect, it, vi } from 'vitest';
import { LongWrites } from '../../../src/blockers/file/long-writes.js';
import { dataOf, Ring, ringOf } from '../../../src/blockers/file/long-writes-ring.js';
import { temporaryDirectory } from './support.js';

const made = vi.hoisted(() => ({ count: 0 }));
vi.mock('node:worker_threads', () => ({
  Worker: class {
    constructor() {
      made.count++;
      throw new Error('ERR_WORKER_INIT_FAILED');
    }
  },
}));

it('a system that gives no thread more has them written by who asks, and is not asked again', () => {
  const script = path.join(temporaryDirectory(), 'thread.js');
  fs.writeFileSync(script, '');
  const writes = new LongWrites(pathToFileURL(script));
  for (let i = 0; i < 3; i++) expect(writes.takes).toBe(false);
  expect(writes.isHeldUp).toBe(false);
  expect(made.count).toBe(1);
});

it('a thread of a version that shares another layout takes nothing', () => {
  const ring = new Ring();
  expect(ringOf(dataOf(ring))?.shared).toBe(ring.shared);
  expect(ringOf({ ...dataOf(ring), layout: dataOf(ring).layout + 1 })).toBe(null);
});
