/** A volume that one node writes and another one reaches: what is read there, and what becomes of writes. */
import { afterEach, describe, expect, it } from 'vitest';
import { connectNbd, type NbdClient } from '../../src/nbd/index.js';
import { Ledger, SECTOR } from './harness/ledger.js';
import { fill, Load, verifyAll } from './harness/load.js';
import type { TestNode } from './harness/node.js';
import { owners, useNodes } from './harness/nodes.js';
import { differences, fingerprint } from './harness/tree.js';

const MiB = 1 << 20;
const BLOCK = 4 * MiB;

describe('two nodes on one store', () => {
  // What waits for a lock here is to wait for as long as the rest of a test takes, on any machine.
  const rig = useNodes({ settings: { mapperd: { lock_wait: 3600 } } });
  const clients: NbdClient[] = [];
  const connect = async (node: TestNode, volume: string): Promise<NbdClient> => {
    const client = await connectNbd(node.uri(volume));
    clients.push(client);
    return client;
  };
  afterEach(() => {
    for (const client of clients.splice(0)) client.destroy();
  });
  const look = (volume: string): Promise<string | undefined> => rig.store.maps.holder(volume);

  it('a reader sees all that the holder of a volume that is open shared was answered: writes, copy-ups, trims, zeros, across snapshots and resets', async () => {
    const size = 12 * BLOCK;
    const ledger = new Ledger(size, 1);
    await rig.a.create('read-base', size);
    const filler = await connect(rig.a, 'read-base');
    await fill(filler, ledger);
    await filler.disconnect();
    await rig.a.vlmc('snapshot', 'read-base', 'read-image');
    // Shared blocks at first: the writer copies up while the reader reads them.
    await rig.a.vlmc('create', 'read-clone', '--snap', 'read-image');
    await rig.a.vlmc('open', 'read-clone', '--shared');
    const writer = new Load([await connect(rig.a, 'read-clone'), await connect(rig.a, 'read-clone')], ledger, {
      depth: 8,
      sectors: 64,
      mix: { write: 50, zero: 6, trim: 6, flush: 3, fua: 3 },
    }).start();
    await writer.reached(20, 'write');
    expect(await look('read-clone')).toBe(owners.a);
    const reader = new Load([await connect(rig.b, 'read-clone'), await connect(rig.b, 'read-clone')], ledger, {
      depth: 4,
      mix: { read: 1 },
      seed: 2,
    }).start();
    const whole = await connect(rig.a, 'read-clone');
    for (let i = 0; i < 5; i++) {
      await reader.reached(150);
      await writer.reached(150);
      await rig.a.vlmc('snapshot', 'read-clone', `read-snapshot-${i}`);
      // Whole blocks become zero entries, whose objects are removed, and objects again.
      for (const block of [2 * i, 2 * i + 1]) await zeroBlock(whole, ledger, block, i % 2 === 0 ? 'trim' : 'zero');
    }
    await reader.reached(300);
    await writer.stop();
    await reader.stop();
    console.log(`${writer.endings.length} requests on one node beside ${reader.endings.length} reads on the other`);
    for (const node of [rig.a, rig.b]) await verifyAll(await connect(node, 'read-clone'), ledger);
    expect(await look('read-clone')).toBe(owners.a);
  });

  it('a reader sees a volume that was removed and made again under its name as it is now', async () => {
    for (const pattern of [1, 2, 3]) {
      await rig.a.create('again-volume', BLOCK);
      const writer = await connect(rig.a, 'again-volume');
      await writer.write(0, Buffer.alloc(BLOCK, pattern));
      await writer.flush();
      const reader = await connect(rig.b, 'again-volume');
      expect((await reader.read(0, BLOCK)).equals(Buffer.alloc(BLOCK, pattern))).toBe(true);
      await reader.disconnect();
      await writer.disconnect();
      await rig.a.vlmc('remove', 'again-volume');
    }
  });

  it('a reader sees the first write to a block, which nobody flushes, a moment later, and never anything else than it or what was before', async () => {
    await rig.a.create('soon-volume', 8 * BLOCK);
    const writer = await connect(rig.a, 'soon-volume');
    const reader = await connect(rig.b, 'soon-volume');
    for (let block = 0; block < 8; block++) {
      const [before, after] = [Buffer.alloc(SECTOR), Buffer.alloc(SECTOR, block + 1)];
      await writer.write(block * BLOCK, after);
      expect((await writer.read(block * BLOCK, SECTOR)).equals(after)).toBe(true);
      for (let seen = await reader.read(block * BLOCK, SECTOR); !seen.equals(after); ) {
        expect(seen.equals(before)).toBe(true);
        seen = await reader.read(block * BLOCK, SECTOR);
      }
    }
    await reader.disconnect();
    await writer.disconnect();
  });

  it('1,000 writes wait without being in the way of other volumes, and are done when the lock is free', async () => {
    await rig.a.create('wait-volume', 4 * BLOCK);
    await rig.a.vlmc('open', 'wait-volume');
    await rig.b.create('other-volume', 4 * BLOCK);
    const ledger = new Ledger(4 * BLOCK, 1);
    const waiting: Promise<void>[] = [];
    let done = 0;
    for (let i = 0; i < 5; i++) {
      const client = await connect(rig.b, 'wait-volume');
      for (let j = 0; j < 200; j++) {
        const sector = i * 200 + j;
        ledger.claim(sector, 1);
        const write = client.write(sector * SECTOR, ledger.write(sector, 1)).then(() => {
          ledger.answer(sector, 1);
          done++;
        });
        write.catch(() => {});
        waiting.push(write);
      }
    }
    const other = new Ledger(4 * BLOCK, 2);
    const load = new Load([await connect(rig.b, 'other-volume')], other, { depth: 16 }).start();
    const began = performance.now();
    await load.reached(2000);
    console.log(
      `2,000 requests of another volume beside 1,000 waiting writes: ${Math.round(performance.now() - began)} ms`,
    );
    await load.stop();
    // Reads of the volume itself are served too.
    const reader = await connect(rig.b, 'wait-volume');
    expect((await reader.read(0, BLOCK)).equals(Buffer.alloc(BLOCK))).toBe(true);
    expect(done).toBe(0);
    await rig.a.vlmc('close', 'wait-volume');
    await Promise.all(waiting);
    expect(await look('wait-volume')).toBe(owners.b);
    await verifyAll(reader, ledger);
  });

  it('writes whose client has gone are never done, and nobody takes the lock for them', async () => {
    await rig.a.create('gone-volume', 4 * BLOCK);
    await rig.a.vlmc('open', 'gone-volume');
    const stays = await connect(rig.b, 'gone-volume');
    const goes = await connect(rig.b, 'gone-volume');
    const kept = stays.write(0, Buffer.alloc(SECTOR, 1));
    kept.catch(() => {});
    const lost = Array.from({ length: 100 }, (_, i) =>
      goes.write(BLOCK + i * SECTOR, Buffer.alloc(SECTOR, 2)).catch(() => {}),
    );
    // It was read, and so the writes before it on the same connection have been taken too.
    await goes.read(0, SECTOR);
    goes.destroy();
    await Promise.all(lost);
    await gone(rig.b, 'gone-volume', 1);
    await rig.a.vlmc('close', 'gone-volume');
    await kept;
    const content = await stays.read(0, 2 * BLOCK);
    expect(content.subarray(0, SECTOR).equals(Buffer.alloc(SECTOR, 1))).toBe(true);
    expect(content.subarray(SECTOR).equals(Buffer.alloc(2 * BLOCK - SECTOR))).toBe(true);
    await stays.disconnect();
    await expect.poll(() => look('gone-volume')).toBeUndefined();

    await rig.a.vlmc('open', 'gone-volume');
    const last = await connect(rig.b, 'gone-volume');
    const never = last.write(0, Buffer.alloc(SECTOR, 3)).catch(() => {});
    await last.read(0, SECTOR);
    last.destroy();
    await never;
    await gone(rig.b, 'gone-volume', 0);
    const before = await fingerprint([rig.store.blocks]);
    await rig.a.vlmc('close', 'gone-volume');
    // Whoever waited would have the lock within its next two attempts; these commands take longer.
    for (let i = 0; i < 6; i++) {
      await rig.b.vlmc('lock', 'gone-volume', '--show');
      expect(await look('gone-volume')).toBeUndefined();
    }
    expect(differences(before, await fingerprint([rig.store.blocks]))).toEqual([]);
  });
});

/** Resolves when the endpoint of a node has so many connections to a volume left. */
async function gone(node: TestNode, volume: string, left: number): Promise<void> {
  await expect
    .poll(async () => {
      const { connections } = await node.vlmcJson<{ connections: { name: string }[] }>('showmapped');
      return connections.filter(({ name }) => name === volume).length;
    })
    .toBe(left);
}

/** Makes a block zeros, once nothing else is on its way to it. A trim of a whole block is one. */
async function zeroBlock(client: NbdClient, ledger: Ledger, block: number, how: 'trim' | 'zero'): Promise<void> {
  const count = BLOCK / SECTOR;
  while (!ledger.claim(block * count, count)) await new Promise((resolve) => setImmediate(resolve));
  ledger.zero(block * count, count);
  await (how === 'trim' ? client.trim(block * BLOCK, BLOCK) : client.writeZeroes(block * BLOCK, BLOCK));
  ledger.answer(block * count, count);
}
