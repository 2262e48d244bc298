/** What each command of vlmc asks of whom, prints, and ends with. */
import { readFileSync } from 'node:fs';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { Flag, Op } from '../../../src/requests/ops.js';
import { decodeClone, decodeName, encodeName } from '../../../src/requests/structs.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { FakeNode } from './fake-node.js';

const done = { status: 0, err: '' };
const node = new FakeNode();

beforeEach(() => node.reset());
afterAll(() => node.close());

const refuse = (errno: number, message: string) => () => {
  throw new SystemError(errno, message);
};

describe('create', () => {
  it('asks the mapper for a blank volume and prints nothing', async () => {
    node.on('mapper', Op.CLONE, () => undefined);
    expect(await node.vlmc('create', 'volume1', '--size', '10G')).toEqual({ ...done, out: '' });
    const [request] = node.asked('mapper', Op.CLONE);
    expect(request).toMatchObject({ target: 'volume1', flags: 0, v0Size: -1 });
    expect(decodeClone(request.data)).toEqual({ parent: '', size: 10 * 2 ** 30 });
  });

  it('reads a plain number as MiB', async () => {
    node.on('mapper', Op.CLONE, () => undefined);
    await node.vlmc('create', 'volume1', '-s', '100');
    expect(decodeClone(node.asked('mapper', Op.CLONE)[0].data).size).toBe(100 << 20);
  });

  it('clones a snapshot, v0 options and all', async () => {
    node.on('mapper', Op.CLONE, () => undefined);
    const snap = 'a'.repeat(64);
    expect(await node.vlmc('create', 'volume1', '--snap', snap, '-v0', '--v0_size', '1000')).toMatchObject(done);
    const [request] = node.asked('mapper', Op.CLONE);
    expect(request).toMatchObject({ flags: Flag.ASSUMEV0, v0Size: 1000 });
    expect(decodeClone(request.data)).toEqual({ parent: snap, size: 0 });
  });

  it('wants a size or a snapshot', async () => {
    const { status, out, err } = await node.vlmc('create', 'volume1');
    expect({ status, out, err }).toEqual({
      status: 255,
      out: '',
      err: 'At least one of the size/snap args must be provided\n',
    });
  });

  it("says the peer's reason after the original's words", async () => {
    node.on('mapper', Op.CLONE, refuse(errnos.EEXIST, 'volume volume1 exists already'));
    const { status, err } = await node.vlmc('create', 'volume1', '-s', '1G');
    expect({ status, err }).toEqual({ status: 255, err: 'vlmc creation failed: volume volume1 exists already\n' });
  });

  it('asks nobody when the name or the size is wrong', async () => {
    for (const words of [
      ['short', '-s', '1'],
      ['archip_x', '-s', '1'],
      ['volume1', '-s', '0'],
      ['volume1', '-s', '1000B'],
    ]) {
      expect((await node.vlmc('create', ...words)).status).toBe(255);
    }
    expect(node.seen).toEqual([]);
  });
});

describe('snapshot, rename, remove, resize, upgrade, hash', () => {
  it('snapshot goes through the composer and prints the name', async () => {
    node.on('composer', Op.SNAPSHOT, () => undefined);
    expect(await node.vlmc('snapshot', 'volume1', 'snap-1')).toEqual({ ...done, out: 'Snapshot name: snap-1\n' });
    expect(decodeName(node.asked('composer', Op.SNAPSHOT)[0].data, 'test')).toBe('snap-1');
  });

  it('rename goes to the mapper and prints both names', async () => {
    node.on('mapper', Op.RENAME, () => undefined);
    expect(await node.vlmc('rename', 'volume1', 'volume2')).toEqual({ ...done, out: 'Renamed volume1 to volume2\n' });
    expect(decodeName(node.asked('mapper', Op.RENAME)[0].data, 'test')).toBe('volume2');
  });

  it.each(['remove', 'rm'])('%s goes through the composer and prints nothing', async (word) => {
    node.on('composer', Op.DELETE, () => undefined);
    expect(await node.vlmc(word, 'volume1')).toEqual({ ...done, out: '' });
    expect(node.asked('composer', Op.DELETE)[0].target).toBe('volume1');
  });

  it('remove and rename refuse a mapped volume', async () => {
    const uris = ['nbd+unix:///volume1?socket=/s', 'nbd://127.0.0.1/volume1'];
    const mapped = [{ id: 3, name: 'volume1', readOnly: false, uris, clients: 0, since: 0 }];
    node.on('endpoint', Op.SHOWMAPPED, () => ({ mapped, connections: [] }));
    expect(await node.vlmc('remove', 'volume1')).toEqual({
      status: 255,
      out: '',
      err: 'Volume volume1 mapped on device nbd+unix:///volume1?socket=/s\n',
    });
    const renamed = await node.vlmc('rename', 'volume1', 'volume2');
    expect(renamed.status).toBe(255);
    expect(renamed.err).toMatch(/^Cannot rename a mapped resource: volume1/);
    expect(node.asked('composer', Op.DELETE)).toEqual([]);
  });

  it('remove refuses a volume with clients that nobody mapped', async () => {
    const connections = [{ name: 'volume1', peer: '127.0.0.1:5', since: 0 }];
    node.on('endpoint', Op.SHOWMAPPED, () => ({ mapped: [], connections }));
    const { status, err } = await node.vlmc('remove', 'volume1');
    expect({ status, err }).toEqual({ status: 255, err: 'Volume volume1 in use by 127.0.0.1:5\n' });
  });

  it('resize passes the size and the permission to shrink, and tells the endpoint', async () => {
    node.on('mapper', Op.TRUNCATE, () => undefined);
    node.on('endpoint', Op.INFO, () => Buffer.alloc(8));
    const { status, out } = await node.vlmc('resize', 'volume1', '-s', '2G', '--force');
    expect({ status, out }).toEqual({ status: 0, out: 'Resized volume1 to 2147483648 bytes (2 GiB)\n' });
    expect(node.asked('mapper', Op.TRUNCATE)[0]).toMatchObject({ offset: 2 ** 31, flags: Flag.FORCE });
    expect(node.asked('endpoint', Op.INFO)[0].target).toBe('volume1');
  });

  it('resize does not mind that the volume is not mapped, and warns of other failures', async () => {
    node.on('mapper', Op.TRUNCATE, () => undefined);
    node.on('endpoint', Op.INFO, refuse(errnos.ENOENT, 'not mapped'));
    expect(await node.vlmc('resize', 'volume1', '-s', '2G')).toMatchObject(done);
    node.on('endpoint', Op.INFO, refuse(errnos.EIO, 'broken'));
    const { status, err } = await node.vlmc('resize', 'volume1', '-s', '2G');
    expect(status).toBe(0);
    expect(err).toMatch(/see the new size once they reconnect: broken/);
  });

  it('upgrade is UPDATE to the mapper', async () => {
    node.on('mapper', Op.UPDATE, () => undefined);
    expect(await node.vlmc('upgrade', 'volume1', '--assume-v0')).toMatchObject(done);
    expect(node.asked('mapper', Op.UPDATE)[0].flags).toBe(Flag.ASSUMEV0);
  });

  it('hash prints the hash', async () => {
    node.on('mapper', Op.HASH, () => encodeName('b'.repeat(64)));
    expect(await node.vlmc('hash', 'snap-1')).toEqual({ ...done, out: `Hash name: ${'b'.repeat(64)}\n` });
  });
});

describe('info and list', () => {
  const stat = {
    name: 'volume1',
    size: 10485760,
    blockSize: 4194304,
    version: 2,
    epoch: 3,
    readOnly: false,
    parent: 'snap-1',
    created: Date.UTC(2026, 10, 19, 3, 0, 5),
    blocks: { total: 3, zero: 1, own: 1, shared: 1, foreign: 0, damaged: 0 },
    allocated: { own: 4096, other: 8192, missing: 0 },
    lock: null,
  };

  it("info's first line is the original's", async () => {
    node.on('mapper', Op.STAT, () => stat);
    const { out, status } = await node.vlmc('info', 'volume1');
    expect(status).toBe(0);
    expect(out.split('\n')[0]).toBe('Volume volume1: size: 10485760');
    expect(out).toMatch(/epoch: +3\n/);
    expect(out).toMatch(/parent: +snap-1\n/);
    // After all that was there before.
    expect(out).toMatch(/\n {2}created: +2026-11-\d\d \d\d:\d\d:05[+-]\d\d:\d\d\n$/);
    expect(out).toMatch(/allocated: +4096 \(4 KiB\) own, 8192 \(8 KiB\) shared\n/);
    expect(out).not.toMatch(/damaged|missing/);
  });

  it('info tells damage', async () => {
    const blocks = { ...stat.blocks, damaged: 2 };
    node.on('mapper', Op.STAT, () => ({ ...stat, blocks, allocated: { own: 0, other: 0, missing: 1 } }));
    const { out } = await node.vlmc('info', 'volume1');
    expect(out).toMatch(/damaged: +2 blocks/);
    expect(out).toMatch(/missing objects: +1;/);
  });

  it('info tells how the volume is open here, and that its lock was lost', async () => {
    const lock = { owner: 'node2_1002', since: Date.now() - 7_200_000 };
    const lost = { holder: 'node2_1002', at: Date.UTC(2026, 10, 21) };
    node.on('mapper', Op.STAT, () => ({ ...stat, lock, open: 'shared', lost }));
    const { out } = await node.vlmc('info', 'volume1');
    expect(out).toMatch(/lock: +locked by node2_1002 since \S+ \(2 h\); open shared here\n/);
    expect(out).toMatch(/lost: +the lock was taken by node2_1002 at 2026-11-21T00:00:00.000Z/);
  });

  it('info --json gives all of it, and --no-allocated spares the blocker', async () => {
    node.on('mapper', Op.STAT, () => stat);
    expect(JSON.parse((await node.vlmc('--json', 'info', 'volume1', '--no-allocated')).out)).toEqual(stat);
    const { data, size } = node.asked('mapper', Op.STAT)[0];
    expect(JSON.parse(data.toString('utf8', 0, size))).toEqual({ allocated: false });
  });

  const entry = (name: string, readOnly = false) => ({ name, size: 1 << 30, blockSize: 4 << 20, readOnly, version: 2 });
  const created = Date.UTC(2026, 10, 19, 3, 0, 5);
  const pages = [
    { volumes: [entry('volume2'), entry('volume1')], cursor: 'a' },
    { volumes: [], cursor: 'b' },
    {
      volumes: [
        { ...entry('snap-1', true), created, parent: 'volume1' },
        { ...entry('broken1'), size: 0, error: 'the map is damaged' },
      ],
      cursor: null,
    },
  ];
  const page = ({ data, size }: { data: Buffer; size: number }) => {
    const { cursor } = JSON.parse(data.toString('utf8', 0, size));
    return pages[cursor === null ? 0 : cursor === 'a' ? 1 : 2];
  };

  it.each(['list', 'ls'])('%s prints one name a line, page by page', async (word) => {
    node.on('mapper', Op.LIST, page);
    expect(await node.vlmc(word)).toEqual({ ...done, out: 'volume2\nvolume1\nsnap-1\nbroken1\n' });
  });

  it('list --snapshots-of asks for the snapshots of one volume', async () => {
    node.on('mapper', Op.LIST, page);
    expect((await node.vlmc('list', '--snapshots-of', 'volume1')).status).toBe(0);
    const asked = node.asked('mapper', Op.LIST).map(({ data, size }) => JSON.parse(data.toString('utf8', 0, size)));
    expect(asked.map(({ snapshotsOf }) => snapshotsOf)).toEqual(['volume1', 'volume1', 'volume1']);
    expect((await node.vlmc('list', '--snapshots-of', 'vol')).status).toBe(255);
  });

  it('list --long has sizes and says what cannot be read', async () => {
    node.on('mapper', Op.LIST, page);
    const { out, err, status } = await node.vlmc('list', '-l');
    expect(status).toBe(0);
    expect(out.split('\n').map((line) => line.trim().split(/ {2,}/))).toEqual([
      ['NAME', 'SIZE', 'BLOCK', 'MAP', 'KIND', 'CREATED', 'PARENT'],
      ['broken1', '?', '?', '?', 'unreadable', '-', '-'],
      [
        'snap-1',
        '1073741824',
        '1 GiB',
        '4 MiB',
        'v2',
        'snapshot',
        expect.stringMatching(/^2026-11-\d\d \d\d:\d\d:05[+-]\d\d:\d\d$/),
        'volume1',
      ],
      ['volume1', '1073741824', '1 GiB', '4 MiB', 'v2', 'volume', '-', '-'],
      ['volume2', '1073741824', '1 GiB', '4 MiB', 'v2', 'volume', '-', '-'],
      [''],
    ]);
    expect(err).toBe('broken1: the map is damaged\n');
  });

  it('list --json tells who holds each volume', async () => {
    node.on('mapper', Op.LIST, page);
    node.on('maps', Op.LOCKINFO, ({ target }) => (target === 'volume1' ? { owner: 'node2_1002', since: null } : null));
    const { volumes } = JSON.parse((await node.vlmc('list', '--json')).out);
    expect(volumes.map((v: { lock: { host: string } | null }) => v.lock?.host ?? null)).toEqual([
      null,
      null,
      'node2',
      null,
    ]);
  });

  it('list --json is one document', async () => {
    node.on('mapper', Op.LIST, page);
    const names = JSON.parse((await node.vlmc('list', '--json')).out).volumes.map((v: { name: string }) => v.name);
    expect(names).toEqual(['broken1', 'snap-1', 'volume1', 'volume2']);
  });
});

describe('errors and exit statuses', () => {
  it('a wrong command line is status 2, on stderr', async () => {
    for (const words of [[], ['frobnicate'], ['create'], ['info', 'volume1', 'more'], ['resize', 'volume1']]) {
      const { status, out, err } = await node.vlmc(...words);
      expect({ words, status, out }).toEqual({ words, status: 2, out: '' });
      expect(err).not.toBe('');
    }
  });

  it('help is status 0, on stdout, with examples', async () => {
    const { status, out, err } = await node.vlmc('create', '--help');
    expect({ status, err }).toEqual({ status: 0, err: '' });
    expect(out).toMatch(/Examples:/);
  });

  it('--version is that of the package', async () => {
    const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8'));
    expect(await node.vlmc('--version')).toEqual({ status: 0, out: `${version}\n`, err: '' });
  });

  it('errors are red on a terminal only, and not with NO_COLOR', async () => {
    const words = ['create', 'volume1'] as const;
    const { err } = await node.vlmcWith({ tty: true }, ...words);
    expect(err).toBe('\x1b[31mAt least one of the size/snap args must be provided\x1b[0m\n');
    expect((await node.vlmcWith({ tty: true, env: { NO_COLOR: '1' } }, ...words)).err).toMatch(/^At least/);
  });

  it('a role that does not run is named', async () => {
    const bare = new FakeNode(['endpoint']);
    try {
      const { status, err } = await bare.vlmc('info', 'volume1');
      expect({ status, err }).toEqual({
        status: 255,
        err: 'vlmc info failed: mapperd is not running (port 1001); see archipelago status\n',
      });
    } finally {
      bare.close();
    }
  });

  it('a role that dies during the request is told from a refusal', async () => {
    const dying = new FakeNode(['mapper']);
    try {
      dying.on('mapper', Op.STAT, () => {
        dying.ports.get('mapper')?.close();
        return new Promise<undefined>(() => {});
      });
      const { status, err } = await dying.vlmc('info', 'volume1');
      expect(status).toBe(255);
      expect(err).toMatch(/^vlmc info failed: mapperd went away during the request/);
    } finally {
      dying.close();
    }
  });

  it('a node that does not run is told apart, and how to start it', async () => {
    const stopped = new FakeNode([]);
    stopped.stop();
    try {
      const { status, err } = await stopped.vlmc('list');
      expect(status).toBe(255);
      expect(err).toMatch(
        /^the node is not running: there is no segment archipelago-unit-cli-.*; start it with archipelago start\n$/,
      );
    } finally {
      stopped.close();
    }
  });

  it('a configuration that cannot be used is an expected error', async () => {
    const odd = new FakeNode([], 'SEGMENT_DYNPORTS = many\n');
    try {
      const { status, out, err } = await odd.vlmc('list');
      expect({ status, out }).toEqual({ status: 255, out: '' });
      expect(err).toMatch(/SEGMENT_DYNPORTS/);
    } finally {
      odd.close();
    }
  });

  it('answers that are not JSON are an error, not an exception', async () => {
    node.on('mapper', Op.STAT, () => Buffer.from('{'));
    const { status, err } = await node.vlmc('info', 'volume1');
    expect({ status, err }).toEqual({ status: 255, err: 'vlmc info failed: the answer of mapperd is not JSON\n' });
  });

  it('gives its port back whatever happens', async () => {
    await node.vlmc('info', 'volume1');
    await node.vlmc('list');
    expect(node.segment.portOwner(1024)).toBeNull();
  });

  it('completion covers every command and option', async () => {
    const { out, status } = await node.vlmc('completion', 'bash');
    expect(status).toBe(0);
    for (const word of [
      'create',
      'rm',
      'mapinfo',
      '--snap',
      '--v0_size',
      '--snapshots-of) COMPREPLY',
      '--endpoint) COMPREPLY=($(compgen -W "kernel nbd auto"',
      '--table) COMPREPLY=($(compgen -f',
      'unmap) COMPREPLY',
      'complete -F _vlmc_complete vlmc',
    ]) {
      expect(out).toContain(word);
    }
    expect((await node.vlmc('completion', 'tcsh')).status).toBe(2);
  });
});
