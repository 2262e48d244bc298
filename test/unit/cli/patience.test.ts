/** Commands whose store does not answer: they end, and say which one it is. Work that takes long is no such case. */
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { Patience } from '../../../src/cli/common/patience.js';
import { Op } from '../../../src/requests/ops.js';
import type { CallReply } from '../../../src/xseg/index.js';
import { FakeNode } from './fake-node.js';

const node = new FakeNode();
const quick = { env: { ARCHIPELAGO_PATIENCE: '0.4' } };

beforeEach(() => {
  node.reset();
  for (const peer of ['maps', 'blocks'] as const) node.on(peer, Op.LOCKINFO, () => null);
  node.on('mapper', Op.STATUS, () => status(0, 0));
});
afterAll(() => node.close());

const status = (maps: number, blocks: number): object => ({
  stores: { maps: { pending: 1, oldestMs: maps }, blocks: { pending: 1, oldestMs: blocks } },
});

/** An answer that comes when it is let go. */
function held(): { answer: () => Promise<undefined>; letGo: () => void } {
  let letGo = (): void => {};
  const free = new Promise<undefined>((resolve) => {
    letGo = () => resolve(undefined);
  });
  return { answer: () => free, letGo: () => letGo() };
}

describe('a store that does not answer', () => {
  it.each([
    ['maps', 'blockerm'],
    ['blocks', 'blockerb'],
  ] as const)('ends a command that waits for the mapper, and is named: %s', async (store, role) => {
    const { answer, letGo } = held();
    node.on('mapper', Op.CLONE, answer);
    node.on(store, Op.LOCKINFO, answer);
    const { status: code, err } = await node.vlmcWith(quick, 'create', 'volume1', '--size', '1G');
    letGo();
    expect(code).toBe(255);
    expect(err).toMatch(
      new RegExp(
        `^vlmc creation failed: the ${store} store \\(${role}\\) has not answered for \\d\\.\\d s; what was asked may still be done`,
      ),
    );
  });

  it('is one that leaves a single request of the mapper unanswered, too', async () => {
    const { answer, letGo } = held();
    node.on('composer', Op.SNAPSHOT, answer);
    node.on('mapper', Op.STATUS, () => status(0, 75_000));
    const { status: code, err } = await node.vlmcWith(quick, 'snapshot', 'volume1', 'snapshot1');
    letGo();
    expect(code).toBe(255);
    expect(err).toContain('the blocks store (blockerb) has not answered for 75 s;');
  });

  it('ends a command that asks it itself', async () => {
    const { answer, letGo } = held();
    const bare = new FakeNode(['maps']);
    try {
      let asked = 0;
      // Other questions it answers.
      bare.on('maps', Op.LOCKINFO, () => (asked++ === 0 ? answer() : null));
      const { status: code, err } = await bare.vlmcWith(quick, 'lock', 'volume1', '--show');
      expect(code).toBe(255);
      expect(err).toMatch(/^vlmc lock failed: the maps store \(blockerm\) has not answered for/);
    } finally {
      letGo();
      await new Promise((resolve) => setImmediate(resolve));
      bare.close();
    }
  });
});

describe('a store that answers', () => {
  it('lets a command take as long as it takes', async () => {
    // It is looked whether it answers, four times within the patience; a busy machine has so long to pass an answer on.
    node.on('mapper', Op.CLONE, async () => {
      await expect.poll(() => node.asked('maps', Op.LOCKINFO).length).toBeGreaterThan(5);
      return undefined;
    });
    const patience = { env: { ARCHIPELAGO_PATIENCE: '1.5' } };
    const { status: code, err } = await node.vlmcWith(patience, 'create', 'volume1', '--size', '1G');
    expect({ code, err }).toEqual({ code: 0, err: '' });
    expect(node.asked('mapper', Op.STATUS).length).toBeGreaterThan(5);
  });

  it('is waited for while the other one does not', async () => {
    const answered = {} as CallReply;
    const silent = new Promise<CallReply>(() => {});
    const ask = (peer: string): Promise<CallReply> => (peer === 'maps' ? Promise.resolve(answered) : silent);
    const stores = { maps: { role: 'blockerm' }, blocks: { role: 'blockerb' } };
    const patience = new Patience({ ask, stores, mapper: false, patienceMs: 100 });
    let letGo = (_: CallReply): void => {};
    const names = patience.during(Op.LIST, 'maps', new Promise((resolve) => (letGo = resolve)));
    await expect(patience.during(Op.READ, 'blocks', silent)).rejects.toThrow('the blocks store (blockerb)');
    letGo(answered);
    expect(await names).toBe(answered);
    patience.close();
  });

  it('is not asked whether it does by a command that gets its answer', async () => {
    node.on('mapper', Op.CLONE, () => undefined);
    await node.vlmcWith(quick, 'create', 'volume1', '--size', '1G');
    expect(node.asked('mapper', Op.STATUS)).toEqual([]);
  });
});

it('a patience that is no number is refused', async () => {
  const { status: code, err } = await node.vlmcWith({ env: { ARCHIPELAGO_PATIENCE: 'long' } }, 'lock', 'volume1');
  expect({ code, err }).toEqual({ code: 255, err: expect.stringContaining('ARCHIPELAGO_PATIENCE=long is no number') });
});

it('a check ends with it, instead of finding fault with everything it cannot look at', async () => {
  const { answer, letGo } = held();
  const entry = { name: 'volume1', size: 4096, blockSize: 4096, readOnly: false, epoch: 1, version: 2 };
  node.on('mapper', Op.LIST, () => ({ volumes: [entry], cursor: null }));
  for (const op of [Op.LIST, Op.READ, Op.INFO, Op.LOCKS, Op.LOCKINFO]) node.on('maps', op, answer);
  for (const op of [Op.LIST, Op.READ, Op.INFO]) node.on('blocks', op, answer);
  const { status: code, out, err } = await node.vlmcWith(quick, 'check', '--all');
  letGo();
  expect(code).toBe(255);
  expect(err).toMatch(/the (maps store \(blockerm\)|blocks store \(blockerb\)) has not answered for/);
  expect(out).not.toMatch(/ERROR/);
});
