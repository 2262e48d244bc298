/**
 * Maps in directories and blocks on RADOS, and the reverse: two nodes on such a pair of stores, with all that is done to volumes, kill -9, a
 * lock that is taken by force, and what each store holds at the end.
 */
import { afterEach, describe, expect, it } from 'vitest';
import { connectNbd, type NbdClient } from '../../src/nbd/index.js';
import { hasCeph } from '../support/ceph.js';
import { qemuIo, sha256 } from './harness/clients.js';
import { Ledger } from './harness/ledger.js';
import { fill, Load, settleAll, verifyAll } from './harness/load.js';
import { Model } from './harness/model.js';
import { bytes } from './harness/node.js';
import { owners, useNodes } from './harness/nodes.js';
import { programs } from './harness/requirements.js';
import { mapDataName } from './harness/store.js';
import type { StoreKind } from './harness/stores.js';

const MiB = 1 << 20;
const BLOCK = 4 * MiB;
const kinds: readonly StoreKind[] = ['maps-on-files', 'blocks-on-files'];

describe.runIf(programs('qemu-io', 'nbdcopy') && hasCeph()).each(kinds)('%s', (store) => {
  const rig = useNodes({ store });
  const clients: NbdClient[] = [];
  const connect = async (uri: string): Promise<NbdClient> => {
    const client = await connectNbd(uri);
    clients.push(client);
    return client;
  };
  afterEach(() => {
    for (const client of clients.splice(0)) client.destroy();
  });

  it('volumes, snapshots, clones, resizes and renames read as they should on both nodes', async () => {
    const { a, b } = rig;
    const base = new Model(5 * BLOCK).write(0, BLOCK + 4096, 1).write(3 * BLOCK + 10, 1000, 2);
    await a.create('mixed-base', base.size);
    await base.apply(a.uri('mixed-base'));
    await a.vlmc('snapshot', 'mixed-base', 'mixed-snap');
    const snap = base.copy();
    await base.write(100, 5000, 3).zero(BLOCK, BLOCK, 'discard').apply(a.uri('mixed-base'));
    await b.vlmc('create', 'mixed-clone', '--snap', 'mixed-snap', '--size', bytes(7 * BLOCK));
    const clone = snap
      .copy(7 * BLOCK)
      .write(BLOCK - 50, 100, 4)
      .write(6 * BLOCK, 512, 5);
    await clone.apply(b.uri('mixed-clone'));
    await a.vlmc('resize', 'mixed-clone', '--size', bytes(2 * BLOCK), '--force');
    await b.vlmc('resize', 'mixed-clone', '--size', bytes(4 * BLOCK));
    clone.resize(2 * BLOCK).resize(4 * BLOCK);
    await a.vlmc('rename', 'mixed-clone', 'mixed-renamed');
    for (const node of [a, b]) {
      for (const [name, model] of Object.entries({ 'mixed-base': base, 'mixed-snap': snap, 'mixed-renamed': clone })) {
        const { sha256: hash, size: length } = model;
        expect({ name, ...(await sha256(node.uri(name))) }).toEqual({ name, sha256: hash, length });
      }
    }
  });

  it('each store has its objects and none of the other', async () => {
    const names = async (part: 'maps' | 'blocks'): Promise<string[]> =>
      (await rig.store[part].objects()).map(({ name }) => name);
    const [maps, blocks] = [await names('maps'), await names('blocks')];
    expect(maps).toEqual(expect.arrayContaining(['mixed-base', mapDataName('mixed-base'), 'mixed-snap']));
    expect(blocks.length).toBeGreaterThan(3);
    expect(blocks.filter((name) => maps.includes(name))).toEqual([]);
    for (const name of blocks) expect(name).toMatch(/^mixed-\w+_[0-9a-f]{16}_[0-9a-f]{16}$/);
  });

  it('what was flushed survives kill -9 of the node, and the lock is its own again', async () => {
    const uri = await rig.a.create('mixed-killed', 4 * BLOCK);
    await qemuIo(uri, 'write -P 7 1M 8M', 'flush');
    const client = await connect(uri);
    await client.write(0, Buffer.alloc(4096, 8), { fua: true });
    rig.a.kill();
    await client.closed;
    await rig.a.archipelago('start');
    await qemuIo(uri, 'read -P 8 0 4k', 'read -P 7 1M 8M', 'write -P 9 0 4k', 'read -P 9 0 4k');
    await expect.poll(() => rig.store.maps.held()).toEqual([]);
  });

  it('a lock under load is broken, with nothing late, and the volume goes on at the other node', async () => {
    const volume = 'mixed-stolen';
    const ledger = new Ledger(4 * BLOCK, 1);
    await fill(await connect(await rig.a.create(volume, 4 * BLOCK)), ledger);
    const load = new Load([await connect(rig.a.uri(volume))], ledger, { depth: 16, persistent: true }).start();
    await load.reached(300);
    rig.a.signal('SIGSTOP');
    const { holder } = await rig.b.vlmcJson<{ holder: string }>('unlock', '-f', volume);
    const returned = performance.now();
    rig.a.signal('SIGCONT');
    expect(holder).toBe(owners.a);
    const other = await connect(rig.b.uri(volume));
    await rig.b.vlmc('open', volume);
    // The old holder's client goes on trying meanwhile.
    await expect.poll(() => load.after(returned).failed.length).toBeGreaterThan(20);
    await settleAll(other, ledger);
    const next = new Load([other], ledger, { depth: 16, seed: 7 }).start();
    await next.reached(300);
    await next.stop();
    await load.stop();
    expect(load.after(returned).done).toEqual([]);
    await verifyAll(other, ledger);
    expect(await rig.store.maps.holder(volume)).toBe(owners.b);
    await rig.b.vlmc('close', volume);
  });
});
