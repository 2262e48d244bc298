import { describe, expect, it } from 'vitest';
import { MemoryDriver } from '../../../src/blockers/memory/index.js';
import { Gate, RangeLocks } from '../../../src/mapper/gate.js';
import { ResolvedMap } from '../../../src/requests/resolved-map.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { checkInvariants } from './invariants.js';
import { createSmall, DriverClient, failure, makeNode, memoryNode, memoryStores, writeVolume } from './support.js';

const BLOCK = 256;

/** Something that happens once, and can be waited for. */
class Event {
  happen: () => void = () => {};
  readonly happened = new Promise<void>((resolve) => {
    this.happen = resolve;
  });
}

describe('leases', () => {
  it('exclusive ones lock the volume, are granted again to their holder, and end with close', async () => {
    const node = memoryNode();
    await createSmall(node, 'volume', 3 * BLOCK, BLOCK);
    node.holders.set(500, async () => {});
    const lease = await node.mapper.lease('volume', { write: false }, 500);
    expect(lease).toMatchObject({
      granted: 'exclusive',
      size: 3 * BLOCK,
      blockSize: BLOCK,
      epoch: 1,
      readOnly: false,
      version: 2,
    });
    expect((await node.mapper.lease('volume', { write: true }, 500)).generation).toBe(lease.generation);
    await checkInvariants(node, ['volume']);
    expect(node.mapper.status()).toMatchObject({ volumes: 1, locked: 1, leases: 1 });
    await node.mapper.close('volume');
    await node.mapper.close('volume');
    await checkInvariants(node, []);
    expect(node.mapper.status()).toMatchObject({ volumes: 0, locked: 0, leases: 0 });
  });

  it('carry the map over in pieces', async () => {
    const node = memoryNode();
    await createSmall(node, 'volume', 300 * BLOCK, BLOCK);
    await writeVolume(node, 'volume', 250 * BLOCK, Buffer.alloc(2 * BLOCK, 1));
    const map = new ResolvedMap(300);
    for (let first = 0; first < 300; )
      first += map.setChunk(await node.mapper.mapFetch('volume', first, 300, 800)).count;
    expect(map.objectName(251)).toBe(`volume_${'1'.padStart(16, '0')}_${'fb'.padStart(16, '0')}`);
    expect(map.flags(249)).toBe(4);
    await expect(node.mapper.mapFetch('volume', 300, 1, 800)).rejects.toEqual(failure('EINVAL'));
    await expect(node.mapper.mapFetch('volume', 0, 1, 10)).rejects.toEqual(failure('ERANGE'));
  });

  it('are revoked before a snapshot; the holder may still copy up while it drains, and new ones wait', async () => {
    const node = memoryNode();
    await createSmall(node, 'volume', 3 * BLOCK, BLOCK);
    const revoked = new Event();
    const order: string[] = [];
    node.holders.set(500, async () => {
      revoked.happen();
      await writeVolume(node, 'volume', BLOCK, Buffer.from('drained'));
      order.push('drained');
    });
    const first = await node.mapper.lease('volume', { write: true }, 500);
    const snapshot = node.mapper.snapshot('volume', 'the-snapshot').then(() => order.push('snapshot'));
    await revoked.happened;
    const second = await node.mapper.lease('volume', { write: true }, 500);
    order.push('lease');
    await snapshot;
    expect(order.slice(0, 2)).toEqual(['drained', 'snapshot']);
    expect(second.generation).not.toBe(first.generation);
    expect(second.epoch).toBe(2);
    const [{ target }] = await node.mapper.mapRead('the-snapshot', BLOCK, 1);
    expect((await node.blocks.read(target, 0, 7)).toString()).toBe('drained');
  });

  it('move from one port to another: the first gives back before the second gets', async () => {
    const node = memoryNode();
    await createSmall(node, 'volume', BLOCK, BLOCK);
    const revoked: number[] = [];
    for (const port of [500, 501]) node.holders.set(port, async () => void revoked.push(port));
    await node.mapper.lease('volume', { write: true }, 500);
    await node.mapper.lease('volume', { write: true }, 501);
    expect(revoked).toEqual([500]);
    await writeVolume(node, 'volume', 0, Buffer.from('x'), 500);
    expect(revoked).toEqual([500, 501]);
  });

  it('of the dead are void', async () => {
    const node = memoryNode();
    await createSmall(node, 'volume', BLOCK, BLOCK);
    await node.mapper.lease('volume', { write: true }, 500);
    await node.mapper.snapshot('volume', 'the-snapshot');
    await node.mapper.remove('volume');
    await checkInvariants(node, []);
  });

  it('that a living holder does not give back keep the map from changing', async () => {
    const node = memoryNode();
    await createSmall(node, 'volume', BLOCK, BLOCK);
    node.holders.set(500, async () => {
      throw new SystemError(errnos.ENOMEM, 'no memory');
    });
    await node.mapper.lease('volume', { write: true }, 500);
    await expect(node.mapper.remove('volume')).rejects.toEqual(failure('EIO', 'port 500 did not give its map back'));
    expect((await node.mapper.describe('volume')).size).toBe(BLOCK);
    node.holders.set(500, async () => {});
    await node.mapper.remove('volume');
  });

  it('of a mapper that died are asked for by the next, once for each volume', async () => {
    const stores = memoryStores();
    const first = memoryNode(stores);
    await createSmall(first, 'volume', BLOCK, BLOCK);
    await first.mapper.lease('volume', { write: true }, 500);
    const node = memoryNode(stores, 'node1_1002', [500]);
    const revoked: string[] = [];
    node.holders.set(500, async (volume) => void revoked.push(volume));
    await node.mapper.snapshot('volume', 'the-snapshot');
    expect(revoked).toContain('volume');
    const asked = revoked.filter((name) => name === 'volume').length;
    await node.mapper.lease('volume', { write: true }, 500);
    await node.mapper.mapWrite('volume', 0, 1, 500);
    expect(revoked.filter((name) => name === 'volume').length).toBe(asked);
  });

  it('of a mapper that died are given back by holders that still have blocks to copy up', async () => {
    const stores = memoryStores();
    const first = memoryNode(stores);
    await createSmall(first, 'volume', 4 * BLOCK, BLOCK);
    for (const ports of [[500], [500, 501]]) {
      const node = memoryNode(stores, 'node1_1002', ports);
      for (const port of ports) {
        node.holders.set(port, () => writeVolume(node, 'volume', (port - 500) * BLOCK, Buffer.from('drained'), port));
      }
      await node.mapper.snapshot('volume', `snapshot-${ports.length}`);
      const again = memoryNode(stores, 'node1_1002', ports);
      again.holders.set(500, () => writeVolume(again, 'volume', 0, Buffer.from('drained'), 500));
      again.holders.set(501, () => writeVolume(again, 'volume', BLOCK, Buffer.from('drained'), 501));
      const writes = ports.map((port) => writeVolume(again, 'volume', 2 * BLOCK, Buffer.from('x'), port));
      await Promise.all([...writes, again.mapper.lease('volume', { write: true }, 502)]);
      expect(again.mapper.status().locked).toBe(1);
    }
  });

  it('of living composers keep their locks over the end of the mapper, so that the next one takes over', async () => {
    const node = memoryNode();
    for (const name of ['volume', 'second']) await createSmall(node, name, BLOCK, BLOCK);
    node.holders.set(500, async () => {});
    await node.mapper.lease('volume', { write: true }, 500);
    await node.mapper.lease('second', { write: true }, 501);
    await node.mapper.stop();
    await checkInvariants(node, ['volume']);
  });

  it('for reading are none while another node has the lock, and say who', async () => {
    const stores = memoryStores();
    const other = memoryNode(stores, 'node2_1002');
    await createSmall(other, 'volume', BLOCK, BLOCK);
    await other.mapper.open('volume');
    const node = memoryNode(stores);
    expect(await node.mapper.lease('volume', { write: false }, 500)).toMatchObject({
      granted: 'none',
      holder: expect.stringContaining('node2_1002'),
    });
    await expect(node.mapper.lease('volume', { write: true }, 500)).rejects.toEqual(failure('EBUSY', 'node2_1002'));
    expect(node.mapper.status()).toMatchObject({ volumes: 0, locked: 0, leases: 0 });
  });

  it('for writing wait for the lock of another node, without keeping others from the volume', async () => {
    const stores = memoryStores();
    const other = memoryNode(stores, 'node2_1002');
    await createSmall(other, 'volume', BLOCK, BLOCK);
    await other.mapper.open('volume');
    const client = (store: 'maps' | 'blocks') => new DriverClient(new MemoryDriver('node1_1002', stores[store]));
    const node = makeNode(client('maps'), client('blocks'), [], 20_000);
    const tried = new Event();
    node.maps.before = (operation) => {
      if (operation === 'acquire') tried.happen();
    };
    const lease = node.mapper.lease('volume', { write: true }, 500);
    await tried.happened;
    expect(await node.mapper.lease('volume', { write: false }, 500)).toMatchObject({ granted: 'none' });
    expect((await node.mapper.describe('volume')).size).toBe(BLOCK);
    await other.mapper.close('volume');
    expect(await lease).toMatchObject({ granted: 'exclusive' });
  });

  it('for writing stop waiting when the asker is gone', async () => {
    const stores = memoryStores();
    const other = memoryNode(stores, 'node2_1002');
    await createSmall(other, 'volume', BLOCK, BLOCK);
    await other.mapper.open('volume');
    const client = (store: 'maps' | 'blocks') => new DriverClient(new MemoryDriver('node1_1002', stores[store]));
    const node = makeNode(client('maps'), client('blocks'), [], 600_000);
    const lease = node.mapper.lease('volume', { write: true }, 500, undefined, () => true);
    await expect(lease).rejects.toMatchObject({ code: 'EBUSY' });
  });

  it('for writing stop waiting when the mapper stops', async () => {
    const stores = memoryStores();
    const other = memoryNode(stores, 'node2_1002');
    await createSmall(other, 'volume', BLOCK, BLOCK);
    await other.mapper.open('volume');
    const client = (store: 'maps' | 'blocks') => new DriverClient(new MemoryDriver('node1_1002', stores[store]));
    const node = makeNode(client('maps'), client('blocks'), [], 600_000);
    const lease = node.mapper.lease('volume', { write: true }, 500);
    node.mapper.endWaiting();
    await expect(lease).rejects.toThrow(/stopping/);
  });
});

describe('flush', () => {
  it('covers what was written of the map, and does not return before another flush that took it over', async () => {
    const node = memoryNode();
    await createSmall(node, 'volume', 2 * BLOCK, BLOCK);
    await node.mapper.lease('volume', { write: true }, 500);
    await node.mapper.flush('volume');
    await writeVolume(node, 'volume', 0, Buffer.from('x'));
    const reached = new Event();
    const go = new Event();
    const flushed: string[] = [];
    node.maps.before = async (operation, name) => {
      if (operation !== 'flush') return;
      reached.happen();
      await go.happened;
      flushed.push(name);
    };
    const order: string[] = [];
    const first = node.mapper.flush('volume').then(() => order.push('first'));
    await reached.happened;
    const second = node.mapper.flush('volume').then(() => order.push('second'));
    go.happen();
    await Promise.all([first, second]);
    expect(order).toEqual(['first', 'second']);
    expect(flushed).toEqual([`volume_${'0'.repeat(16)}`]);
  });

  it('that failed is done again', async () => {
    const node = memoryNode();
    await createSmall(node, 'volume', 2 * BLOCK, BLOCK);
    await writeVolume(node, 'volume', 0, Buffer.from('x'));
    await node.mapper.flush('volume');
    await writeVolume(node, 'volume', BLOCK, Buffer.from('x'));
    let fail = true;
    const flushed: string[] = [];
    node.maps.before = (operation, name) => {
      if (operation !== 'flush') return;
      if (fail) throw new SystemError(errnos.EIO, 'the disk is gone');
      flushed.push(name);
    };
    await expect(node.mapper.flush('volume')).rejects.toEqual(failure('EIO'));
    await expect(node.mapper.close('volume')).rejects.toEqual(failure('EIO'));
    await checkInvariants(node, ['volume']);
    fail = false;
    await node.mapper.close('volume');
    expect(flushed).toEqual([`volume_${'0'.repeat(16)}`]);
  });
});

describe('gates', () => {
  it('let an exclusive caller in before shared ones that came later', async () => {
    const gate = new Gate();
    const order: string[] = [];
    const leave = await gate.enter(false);
    const alone = gate.exclusive(async () => void order.push('alone'));
    const late = gate.shared(async () => void order.push('late'));
    leave();
    await Promise.all([alone, late]);
    expect(order).toEqual(['alone', 'late']);
    expect(gate.idle).toBe(true);
  });

  it('are left by work that fails', async () => {
    const gate = new Gate();
    await expect(gate.exclusive(() => Promise.reject(new Error('no')))).rejects.toThrow('no');
    await gate.shared(async () => {});
    expect(gate.idle).toBe(true);
  });

  it('on ranges hold up only what overlaps', async () => {
    const locks = new RangeLocks();
    const go = new Event();
    const order: string[] = [];
    const first = locks.run(0, 4, async () => {
      await go.happened;
      order.push('0-4');
    });
    const overlapping = locks.run(3, 5, async () => void order.push('3-5'));
    await locks.run(5, 8, async () => void order.push('5-8'));
    go.happen();
    await Promise.all([first, overlapping]);
    expect(order).toEqual(['5-8', '0-4', '3-5']);
  });
});
