import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { connectNbd } from '../../../src/nbd/client-connect.js';
import type { ConnectionInfo } from '../../../src/nbd/connection.js';
import type { Io } from '../../../src/nbd/device.js';
import { MemoryDisk, MemoryProvider } from '../../../src/nbd/memory-device.js';
import { NbdServer } from '../../../src/nbd/server.js';
import { errnos } from '../../../src/sys/errno.js';
import {
  eventually,
  RawPeer,
  RecordingLog,
  SteeredProvider,
  serve,
  serveMemory,
  temporaryDirectory,
  transports,
} from './support.js';

const provider = () => new MemoryProvider([['disk', new MemoryDisk({ size: 1024 * 1024 })]]);

function newServer(): NbdServer {
  const server = new NbdServer(provider());
  onTestFinished(() => server.close());
  return server;
}

describe('listening', () => {
  test('that begins when the server is closed leaves no listener', async () => {
    const server = newServer();
    const path = `${temporaryDirectory()}/s`;
    const listening = server.listen({ path });
    const closed = server.close();
    await expect(listening).rejects.toThrow('the server was closed meanwhile');
    await closed;
    expect(fs.existsSync(path)).toBe(false);
  });

  test('a TCP client that is gone before it is looked at does not pass for a local one', async () => {
    const server = newServer();
    const opened: string[] = [];
    server.on('close', ({ peer }) => opened.push(peer));
    const listener = net.createServer({ pauseOnConnect: true });
    onTestFinished(() => void listener.close());
    await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
    const accepted = once(listener, 'connection') as Promise<[net.Socket]>;
    const client = net.connect((listener.address() as net.AddressInfo).port, '127.0.0.1');
    await once(client, 'connect');
    client.resetAndDestroy();
    const [socket] = await accepted;
    await eventually(() => socket.remoteAddress).toBeUndefined();
    server.serve(socket);
    expect(server.connections()).toEqual([]);
    expect(opened).toEqual([]);
  });

  test('a unix socket is for owner and group, or what was asked for', async () => {
    const server = newServer();
    const directory = temporaryDirectory();
    const before = process.umask();
    await server.listen({ path: path.join(directory, 'a') });
    await server.listen({ path: path.join(directory, 'b'), mode: 0o600 });
    expect(fs.statSync(path.join(directory, 'a')).mode & 0o777).toBe(0o660);
    expect(fs.statSync(path.join(directory, 'b')).mode & 0o777).toBe(0o600);
    expect(process.umask()).toBe(before);
  });

  test('a socket that nobody serves any more is replaced', async () => {
    const socket = path.join(temporaryDirectory(), 's');
    const child = spawnSync(process.execPath, [
      '-e',
      `require('net').createServer().listen(${JSON.stringify(socket)}, () => process.kill(process.pid, 'SIGKILL'))`,
    ]);
    expect(child.signal).toBe('SIGKILL');
    expect(fs.statSync(socket).isSocket()).toBe(true);
    await newServer().listen({ path: socket });
    const nbd = await connectNbd({ path: socket }, { exportName: 'disk' });
    await nbd.disconnect();
  });

  test('a socket that somebody serves is left alone', async () => {
    const { path: socket } = await serveMemory();
    await expect(newServer().listen({ path: socket })).rejects.toMatchObject({
      errno: errnos.EADDRINUSE,
      message: expect.stringContaining(socket),
    });
    await (await connectNbd({ path: socket })).disconnect();
  });

  test('a file that is no socket is left alone', async () => {
    const file = path.join(temporaryDirectory(), 'precious');
    fs.writeFileSync(file, 'data');
    await expect(newServer().listen({ path: file })).rejects.toMatchObject({ errno: errnos.EADDRINUSE });
    expect(fs.readFileSync(file, 'utf8')).toBe('data');
  });

  test('a directory that is not there is an error that names the socket', async () => {
    const socket = path.join(temporaryDirectory(), 'no', 's');
    await expect(newServer().listen({ path: socket })).rejects.toThrow(socket);
  });

  test.each(['127.0.0.1', '::1'])('TCP on %s, on any free port', async (host) => {
    const server = newServer();
    const bound = await server.listen({ host, port: 0 });
    if (!('port' in bound)) throw new Error('no port');
    const nbd = await connectNbd({ host, port: bound.port }, { exportName: 'disk' });
    await nbd.write(0, Buffer.alloc(300_000, 1));
    expect((await nbd.read(0, 300_000)).equals(Buffer.alloc(300_000, 1))).toBe(true);
    expect(server.connections()[0].peer).toMatch(new RegExp(`^${host}:\\d+$`));
    await nbd.disconnect();
    await expect(newServer().listen(bound)).rejects.toMatchObject({ errno: errnos.EADDRINUSE });
  });

  test('several addresses serve the same exports', async () => {
    const server = newServer();
    const socket = path.join(temporaryDirectory(), 's');
    const bound = await server.listen({ host: '127.0.0.1', port: 0 });
    await server.listen({ path: socket });
    const a = await connectNbd({ path: socket }, { exportName: 'disk' });
    const b = await connectNbd(bound, { exportName: 'disk' });
    await a.write(0, Buffer.from('shared'));
    expect((await b.read(0, 6)).toString()).toBe('shared');
    await Promise.all([a.disconnect(), b.disconnect()]);
  });

  test('limits that make no sense are refused', () => {
    expect(() => new NbdServer(provider(), { limits: { inFlight: 0 } })).toThrow(/inFlight is 0/);
    expect(() => new NbdServer(provider(), { limits: { gatherBytes: 1024 } })).toThrow(/gatherBytes/);
  });
});

describe.each(transports)('over the %s transport', (transport) => {
  test('connections are listed with their export and counters, and their coming and going is told', async () => {
    const { path: socket, server } = await serveMemory({}, { transport });
    const told: [string, ConnectionInfo][] = [];
    server.on('open', (info) => told.push(['open', info]));
    server.on('close', (info) => told.push(['close', info]));
    const half = await RawPeer.connect(socket);
    await half.take(18);
    expect(server.connections()).toMatchObject([{ peer: 'unix', exportName: null }]);
    half.socket.destroy();
    const nbd = await connectNbd({ path: socket }, { exportName: 'disk' });
    await nbd.write(0, Buffer.alloc(1000));
    await nbd.read(0, 300);
    await nbd.raw(99, 0, 0, 0).catch(() => {});
    const counters = { requests: 3, reads: 1, writes: 1, read: 300, written: 1000, errors: 1 };
    await eventually(() => server.connections()).toMatchObject([{ exportName: 'disk', inFlight: 0, counters }]);
    await nbd.disconnect();
    await eventually(() => told.length).toBe(3);
    expect(told.map(([event, info]) => [event, info.exportName])).toEqual([
      ['close', null],
      ['open', 'disk'],
      ['close', 'disk'],
    ]);
    expect(told[2][1].counters).toEqual(counters);
  });

  test('closeExport drops the clients of that export only', async () => {
    const { path: socket, server } = await serveMemory({}, { transport });
    const [a, b, other] = await Promise.all(
      ['disk', 'disk', ''].map((exportName) => connectNbd({ path: socket }, { exportName })),
    );
    expect(await server.closeExport('disk')).toBe(2);
    await expect(a.read(0, 1)).rejects.toMatchObject({ errno: errnos.ECONNRESET });
    await expect(b.read(0, 1)).rejects.toMatchObject({ errno: errnos.ECONNRESET });
    expect(await other.read(0, 1)).toHaveLength(1);
    expect(await server.closeExport('disk')).toBe(0);
    other.destroy();
  });

  test('a graceful close finishes what is in flight and answers nothing of what comes after', async () => {
    const held: Io[] = [];
    const steered = new SteeredProvider(new MemoryDisk({ size: 1024 * 1024 }), (device) => {
      device.hook = (io) => held.push(io) > 0;
    });
    const { path: socket, server } = await serve(steered, { transport });
    const nbd = await connectNbd({ path: socket });
    const handshaking = await RawPeer.connect(socket);
    await handshaking.take(18);
    const write = nbd.write(0, Buffer.alloc(512));
    await eventually(() => held.length).toBe(1);
    const closed = server.close({ graceful: true });
    await handshaking.closed();
    const late = nbd.read(0, 512).then(
      () => 0,
      (error: { errno: number }) => error.errno,
    );
    held[0].complete(0);
    await write;
    expect(await late).toBe(errnos.ECONNRESET);
    await closed;
    expect(held).toHaveLength(1);
    expect(steered.devices[0].closed).toBe(1);
    await expect(nbd.read(0, 512)).rejects.toMatchObject({ errno: errnos.ECONNRESET });
    await expect(connectNbd({ path: socket })).rejects.toMatchObject({ errno: errnos.ENOENT });
  });

  test('a graceful close does not wait for a client that is in the middle of a write', async () => {
    const { path: socket, server, disk } = await serveMemory({}, { transport });
    const header = Buffer.from('25609513000000010000000000000001000000000000000000100000', 'hex');
    const peer = await RawPeer.connect(socket);
    peer.send(Buffer.from('00000003' + '49484156454f5054' + '00000001' + '00000000', 'hex'));
    await peer.take(28);
    peer.send(Buffer.concat([header, Buffer.alloc(1000)]));
    await eventually(() => disk.pool.inUse).toBe(1);
    await server.close({ graceful: true });
    expect(disk.pool.inUse).toBe(0);
    await peer.closed();
  });

  test('a graceful close ends after its time even when a client does not read', async () => {
    const { path: socket, server, disk } = await serveMemory({}, { transport });
    const peer = await RawPeer.connect(socket);
    peer.send(Buffer.from('00000003' + '49484156454f5054' + '00000001' + '00000000', 'hex'));
    await peer.take(28);
    peer.socket.pause();
    for (let i = 0; i < 8; i++)
      peer.send(Buffer.from('25609513000000000000000000000001000000000000000000100000', 'hex'));
    await eventually(() => disk.pool.inUse).toBeGreaterThan(0);
    await server.close({ graceful: true, timeoutMs: 20 });
    expect(disk.pool.inUse).toBe(0);
  });

  test('close without grace ends at once, but the device is awaited', async () => {
    const held: Io[] = [];
    const steered = new SteeredProvider(new MemoryDisk({ size: 1024 * 1024 }), (device) => {
      device.hook = (io) => held.push(io) > 0;
    });
    const log = new RecordingLog();
    const { path: socket, server } = await serve(steered, { transport, log });
    const nbd = await connectNbd({ path: socket });
    const read = nbd.read(0, 512);
    await eventually(() => held.length).toBe(1);
    let done = false;
    const closed = server.close().then(() => {
      done = true;
    });
    await expect(read).rejects.toMatchObject({ errno: errnos.ECONNRESET });
    expect(done).toBe(false);
    held[0].complete(0);
    await closed;
    expect(steered.devices[0].closed).toBe(1);
    expect(log.lines.filter((line) => line.startsWith('error'))).toEqual([]);
  });

  test('busy-polling on and off give the same answers', async () => {
    for (const busyPollUs of [0, 200]) {
      const { path: socket } = await serveMemory({}, { transport, busyPollUs });
      const nbd = await connectNbd({ path: socket });
      for (let i = 0; i < 300; i++) await nbd.write(i * 512, Buffer.alloc(512, i));
      for (let i = 0; i < 300; i++) expect((await nbd.read(i * 512, 512)).equals(Buffer.alloc(512, i))).toBe(true);
      await nbd.disconnect();
    }
  });
});
