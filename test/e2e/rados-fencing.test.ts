/**
 * Fencing by Ceph itself: what librados has of a node that stands still when another takes its lock is never done. On a cluster of its own, whose OSD is
 * stopped for a moment.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { connectNbd, type NbdClient } from '../../src/nbd/index.js';
import { hasCeph, useOwnCluster } from '../support/ceph.js';
import type { TestNode } from './harness/node.js';
import { useNodes } from './harness/nodes.js';
import { differences, fingerprint } from './harness/tree.js';

const MiB = 1 << 20;

interface Unlocked {
  readonly confirmed: boolean;
  readonly fencedBy: 'answer' | 'stores' | 'time';
}

describe.runIf(hasCeph())('writes that were on their way to Ceph when their node stood still', () => {
  const cluster = useOwnCluster();
  // All writes are given to librados at once.
  const rig = useNodes({
    cluster: () => cluster.conf,
    placement: 'one process per role',
    settings: { blockerb: { nr_ops: 256 } },
  });
  const blocks = 64;
  let osd: number | undefined;
  let clients: NbdClient[] = [];
  afterEach(() => {
    if (osd !== undefined) process.kill(osd, 'SIGCONT');
    rig.a.signal('SIGCONT');
    for (const client of clients) client.destroy();
  });

  /** What a volume has at the start of each MiB. */
  async function look(client: NbdClient): Promise<number[]> {
    const starts = Array.from({ length: blocks }, (_, i) => client.read(i * MiB, 1));
    return (await Promise.all(starts)).map((bytes) => bytes[0]);
  }

  it('are refused by the OSD after unlock -f, and the log of that node says so', async () => {
    const volume = 'refused-volume';
    await rig.a.create(volume, blocks * MiB);
    clients = await Promise.all([1, 2, 3, 4].map(() => connectNbd(rig.a.uri(volume))));
    const writeAll = (value: number): Promise<unknown>[] =>
      Array.from({ length: blocks }, (_, i) => clients[i % 4].write(i * MiB, Buffer.alloc(MiB, value)));
    await Promise.all(writeAll(1));
    await clients[0].flush();

    osd = Number(readFileSync(path.join(cluster.directory, 'run', 'osd.0.pid'), 'utf8'));
    process.kill(osd, 'SIGSTOP');
    const late = Promise.allSettled(writeAll(2));
    await expect.poll(() => inFlight(rig.a)).toBe(blocks);
    // Most of it is in the process's own memory: sockets take a few MiB.
    rig.a.signal('SIGSTOP', 'blockerb');
    process.kill(osd, 'SIGCONT');
    osd = undefined;
    const unlocked = await rig.b.vlmcJson<Unlocked>('unlock', '-f', volume);
    expect([unlocked.confirmed, unlocked.fencedBy]).toEqual([false, 'stores']);

    const other = await connectNbd(rig.b.uri(volume));
    const found = await look(other);
    const before = await fingerprint([rig.store.maps, rig.store.blocks]);
    rig.a.signal('SIGCONT', 'blockerb');
    await expect.poll(() => rig.a.logs(), { interval: 200 }).toMatch(/blockerb\[\d+\]: .*blocklisted/);
    const outcomes = await late;
    // Of the original 64 some were done before the fence. That others were refused by Ceph, and not by our own looking at the time, the log has said.
    const refused = outcomes.filter(({ status }) => status === 'rejected').length;
    console.log(
      `${found.filter((value) => value === 2).length} of ${blocks} writes came before the fence, ${refused} failed`,
    );
    expect(refused).toBeGreaterThan(0);
    expect(differences(before, await fingerprint([rig.store.maps, rig.store.blocks]))).toEqual([]);
    expect(await look(other)).toEqual(found);
    expect(found).toContain(1);

    await other.write(0, Buffer.alloc((blocks * MiB) / 4, 3));
    await other.flush();
    await other.disconnect();
    await Promise.all(clients.map((client) => client.disconnect()));
    // The old holder's blocker has connected anew: its node goes on.
    const again = await connectNbd(rig.a.uri(volume));
    expect(await look(again)).toEqual(found.map((value, i) => (i < blocks / 4 ? 3 : value)));
    await again.disconnect();
  });
});

/** Requests that a node's data blocker works on. */
async function inFlight(node: TestNode): Promise<number> {
  interface Role {
    readonly name: string;
    readonly status: { readonly inFlight: number };
  }
  const { roles } = JSON.parse(await node.archipelago('status', '--json')) as { roles: Role[] };
  return roles.find(({ name }) => name === 'blockerb')?.status.inFlight ?? 0;
}
