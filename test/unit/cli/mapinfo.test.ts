import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { Op } from '../../../src/requests/ops.js';
import { FakeNode } from './fake-node.js';
import { FakeStore, OWN, objectName, SHARED } from './fake-store.js';

const node = new FakeNode();
let store: FakeStore;

beforeEach(() => {
  node.reset();
  store = new FakeStore(node);
});
afterAll(() => node.close());

describe('vlmc mapinfo', () => {
  const a = objectName('volume1', 1, 2);
  const b = objectName('snap-1', 1, 5);

  beforeEach(() => {
    store.add('volume1', { blocks: 10_000 });
    store.put('volume1', 2, OWN, a);
    store.put('volume1', 5, SHARED, b);
    store.put('volume1', 9_999, 0, 'f'.repeat(64));
  });

  const rows = (out: string): string[][] =>
    out
      .trimEnd()
      .split('\n')
      .slice(2)
      .map((line) => line.split('\t'));

  it('prints a line a block, and one for a run of zero blocks, over pieces of any size', async () => {
    const { status, out } = await node.vlmc('mapinfo', 'volume1');
    expect(status).toBe(0);
    expect(out.split('\n').slice(0, 2)).toEqual([
      `Volume volume1: size: ${10_000 * (4 << 20)} block size: ${4 << 20}`,
      'block\tflags\tobject',
    ]);
    expect(rows(out)).toEqual([
      ['0-1', 'Z', '-'],
      ['2', 'WA', a],
      ['3-4', 'Z', '-'],
      ['5', 'A', b],
      ['6-9998', 'Z', '-'],
      ['9999', '-', 'f'.repeat(64)],
    ]);
    expect(node.asked('mapper', Op.MAPFETCH).length).toBeGreaterThan(2);
  });

  it.each([
    ['2', [['2', 'WA', a]]],
    [
      '1-2',
      [
        ['1', 'Z', '-'],
        ['2', 'WA', a],
      ],
    ],
    [
      '9998-',
      [
        ['9998', 'Z', '-'],
        ['9999', '-', 'f'.repeat(64)],
      ],
    ],
    ['9999-99999', [['9999', '-', 'f'.repeat(64)]]],
  ])('--blocks %s prints just those', async (range, expected) => {
    expect(rows((await node.vlmc('mapinfo', 'volume1', '--blocks', range)).out)).toEqual(expected);
  });

  it('--all prints every zero block', async () => {
    const { out } = await node.vlmc('mapinfo', 'volume1', '--all', '--blocks', '3-5');
    expect(rows(out).map(([block]) => block)).toEqual(['3', '4', '5']);
  });

  it('--json is one document', async () => {
    const { out } = await node.vlmc('--json', 'mapinfo', 'volume1', '--blocks', '0-2');
    expect(JSON.parse(out)).toEqual({
      name: 'volume1',
      size: 10_000 * (4 << 20),
      blockSize: 4 << 20,
      blocks: [
        { index: 0, count: 2, flags: 'Z', object: null },
        { index: 2, count: 1, flags: 'WA', object: a },
      ],
    });
  });

  it('refuses blocks that the volume does not have, and ranges that are none', async () => {
    expect(await node.vlmc('mapinfo', 'volume1', '--blocks', '10000')).toMatchObject({
      status: 255,
      err: 'volume volume1 has 10000 blocks: there is no block 10000\n',
    });
    for (const range of ['x', '5-4', '-3', '1-2-3']) {
      expect((await node.vlmc('mapinfo', 'volume1', '--blocks', range)).status).toBe(2);
    }
  });

  it("says what is wrong with a map's piece, after the lines before it", async () => {
    store.volumes.get('volume1')?.damaged.add(4096);
    const { status, err } = await node.vlmc('mapinfo', 'volume1', '--blocks', '4095-');
    expect({ status, err }).toEqual({ status: 255, err: 'vlmc mapinfo failed: map object volume1 is damaged\n' });
  });
});
