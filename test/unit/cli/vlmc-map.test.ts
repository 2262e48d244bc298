/** map, unmap and showmapped: what is asked of the endpoint and of the kernel's devices, in which order, and each line that is printed. */
import { afterAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { NodeClient } from '../../../src/cli/common/client.js';
import { Op } from '../../../src/requests/ops.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { DEVICE_SIZE } from './fake-devices.js';
import { FakeNode, type Seen } from './fake-node.js';

const done = { status: 0, err: '' };
const node = new FakeNode();
const uris = ['nbd://127.0.0.1:10809/volume1', 'nbd+unix:///volume1?socket=/run/a%20b/nbd.sock'];
const uri = uris[1];

beforeEach(() => node.reset());
afterAll(() => node.close());

const bodyOf = ({ data, size }: Seen): unknown => JSON.parse(data.toString('utf8', 0, size));
const refuse = (errno: number, message: string) => () => {
  throw new SystemError(errno, message);
};
const mapping = (name: string, id = 0, clients = 0) => ({ id, name, readOnly: false, uris, clients, since: 5 });
/** An endpoint that has these mapped, and takes whatever comes. */
function serve(...mapped: object[]): void {
  node.on('endpoint', Op.SHOWMAPPED, () => ({ mapped, connections: [] }));
  node.on('endpoint', Op.MAP, ({ target }) => ({ name: target, uris }));
  node.on('endpoint', Op.UNMAP, () => ({ name: 'volume1' }));
}
const asked = (op: Op): unknown[] => node.asked('endpoint', op).map(bodyOf);

describe('map to an export', () => {
  it('prints the unix URI alone', async () => {
    serve();
    expect(await node.vlmc('map', 'volume1', '-ro')).toEqual({ ...done, out: `${uri}\n` });
    expect(asked(Op.MAP)).toEqual([
      { name: 'volume1', readOnly: true, assumeV0: false, v0Size: -1, writeThrough: false, ownSocket: false },
    ]);
    await node.vlmc('map', 'volume1', '--writethrough', '--socket');
    expect(asked(Op.MAP)[1]).toMatchObject({ writeThrough: true, ownSocket: true });
    expect(node.devices.asked).toEqual([]);
  });

  it.each(['-ro', '--readonly', '--read-only'])('%s asks for a read-only export', async (option) => {
    serve();
    await node.vlmc('map', option, 'volume1');
    expect(asked(Op.MAP)).toMatchObject([{ readOnly: true }]);
  });

  it('with --json also says that there is no device', async () => {
    serve();
    const { out } = await node.vlmc('map', 'volume1', '--json', '--endpoint', 'nbd');
    expect(JSON.parse(out)).toEqual({ name: 'volume1', device: null, uris });
  });
});

describe('map to a device', () => {
  it('prints the path of the device alone, and connects it to the unix socket', async () => {
    serve();
    expect(await node.vlmc('map', 'volume1', '--endpoint', 'kernel')).toEqual({ ...done, out: '/dev/nbd0\n' });
    expect(node.devices.asked).toEqual([['attach', { volume: 'volume1', readOnly: false, connections: 1 }], ['keep']]);
    expect(node.devices.endpoint).toEqual({ path: '/run/a b/nbd.sock' });
    const { out } = await node.vlmc('map', 'volume1', '--endpoint', 'kernel', '--json');
    expect(JSON.parse(out)).toEqual({ name: 'volume1', device: '/dev/nbd0', uris });
  });

  it('passes connections and read-only on; --connections alone means a device', async () => {
    serve();
    expect((await node.vlmc('map', 'volume1', '-ro', '--connections', '8')).out).toBe('/dev/nbd0\n');
    expect(node.devices.asked).toMatchObject([['attach', { readOnly: true, connections: 8 }], ['keep']]);
  });

  it('takes the defaults of the configuration', async () => {
    const other = new FakeNode(undefined, '[nbd]\nmap_endpoint = kernel\ndevice_connections = 3\n');
    try {
      other.on('endpoint', Op.MAP, () => ({ uris }));
      expect((await other.vlmc('map', 'volume1')).out).toBe('/dev/nbd0\n');
      expect(other.devices.asked).toMatchObject([['attach', { connections: 3 }], ['keep']]);
      expect((await other.vlmc('map', 'volume1', '--endpoint', 'nbd')).out).toBe(`${uri}\n`);
    } finally {
      other.close();
    }
  });

  it('by TCP where there is no unix socket, by its own socket where the other wants TLS', async () => {
    serve();
    node.on('endpoint', Op.MAP, () => ({ uris: ['nbd://[::1]:10810/volume1'] }));
    await node.vlmc('map', 'volume1', '--endpoint', 'kernel');
    expect(node.devices.endpoint).toEqual({ host: '::1', port: 10810 });
    const secret = 'nbds+unix:///volume2?socket=/s';
    node.on('endpoint', Op.MAP, () => ({ uris: ['nbd+unix:///?socket=/own', secret] }));
    await node.vlmc('map', 'volume2', '--endpoint', 'kernel', '--socket');
    expect(node.devices.endpoint).toEqual({ path: '/own' });
    node.on('endpoint', Op.MAP, () => ({ uris: [secret] }));
    const { status, err } = await node.vlmc('map', 'volume3', '--endpoint', 'kernel');
    expect({ status, err }).toEqual({
      status: 255,
      err: 'the endpoint wants TLS, which a device of the kernel does not speak here; map it with --socket (a unix socket of its own, without TLS)\n',
    });
  });

  it('needs a role that serves it, and an endpoint that listens', async () => {
    serve();
    node.on('endpoint', Op.MAP, () => ({ uris: [] }));
    for (const endpoint of ['kernel', 'nbd']) {
      expect(await node.vlmc('map', 'volume1', '--endpoint', endpoint)).toEqual({
        status: 255,
        out: '',
        err: 'the endpoint listens nowhere: set socket or listen in [nbd]\n',
      });
    }
    const other = new FakeNode(undefined, '[PEERS]\nROLES = blockerb blockerm mapperd vlmcd\n');
    try {
      expect(await other.vlmc('map', 'volume1')).toEqual({
        status: 255,
        out: '',
        err: 'the configuration has no role of type nbd: add one to ROLES in [PEERS]\n',
      });
      expect(await other.vlmc('showmapped')).toEqual({ ...done, out: 'No volumes mapped\n\n' });
    } finally {
      other.close();
    }
  });

  it('a device that does not come about leaves no mapping that was not there before', async () => {
    serve();
    node.devices.refuse('attach', errnos.EPERM, 'devices are attached by root');
    expect(await node.vlmc('map', 'volume1', '--endpoint', 'kernel')).toEqual({
      status: 255,
      out: '',
      err: 'vlmc map failed: devices are attached by root\n',
    });
    expect(asked(Op.UNMAP)).toEqual([{ name: 'volume1', force: false }]);
    node.reset();
    serve(mapping('volume1'));
    node.devices.refuse('attach', errnos.EEXIST, 'volume1 is /dev/nbd4 with other options');
    expect((await node.vlmc('map', 'volume1', '--endpoint', 'kernel')).status).toBe(255);
    expect(asked(Op.UNMAP)).toEqual([]);
  });

  it('without a keeper is a device all the same, with a word about it', async () => {
    serve();
    node.devices.refuse('keep', errnos.ECHILD, 'the keeper of devices did not start');
    expect(await node.vlmc('map', 'volume1', '--endpoint', 'kernel')).toEqual({
      status: 0,
      out: '/dev/nbd0\n',
      err: '/dev/nbd0 will not be connected again after a restart of the node: the keeper of devices did not start\n',
    });
  });

  it('auto is a device where that is possible, and else an export, saying why', async () => {
    serve();
    expect((await node.vlmc('map', 'volume1', '--endpoint', 'auto')).out).toBe('/dev/nbd0\n');
    node.devices.refuse('attach', errnos.EPERM, 'devices are attached by root', 'volume2');
    expect(await node.vlmc('map', 'volume2', '--endpoint', 'auto')).toEqual({
      status: 0,
      out: `${uri}\n`,
      err: 'volume2 is an export and no device: devices are attached by root\n',
    });
    expect(asked(Op.UNMAP)).toEqual([]);
    // What is the matter with this very volume is an error all the same.
    node.devices.refuse('attach', errnos.EIO, 'the export cannot be read', 'volume3');
    expect((await node.vlmc('map', 'volume3', '--endpoint', 'auto')).status).toBe(255);
  });

  it('wants one volume, or a table, and options that belong together', async () => {
    for (const [words, message] of [
      [['map'], /name a volume, or give --table/],
      [['unmap'], /name a volume, or give --table/],
      [['map', 'volume1', '--endpoint', 'disk'], /Allowed choices are kernel, nbd, auto/],
      [['map', 'volume1', '--connections', '17'], /from 1 to 16/],
      [['map', 'volume1', '--connections', '0'], /from 1 to 16/],
      [['map', 'volume1', '--endpoint', 'nbd', '--connections', '2'], /of a device: say --endpoint kernel/],
      [['map', 'volume1', '--table=/t'], /a volume or --table, not both/],
      [['map', '--table=/t', '-ro'], /--readonly does not go with --table/],
      [['map', 'volume1', '--wait', 'long'], /It is a number of seconds/],
    ] as const) {
      const { status, err } = await node.vlmc(...words);
      expect(status, words.join(' ')).toBe(2);
      expect(err).toMatch(message);
    }
    expect(node.seen).toEqual([]);
  });

  it('waits for a node that is being started, and not for ever', async () => {
    const later = new FakeNode(['mapper']);
    const connect = vi.spyOn(NodeClient, 'connect');
    try {
      const outcome = later.vlmc('map', 'volume1', '--wait', '60');
      // It has come once in vain.
      await expect.poll(() => connect.mock.calls.length).toBeGreaterThan(1);
      const port = later.segment.bind(1023, { name: 'endpoint' });
      port.serve((request) => {
        const reply = Buffer.from(request.op === Op.MAP ? JSON.stringify({ uris }) : '');
        request.data.set(reply);
        request.succeed(reply.length);
      });
      expect(await outcome).toEqual({ ...done, out: `${uri}\n` });
      port.close();
      const { status, err } = await later.vlmc('map', 'volume1', '--wait', '0.3');
      expect(status).toBe(255);
      expect(err).toMatch(/^waited 0\.3 s: nbd is not running/);
    } finally {
      connect.mockRestore();
      later.close();
    }
  });
});

describe('unmap', () => {
  it('of an export takes the name or the URI', async () => {
    serve();
    expect(await node.vlmc('unmap', 'volume1')).toEqual({ ...done, out: '' });
    expect(await node.vlmc('unmap', '-f', uri)).toEqual({ ...done, out: '' });
    expect(asked(Op.UNMAP)).toEqual([
      { name: 'volume1', force: false },
      { uri, force: true },
    ]);
  });

  it.each(['/dev/nbd0', 'volume1', uri])('of %s detaches the device, then ends the export', async (what) => {
    serve(mapping('volume1', 0, 1));
    node.devices.add('volume1');
    let left = -1;
    node.on('endpoint', Op.UNMAP, () => {
      left = node.devices.devices.length;
      return { name: 'volume1' };
    });
    const { out, ...how } = await node.vlmc('unmap', what, '--json');
    expect(how).toEqual(done);
    expect(JSON.parse(out)).toEqual({ name: 'volume1', device: '/dev/nbd0' });
    expect(left).toBe(0);
    expect(node.devices.asked).toEqual([['detach', '/dev/nbd0', { force: false }]]);
    expect(asked(Op.UNMAP)).toEqual([{ name: 'volume1', force: false }]);
  });

  it('asks again while the endpoint still sees the connections of the kernel', async () => {
    serve(mapping('volume1', 0, 1));
    node.devices.add('volume1');
    let times = 0;
    node.on('endpoint', Op.UNMAP, () => {
      if (++times < 3) throw new SystemError(errnos.EBUSY, 'Volume volume1 is in use by 1 connection');
      return { name: 'volume1' };
    });
    expect(await node.vlmc('unmap', 'volume1')).toEqual({ ...done, out: '' });
    expect(times).toBe(3);
  });

  it('tells when it goes on seeing them, or others that came', async () => {
    serve(mapping('volume1', 0, 2));
    node.devices.add('volume1');
    expect((await node.vlmc('unmap', 'volume1')).err).toBe(
      'Volume volume1 is in use by 1 connection besides /dev/nbd0; disconnect them or use -f\n',
    );
    serve(mapping('volume1', 0, 1));
    node.on('endpoint', Op.UNMAP, refuse(errnos.EBUSY, 'Volume volume1 is in use by 1 connection'));
    expect(await node.vlmc('unmap', 'volume1')).toEqual({
      status: 255,
      out: '',
      err: 'vlmc unmap failed: /dev/nbd0 is detached, but volume1 stays mapped: Volume volume1 is in use by 1 connection\n',
    });
    expect(node.devices.devices).toEqual([]);
  });

  it('tells what could not be done for the device', async () => {
    serve(mapping('volume1', 0, 1));
    const trouble = 'what was written to /dev/nbd0 (volume1) could not be flushed: EIO';
    node.devices.add('volume1', { trouble });
    expect(await node.vlmc('unmap', '-f', 'volume1')).toEqual({
      status: 0,
      out: '',
      err: `/dev/nbd0 (volume1): ${trouble}\n`,
    });
  });

  it('of a device in use changes nothing and names who uses it', async () => {
    serve(mapping('volume1', 0, 1));
    node.devices.add('volume1');
    node.devices.refuse('detach', errnos.EBUSY, '/dev/nbd0 is mounted on /mnt');
    for (const force of [[], ['-f']]) {
      expect(await node.vlmc('unmap', 'volume1', ...force)).toEqual({
        status: 255,
        out: '',
        err: 'vlmc unmap failed: /dev/nbd0 is mounted on /mnt\n',
      });
    }
    expect(asked(Op.UNMAP)).toEqual([]);
    expect(node.devices.devices).toHaveLength(1);
  });

  it('looks for other clients before it detaches the device', async () => {
    serve(mapping('volume1', 0, 3));
    node.devices.add('volume1');
    expect(await node.vlmc('unmap', 'volume1')).toEqual({
      status: 255,
      out: '',
      err: 'Volume volume1 is in use by 2 connections besides /dev/nbd0; disconnect them or use -f\n',
    });
    expect(node.devices.asked).toEqual([]);
    expect(await node.vlmc('unmap', '-f', 'volume1')).toEqual({ ...done, out: '' });
    expect(node.devices.asked).toEqual([['detach', '/dev/nbd0', { force: true }]]);
  });

  it('of a device by force does not wait for a node that hangs', async () => {
    let answer = (): void => {};
    node.on('endpoint', Op.SHOWMAPPED, () => new Promise((resolve) => (answer = () => resolve(null))));
    node.devices.add('volume1');
    expect(await node.vlmc('unmap', '-f', 'volume1')).toEqual({
      status: 0,
      out: '',
      err: '/dev/nbd0 is detached, but the endpoint has not answered for 5 s; volume1 stays mapped without a device: vlmc unmap volume1 once it runs\n',
    });
    expect(node.devices.asked).toEqual([['detach', '/dev/nbd0', { force: true }]]);
    expect((await node.vlmc('unmap', '-f', 'volume1')).err).toBe('the endpoint has not answered for 5 s\n');
    answer();
  });

  it('of a device whose volume nobody mapped is fine', async () => {
    serve();
    node.on('endpoint', Op.UNMAP, refuse(errnos.ENOENT, 'Volume volume1 is not mapped'));
    expect((await node.vlmc('unmap', 'volume1')).status).toBe(255);
    node.devices.add('volume1');
    expect(await node.vlmc('unmap', 'volume1')).toEqual({ ...done, out: '' });
  });

  it('of a device that is none says so', async () => {
    serve();
    expect((await node.vlmc('unmap', '/dev/nbd77777')).err).toBe("/dev/nbd77777: Device doesn't exist\n");
    expect((await node.vlmc('unmap', '/dev/null')).err).toBe(
      '/dev/null: no volume is mapped there; vlmc showmapped lists what is\n',
    );
    expect(node.asked('endpoint', Op.UNMAP)).toEqual([]);
  });
});

describe('devices of a node that does not run', () => {
  const stopped = new FakeNode();
  stopped.stop();
  beforeEach(() => stopped.reset());
  afterAll(() => stopped.close());
  const why = /the node is not running: there is no segment .*; start it with archipelago start/;

  it('are shown, with a word about what is not', async () => {
    stopped.devices.add('volume1', { healthy: false, trouble: 'the endpoint is away' });
    const { status, out, err } = await stopped.vlmc('showmapped');
    expect({ status, out }).toEqual({ status: 0, out: 'id\timage\t\tdevice\n-\tvolume1\t/dev/nbd0\n' });
    expect(err).toMatch(/^only devices are shown: the node is not running/);
    const shown = JSON.parse((await stopped.vlmc('showmapped', '--json')).out) as { mapped: object[] };
    expect(shown.mapped).toEqual([
      {
        id: null,
        name: 'volume1',
        volume: 'volume1',
        device: '/dev/nbd0',
        uris: [],
        size: DEVICE_SIZE,
        connections: 1,
        clients: null,
        since: Date.UTC(2026, 10, 21, 12),
        readOnly: false,
        healthy: false,
        trouble: 'the endpoint is away',
      },
    ]);
  });

  it('are detached by name and by path; the mapping is left for later', async () => {
    for (const what of ['volume1', '/dev/nbd0']) {
      stopped.devices.add('volume1');
      const { status, out, err } = await stopped.vlmc('unmap', what);
      expect({ status, out }).toEqual({ status: 0, out: '' });
      expect(err).toMatch(/^\/dev\/nbd0 is detached, but the node is not running.*vlmc unmap volume1 once it runs\n$/);
    }
    stopped.devices.add('volume1');
    expect((await stopped.vlmc('unmap', uri)).err).toMatch(/; name the volume or its device, not a URI\n$/);
  });

  it('what has no device cannot be asked about', async () => {
    for (const words of [['showmapped'], ['unmap', 'volume1'], ['map', 'volume1']]) {
      const { status, out, err } = await stopped.vlmc(...words);
      expect({ status, out }).toEqual({ status: 255, out: '' });
      expect(err).toMatch(why);
    }
  });
});

describe('showmapped', () => {
  it('prints the table that scripts parse, with devices where there are some', async () => {
    expect(await node.vlmc('showmapped')).toEqual({ ...done, out: 'No volumes mapped\n\n' });
    serve(mapping('volume1'), mapping('volume2', 1));
    node.devices.add('volume3');
    node.devices.add('volume2');
    expect(await node.vlmc('showmapped')).toEqual({
      ...done,
      out: `id\timage\t\tdevice\n0\tvolume1\t${uri}\n1\tvolume2\t/dev/nbd1\n-\tvolume3\t/dev/nbd0\n`,
    });
  });

  it('tells what the endpoint refuses', async () => {
    node.on('endpoint', Op.SHOWMAPPED, refuse(errnos.EIO, 'the registry cannot be read'));
    for (const [words, what] of [
      [['showmapped'], 'vlmc showmapped failed'],
      [['unmap', 'volume1'], 'vlmc unmap failed'],
      [['map', 'volume1', '--endpoint', 'kernel'], 'vlmc map failed'],
    ] as const) {
      const { status, out, err } = await node.vlmc(...words);
      expect({ status, out, err }).toEqual({ status: 255, out: '', err: `${what}: the registry cannot be read\n` });
    }
  });

  it('--json has all of it', async () => {
    serve(mapping('volume1', 0, 2), mapping('volume2', 1));
    node.devices.add('volume1', { connections: 2, readOnly: true });
    const { mapped, connections } = JSON.parse((await node.vlmc('showmapped', '--json')).out) as {
      mapped: object[];
      connections: object[];
    };
    const [first, second] = mapped;
    expect(connections).toEqual([]);
    expect(first).toEqual({
      id: 0,
      name: 'volume1',
      volume: 'volume1',
      device: '/dev/nbd0',
      uris,
      size: DEVICE_SIZE,
      connections: 2,
      clients: 2,
      since: 5,
      readOnly: true,
      healthy: true,
      trouble: null,
    });
    expect(second).toMatchObject({ device: null, size: null, connections: null, healthy: true, trouble: null });
  });

  it('--long has columns for people, with what is the matter', async () => {
    expect((await node.vlmc('showmapped', '-l')).out).toBe('No volumes mapped\n');
    serve(mapping('volume1', 0, 1), mapping('vol-2b', 11, 3));
    node.devices.add('volume1', { healthy: false, trouble: 'the endpoint is away', readOnly: true });
    const { out } = await node.vlmc('showmapped', '--long');
    expect(out.replaceAll(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d/g, 'SOME TIME').split('\n')).toEqual([
      'ID  VOLUME   DEVICE                                                SIZE         CONNECTIONS  SINCE                      ACCESS  STATE',
      ' 0  volume1  /dev/nbd0                                       1073741824  1 GiB            1  SOME TIME  ro      the endpoint is away',
      `11  vol-2b   ${uri}           -                   3  SOME TIME  rw      healthy`,
      '',
    ]);
  });

  it('gets a table that does not fit the first buffer', async () => {
    const mapped = Array.from({ length: 500 }, (_, id) => ({ id, name: `volume-${id}`, uris: ['u'.repeat(300)] }));
    node.on('endpoint', Op.SHOWMAPPED, () => ({ mapped, connections: [] }));
    const { out, status } = await node.vlmc('showmapped');
    expect(status).toBe(0);
    expect(out.trimEnd().split('\n')).toHaveLength(501);
    expect(node.asked('endpoint', Op.SHOWMAPPED)).toHaveLength(2);
  });
});

describe('other commands and devices', () => {
  it('remove and rename refuse a volume that is a device, mapped or not', async () => {
    node.devices.add('volume1');
    expect(await node.vlmc('remove', 'volume1')).toEqual({
      status: 255,
      out: '',
      err: 'Volume volume1 mapped on device /dev/nbd0\n',
    });
    expect((await node.vlmc('rename', 'volume1', 'volume2')).err).toMatch(/volume1 is mapped on device \/dev\/nbd0/);
    expect(node.asked('composer', Op.DELETE)).toEqual([]);
  });

  it('resize tells the size, and what is refused', async () => {
    node.on('mapper', Op.TRUNCATE, () => undefined);
    node.on('endpoint', Op.INFO, () => Buffer.alloc(8));
    expect(await node.vlmc('resize', 'volume1', '-s', '2G')).toEqual({
      ...done,
      out: `Resized volume1 to ${2 ** 31} bytes (2 GiB)\n`,
    });
    expect(JSON.parse((await node.vlmc('resize', 'volume1', '-s', '1M', '-f', '--json')).out)).toEqual({
      name: 'volume1',
      size: 1 << 20,
    });
    node.devices.add('volume1');
    node.on('mapper', Op.TRUNCATE, refuse(errnos.EPERM, 'it would shrink; use -f'));
    expect(await node.vlmc('resize', 'volume1', '-s', '1G')).toEqual({
      status: 255,
      out: '',
      err: 'vlmc resize failed: it would shrink; use -f\n',
    });
    // What was not resized keeps its device as it is.
    expect(node.devices.asked).toEqual([]);
  });

  it('resize gives the device the size once the endpoint has it', async () => {
    node.devices.add('volume1');
    node.on('mapper', Op.TRUNCATE, () => undefined);
    const before: unknown[] = [];
    node.on('endpoint', Op.INFO, () => {
      before.push(...node.devices.asked);
      return Buffer.alloc(8);
    });
    expect((await node.vlmc('resize', 'volume1', '-s', '2G')).err).toBe('');
    expect(before).toEqual([]);
    expect(node.devices.asked).toEqual([['resize', 'volume1', 2 ** 31]]);
    // Not as root: the keeper of the devices does it.
    node.devices.refuse('resize', errnos.EPERM, 'devices are of root');
    expect(await node.vlmc('resize', 'volume1', '-s', '3G')).toMatchObject(done);
    node.devices.refuse('resize', errnos.EIO, 'the kernel does not want to');
    const { status, err } = await node.vlmc('resize', 'volume1', '-s', '3G');
    expect({ status, err }).toEqual({
      status: 0,
      err: 'the device of volume1 has its old size for now: the kernel does not want to\n',
    });
  });
});
