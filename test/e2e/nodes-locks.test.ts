/** Who may write a volume that two nodes reach: its lock file, beside and against nodes of the original too, and the commands about it. */
import { readdirSync } from 'node:fs';
import { afterEach, describe, expect, it } from 'vitest';
import { connectNbd, type NbdClient } from '../../src/nbd/index.js';
import type { TestNode } from './harness/node.js';
import { hosts, owners, useNodes } from './harness/nodes.js';
import { OriginalLocks } from './harness/original-locks.js';
import { describeOutcome, type Outcome } from './harness/run.js';
import { usuallyOnRados } from './harness/stores.js';

const MiB = 1 << 20;
const BLOCK = 4 * MiB;

interface Shown {
  lock: { owner: string; host: string; here: boolean; ageMs: number | null } | null;
  open: string | null;
}

const shown = (node: TestNode, volume: string): Promise<Shown> => node.vlmcJson<Shown>('lock', volume, '--show');

/** Tests about files alone are none of a run on RADOS, and need no line there that says they were skipped. */
const places = [
  { name: 'beside the maps', lockDir: false },
  { name: 'in a directory of their own', lockDir: true },
];

describe.each(usuallyOnRados('maps') ? [] : places)('lock files $name', ({ lockDir }) => {
  const rig = useNodes({ store: 'files', lockDir, settings: { mapperd: { lock_wait: 2 } } });
  const directory = (): string => rig.store.lockDir ?? rig.a.maps;
  const locks = (owner: string): OriginalLocks => new OriginalLocks(rig.a.maps, rig.store.lockDir, owner);
  const clients: NbdClient[] = [];
  const connect = async (node: TestNode, volume: string): Promise<NbdClient> => {
    const client = await connectNbd(node.uri(volume));
    clients.push(client);
    return client;
  };
  afterEach(() => {
    for (const client of clients.splice(0)) client.destroy();
  });

  /** Names of all files that have to do with a volume's lock. */
  const files = (volume: string): string[] =>
    readdirSync(directory(), { recursive: true, encoding: 'utf8' })
      .map((file) => file.replace(/.*\//, ''))
      .filter((file) => file.startsWith(`${volume}_lock`));

  it("are the original's, byte for byte, and nothing is left beside them", async () => {
    const volume = `bytes-${lockDir}`;
    await rig.a.create(volume, BLOCK);
    expect(files(volume)).toEqual([]);
    await rig.a.vlmc('open', volume);
    expect(locks('x').look(volume)).toEqual({ content: owners.a, links: 1 });
    expect(files(volume)).toEqual([`${volume}_lock`]);
    await rig.a.vlmc('close', volume);
    expect(files(volume)).toEqual([]);
    const client = await connect(rig.b, volume);
    await client.write(0, Buffer.alloc(4096, 1));
    expect(locks('x').look(volume)).toEqual({ content: owners.b, links: 1 });
    await client.disconnect();
    await expect.poll(() => files(volume)).toEqual([]);
  });

  it('keep a node of the original out, and are kept out by it', async () => {
    const volume = `original-${lockDir}`;
    const original = locks('old-node_1002');
    await rig.a.create(volume, BLOCK);
    await rig.a.vlmc('open', volume);
    expect(original.acquire(volume)).toBe(false);
    expect(original.release(volume)).toBe(false);
    await rig.a.vlmc('close', volume);

    expect(original.acquire(volume)).toBe(true);
    for (const node of [rig.a, rig.b]) {
      refused(await node.tryVlmc(['open', volume]), 'old-node_1002');
      refused(await node.tryVlmc(['snapshot', volume, `${volume}-snap`]), 'old-node_1002');
      refused(await node.tryVlmc(['unlock', volume]), 'old-node');
      expect(await shown(node, volume)).toMatchObject({
        lock: { owner: 'old-node_1002', host: 'old-node', here: false },
      });
    }
    const client = await connect(rig.a, volume);
    expect((await client.read(0, 4096)).equals(Buffer.alloc(4096))).toBe(true);
    // lock_wait is 2 s here.
    await expect(client.write(0, Buffer.alloc(4096, 1))).rejects.toThrow(/old-node_1002/);
    const write = client.write(0, Buffer.alloc(4096, 2));
    expect(original.release(volume)).toBe(true);
    await write;
    expect(original.acquire(volume)).toBe(false);
  });

  it('compare owners as a whole: one whose name begins with ours is somebody else', async () => {
    const volume = `prefix-${lockDir}`;
    const other = locks(`${owners.a}3`);
    await rig.a.create(volume, BLOCK);
    expect(other.acquire(volume)).toBe(true);
    refused(await rig.a.tryVlmc(['open', volume]), `${owners.a}3`);
    refused(await rig.a.tryVlmc(['unlock', volume]), hosts.a);
    await rig.a.vlmc('close', volume);
    expect(other.look(volume)?.content).toBe(`${owners.a}3`);
    expect(other.release(volume)).toBe(true);
  });
});

describe.each(usuallyOnRados('maps') ? ['RADOS'] : [])('locks on %s', () => {
  const rig = useNodes({ settings: { mapperd: { lock_wait: 2 } } });
  const clients: NbdClient[] = [];
  afterEach(() => {
    for (const client of clients.splice(0)) client.destroy();
  });

  it('say whose they are, and are gone with the last client', async () => {
    const volume = 'said-volume';
    const { maps } = rig.store;
    await rig.a.create(volume, BLOCK);
    await rig.a.vlmc('open', volume);
    expect(await maps.holder(volume)).toBe(owners.a);
    expect(await maps.held()).toEqual([volume]);
    await rig.a.vlmc('close', volume);
    expect(await maps.held()).toEqual([]);
    const client = await connectNbd(rig.b.uri(volume));
    clients.push(client);
    await client.write(0, Buffer.alloc(4096, 1));
    expect(await maps.holder(volume)).toBe(owners.b);
    await client.disconnect();
    await expect.poll(() => maps.held()).toEqual([]);
  });

  it('keep a node of the original out, and are kept out by it', async () => {
    const volume = 'original-volume';
    const { maps } = rig.store;
    await rig.a.create(volume, BLOCK);
    await rig.a.vlmc('open', volume);
    expect(await maps.lockAs('', volume)).toBe(false);
    await rig.a.vlmc('close', volume);

    // The original does not say who it is: it is told by the number of its client.
    expect(await maps.lockAs('', volume)).toBe(true);
    const holder = (await maps.holder(volume)) ?? '';
    expect(holder).toMatch(/^client\.\d+$/);
    for (const node of [rig.a, rig.b]) {
      refused(await node.tryVlmc(['open', volume]), holder);
      refused(await node.tryVlmc(['snapshot', volume, `${volume}-snap`]), holder);
      refused(await node.tryVlmc(['unlock', volume]), holder);
      expect(await shown(node, volume)).toMatchObject({ lock: { owner: holder, here: false } });
    }
    const client = await connectNbd(rig.a.uri(volume));
    clients.push(client);
    expect((await client.read(0, 4096)).equals(Buffer.alloc(4096))).toBe(true);
    // lock_wait is 2 s here.
    await expect(client.write(0, Buffer.alloc(4096, 1))).rejects.toThrow(holder);
    await maps.breakLock(volume);
    await client.write(0, Buffer.alloc(4096, 2));
    expect(await maps.lockAs('', volume)).toBe(false);
  });
});

describe('a volume that another node has open', () => {
  // A write waits for as long as a test takes, on any machine; so would a command that waited, and be ended by the limit of all programs.
  const rig = useNodes({ settings: { mapperd: { lock_wait: 3600 } } });
  const volume = 'held-volume';
  const look = (name = volume): Promise<string | undefined> => rig.store.maps.holder(name);

  it('is changed there only: everything else fails at once and names the holder', async () => {
    await rig.a.create(volume, 2 * BLOCK);
    await rig.a.vlmc('open', volume);
    const commands = [
      ['open', volume],
      ['snapshot', volume, 'held-snapshot'],
      ['resize', volume, '--size', '64M'],
      ['resize', volume, '--size', '4M', '--force'],
      ['rename', volume, 'held-renamed'],
      ['remove', volume],
      ['lock', volume],
      ['unlock', volume],
    ];
    const began = performance.now();
    for (const command of commands) refused(await rig.b.tryVlmc(command), hosts.a);
    console.log(`a refused command takes ${Math.round((performance.now() - began) / commands.length)} ms`);
    expect(await look()).toBe(owners.a);
    expect((await rig.b.vlmcJson<{ size: number }>('info', volume)).size).toBe(2 * BLOCK);
    expect((await rig.a.vlmc('list')).trim()).toBe(volume);
  });

  it('is waited for by a write, which is done when a node of the original that has the lock gives it back', async () => {
    const name = 'waited-volume';
    const { maps } = rig.store;
    await rig.a.create(name, BLOCK);
    expect(await maps.lockAs('old-node_1002', name)).toBe(true);
    const holder = await look(name);
    const client = await connectNbd(rig.b.uri(name));
    try {
      let done = false;
      const write = client.write(0, Buffer.alloc(4096, 2)).finally(() => {
        done = true;
      });
      write.catch(() => {});
      // It was read, and so the write before it on the same connection has been taken too.
      expect((await client.read(BLOCK - 4096, 4096)).equals(Buffer.alloc(4096))).toBe(true);
      expect(await look(name)).toBe(holder);
      expect(done).toBe(false);
      await maps.breakLock(name);
      await write;
      expect(await look(name)).toBe(owners.b);
      await client.disconnect();
    } finally {
      client.destroy();
    }
  });

  it('opens and closes any number of times; close on a node that does not hold it changes nothing', async () => {
    const client = await connectNbd(rig.a.uri(volume));
    await client.write(0, Buffer.alloc(4096, 1));
    await rig.a.vlmc('open', volume);
    for (let i = 0; i < 2; i++) {
      expect(await rig.b.vlmc('close', volume)).toBe('Volume closed\n');
      expect(await look()).toBe(owners.a);
      await client.write(0, Buffer.alloc(4096, 2 + i), { fua: true });
    }
    await client.disconnect();
    // Opened by hand, it stays when the last client goes.
    expect(await look()).toBe(owners.a);
    for (let i = 0; i < 2; i++) {
      await rig.a.vlmc('close', volume);
      expect(await look()).toBeUndefined();
    }
    await rig.b.vlmc('open', volume);
    expect(await look()).toBe(owners.b);
    const other = await connectNbd(rig.b.uri(volume));
    expect((await other.read(0, 4096)).equals(Buffer.alloc(4096, 3))).toBe(true);
    await other.disconnect();
    await rig.b.vlmc('close', volume);
  });

  it('is shown with its holder, and unlocked by the node that locked it', async () => {
    expect(await rig.b.vlmc('lock', volume, '--show')).toBe(`Volume ${volume}: not locked\n`);
    await rig.a.vlmc('lock', volume);
    expect(await rig.b.vlmc('lock', volume, '--show')).toMatch(
      new RegExp(`^Volume ${volume}: locked by ${owners.a} since [^ ]+Z\n`),
    );
    expect(await shown(rig.b, volume)).toMatchObject({ lock: { owner: owners.a, host: hosts.a, here: false } });
    expect(await shown(rig.a, volume)).toMatchObject({ lock: { owner: owners.a, here: true } });
    refused(await rig.b.tryVlmc(['unlock', volume]), hosts.a);
    await rig.a.vlmc('unlock', volume);
    expect((await shown(rig.b, volume)).lock).toBeNull();
  });

  it('unlock --wait returns when nobody has it, and takes nothing', async () => {
    await rig.a.vlmc('open', volume);
    let over = false;
    const waiting = rig.b.tryVlmc(['unlock', '--wait', volume]).finally(() => {
      over = true;
    });
    // Several tools come and go meanwhile.
    for (let i = 0; i < 3; i++) expect((await shown(rig.b, volume)).lock?.owner).toBe(owners.a);
    expect(over).toBe(false);
    await rig.a.vlmc('close', volume);
    const outcome = await waiting;
    expect(outcome.code, describeOutcome(outcome)).toBe(0);
    expect(await look()).toBeUndefined();
  });

  it('unlock -f takes it from its holder, who then says who has it', async () => {
    await rig.a.vlmc('open', volume);
    await rig.b.vlmc('unlock', '-f', volume);
    expect(await look()).toBeUndefined();
    await rig.b.vlmc('open', volume);
    refused(await rig.a.tryVlmc(['snapshot', volume, 'late-snapshot']), volume);
    expect(await look()).toBe(owners.b);
    await rig.a.vlmc('close', volume);
    expect(await look()).toBe(owners.b);
    refused(await rig.a.tryVlmc(['open', volume]), hosts.b);
    await rig.b.vlmc('close', volume);
    await rig.a.vlmc('open', volume);
    await rig.a.vlmc('close', volume);
    refused(await rig.b.tryVlmc(['unlock', '-f', volume]), 'locked');
  });

  it('is, after kill -9 of everything and a start, still open where that was asked for, and else free', async () => {
    const [kept, locked, used] = ['kept-volume', 'locked-volume', 'used-volume'];
    for (const name of [kept, locked, used]) await rig.a.create(name, 2 * BLOCK);
    await rig.a.vlmc('open', kept);
    await rig.a.vlmc('lock', locked);
    const client = await connectNbd(rig.a.uri(used));
    await client.write(BLOCK - 4096, Buffer.alloc(8192, 7));
    await client.flush();
    rig.a.kill();
    await client.closed;
    for (const name of [kept, locked, used]) expect(await look(name)).toBe(owners.a);
    refused(await rig.b.tryVlmc(['open', used]), hosts.a);

    await rig.a.archipelago('start');
    // The next node goes on by itself where nothing is open any more.
    const next = await connectNbd(rig.b.uri(used));
    await next.write(0, Buffer.alloc(4096, 8));
    expect(await look(used)).toBe(owners.b);
    expect((await next.read(BLOCK - 4096, 8192)).equals(Buffer.alloc(8192, 7))).toBe(true);
    await next.disconnect();
    for (const name of [kept, locked]) {
      refused(await rig.b.tryVlmc(['open', name]), hosts.a);
      expect(await look(name)).toBe(owners.a);
    }
    await rig.a.vlmc('close', kept);
    await rig.a.vlmc('unlock', locked);
    for (const name of [kept, locked]) {
      await rig.b.vlmc('open', name);
      await rig.b.vlmc('close', name);
    }
    await rig.a.vlmc('check', '--all');
  });
});

/** A command that failed as an administrator's should: status 255, and a reason that has `word`. */
function refused(outcome: Outcome, word: string): void {
  expect(outcome.code, describeOutcome(outcome)).toBe(255);
  expect(outcome.stderr, describeOutcome(outcome)).toContain(word);
}
