/** The bridge between real sockets and a real segment, whose peers say what a test tells them to. */
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BridgeClient, BridgeLost } from '../../../src/bridge/client.js';
import { MAX_CONNECTIONS, MAX_IN_FLIGHT, MAX_UNTAKEN } from '../../../src/bridge/limits.js';
import { BridgeRefusal, bridgeSocketOf, MAX_LINE } from '../../../src/bridge/protocol.js';
import { BridgeServer } from '../../../src/bridge/server.js';
import { Op } from '../../../src/requests/ops.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { MAX_ALLOCATION, ReplyError } from '../../../src/xseg/index.js';
import { Bridged, RawClient } from './support.js';

let bridged: Bridged;
const clients: BridgeClient[] = [];

const connect = async (): Promise<BridgeClient> => {
  const client = await BridgeClient.connect(bridged.config);
  clients.push(client);
  return client;
};
/** A peer that answers an operation when it is told to. */
function held(op: number): () => void {
  let letGo = (): void => {};
  const free = new Promise<undefined>((resolve) => {
    letGo = () => resolve(undefined);
  });
  bridged.node.on('mapper', op, () => free);
  return () => letGo();
}
const idle = { connections: 0, inFlight: 0, bytes: 0 };
const nothingLeft = (): Promise<void> => expect.poll(() => bridged.server.load).toEqual(idle);

beforeEach(async () => {
  bridged = await Bridged.start();
});
afterEach(async () => {
  for (const client of clients.splice(0)) client.close();
  await bridged.close();
});

describe('what is asked over the bridge', () => {
  it('comes to the peer as it was asked, and the answer back', async () => {
    bridged.node.on('blocks', Op.READ, ({ data }) => Buffer.concat([Buffer.from('answer\0'), data.subarray(7)]));
    const client = await connect();
    const data = Buffer.from([1, 2, 3, 0, 0]);
    const call = {
      op: Op.READ,
      target: 'obj-ä',
      offset: 2 ** 40,
      size: 77,
      flags: 0x8000_0001,
      v0Size: 5,
      data,
      capacity: 12,
    };
    const reply = await client.call('blocks', call);
    expect(reply).toEqual({ serviced: 12, data: Buffer.from('answer\0\0\0\0\0\0') });
    const [seen] = bridged.node.seen;
    expect(seen).toMatchObject({ peer: 'blocks', op: Op.READ, target: 'obj-ä', offset: 2 ** 40, size: 77, v0Size: 5 });
    expect(seen.flags >>> 0).toBe(0x8000_0001);
    expect(seen.data).toEqual(Buffer.concat([data, Buffer.alloc(7)]));
  });

  it.each(['mapper', 'composer', 'endpoint', 'blocks', 'maps'] as const)('goes to the %s', async (peer) => {
    bridged.node.on(peer, Op.STATUS, () => ({ i: peer }));
    const client = await connect();
    expect(await client.json(peer, Op.STATUS, '', {})).toEqual({ i: peer });
  });

  it('is answered in the order in which it is done', async () => {
    const letGo = held(Op.OPEN);
    bridged.node.on('mapper', Op.STAT, () => ({}));
    const client = await connect();
    const order: string[] = [];
    const slow = client.call('mapper', { op: Op.OPEN, target: 'volume1' }).then(() => order.push('slow'));
    await client.json('mapper', Op.STAT, 'volume1', {}).then(() => order.push('quick'));
    letGo();
    await slow;
    expect(order).toEqual(['quick', 'slow']);
  });

  it('may have an answer of any length', async () => {
    const names = Array.from({ length: 20_000 }, (_, i) => `a rather long name of a volume ${i}`);
    bridged.node.on('endpoint', Op.SHOWMAPPED, () => ({ names }));
    const client = await connect();
    expect(await client.json('endpoint', Op.SHOWMAPPED, '', {})).toEqual({ names });
    expect(bridged.node.asked('endpoint', Op.SHOWMAPPED).length).toBe(2);
    const most = await client.call('endpoint', { op: Op.SHOWMAPPED, capacity: MAX_ALLOCATION });
    expect(most.data.length).toBe(MAX_ALLOCATION);
  });

  it('may be as many at once as one likes', async () => {
    bridged.node.on('maps', Op.LOCKINFO, ({ target }) => ({ owner: target }));
    const client = await connect();
    const names = Array.from({ length: 5 * MAX_IN_FLIGHT }, (_, i) => `volume-${i}`);
    const owners = await Promise.all(names.map((name) => client.objects('maps').lockHolder(name)));
    expect(owners.map((lock) => lock?.owner)).toEqual(names);
  });

  it('fails in the words of the peer, of the segment and of the configuration', async () => {
    bridged.node.on('mapper', Op.STAT, () => {
      throw new SystemError(errnos.ENOENT, 'there is no volume volume1');
    });
    const client = await connect();
    const refused = client.json('mapper', Op.STAT, 'volume1', {});
    await expect(refused).rejects.toThrow('there is no volume volume1');
    await expect(refused).rejects.toMatchObject({ errno: errnos.ENOENT, name: 'ReplyError' });
    bridged.node.ports.get('mapper')?.close();
    await expect(client.json('mapper', Op.STAT, 'volume1', {})).rejects.toMatchObject({
      errno: errnos.ECONNREFUSED,
      message: 'mapperd is not running (port 1001); see archipelago status',
    });
  });

  it('needs no port of a client before there is anything to ask, and uses ports again', async () => {
    const first = await connect();
    expect(bridged.ports.length).toBe(0);
    bridged.node.on('mapper', Op.STAT, () => ({}));
    for (let i = 0; i < 5; i++) {
      const client = await connect();
      await client.json('mapper', Op.STAT, 'volume1', {});
      client.close();
      await expect.poll(() => bridged.server.load.connections).toBe(1);
    }
    expect(bridged.ports.length).toBe(1);
    expect(bridged.ports[0]).toMatchObject({ requests: 0, heapPages: 0 });
    first.close();
  });
});

describe('a client that goes', () => {
  it('leaves nothing, whatever it waits for', async () => {
    const letGo = held(Op.OPEN);
    const client = await connect();
    const waits = client.call('mapper', { op: Op.OPEN, target: 'volume1', capacity: 1 << 20 });
    await expect.poll(() => bridged.node.asked('mapper', Op.OPEN).length).toBe(1);
    expect(bridged.server.load).toEqual({ connections: 1, inFlight: 1, bytes: 1 << 20 });
    client.close();
    await expect(waits).rejects.toThrow(BridgeLost);
    await nothingLeft();
    expect(bridged.ports).toEqual([]);
    letGo();
    // The record and its buffer come back with the answer.
    await expect.poll(() => bridged.problems).toEqual([]);
  });

  it('does so too when it only shuts its side down', async () => {
    held(Op.OPEN);
    const raw = new RawClient(bridged.config);
    raw.send({ id: 1, peer: 'mapper', op: Op.OPEN, target: 'volume1' });
    await expect.poll(() => bridged.server.load.inFlight).toBe(1);
    raw.socket.end();
    await nothingLeft();
  });

  it('does not keep a successor of the role waiting for what it had asked', async () => {
    const letGo = held(Op.OPEN);
    const client = await connect();
    const waits = client.call('mapper', { op: Op.OPEN, target: 'volume1' });
    await expect.poll(() => bridged.node.asked('mapper', Op.OPEN).length).toBe(1);
    client.close();
    await expect(waits).rejects.toThrow('went away');
    await nothingLeft();
    // The role's own port, left and bound again by the same process.
    bridged.node.ports.get('endpoint')?.close();
    const again = bridged.node.segment.bind(1023, { name: 'endpoint' });
    expect(again.isSettling).toBe(false);
    again.close();
    letGo();
  });
});

describe('bad input', () => {
  it('that is no request ends the connection, once what was asked before is answered', async () => {
    const letGo = held(Op.OPEN);
    const raw = new RawClient(bridged.config);
    raw.send({ id: 5, peer: 'mapper', op: Op.OPEN, target: 'volume1' }, 'GET / HTTP/1.1\r\n', {
      id: 6,
      peer: 'mapper',
      op: Op.OPEN,
    });
    await expect.poll(() => bridged.node.asked('mapper', Op.OPEN).length).toBe(1);
    letGo();
    await raw.closed;
    expect(raw.lines.slice(1)).toEqual([
      { id: 5, serviced: 0 },
      { id: null, errno: errnos.EPROTO, message: 'not a request: the line is not JSON', refused: true },
    ]);
    expect(bridged.node.asked('mapper', Op.OPEN).length).toBe(1);
  });

  it('that cannot be asked is answered with an errno, and the connection goes on', async () => {
    bridged.node.on('mapper', Op.STAT, () => undefined);
    const raw = new RawClient(bridged.config);
    raw.send(
      { id: 1, peer: 'nobody', op: 1 },
      { id: 2, peer: 'mapper', op: Op.STAT, size: -1 },
      { id: 3, peer: 'mapper', op: Op.STAT },
    );
    await expect.poll(() => raw.lines.length).toBe(4);
    expect(raw.lines.slice(1)).toEqual([
      expect.objectContaining({ id: 1, errno: errnos.EINVAL, refused: true }),
      expect.objectContaining({ id: 2, errno: errnos.EINVAL, refused: true }),
      { id: 3, serviced: 0 },
    ]);
    raw.socket.destroy();
  });

  it('without an end is not gathered', async () => {
    const raw = new RawClient(bridged.config);
    raw.send('x'.repeat(MAX_LINE + 1));
    await raw.closed;
    expect(raw.lines[1]).toMatchObject({ id: null, message: `not a request: it is longer than ${MAX_LINE} bytes` });
  });

  it('with a number that is under way is refused', async () => {
    const letGo = held(Op.OPEN);
    const raw = new RawClient(bridged.config);
    const ask = { id: 1, peer: 'mapper', op: Op.OPEN };
    raw.send(ask, ask);
    await expect.poll(() => bridged.node.asked('mapper', Op.OPEN).length).toBe(1);
    letGo();
    await raw.closed;
    expect(raw.lines.slice(1)).toEqual([
      { id: 1, serviced: 0 },
      expect.objectContaining({ id: null, errno: errnos.EPROTO }),
    ]);
  });

  it('is refused when it is more than a connection may have under way', async () => {
    const letGo = held(Op.OPEN);
    const raw = new RawClient(bridged.config);
    const asks = Array.from({ length: MAX_IN_FLIGHT + 1 }, (_, id) => ({ id, peer: 'mapper', op: Op.OPEN }));
    raw.send(...asks);
    await expect.poll(() => raw.lines.length).toBe(2);
    expect(raw.lines[1]).toMatchObject({ id: MAX_IN_FLIGHT, errno: errnos.EAGAIN, refused: true });
    letGo();
    await expect.poll(() => raw.lines.length).toBe(2 + MAX_IN_FLIGHT);
    const large = (id: number): object => ({ id, peer: 'mapper', op: Op.OPEN, capacity: MAX_ALLOCATION });
    const letGoLarge = held(Op.OPEN);
    raw.send(large(1), large(2), large(3));
    await expect.poll(() => raw.lines.length).toBe(3 + MAX_IN_FLIGHT);
    expect(raw.lines.at(-1)).toMatchObject({
      id: 3,
      errno: errnos.EAGAIN,
      message: expect.stringContaining('too much data'),
    });
    letGoLarge();
    await expect.poll(() => bridged.server.load.bytes).toBe(0);
    raw.socket.destroy();
  });

  it('from who takes no answers ends the connection', async () => {
    const raw = new RawClient(bridged.config);
    await expect.poll(() => raw.lines.length).toBe(1);
    raw.socket.pause();
    // As much as makes the kernel's buffer full and then some.
    const bad = { id: 1, peer: 'x'.repeat(100), op: 1 };
    for (let i = 0; i < 20 * MAX_UNTAKEN; i++) raw.send(bad);
    await nothingLeft();
    raw.socket.destroy();
  });
});

describe('connections', () => {
  const fill = async (): Promise<RawClient[]> => {
    const raws = Array.from({ length: MAX_CONNECTIONS }, () => new RawClient(bridged.config));
    await expect.poll(() => bridged.server.load.connections).toBe(MAX_CONNECTIONS);
    return raws;
  };

  it('are turned away when there are too many with something under way', async () => {
    held(Op.OPEN);
    const raws = await fill();
    for (const raw of raws) raw.send({ id: 1, peer: 'mapper', op: Op.OPEN });
    await expect.poll(() => bridged.server.load.inFlight).toBe(MAX_CONNECTIONS);
    await expect(BridgeClient.connect(bridged.config)).rejects.toMatchObject({
      errno: errnos.EAGAIN,
      name: 'BridgeRefusal',
    });
    for (const raw of raws) raw.socket.destroy();
    await nothingLeft();
  });

  it('that are idle make room for others', async () => {
    const raws = await fill();
    // Not before they have been so for a second.
    await expect
      .poll(() =>
        BridgeClient.connect(bridged.config)
          .then((client) => clients.push(client))
          .catch(() => 0),
      )
      .toBe(1);
    await raws[0].closed;
    expect(raws[0].lines[1]).toMatchObject({ id: null, errno: errnos.EAGAIN });
    for (const raw of raws) raw.socket.destroy();
  });
});

describe('the end of the bridge', () => {
  it('finishes what is under way, refuses what was not begun, and removes the socket', async () => {
    const letGo = held(Op.OPEN);
    const client = await connect();
    const begun = client.call('mapper', { op: Op.OPEN, target: 'volume1' });
    await expect.poll(() => bridged.node.asked('mapper', Op.OPEN).length).toBe(1);
    const end = bridged.server.close();
    expect(fs.existsSync(bridged.server.path)).toBe(false);
    const late = client.call('mapper', { op: Op.OPEN, target: 'volume2' });
    const refused = expect(late).rejects.toBeInstanceOf(BridgeRefusal);
    await expect(BridgeClient.connect(bridged.config)).rejects.toMatchObject({ errno: errnos.ENOENT });
    letGo();
    expect(await begun).toEqual({ serviced: 0, data: Buffer.alloc(0) });
    await refused;
    await end;
    expect(bridged.node.asked('mapper', Op.OPEN).length).toBe(1);
    expect(bridged.ports).toEqual([]);
  });

  it('does not wait long, and does not say that nothing was done', async () => {
    const letGo = held(Op.OPEN);
    const client = await connect();
    const begun = client.call('mapper', { op: Op.OPEN, target: 'volume1' });
    const lost = expect(begun).rejects.toBeInstanceOf(BridgeLost);
    await expect.poll(() => bridged.node.asked('mapper', Op.OPEN).length).toBe(1);
    await bridged.server.close(10);
    await lost;
    letGo();
    expect(bridged.ports).toEqual([]);
  });

  it('leaves nobody in doubt about what was never sent', async () => {
    const letGo = held(Op.OPEN);
    const client = await connect();
    const open = (name: string): Promise<unknown> => client.call('mapper', { op: Op.OPEN, target: name });
    const sent = Array.from({ length: MAX_IN_FLIGHT }, (_, i) =>
      expect(open(`volume${i}`)).rejects.toThrow(BridgeLost),
    );
    const waits = expect(open('waiting')).rejects.toMatchObject({ name: 'BridgeRefusal', errno: errnos.ECONNREFUSED });
    await expect.poll(() => bridged.node.asked('mapper', Op.OPEN).length).toBe(MAX_IN_FLIGHT);
    await bridged.server.close(0);
    await Promise.all([...sent, waits]);
    await expect(open('later')).rejects.toMatchObject({
      name: 'BridgeRefusal',
      errno: errnos.ECONNREFUSED,
      message: expect.stringContaining('before it was asked'),
    });
    letGo();
    expect(bridged.node.asked('mapper', Op.OPEN).length).toBe(MAX_IN_FLIGHT);
  });
});

describe('a client', () => {
  it('says that the node does not run and how to start it', async () => {
    await bridged.server.close();
    const message = `the node is not running: nobody listens on ${bridgeSocketOf(bridged.config)}; start it with archipelago start`;
    await expect(BridgeClient.connect(bridged.config)).rejects.toThrow(message);
    // As a process leaves it that was killed.
    const stale = net.createServer().listen(`${bridged.server.path}.new`);
    await new Promise((resolve) => stale.on('listening', resolve));
    fs.renameSync(`${bridged.server.path}.new`, bridged.server.path);
    await new Promise((resolve) => stale.close(resolve));
    await expect(BridgeClient.connect(bridged.config)).rejects.toThrow(message);
    await bridged.listen();
    await connect();
  });

  it.each([
    ['nothing', '', 'the node hangs'],
    ['another version', '{"bridge":99,"segment":"x"}\n', 'version 99 instead of 1: restart the node'],
    ['another segment', '{"bridge":1,"segment":"another"}\n', 'the bridge of segment another'],
    ['another protocol', 'NBDMAGIC\n', 'not JSON'],
  ])('takes no bridge that greets with %s', async (_, greeting, problem) => {
    await bridged.server.close();
    const sockets: net.Socket[] = [];
    const server = net.createServer((socket) => {
      sockets.push(socket.on('error', () => {}));
      socket.write(greeting);
    });
    await new Promise<void>((resolve) => server.listen(bridged.server.path, resolve));
    const connecting = BridgeClient.connect(bridged.config, { greetingMs: greeting === '' ? 50 : 20_000 });
    await expect(connecting).rejects.toBeInstanceOf(BridgeRefusal);
    await expect(connecting).rejects.toThrow(problem);
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
    await bridged.listen();
  });

  it('does not know what was done when the bridge goes away', async () => {
    const letGo = held(Op.OPEN);
    const client = await connect();
    const asked = client.call('mapper', { op: Op.OPEN, target: 'volume1' });
    const lost = expect(asked).rejects.toThrow('the node went away during the request');
    await expect.poll(() => bridged.node.asked('mapper', Op.OPEN).length).toBe(1);
    await bridged.server.close(0);
    await lost;
    letGo();
    await expect(client.call('mapper', { op: Op.OPEN })).rejects.toBeInstanceOf(BridgeRefusal);
    await bridged.listen();
  });

  it('asks nobody for a role that the configuration does not have', async () => {
    await expect(
      connect().then((client) => client.call('blocks', { op: 1, data: Buffer.alloc(1 << 20) })),
    ).rejects.toThrow('too long for the bridge');
    expect(ReplyError.prototype).toBeInstanceOf(SystemError);
  });
});

describe('the socket', () => {
  it('is for the node’s user and group', () => {
    expect(fs.statSync(bridged.server.path).mode & 0o777).toBe(0o660);
  });

  it('must have a path that fits', async () => {
    const runDir = path.join('/tmp', 'x'.repeat(100));
    await expect(BridgeServer.listen({ ...bridged.config, runDir }, bridged.node.segment)).rejects.toMatchObject({
      errno: errnos.ENAMETOOLONG,
    });
  });
});
