/** vlmc unlock -f where stores can refuse a node: a holder that does not answer is refused before anybody else gets the lock. */
import { describe, expect, it } from 'vitest';
import { LockRegistry } from '../../../src/mapper/locking/registry.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { A, B, settle, startNode, type TwoNodes, twoNodes } from './nodes.js';
import { createSmall, type Node, temporaryDirectory } from './support.js';

const BLOCK = 256;
const OLD = 'old_1002';

interface Fences {
  readonly maps: (owner: string) => Promise<{ clients: string[] }>;
  readonly blocks: (owner: string) => Promise<{ clients: string[] }>;
}

/** Stores of the node that can refuse others. @returns who was fenced by which, and whose the lock was then */
function able(node: Node, { stores }: TwoNodes, more: Partial<Fences> = {}): string[] {
  const calls: string[] = [];
  for (const store of ['maps', 'blocks'] as const) {
    const answer = more[store] ?? (async () => ({ clients: [`10.0.0.1:0/${store}`] }));
    node[store].driver.fence = (owner) => {
      calls.push(`${store} ${owner}, the lock is ${stores.maps.locks.get('volume')?.owner}'s`);
      return answer(owner);
    };
  }
  return calls;
}

/** A lock of a node that answers nobody. */
async function silentHolder(nodes: TwoNodes): Promise<void> {
  await createSmall(nodes.b, 'volume', BLOCK, BLOCK);
  nodes.stores.maps.locks.set('volume', { owner: OLD, since: 0 });
}

describe('a holder that does not answer', () => {
  it('is refused by both stores after its time, and before the lock is free', async () => {
    const nodes = twoNodes();
    const { b, clock, stores } = nodes;
    await silentHolder(nodes);
    const calls = able(b, nodes);
    const unlock = b.mapper.unlock('volume', true);
    await clock.pass(4900);
    expect(calls).toEqual([]);
    await clock.until(unlock, 1000);
    expect(calls).toEqual([`maps ${OLD}, the lock is ${B}'s`, `blocks ${OLD}, the lock is ${B}'s`]);
    expect(await unlock).toEqual({
      holder: OLD,
      confirmed: false,
      waitedMs: 5000,
      fenced: [
        { store: 'maps', clients: ['10.0.0.1:0/maps'], failed: null, able: true },
        { store: 'blocks', clients: ['10.0.0.1:0/blocks'], failed: null, able: true },
      ],
    });
    expect(stores.maps.locks.size).toBe(0);
    expect(b.warnings).toEqual([]);
  });

  it('keeps the lock until the stores have answered', async () => {
    const nodes = twoNodes();
    const { b, clock, stores } = nodes;
    await silentHolder(nodes);
    let refused = (): void => {};
    const refusing = new Promise<void>((resolve) => (refused = resolve));
    able(b, nodes, {
      blocks: async () => {
        await refusing;
        return { clients: ['late'] };
      },
    });
    const unlock = b.mapper.unlock('volume', true);
    await clock.pass(20_000);
    expect(stores.maps.locks.get('volume')?.owner).toBe(B);
    await expect(b.mapper.open('volume')).rejects.toThrow('is just being broken');
    refused();
    await clock.until(unlock, 1000);
    expect((await unlock).fenced?.[1].clients).toEqual(['late']);
    expect(stores.maps.locks.size).toBe(0);
  });

  it('loses the lock all the same when a store may not refuse it, does not know it, or never says, which is told', async () => {
    const reasons = [
      {
        blocks: () => Promise.reject(new SystemError(errnos.EACCES, 'FENCE: add to its caps: mon')),
        said: 'add to its caps: mon',
      },
      {
        blocks: () => Promise.reject(new SystemError(errnos.ENOENT, 'nobody is known as old')),
        said: 'nobody is known as old',
      },
      { blocks: () => new Promise<never>(() => {}), said: 'it has not answered for 40 s' },
    ];
    for (const { blocks, said } of reasons) {
      const nodes = twoNodes();
      const { b, clock, stores } = nodes;
      await silentHolder(nodes);
      able(b, nodes, { blocks });
      const unlock = b.mapper.unlock('volume', true);
      await clock.until(unlock, 60_000);
      expect((await unlock).fenced).toEqual([
        { store: 'maps', clients: ['10.0.0.1:0/maps'], failed: null, able: true },
        { store: 'blocks', clients: [], failed: said, able: true },
      ]);
      expect(stores.maps.locks.size).toBe(0);
      expect(b.warnings).toEqual([`the blocks store could not be made to refuse ${OLD}: ${said}`]);
    }
  });

  it('only has its time waited out where the stores can refuse nobody', async () => {
    const nodes = twoNodes();
    const { b, clock } = nodes;
    await silentHolder(nodes);
    const unlock = b.mapper.unlock('volume', true);
    await clock.until(unlock, 6000);
    const { fenced } = await unlock;
    expect(fenced).toMatchObject([
      { store: 'maps', able: false },
      { store: 'blocks', able: false },
    ]);
    for (const { failed } of fenced!) expect(failed).not.toBeNull();
    expect(b.warnings).toEqual([]);
  });

  it('that was taking the lock from another is refused together with that one', async () => {
    const nodes = twoNodes();
    const { b, clock, stores } = nodes;
    await silentHolder(nodes);
    stores.maps.locks.set('volume', { owner: 'breaker_1002', since: 0, after: [OLD] });
    const known = async (owner: string) => {
      if (owner === OLD) throw new SystemError(errnos.ENOENT, 'nobody is known as old');
      return { clients: ['10.0.0.2:0/blocks'] };
    };
    const calls = able(b, nodes, { blocks: known });
    const unlock = b.mapper.unlock('volume', true);
    await clock.until(unlock, 6000);
    expect(calls.map((call) => call.split(',')[0]).sort()).toEqual([
      'blocks breaker_1002',
      `blocks ${OLD}`,
      'maps breaker_1002',
      `maps ${OLD}`,
    ]);
    expect(await unlock).toMatchObject({
      holder: 'breaker_1002',
      fenced: [
        { store: 'maps', clients: ['10.0.0.1:0/maps'], failed: null },
        { store: 'blocks', clients: ['10.0.0.2:0/blocks'], failed: 'nobody is known as old' },
      ],
    });
  });

  it('is refused by a node that was started anew while it took the lock, before the lock is free', async () => {
    const nodes = twoNodes();
    const { clock, stores } = nodes;
    await silentHolder(nodes);
    stores.maps.locks.set('volume', { owner: 'node3_1002', since: 0, after: [OLD] });
    const began = clock.now();
    let free = Number.NaN;
    const node = startNode(stores, clock, 'node3_1002');
    const calls = able(node, nodes);
    await expect
      .poll(async () => {
        await clock.pass(100);
        if (stores.maps.locks.size === 0) free = clock.now();
        return stores.maps.locks.size;
      })
      .toBe(0);
    expect(free - began).toBeGreaterThanOrEqual(5000);
    expect(calls).toEqual([`maps ${OLD}, the lock is node3_1002's`, `blocks ${OLD}, the lock is node3_1002's`]);
  });

  it('is refused by the successor of a mapper that dies meanwhile, before the lock is free', async () => {
    const nodes = twoNodes();
    const { clock, stores } = nodes;
    const directory = temporaryDirectory();
    const log = { warn: () => {}, info: () => {} };
    const start = (): Node => startNode(stores, clock, 'node3_1002', { registry: LockRegistry.load(directory, log) });
    const dead = start();
    await silentHolder(nodes);
    const calls = able(dead, nodes, { maps: () => new Promise(() => {}) });
    void dead.mapper.unlock('volume', true);
    // The registry is a file: its writing takes no time of the clock's.
    await expect.poll(() => stores.maps.locks.get('volume')?.owner).toBe('node3_1002');
    await expect
      .poll(() => LockRegistry.load(directory, log).records.get('volume')?.breaking?.until)
      .toBe(clock.now() + 5000);
    await clock.pass(5100);
    expect(calls).toHaveLength(2);
    for (const client of [dead.maps, dead.blocks]) client.before = () => new Promise(() => {});
    const again = able(start(), nodes);
    await expect
      .poll(async () => {
        await clock.pass(10);
        return stores.maps.locks.size;
      })
      .toBe(0);
    await expect.poll(() => LockRegistry.load(directory, log).records.size).toBe(0);
    expect(again).toEqual([`maps ${OLD}, the lock is node3_1002's`, `blocks ${OLD}, the lock is node3_1002's`]);
  });
});

it('a holder that answers is not refused: its other volumes go on', async () => {
  const nodes = twoNodes();
  const { a, b, clock } = nodes;
  await createSmall(a, 'volume', BLOCK, BLOCK);
  await a.mapper.open('volume');
  const calls = able(b, nodes);
  const unlock = b.mapper.unlock('volume', true);
  await clock.until(unlock, 1000);
  expect(await unlock).toMatchObject({ holder: A, confirmed: true, fenced: null });
  await settle();
  expect(calls).toEqual([]);
});

it('a holder that answers does so for itself: from whom it took the lock is refused', async () => {
  const nodes = twoNodes();
  const { a, b, clock, stores } = nodes;
  await createSmall(a, 'volume', BLOCK, BLOCK);
  await a.mapper.open('volume');
  stores.maps.locks.set('volume', { owner: A, since: 0, after: [OLD] });
  const calls = able(b, nodes);
  const unlock = b.mapper.unlock('volume', true);
  await clock.until(unlock, 1000);
  expect(await unlock).toMatchObject({ holder: A, confirmed: true });
  expect(calls).toEqual([`maps ${OLD}, the lock is ${B}'s`, `blocks ${OLD}, the lock is ${B}'s`]);
});

it('from whom it took the lock, and whom a store does not refuse, has its time waited out though the holder answers', async () => {
  const nodes = twoNodes();
  const { a, b, clock, stores } = nodes;
  await createSmall(a, 'volume', BLOCK, BLOCK);
  await a.mapper.open('volume');
  stores.maps.locks.set('volume', { owner: A, since: 0, after: [OLD] });
  able(b, nodes, { blocks: () => Promise.reject(new SystemError(errnos.EACCES, 'no capability')) });
  const unlock = b.mapper.unlock('volume', true);
  await clock.pass(4900);
  expect(stores.maps.locks.get('volume')?.owner).toBe(B);
  await clock.until(unlock, 1000);
  expect(await unlock).toMatchObject({ holder: A, confirmed: true, fenced: [{}, { failed: 'no capability' }] });
  expect(stores.maps.locks.size).toBe(0);
});
