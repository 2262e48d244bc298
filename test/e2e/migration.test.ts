/**
 * A guest moves between two nodes that have its volume open shared: it stops on one, with or without a flush, and goes on at the other. The
 * guest is a load that knows what every sector must read as. `npm run migrate -- --moves N` moves it more often.
 */
import { afterEach, describe, expect, it, onTestFinished } from 'vitest';
import { connectNbd, type NbdClient } from '../../src/nbd/index.js';
import { Ledger, SECTOR } from './harness/ledger.js';
import { fill, flush, Load, randomNumbers, verify, verifyAll } from './harness/load.js';
import type { TestNode } from './harness/node.js';
import { hosts, owners, useNodes } from './harness/nodes.js';
import { Stalls } from './harness/stalls.js';
import { repeated } from './harness/stores.js';

const MiB = 1 << 20;
const SIZE = 48 * MiB;
const MOVES = Number(process.env.ARCHIPELAGO_TEST_MOVES ?? (repeated ? 20 : 50));
const SEED = Number(process.env.ARCHIPELAGO_TEST_SEED ?? Date.now() % 1_000_000);
const mix = { write: 50, zero: 4, trim: 4, flush: 1, fua: 1, read: 40 };

describe('a volume that is open shared on two nodes', () => {
  const rig = useNodes();
  const clients: NbdClient[] = [];
  const connect = async (node: TestNode, volume: string, count = 1): Promise<NbdClient[]> => {
    const made = await Promise.all(Array.from({ length: count }, () => connectNbd(node.uri(volume))));
    clients.push(...made);
    return made;
  };
  afterEach(() => {
    for (const client of clients.splice(0)) client.destroy();
  });
  const look = (volume: string): Promise<string | undefined> => rig.store.maps.holder(volume);
  const openShared = async (volume: string): Promise<void> => {
    for (const node of [rig.a, rig.b]) expect(await node.vlmc('open', volume, '--shared')).toBe('Volume opened\n');
  };
  /** A clone whose blocks are all shared, so that writes copy up. */
  const prepare = async (volume: string, ledger: Ledger): Promise<void> => {
    await rig.a.create(`${volume}-base`, ledger.sectors * SECTOR);
    const [filler] = await connect(rig.a, `${volume}-base`);
    await fill(filler, ledger);
    await filler.disconnect();
    await rig.a.vlmc('snapshot', `${volume}-base`, `${volume}-image`);
    await rig.a.vlmc('create', volume, '--snap', `${volume}-image`);
  };

  it('takes no lock until somebody writes, and any number of opens', async () => {
    await rig.a.create('open-volume', SIZE);
    for (let i = 0; i < 2; i++) {
      await openShared('open-volume');
      expect(await look('open-volume')).toBeUndefined();
    }
    const [client] = await connect(rig.b, 'open-volume');
    await client.write(0, Buffer.alloc(SECTOR, 1));
    expect(await look('open-volume')).toBe(owners.b);
    await openShared('open-volume');
    expect(await look('open-volume')).toBe(owners.b);
    for (const node of [rig.a, rig.b]) await node.vlmc('close', 'open-volume');
    expect(await look('open-volume')).toBeUndefined();
  });

  it(`${MOVES} moves without a wrong byte, the first write after each soon`, async () => {
    console.log(`seed ${SEED} (ARCHIPELAGO_TEST_SEED)`);
    const random = randomNumbers(SEED);
    const ledger = new Ledger(SIZE, 1);
    await prepare('guest-volume', ledger);
    await openShared('guest-volume');
    const sides = [
      { node: rig.a, owner: owners.a, clients: await connect(rig.a, 'guest-volume', 3) },
      { node: rig.b, owner: owners.b, clients: await connect(rig.b, 'guest-volume', 3) },
    ];
    const times: number[] = [];
    const stalls = new Stalls();
    onTestFinished(() => stalls.end());
    const snapshots: { name: string; ledger: Ledger }[] = [];
    for (let move = 0; move <= MOVES; move++) {
      const side = sides[move % 2];
      // A guest may read first: what it was answered on the other node, flushed or not.
      if (random() < 0.5) for (let i = 0; i < 8; i++) await verify(side.clients[0], ledger, place(random, ledger), 16);
      const sector = place(random, ledger);
      ledger.claim(sector, 1);
      stalls.begin();
      const began = performance.now();
      await side.clients[0].write(sector * SECTOR, ledger.write(sector, 1));
      // The first move is from nowhere. What kept this process from running kept the nodes.
      if (move > 0) times.push(Math.max(0, performance.now() - began - stalls.longest));
      ledger.answer(sector, 1);
      expect(await look('guest-volume')).toBe(side.owner);
      const load = new Load(side.clients, ledger, { depth: 6, mix, seed: SEED + move }).start();
      await load.reached(100 + Math.floor(random() * 200));
      if (move % 10 === 3) await side.node.vlmc('snapshot', 'guest-volume', `guest-running-${move}`);
      await load.stop();
      if (move % 10 === 7 && snapshots.length < 5) {
        const name = `guest-stopped-${move}`;
        await side.node.vlmc('snapshot', 'guest-volume', name);
        snapshots.push({ name, ledger: ledger.copy() });
      }
      if (random() < 0.5) await flush(side.clients[1], ledger);
    }
    const sorted = times.toSorted((x, y) => x - y).map(Math.round);
    console.log(
      `the first write after a move takes ${sorted[sorted.length >> 1]} ms (median), ${sorted.at(-1)} ms (worst of ${MOVES})`,
    );
    for (const side of sides) await verifyAll(side.clients[0], ledger);
    for (const snapshot of snapshots) {
      for (const node of [rig.a, rig.b]) await verifyAll((await connect(node, snapshot.name))[0], snapshot.ledger);
    }
    for (const client of clients.splice(0)) await client.disconnect();
    for (const { node } of sides) await node.vlmc('close', 'guest-volume');
    expect(await look('guest-volume')).toBeUndefined();
    for (const { node } of sides) await node.vlmc('check', 'guest-volume');
    // Half a second on a machine that does nothing else. What went wrong would wait for a lock: 30 s.
    expect(sorted[sorted.length >> 1]).toBeLessThan(2000);
    expect(sorted.at(-1)).toBeLessThan(10_000);
  });

  it('goes on when the old node is killed right after the move, and moves back when it is there again', async () => {
    const ledger = new Ledger(SIZE, 1);
    await prepare('kill-volume', ledger);
    await openShared('kill-volume');
    const old = await connect(rig.a, 'kill-volume', 2);
    const load = new Load(old, ledger, { depth: 8, mix, seed: 3 }).start();
    await load.reached(300);
    await load.stop();
    const next = await connect(rig.b, 'kill-volume', 2);
    ledger.claim(0, 1);
    await next[0].write(0, ledger.write(0, 1));
    ledger.answer(0, 1);
    rig.a.kill();
    const onward = new Load(next, ledger, { depth: 8, mix, seed: 4 }).start();
    await onward.reached(500);
    await onward.stop();
    await verifyAll(next[0], ledger);
    await rig.a.archipelago('start');
    // It was open shared before the node died, and is so again.
    const back = await connect(rig.a, 'kill-volume', 2);
    const again = new Load(back, ledger, { depth: 8, mix, seed: 5 }).start();
    await again.reached(300);
    await again.stop();
    expect(await look('kill-volume')).toBe(owners.a);
    await verifyAll(next[0], ledger);
  });

  it('is handed over by a node that died with the lock, once that is there again', async () => {
    const ledger = new Ledger(SIZE, 1);
    await prepare('dead-volume', ledger);
    await openShared('dead-volume');
    const load = new Load(await connect(rig.a, 'dead-volume', 2), ledger, { depth: 8, mix, seed: 6 }).start();
    await load.reached(300);
    await load.stop();
    rig.a.kill();
    const [next] = await connect(rig.b, 'dead-volume');
    ledger.claim(5, 1);
    const write = next.write(5 * SECTOR, ledger.write(5, 1));
    write.catch(() => {});
    await verify(next, ledger, 1000, 16);
    expect(await look('dead-volume')).toBe(owners.a);
    await rig.a.archipelago('start');
    await write;
    ledger.answer(5, 1);
    await verifyAll(next, ledger);
  });

  it('loses nothing when both nodes write at once, each its half', async () => {
    const ledger = new Ledger(SIZE, 1);
    await prepare('both-volume', ledger);
    await openShared('both-volume');
    const half = ledger.sectors / 2;
    const loads = [
      new Load(await connect(rig.a, 'both-volume', 2), ledger, { depth: 8, mix, seed: 9, range: [0, half] }),
      new Load(await connect(rig.b, 'both-volume', 2), ledger, { depth: 8, mix, seed: 10, range: [half, 2 * half] }),
    ];
    for (const load of loads) load.start();
    // In this time the lock changes hands several times, by whichever side waits for it.
    await Promise.all(loads.map((load) => load.reached(600)));
    await Promise.all(loads.map((load) => load.stop()));
    console.log(`both at once: ${loads.map(({ endings }) => endings.length).join(' and ')} requests`);
    for (const node of [rig.a, rig.b]) await verifyAll((await connect(node, 'both-volume'))[0], ledger);
  });

  it('stays where it is unless it is open shared on both sides', async () => {
    await rig.a.create('alone-volume', SIZE);
    await rig.a.vlmc('open', 'alone-volume');
    await rig.b.vlmc('open', 'alone-volume', '--shared');
    const [client] = await connect(rig.b, 'alone-volume');
    let done = false;
    const write = client.write(0, Buffer.alloc(SECTOR, 1)).then(() => {
      done = true;
    });
    write.catch(() => {});
    await client.read(0, SECTOR);
    for (let i = 0; i < 6; i++) await rig.b.vlmc('lock', 'alone-volume', '--show');
    expect(done).toBe(false);
    expect(await look('alone-volume')).toBe(owners.a);
    // Exclusive becomes shared: now the one who waits gets it.
    await rig.a.vlmc('open', 'alone-volume', '--shared');
    await write;
    expect(await look('alone-volume')).toBe(owners.b);
    const refused = await rig.a.tryVlmc(['open', 'alone-volume']);
    expect(refused.code).toBe(255);
    expect(refused.stderr).toContain(hosts.b);
  });

  it("serves Ganeti's order of calls, in which each node closes and opens around the move", async () => {
    const ledger = new Ledger(SIZE, 1);
    const volume = 'ganeti-volume';
    await prepare(volume, ledger);
    const attach = (node: TestNode): Promise<string> => node.vlmc('map', volume);
    await attach(rig.a);
    await rig.a.vlmc('open', volume);
    const old = await connect(rig.a, volume, 2);
    const load = new Load(old, ledger, { depth: 8, mix, seed: 11 }).start();
    await load.reached(200);

    await attach(rig.b);
    await rig.b.vlmc('close', volume);
    expect(await look(volume)).toBe(owners.a);
    await rig.a.vlmc('open', volume, '--shared');
    await rig.b.vlmc('open', volume, '--shared');
    const next = await connect(rig.b, volume, 2);
    await load.reached(100);
    await load.stop();
    const onward = new Load(next, ledger, { depth: 8, mix, seed: 12 }).start();
    await onward.reached(200);
    await Promise.all(old.map((client) => client.disconnect()));
    await rig.a.vlmc('close', volume);
    expect(await look(volume)).toBe(owners.b);
    await rig.b.vlmc('open', volume);
    await rig.a.vlmc('unmap', volume);
    await onward.reached(200);
    await onward.stop();
    await verifyAll(next[0], ledger);
    expect((await rig.a.tryVlmc(['open', volume])).code).toBe(255);
    await Promise.all(next.map((client) => client.disconnect()));
    await rig.b.vlmc('unmap', volume);
    await rig.b.vlmc('close', volume);
  });
});

/** Where 16 sectors fit. */
function place(random: () => number, ledger: Ledger): number {
  return Math.floor(random() * (ledger.sectors - 16));
}
