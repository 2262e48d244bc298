/**
 * The ExtStorage provider under Ganeti's own node code, in userspace access: disks over their whole life, with what qemu would be given as the
 * way to them; and the order of calls in which a guest moves between two nodes.
 */
import { randomUUID } from 'node:crypto';
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { connectNbd, type NbdClient } from '../../src/nbd/index.js';
import { qemuIo, qemuRead } from './harness/clients.js';
import { type Disk, GanetiNode, ganetiTree, PROVIDER, script } from './harness/ganeti.js';
import { Ledger, SECTOR } from './harness/ledger.js';
import { fill, Load, verifyAll } from './harness/load.js';
import { bin, type TestNode, useNode } from './harness/node.js';
import { hosts, owners, useNodes } from './harness/nodes.js';
import { programs } from './harness/requirements.js';
import { attempt, run } from './harness/run.js';

const MiB = 1 << 20;
const newDisk = (size = 64, more: Partial<Disk> = {}): Disk => ({
  id: `${randomUUID()}.ext.disk0`,
  size,
  uuid: randomUUID(),
  ...more,
});
const tool = (node: TestNode, ...args: string[]) =>
  attempt(process.execPath, [path.join(bin, 'ganeti.js'), '--config', node.conf, ...args]);

interface Listed {
  readonly disk: string;
  readonly volume: string | null;
  readonly instance: string | null;
  readonly name: string | null;
  readonly size: number | null;
  readonly lock: string | null;
}
const listed = async (node: TestNode, ...args: string[]): Promise<Listed[]> => {
  const { stdout } = await run(process.execPath, [
    path.join(bin, 'ganeti.js'),
    '--config',
    node.conf,
    'list',
    '--json',
    ...args,
  ]);
  return (JSON.parse(stdout) as { disks: Listed[] }).disks;
};

describe.runIf(programs('python3', 'qemu-io'))('a disk of Ganeti', () => {
  const rig = useNode();
  let ganeti: GanetiNode;
  beforeAll(async () => {
    ganeti = new GanetiNode(rig.node, await ganetiTree());
  });
  afterAll(() => ganeti?.end());
  const write = async (disk: Disk, pattern: number, offset = 0): Promise<void> => {
    await qemuIo(await ganeti.uri(disk), `write -P ${pattern} ${offset} 1M`, 'flush');
  };
  const reads = async (disk: Disk, pattern: number, offset = 0): Promise<void> => {
    await qemuRead(await ganeti.uri(disk), `read -P ${pattern} ${offset} 1M`);
  };
  const sizeOf = async (volume: string): Promise<number> => {
    const client = await connectNbd(rig.node.uri(volume));
    try {
      return Number(client.size);
    } finally {
      await client.disconnect();
    }
  };
  const holder = (volume: string): Promise<string | undefined> => rig.node.stores.maps.holder(volume);

  it('has a provider with three parameters and every optional script', async () => {
    expect(await ganeti.diagnose()).toEqual({
      parameters: ['origin', 'origin_size', 'reuse_data'],
      snapshot: true,
      open: true,
      close: true,
    });
  });

  it('lives: created, attached, opened, described, grown, exported, detached, removed', async () => {
    const disk = newDisk();
    const uri = `nbd:unix:${rig.node.socket}:exportname=${disk.id}`;
    await expect(ganeti.find(disk)).rejects.toThrow(`archipelago attach ${disk.id}: there is no volume ${disk.id}`);
    const made = await ganeti.create(disk);
    expect(made).toEqual({ attached: true, path: null, uris: [`kvm:${uri}`, ''] });
    // Twice is once: Ganeti attaches before nearly every step.
    expect(await ganeti.find(disk)).toEqual(made);
    expect(await ganeti.uri(disk)).toBe(uri);
    await expect(ganeti.create(disk)).rejects.toThrow(`there is a volume ${disk.id} already`);

    await ganeti.setinfo(disk, 'originstname+web 1.example.com');
    await ganeti.open(disk);
    await ganeti.open(disk);
    expect(await holder(disk.id)).toBeDefined();
    await write(disk, 7);
    await reads(disk, 7);
    await ganeti.close(disk);
    await ganeti.close(disk);
    expect(await holder(disk.id)).toBeUndefined();
    await ganeti.open(disk);

    await ganeti.grow(disk, 32, true);
    expect(await sizeOf(disk.id)).toBe(64 * MiB);
    const connected = await connectNbd(rig.node.uri(disk.id));
    await ganeti.grow(disk, 32);
    expect(await sizeOf(disk.id)).toBe(96 * MiB);
    // The same call again, as after a crash of the node daemon: it is that large already.
    await ganeti.grow(disk, 32);
    await connected.disconnect();
    const grown = { ...disk, size: 96 };

    const snapshot = await ganeti.snapshot(grown);
    expect(snapshot.id).toBe(`${disk.id}.snap`);
    await expect(ganeti.snapshot(grown)).rejects.toThrow(
      `there is a snapshot ${snapshot.id} already; if no export of the instance runs, an interrupted one left it`,
    );
    await write(grown, 9);
    await ganeti.find(snapshot);
    await ganeti.open(snapshot);
    await reads(snapshot, 7);
    await reads(grown, 9);
    await ganeti.shutdown(snapshot);
    await ganeti.remove(snapshot);
    await expect(ganeti.find(snapshot)).rejects.toThrow('there is no volume');

    expect(await listed(rig.node)).toMatchObject([
      { disk: disk.id, volume: disk.id, size: 96 * MiB, instance: 'web_1.example.com', name: null },
    ]);
    // Ganeti does not close what it detaches.
    await ganeti.shutdown(grown);
    expect(await holder(disk.id)).toBeUndefined();
    expect(await rig.node.vlmcJson('showmapped')).toMatchObject({ mapped: [] });
    const again = await script(rig.node, 'detach', { VOL_NAME: disk.id });
    expect([again.code, again.stderr]).toEqual([0, '']);
    await reads(grown, 9);
    await ganeti.remove(grown);
    await expect(ganeti.find(disk)).rejects.toThrow('there is no volume');
    for (const action of ['detach', 'close']) {
      expect((await script(rig.node, action, { VOL_NAME: disk.id })).code).toBe(0);
    }
    const gone = await script(rig.node, 'remove', { VOL_NAME: disk.id });
    expect([gone.code, gone.stderr]).toEqual([0, `there is no volume ${disk.id}: nothing to remove\n`]);
    expect(await listed(rig.node)).toEqual([]);
  });

  it('is a clone where it has an origin', async () => {
    await rig.node.create('image-source', '16M');
    await qemuIo(rig.node.uri('image-source'), 'write -P 5 0 1M', 'flush');
    await rig.node.vlmc('snapshot', 'image-source', 'debian-image');
    const clone = newDisk(32, { params: { origin: 'debian-image', origin_size: null, reuse_data: '' } });
    await ganeti.create(clone);
    expect(await sizeOf(clone.id)).toBe(32 * MiB);
    await reads(clone, 5);
    await reads(clone, 0, 16 * MiB);
    // Of later calls the origin is not asked for.
    await rig.node.vlmc('remove', 'debian-image');
    await ganeti.find(clone);
    await ganeti.remove(clone);

    const blank = newDisk(16, { params: { origin: 'None' } });
    await ganeti.create(blank);
    await reads(blank, 0);
    await ganeti.remove(blank);
  });

  it.each<[Record<string, string>, RegExp]>([
    [{ origin: 'no-such-image' }, /no-such-image/],
    [{ origin: 'written-to' }, /written-to is not a snapshot; take one with vlmc snapshot written-to NAME/],
    [{ origin: 'large-image' }, /are less than the \d+ of its parent large-image/],
    [{ orgin: 'debian-image' }, /no such parameter: orgin; there are origin, origin_size, reuse_data/],
    [{ access: 'floppy' }, /access is "floppy": this provider knows kernelspace and userspace/],
  ])('is not made of %j', async (params, message) => {
    if (params.origin === 'written-to') await rig.node.create('written-to', '1M');
    if (params.origin === 'large-image') {
      await rig.node.create('large-source', '1G');
      await rig.node.vlmc('snapshot', 'large-source', 'large-image');
    }
    const disk = newDisk(16, { params });
    await expect(ganeti.create(disk)).rejects.toThrow(message);
    await expect(ganeti.find({ ...disk, params: {} })).rejects.toThrow('there is no volume');
  });

  it('is a clone of a file of Pithos where the origin has its size', async () => {
    const map = 'a1'.repeat(32);
    const block = 'b2'.repeat(32);
    await rig.node.stores.blocks.write(block, Buffer.alloc(4 * MiB, 6));
    await rig.node.stores.maps.write(map, Buffer.from(block, 'hex'));
    const ways: Record<string, string>[] = [{ origin: map, origin_size: String(3 * MiB) }, { origin: map }];
    for (const params of ways) {
      const disk = newDisk(8, { params });
      await ganeti.create(disk);
      await reads(disk, 6);
      await reads(disk, params.origin_size === undefined ? 6 : 0, 3 * MiB);
      await ganeti.remove(disk);
    }
  });

  it('is a volume that was there before, with reuse_data, and leaves it there', async () => {
    await rig.node.create('web-data', '16M');
    await qemuIo(rig.node.uri('web-data'), 'write -P 3 0 1M', 'flush');
    const reusing = (more: Partial<Disk>): Disk => newDisk(16, { params: { reuse_data: 'True' }, ...more });
    await expect(ganeti.create(reusing({}))).rejects.toThrow('the disk has none: add name=VOLUME');
    await expect(ganeti.create(reusing({ name: 'web-lost' }))).rejects.toThrow('there is no volume web-lost');
    await expect(ganeti.create(reusing({ name: 'web-data', size: 20 }))).rejects.toThrow(
      'volume web-data has 16 MiB and not 20: say size=16M',
    );

    const disk = reusing({ name: 'web-data' });
    const made = await ganeti.create(disk);
    expect(made.uris[0]).toBe(`kvm:nbd:unix:${rig.node.socket}:exportname=web-data`);
    await reads(disk, 3);
    // People may call the disk something else later; it is the same.
    const renamed = { ...disk, name: 'renamed' };
    expect(await ganeti.find(renamed)).toEqual(made);
    await ganeti.setinfo(renamed, 'originstname+web');
    await ganeti.grow(renamed, 4);
    expect(await sizeOf('web-data')).toBe(20 * MiB);
    expect(await listed(rig.node)).toMatchObject([
      { disk: disk.id, volume: 'web-data', instance: 'web', name: 'renamed' },
    ]);
    // An export of it, whose snapshot is a volume of its own.
    const snapshot = await ganeti.snapshot({ ...disk, size: 20 });
    await write(disk, 4);
    await reads(snapshot, 3);
    await ganeti.remove(snapshot);
    await expect(ganeti.find(snapshot)).rejects.toThrow('there is no volume');

    const log = await script(rig.node, 'remove', { VOL_NAME: disk.id, EXTP_REUSE_DATA: 'True', VOL_CNAME: 'web-data' });
    expect([log.code, log.stderr]).toEqual([
      0,
      `volume web-data stays, since disk ${disk.id} was made with reuse_data; vlmc remove web-data removes it\n`,
    ]);
    expect(await listed(rig.node)).toEqual([]);
    await qemuIo(rig.node.uri('web-data'), 'read -P 4 0 1M');
    // Without the record nothing of that name is removed either.
    expect(
      (await script(rig.node, 'remove', { VOL_NAME: disk.id, EXTP_REUSE_DATA: 'True', VOL_CNAME: 'web-data' })).code,
    ).toBe(0);
    await qemuIo(rig.node.uri('web-data'), 'read -P 4 0 1M');
  });

  it('is not detached or removed while somebody uses it, and is as soon as they have gone', async () => {
    const disk = newDisk();
    await ganeti.create(disk);
    const guest = await connectNbd(rig.node.uri(disk.id));
    const refused = await script(rig.node, 'remove', { VOL_NAME: disk.id });
    expect(refused.code).toBe(1);
    expect(refused.stderr).toBe(
      `archipelago remove ${disk.id}: Volume ${disk.id} is in use by 1 connection; disconnect them or use -f\n`,
    );
    const ending = ganeti.remove(disk);
    await guest.disconnect();
    await ending;
  });

  it('that Ganeti lost is found, with its instance, and can be removed', async () => {
    const [known, leaked, reused] = [
      newDisk(),
      newDisk(),
      newDisk(16, { params: { reuse_data: 'True' }, name: 'kept-data' }),
    ];
    await rig.node.create('kept-data', '16M');
    for (const disk of [known, leaked, reused]) await ganeti.create(disk);
    await ganeti.setinfo(leaked, 'originstname+old.example.com');
    const configuration = path.join(rig.node.dir, 'config.data');
    const entry = { dev_type: 'ext', logical_id: ['archipelago', known.id] };
    writeFileSync(configuration, JSON.stringify({ disks: { x: entry } }));
    expect((await listed(rig.node)).map(({ disk }) => disk).sort()).toEqual([known.id, leaked.id, reused.id].sort());
    const lost = await listed(rig.node, '--leaked', configuration);
    expect(lost.find(({ disk }) => disk === leaked.id)).toMatchObject({ instance: 'old.example.com' });
    expect(lost.map(({ disk }) => disk).sort()).toEqual([leaked.id, reused.id].sort());
    const table = await tool(rig.node, 'list', '--leaked', configuration);
    expect(table.stdout).toContain('old.example.com');
    // One that was removed by vlmc leaves its note.
    await rig.node.vlmc('unmap', leaked.id);
    await rig.node.vlmc('remove', leaked.id);
    expect((await tool(rig.node, 'list')).stdout).toMatch(
      new RegExp(`^${leaked.id} .* old\\.example\\.com .* gone$`, 'm'),
    );
    for (const disk of [leaked, reused, known]) expect((await tool(rig.node, 'remove', disk.id)).code).toBe(0);
    expect(await rig.node.vlmc('list')).toContain('kept-data\n');
    expect(await listed(rig.node)).toEqual([]);
    expect((await tool(rig.node, 'list')).stdout).toBe('');
  });

  it('is said to be all right by verify, or why not', async () => {
    const fine = await script(rig.node, 'verify', { EXTP_ORIGIN: 'large-image' });
    expect([fine.code, fine.stderr]).toEqual([0, '']);
    expect(fine.stdout).toContain(`listens on ${rig.node.socket}`);
    expect(fine.stdout).toContain(`origin large-image has ${2 ** 30} bytes\n`);
    const bad = await script(rig.node, 'verify', { EXTP_ORIGIN: 'no-such-image' });
    expect([bad.code, bad.stderr]).toEqual([
      1,
      'archipelago verify: origin: there is no snapshot or image no-such-image\n',
    ]);
    const unknown = await script(rig.node, 'verify', { EXTP_COLOUR: 'red' });
    expect(unknown.stderr).toContain('no such parameter: colour');
  });

  it('is served by a copy of the provider too, which finds the program in PATH', async () => {
    const copy = path.join(rig.node.dir, 'extstorage', 'archipelago');
    const programsDirectory = path.join(rig.node.dir, 'bin');
    cpSync(PROVIDER, copy, { recursive: true });
    mkdirSync(programsDirectory);
    const disk = newDisk(1);
    const env = { VOL_NAME: disk.id, VOL_SIZE: '1' };
    const lost = await script(rig.node, 'create', env, copy);
    expect(lost.code).toBe(1);
    expect(lost.stderr).toContain('archipelago-ganeti is not in PATH: link');
    symlinkSync(path.join(bin, 'ganeti.js'), path.join(programsDirectory, 'archipelago-ganeti'));
    const PATH = `${process.env.PATH}:${programsDirectory}`;
    expect((await script(rig.node, 'create', { ...env, PATH }, copy)).code).toBe(0);
    expect((await script(rig.node, 'remove', { ...env, PATH }, copy)).code).toBe(0);
  });

  it('is attached again while the endpoint is being started again', async () => {
    const disk = newDisk();
    await ganeti.create(disk);
    process.kill(rig.node.rolePid('nbd'), 'SIGKILL');
    expect((await ganeti.find(disk)).attached).toBe(true);
    process.kill(rig.node.rolePid('mapperd'), 'SIGKILL');
    expect((await ganeti.find(disk)).attached).toBe(true);
    await ganeti.remove(disk);
  });

  it('is attached, when it is attached, in less time than Ganeti would notice', async () => {
    const disk = newDisk();
    await ganeti.create(disk);
    const times = { attach: [] as number[], node: [] as number[] };
    const env = { VOL_NAME: disk.id };
    for (let i = 0; i < 20; i++) {
      const began = performance.now();
      expect((await script(rig.node, 'attach', env)).code).toBe(0);
      const between = performance.now();
      await run(process.execPath, ['-e', '0']);
      times.attach.push(between - began);
      times.node.push(performance.now() - between);
    }
    const median = (values: number[]): number => values.toSorted((a, b) => a - b)[10];
    const [attach, bare] = [median(times.attach), median(times.node)];
    console.log(
      `attach of an attached disk: ${attach.toFixed(0)} ms; Node.js alone starts in ${bare.toFixed(0)} ms (medians of 20)`,
    );
    // 200 ms are for a machine that does nothing else, where Node.js starts in 40.
    expect(attach).toBeLessThan(200 * Math.max(1, bare / 40));
    await ganeti.remove(disk);
  });

  it('needs a node that runs', async () => {
    const disk = newDisk();
    await ganeti.create(disk);
    await rig.node.archipelago('stop', '-f');
    try {
      for (const action of ['attach', 'detach', 'remove', 'close']) {
        const { code, stderr } = await script(rig.node, action, { VOL_NAME: disk.id });
        expect(code).toBe(1);
        expect(stderr).toBe(
          `archipelago ${action} ${disk.id}: the node is not running: nobody listens on ${path.join(rig.node.dir, 'run/bridge.sock')}; start it with archipelago start\n`,
        );
      }
    } finally {
      await rig.node.archipelago('start');
    }
    await ganeti.remove(disk);
  });
});

describe.runIf(programs('python3'))('a disk of Ganeti on two nodes', () => {
  const rig = useNodes();
  let a: GanetiNode;
  let b: GanetiNode;
  beforeAll(async () => {
    const tree = await ganetiTree();
    a = new GanetiNode(rig.a, tree);
    b = new GanetiNode(rig.b, tree);
  });
  afterAll(() => Promise.all([a?.end(), b?.end()]));
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
  const mix = { write: 50, zero: 4, trim: 4, flush: 1, fua: 1, read: 40 };

  it('moves with its running guest there and back, and no byte is wrong', async () => {
    const disk = newDisk(16);
    const ledger = new Ledger(16 * MiB, 1);
    await a.create(disk);
    await a.open(disk);
    const [filler] = await connect(rig.a, disk.id);
    await fill(filler, ledger);
    await filler.disconnect();
    const sides = [
      { node: rig.a, ganeti: a, owner: owners.a },
      { node: rig.b, ganeti: b, owner: owners.b },
    ];
    for (let move = 0; move < 2; move++) {
      const [from, to] = move % 2 === 0 ? sides : sides.toReversed();
      const old = await connect(from.node, disk.id, 2);
      const load = new Load(old, ledger, { depth: 6, mix, seed: move + 1 }).start();
      await load.reached(150);
      // As Ganeti calls (observed): the target attaches and closes, both open shared, the guest moves, the source closes late.
      await to.ganeti.find(disk);
      await to.ganeti.close(disk);
      expect(await look(disk.id)).toBe(from.owner);
      await from.ganeti.find(disk);
      await from.ganeti.open(disk, false);
      await to.ganeti.open(disk, false);
      const next = await connect(to.node, disk.id, 2);
      await load.reached(150);
      await load.stop();
      const onward = new Load(next, ledger, { depth: 6, mix, seed: move + 11 }).start();
      await onward.reached(150);
      expect(await look(disk.id)).toBe(to.owner);
      for (const client of old) await client.disconnect();
      await from.ganeti.close(disk);
      expect(await look(disk.id)).toBe(to.owner);
      await to.ganeti.open(disk);
      await from.ganeti.shutdown(disk);
      await onward.reached(150);
      await onward.stop();
      await verifyAll(next[0], ledger);
      for (const client of next) await client.disconnect();
    }
    expect(await rig.b.vlmcJson('showmapped')).toMatchObject({ mapped: [] });
    await a.setinfo(disk, 'originstname+moving');
    expect(await listed(rig.b)).toMatchObject([{ disk: disk.id, instance: 'moving', lock: owners.a }]);
    await a.remove(disk);
    expect(await look(disk.id)).toBeUndefined();
  });

  it('stays with its node until that gives it up, or somebody says that it is down', async () => {
    const disk = newDisk(8);
    await a.create(disk);
    await a.open(disk);
    const [client] = await connect(rig.a, disk.id);
    await client.write(0, Buffer.alloc(SECTOR, 8));
    await client.flush();
    await b.find(disk);
    await expect(b.open(disk)).rejects.toThrow(new RegExp(`${hosts.a}.*`));
    expect(await look(disk.id)).toBe(owners.a);
    // A failover that Ganeti makes of a node that is down: what has the lock must be said to be dead.
    rig.a.kill();
    await expect(b.open(disk)).rejects.toThrow(`vlmc unlock -f ${disk.id}`);
    await rig.b.vlmc('unlock', '-f', disk.id);
    await b.open(disk);
    const [next] = await connect(rig.b, disk.id);
    expect((await next.read(0, SECTOR)).every((byte) => byte === 8)).toBe(true);
    await next.write(0, Buffer.alloc(SECTOR, 9));
    await next.disconnect();
    await rig.a.archipelago('start');
    // The old primary comes back: its detach ends what it had, and takes nothing.
    await a.shutdown(disk);
    expect(await look(disk.id)).toBe(owners.b);
    await b.remove(disk);
  });

  it('that one node removed is not attached on the other, also where it was', async () => {
    const disk = newDisk(8);
    await a.create(disk);
    await b.find(disk);
    await a.remove(disk);
    await expect(b.find(disk)).rejects.toThrow('there is no volume');
    expect((await script(rig.b, 'detach', { VOL_NAME: disk.id })).code).toBe(0);
    expect(await rig.b.vlmcJson('showmapped')).toMatchObject({ mapped: [] });
  });
});
