/**
 * vlmc check on every state that an operation leaves when its process ends between two steps: never an error, and after the repair nothing that
 * takes space, nor any block of what was wanted lost.
 */
import { afterAll, describe, expect, it } from 'vitest';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import {
  createSmall,
  memoryNode,
  memoryStores,
  type Node,
  readVolume,
  type Stores,
  writeVolume,
} from '../mapper/support.js';
import { FakeNode } from './fake-node.js';
import { serveStores } from './real-store.js';

const BLOCK = 256;
const SIZE = 5 * BLOCK + 100;
const fake = new FakeNode();
afterAll(() => fake.close());

const content = Buffer.alloc(SIZE);
content
  .fill(1, 0, BLOCK)
  .fill(2, BLOCK, 3 * BLOCK)
  .fill(3, 5 * BLOCK);

/** A volume with shared, own and zero blocks, and its snapshot. */
async function prepare(stores: Stores): Promise<void> {
  const node = memoryNode(stores);
  await createSmall(node, 'the-volume', SIZE, BLOCK);
  await writeVolume(node, 'the-volume', 0, content.subarray(0, 2 * BLOCK));
  await node.mapper.snapshot('the-volume', 'a-snapshot');
  await writeVolume(node, 'the-volume', BLOCK, content.subarray(BLOCK, 3 * BLOCK));
  await writeVolume(node, 'the-volume', 5 * BLOCK, content.subarray(5 * BLOCK));
  await node.mapper.stop();
}

const cases: Record<string, (node: Node) => Promise<unknown>> = {
  'a first write and a copy-up': (node) => writeVolume(node, 'the-volume', 0, Buffer.alloc(5 * BLOCK, 7)),
  'a trim': (node) => node.mapper.mapZero('the-volume', 0, 3 * BLOCK, 500),
  'a snapshot': (node) => node.mapper.snapshot('the-volume', 'new-snapshot'),
  'a larger clone': (node) => node.mapper.clone('the-clone', 'a-snapshot', 8 * BLOCK),
  'a renaming': (node) => node.mapper.rename('the-volume', 'new-name'),
  shrinking: (node) => node.mapper.resize('the-volume', BLOCK + 7, true),
  'a removal': (node) => node.mapper.remove('the-volume'),
};

/** What some of the states must be told as. */
const expected: Record<string, string[]> = {
  'a first write and a copy-up': ['orphan'],
  'a snapshot': ['stray-map'],
  'a larger clone': ['stray-map'],
  'a renaming': ['stray-map', 'interrupted-rename'],
  'a removal': ['interrupted-deletion'],
};

/** The process ends at step k. Returns how many steps there were. */
async function cut(stores: Stores, k: number, work: (node: Node) => Promise<unknown>): Promise<number> {
  const node = memoryNode(stores);
  let steps = 0;
  const before = (): void => {
    if (steps++ >= k) throw new SystemError(errnos.EIO, 'the process has ended');
  };
  node.maps.before = before;
  node.blocks.before = before;
  await work(node).catch(() => {});
  return steps;
}

interface Report {
  errors: number;
  orphans: number;
  findings: { kind: string; message: string }[];
}

async function check(...words: string[]): Promise<Report> {
  return JSON.parse((await fake.vlmc('--json', 'check', '--all', ...words)).out) as Report;
}

describe('vlmc check after the end of the process in the middle of', () => {
  it.each(Object.entries(cases))('%s', async (what, work) => {
    const seen = new Set<string>();
    for (let k = 0, more = true; more; k++) {
      const stores = memoryStores();
      await prepare(stores);
      more = (await cut(stores, k, work)) > k;
      // The next mapper takes the locks back and gives up those that nobody uses.
      const node = memoryNode(stores);
      for (const name of ['the-volume', 'new-name', 'new-snapshot', 'the-clone', 'a-snapshot']) {
        await node.maps.release(name, true).catch(() => {});
      }
      fake.reset();
      serveStores(fake, stores, node);
      const first = await check();
      expect(
        first.findings.filter(({ kind }) => kind.startsWith('m')),
        `step ${k}`,
      ).toEqual([]);
      expect(first.errors, `step ${k}: ${JSON.stringify(first.findings)}`).toBe(0);
      for (const { kind } of first.findings) seen.add(kind);
      if (first.findings.length === 0) continue;
      const snapshot = await readVolume(node, 'a-snapshot', 0, SIZE);
      await check('--repair', '--age', '0');
      const second = await check();
      const rest = second.findings
        .map(({ kind }) => kind)
        .filter((kind) => kind !== 'stray-map' && kind !== 'interrupted-rename');
      expect(rest, `step ${k}: ${JSON.stringify(second.findings)}`).toEqual([]);
      expect((await readVolume(node, 'a-snapshot', 0, SIZE)).equals(snapshot)).toBe(true);
    }
    // The states that this is about were there.
    expect([...seen]).toEqual(expect.arrayContaining(expected[what] ?? []));
  });
});
