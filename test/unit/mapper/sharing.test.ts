/** Volumes that two nodes have open shared: whoever writes gets the lock; and who waits for a lock that is not handed over. */
import { describe, expect, it } from 'vitest';
import { Flag } from '../../../src/requests/ops.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { A, B, settle, type TwoNodes, twoNodes } from './nodes.js';
import { createSmall, failure, type Node, readVolume, writeVolume } from './support.js';

const BLOCK = 256;

/** A volume that both nodes have open shared, with a composer at port 500 of each that tells what it was asked. */
async function shared(nodes: TwoNodes): Promise<{ a: number[]; b: number[] }> {
  await createSmall(nodes.a, 'volume', 4 * BLOCK, BLOCK);
  const asked = { a: [] as number[], b: [] as number[] };
  for (const side of ['a', 'b'] as const) {
    await nodes[side].mapper.open('volume', undefined, true);
    nodes[side].holders.set(500, async (_name, flags) => void asked[side].push(flags));
  }
  return asked;
}

const holder = ({ stores }: TwoNodes): string | undefined => stores.maps.locks.get('volume')?.owner;
const lease = (node: Node, write = true) => node.mapper.lease('volume', { write }, 500);

describe('a volume that is open shared', () => {
  it('takes no lock by that; its lock goes to the first who writes, and to the other within half a second, and back', async () => {
    const nodes = twoNodes();
    const asked = await shared(nodes);
    expect(holder(nodes)).toBeUndefined();
    const { a, b, clock } = nodes;
    expect(await lease(a)).toMatchObject({ granted: 'exclusive' });
    await writeVolume(a, 'volume', 0, Buffer.from('from a'));
    await clock.pass(1000);
    for (const [from, to, name, key] of [
      [a, b, B, 'a'],
      [b, a, A, 'b'],
      [a, b, B, 'a'],
    ] as const) {
      const wanted = lease(to);
      expect(await clock.until(wanted, 1000)).toBeLessThan(500);
      expect(await wanted).toMatchObject({ granted: 'exclusive' });
      expect(holder(nodes)).toBe(name);
      expect(asked[key].at(-1)).toBe(Flag.FLUSH);
      expect((await readVolume(to, 'volume', 0, 6)).toString()).toBe('from a');
      expect(from.mapper.status()).toMatchObject({ locked: 0, lost: 0 });
      await writeVolume(to, 'volume', BLOCK, Buffer.from(name));
      await clock.pass(1000);
    }
    expect((await a.mapper.stat('volume')).open).toBe('shared');
  });

  it('is wanted back at once by the node that gave it away, when the other has had it', async () => {
    const nodes = twoNodes();
    await shared(nodes);
    const { a, b, clock } = nodes;
    await lease(a);
    await clock.pass(1000);
    for (const [owner, to] of [
      [B, b],
      [A, a],
      [B, b],
      [A, a],
      [B, b],
      [A, a],
    ] as const) {
      // As soon as the other has it. A want reaches its holder within 50 ms, who keeps the lock for 50 ms; then it is tried every 50 ms.
      expect(await clock.until(lease(to), 1000)).toBeLessThanOrEqual(200);
      expect(holder(nodes)).toBe(owner);
    }
  });

  it('is not wanted back by the node that gave it away, for 400 ms, while nobody has it', async () => {
    const nodes = twoNodes();
    await shared(nodes);
    const { a, b, clock } = nodes;
    await lease(a);
    await clock.pass(1000);
    // Its tries are slow from the moment that it has asked.
    let go = (): void => {};
    let tries = 0;
    const slow = new Promise<void>((resolve) => (go = resolve));
    b.locks.before = (operation) => (operation === 'acquire' && ++tries > 1 ? slow : undefined);
    const wanted = lease(b);
    while (holder(nodes) === A) await clock.pass(10);
    const back = lease(a);
    back.catch(() => {});
    await clock.pass(300);
    expect(holder(nodes)).toBeUndefined();
    go();
    await clock.until(wanted, 100);
    expect(holder(nodes)).toBe(B);
    await clock.until(back, 500);
    expect(holder(nodes)).toBe(A);
    // Whoever never comes is not waited for any longer.
    tries = 0;
    b.locks.before = (operation) => (operation === 'acquire' && ++tries > 1 ? new Promise(() => {}) : undefined);
    lease(b).catch(() => {});
    while (holder(nodes) === A) await clock.pass(10);
    const took = await clock.until(lease(a), 1000);
    expect(took).toBeGreaterThan(300);
    expect(took).toBeLessThanOrEqual(500);
  });

  it('keeps its lock when what was written cannot be made durable, and gives it when it can', async () => {
    const nodes = twoNodes();
    await shared(nodes);
    const { a, b, clock } = nodes;
    await lease(a);
    a.holders.set(500, async () => {
      throw new SystemError(errnos.EIO, 'the disk is gone');
    });
    const wanted = lease(b);
    await clock.pass(2000);
    expect(holder(nodes)).toBe(A);
    expect(a.warnings.join()).toContain('the disk is gone');
    a.holders.set(500, async () => {});
    await clock.until(wanted, 1000);
    expect(holder(nodes)).toBe(B);
  });

  it.each([true, false])('is released after all of it is durable, when who wrote it lives: %s', async (lives) => {
    const nodes = twoNodes();
    await shared(nodes);
    const { a, b, clock } = nodes;
    await lease(a);
    await writeVolume(a, 'volume', 0, Buffer.from('from a'));
    await clock.pass(1000);
    const order: string[] = [];
    // A composer makes its data durable when it is asked; for one that is gone the mapper does.
    if (lives) a.holders.set(500, async (_name, flags) => void (flags & Flag.FLUSH && order.push('data')));
    else a.holders.delete(500);
    a.blocks.before = (operation) => void (operation === 'flush' && order.push('data'));
    a.maps.before = (operation) => void (['flush', 'release'].includes(operation) && order.push(operation));
    const wanted = lease(b);
    await clock.until(wanted, 1000);
    await wanted;
    expect(holder(nodes)).toBe(B);
    expect(order).toContain('data');
    expect(order).toContain('flush');
    expect(order.lastIndexOf('data')).toBeLessThan(order.indexOf('release'));
    expect(order.indexOf('flush')).toBeLessThan(order.indexOf('release'));
  });

  it('is handed over after the operation that is under way', async () => {
    const nodes = twoNodes();
    await shared(nodes);
    const { a, b, clock } = nodes;
    await lease(a);
    let go = (): void => {};
    const flushing = new Promise<void>((resolve) => (go = resolve));
    a.blocks.before = (operation) => (operation === 'flush' ? flushing : undefined);
    const snapshot = a.mapper.snapshot('volume', 'the-snapshot');
    const wanted = lease(b);
    await clock.pass(1000);
    expect(holder(nodes)).toBe(A);
    go();
    await snapshot;
    await clock.until(wanted, 500);
    expect((await b.mapper.describe('volume')).epoch).toBe(2);
  });

  it('serves two who write at the same time in turns', async () => {
    const nodes = twoNodes();
    await shared(nodes);
    const { a, b, clock } = nodes;
    const writer = async (node: Node, block: number): Promise<void> => {
      for (let i = 1; i <= 8; i++) {
        await lease(node);
        await writeVolume(node, 'volume', block * BLOCK, Buffer.from([i])).catch((error) => {
          // The lock went between the two: the composer would ask again.
          if (error.code !== 'EBUSY') throw error;
          i--;
        });
      }
    };
    const both = Promise.all([writer(a, 0), writer(b, 1)]);
    await clock.until(both, 60_000);
    await both;
    for (const block of [0, 1]) expect((await readVolume(a, 'volume', block * BLOCK, 1))[0]).toBe(8);
  });

  it('is not handed over to a node when it is open exclusive here, or locked by hand', async () => {
    for (const keep of ['open', 'lock'] as const) {
      const nodes = twoNodes();
      await shared(nodes);
      const { a, b, clock } = nodes;
      await a.mapper[keep]('volume');
      const wanted = lease(b);
      wanted.catch(() => {});
      await clock.pass(29_000);
      expect(holder(nodes)).toBe(A);
      await clock.pass(2000);
      await expect(wanted).rejects.toEqual(failure('EBUSY', A));
      const again = lease(b);
      again.catch(() => {});
      await clock.pass(31_000);
      await expect(again).rejects.toEqual(failure('EBUSY', A));
      // A guest whose writes fail meets that again and again: the log says it once.
      expect(
        b.warnings.filter((line) => line.includes(`write to volume volume fails`) && line.includes(A)),
      ).toHaveLength(1);
    }
  });

  it('loses its lock, not its state, when the last client goes; close ends both', async () => {
    const nodes = twoNodes();
    await shared(nodes);
    const { a, b } = nodes;
    await lease(a);
    await a.mapper.close('volume', true);
    expect(holder(nodes)).toBeUndefined();
    expect((await a.mapper.stat('volume')).open).toBe('shared');
    await lease(b);
    // By a node that does not hold it: releases nothing.
    await a.mapper.close('volume');
    await a.mapper.close('volume');
    expect(holder(nodes)).toBe(B);
    expect((await a.mapper.stat('volume')).open).toBeNull();
  });

  it('becomes exclusive at once or not at all', async () => {
    const nodes = twoNodes();
    await shared(nodes);
    const { a, b } = nodes;
    await lease(a);
    await expect(b.mapper.open('volume')).rejects.toEqual(failure('EBUSY', A));
    expect((await b.mapper.stat('volume')).open).toBe('shared');
    for (let i = 0; i < 2; i++) await a.mapper.open('volume');
    expect((await a.mapper.stat('volume')).open).toBe('exclusive');
    await a.mapper.close('volume', true);
    expect(holder(nodes)).toBe(A);
    await a.mapper.open('volume', undefined, true);
    expect(holder(nodes)).toBe(A);
    await a.mapper.close('volume', true);
    await b.mapper.open('volume');
    expect(holder(nodes)).toBe(B);
    await expect(b.mapper.open('no-volume', undefined, true)).rejects.toEqual(failure('ENOENT'));
  });

  it('is asked for from its stores anew by whoever takes its lock', async () => {
    const nodes = twoNodes();
    await shared(nodes);
    const order: string[] = [];
    for (const store of ['maps', 'blocks'] as const) {
      nodes.b[store].before = (operation) => {
        if (['acquire', 'forget', 'read'].includes(operation)) order.push(`${store} ${operation}`);
      };
    }
    await lease(nodes.b);
    const taken = order.lastIndexOf('maps acquire');
    const forgot = order.lastIndexOf('maps forget');
    expect(taken).toBeGreaterThanOrEqual(0);
    expect(forgot).toBeGreaterThan(taken);
    expect(order).toContain('blocks forget');
    expect(order.slice(forgot)).toContain('maps read');
    order.length = 0;
    await lease(nodes.b);
    expect(order).toEqual([]);
  });
});

describe('a write that waits for a lock', () => {
  const waiting = async () => {
    const nodes = twoNodes();
    const { a, b, clock } = nodes;
    await createSmall(a, 'volume', BLOCK, BLOCK);
    await a.mapper.open('volume');
    const wanted = lease(b);
    wanted.catch(() => {});
    await clock.pass(1000);
    expect(b.mapper.status().waits).toBe(1);
    return { ...nodes, wanted };
  };

  it('ends when nobody waits for it any more, and does not take the lock afterwards', async () => {
    const nodes = await waiting();
    nodes.b.mapper.abandon('volume', 501);
    await settle();
    expect(nodes.b.mapper.status().waits).toBe(1);
    nodes.b.mapper.abandon('volume', 500);
    await expect(nodes.wanted).rejects.toEqual(failure('ECANCELED'));
    await nodes.a.mapper.close('volume');
    await nodes.clock.pass(5000);
    expect(holder(nodes)).toBeUndefined();
    expect(nodes.b.mapper.status()).toMatchObject({ waits: 0, locked: 0, volumes: 0 });
  });

  it('gives back a lock that it gets just when nobody waits any more', async () => {
    const nodes = await waiting();
    const { a, b, clock } = nodes;
    await a.mapper.close('volume');
    b.locks.before = (operation) => {
      if (operation === 'acquire') b.mapper.abandon('volume', 500);
    };
    await clock.pass(1000);
    await expect(nodes.wanted).rejects.toEqual(failure('ECANCELED'));
    expect(holder(nodes)).toBeUndefined();
  });

  it('asks nobody to let go of a volume that is not open shared here', async () => {
    const nodes = await waiting();
    expect([...nodes.stores.maps.mail.values()].flat()).toEqual([]);
  });
});
