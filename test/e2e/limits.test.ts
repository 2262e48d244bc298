/** Limits of volumes on a running node: they hold for all connections, change under those that wait, and stay with the volume. */
import { describe, expect, it, onTestFinished } from 'vitest';
import { connectNbd, type NbdClient } from '../../src/nbd/index.js';
import { useNode } from './harness/node.js';

const KiB = 1 << 10;
const MiB = 1 << 20;

interface Told {
  readonly id: string | null;
  readonly own: Record<string, number>;
  readonly waiting: number;
}

describe('limits', () => {
  const rig = useNode();

  const connect = async (volume: string): Promise<NbdClient> => {
    const client = await connectNbd(rig.node.uri(volume));
    onTestFinished(() => client.disconnect().catch(() => {}));
    return client;
  };
  const limit = (volume: string, ...words: string[]): Promise<Told> => rig.node.vlmcJson('limit', volume, ...words);
  const waiting = async (volume: string): Promise<number> => (await limit(volume)).waiting;

  it('hold for the requests of all connections together, and not for another volume', async () => {
    const { node } = rig;
    for (const name of ['slow-volume', 'free-volume']) await node.create(name, 64 * MiB);
    const [one, two, free] = await Promise.all(['slow-volume', 'slow-volume', 'free-volume'].map(connect));
    await limit('slow-volume', '--iops', '40');
    const start = performance.now();
    const slow = [one, two].flatMap((client) =>
      Array.from({ length: 15 }, (_, i) => client.write(i * 4096, Buffer.alloc(4096, i))),
    );
    await Promise.all(Array.from({ length: 500 }, (_, i) => free.read(i * 4096, 4096)));
    await Promise.all(slow);
    // A tenth of a second's worth is saved; a clock may be read a moment late, never early.
    expect(performance.now() - start).toBeGreaterThan(((30 - 4 - 1) / 40) * 1000);
    await two.flush();
    expect(await one.read(14 * 4096, 4096)).toEqual(Buffer.alloc(4096, 14));
  });

  it('of bytes let the first pass, however long, and the next one wait for it; a change lets it go', async () => {
    await rig.node.create('byte-volume', 64 * MiB);
    const client = await connect('byte-volume');
    await limit('byte-volume', '--bps-write', '1K');
    await client.write(0, Buffer.alloc(4 * MiB, 1));
    let done = false;
    const second = client.write(4 * MiB, Buffer.alloc(512 * KiB, 2)).then(() => {
      done = true;
    });
    // At this rate it would take an hour.
    await expect.poll(() => waiting('byte-volume')).toBe(1);
    const other = await connect('byte-volume');
    expect(await other.read(0, KiB)).toEqual(Buffer.alloc(KiB, 1));
    await other.flush();
    expect(done).toBe(false);
    await limit('byte-volume', '--bps-write', '0');
    await second;
    expect(await waiting('byte-volume')).toBe(0);
    expect(await client.read(4 * MiB, KiB)).toEqual(Buffer.alloc(KiB, 2));
  });

  it('end with a client that leaves while it waits', async () => {
    const { node } = rig;
    await node.create('left-volume', 64 * MiB);
    const client = await connect('left-volume');
    await limit('left-volume', '--bps', '1');
    await client.read(0, MiB);
    const lost = client.read(0, MiB).catch(() => 'lost');
    await expect.poll(() => waiting('left-volume')).toBe(1);
    client.destroy();
    expect(await lost).toBe('lost');
    await expect.poll(() => waiting('left-volume')).toBe(0);
    // What it owed does not keep the volume from anything else.
    await expect.poll(async () => (await node.tryVlmc(['remove', 'left-volume'])).code).toBe(0);
  });

  it('follow a volume by its id, over a restart of the node, and go with it', async () => {
    const { node } = rig;
    await node.create('first-name', 64 * MiB);
    const { id } = await limit('first-name', '--iops', '123', '--bps', '45M');
    await node.vlmc('rename', 'first-name', 'second-name');
    await node.create('first-name', 64 * MiB);
    await node.archipelago('restart');
    const told = await limit('second-name');
    expect(told).toMatchObject({ id, own: { iops: 123, bps: 45 * MiB } });
    expect((await limit('first-name')).own).toEqual({});
    expect(await node.vlmc('info', 'second-name')).toContain('iops 123, bps 45 MiB/s');
    await node.vlmc('remove', 'second-name');
    expect(await node.vlmc('limit')).not.toContain('-name');
  });
});
