/** Sockets and descriptors that somebody else made. That they come from systemd and libnbd is shown end to end. */
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import type { Duplex } from 'node:stream';
import { describe, expect, onTestFinished, test } from 'vitest';
import { describeSocket, type PassedSocket, passedSockets } from '../../../src/nbd/activation.js';
import { connectNbd } from '../../../src/nbd/client-connect.js';
import { MemoryDisk, MemoryProvider } from '../../../src/nbd/memory-device.js';
import { NbdServer } from '../../../src/nbd/server.js';
import { descriptorOf, duplicate } from '../../../src/nbd/sockets.js';
import { stdioConnection } from '../../../src/nbd/stdio.js';
import { errnos } from '../../../src/sys/errno.js';
import { mkfifo } from '../../../src/sys/libc.js';
import { eventually, serveMemory, temporaryDirectory, transports } from './support.js';

const provider = () => new MemoryProvider([['', new MemoryDisk({ size: 1 << 20 })]]);

/** A socket that listens, as somebody else would have made it: nobody accepts from it. */
async function listening(where: { path: string } | { host: string; port: number }): Promise<PassedSocket> {
  const server = net.createServer();
  await new Promise<void>((resolve) => server.listen(where, resolve));
  const { _handle: handle } = server as net.Server & { _handle: { fd: number } };
  const fd = duplicate(handle.fd);
  onTestFinished(() => fs.closeSync(fd));
  // Closing removes the file of a unix socket: it is kept under another name meanwhile.
  const file = 'path' in where && where.path.startsWith('/') ? where.path : null;
  if (file !== null) fs.linkSync(file, `${file}.kept`);
  await new Promise<void>((resolve) => server.close(() => resolve()));
  if (file !== null) fs.renameSync(`${file}.kept`, file);
  return describeSocket(fd, 'name');
}

async function connected(target: string): Promise<net.Socket> {
  const socket = net.connect({ path: target });
  onTestFinished(() => void socket.destroy());
  await new Promise<void>((resolve) => socket.once('connect', resolve));
  return socket;
}

describe('sockets handed over', () => {
  test('are for the process that LISTEN_PID names; the variables go in any case', () => {
    const env = { LISTEN_PID: '41', LISTEN_FDS: '2', LISTEN_FDNAMES: 'a:b', LISTEN_PIDFDID: '9', HOME: '/' };
    expect(passedSockets(env, 42)).toEqual([]);
    expect(env).toEqual({ HOME: '/' });
    expect(passedSockets({}, 42)).toEqual([]);
    expect(passedSockets({ LISTEN_PID: '42', LISTEN_FDS: '0' }, 42)).toEqual([]);
  });

  test.each(['', 'x', '-1', '1e9'])('a number of descriptors that is %j is refused', (number) => {
    expect(() => passedSockets({ LISTEN_PID: '42', LISTEN_FDS: number }, 42)).toThrow(/LISTEN_FDS/);
  });

  test('are described: kind, name, address', async () => {
    const directory = temporaryDirectory();
    const file = path.join(directory, 's');
    expect(await listening({ path: file })).toMatchObject({
      name: 'name',
      family: 'unix',
      listening: true,
      address: { path: file },
    });
    expect(await listening({ path: '\0archipelago-test-abstract' })).toMatchObject({
      address: { path: '@archipelago-test-abstract' },
    });
    for (const host of ['127.0.0.1', '::1', '::']) {
      const socket = await listening({ host, port: 0 });
      expect(socket).toMatchObject({ family: 'tcp', listening: true, address: { host, port: expect.any(Number) } });
    }
    const { path: served } = await serveMemory();
    const client = await connected(served);
    expect(describeSocket(descriptorOf(client), 'c')).toMatchObject({ listening: false, address: { path: '' } });
  });

  test('must be stream sockets', () => {
    const fd = fs.openSync('/dev/null', 'r');
    onTestFinished(() => fs.closeSync(fd));
    expect(() => describeSocket(fd, 'web')).toThrow(/\(web\).*no unix or TCP stream socket/);
    expect(() => describeSocket(1000, 'web')).toThrow(/descriptor 1000/);
  });
});

describe.each(transports)('over the %s transport', (transport) => {
  test.each(['unix', 'tcp'])(
    'a server listens on a %s socket handed over, and so does its successor',
    async (family) => {
      const file = path.join(temporaryDirectory(), 's');
      const passed = await listening(family === 'unix' ? { path: file } : { host: '127.0.0.1', port: 0 });
      for (let life = 0; life < 2; life++) {
        const server = new NbdServer(provider(), { transport });
        onTestFinished(() => server.close());
        expect(await server.listen(passed)).toEqual(passed.address);
        const nbd = await connectNbd(passed.address);
        expect(await nbd.read(0, 512)).toHaveLength(512);
        await nbd.disconnect();
        await server.close({ graceful: true });
        if (family === 'unix') expect(fs.statSync(file).isSocket()).toBe(true);
      }
    },
  );

  test('a connection is no socket to listen on', async () => {
    const { path: served, server } = await serveMemory({}, { transport });
    const client = await connected(served);
    const passed = describeSocket(descriptorOf(client), 'web');
    await expect(server.listen(passed)).rejects.toMatchObject({
      errno: errnos.EINVAL,
      message: expect.stringContaining('is a connection'),
    });
  });

  test('one socket as standard input and output is served', async () => {
    const { near, far } = await pair();
    const server = new NbdServer(provider(), { transport });
    onTestFinished(() => server.close());
    server.serve(stdioConnection(descriptorOf(near), descriptorOf(near)));
    await talk(far, server);
  });

  test('two pipes as standard input and output are served', async () => {
    const directory = temporaryDirectory();
    // Each end on its own, as a process has it, so that the end of one is seen by the other.
    const fifo = (name: string): { reader: number; writer: number } => {
      const file = path.join(directory, name);
      expect(mkfifo(file, 0o600)).toBe(0);
      const reader = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
      return { reader, writer: fs.openSync(file, fs.constants.O_WRONLY) };
    };
    const [there, back] = [fifo('there'), fifo('back')];
    const server = new NbdServer(provider(), { transport });
    onTestFinished(() => server.close());
    server.serve(stdioConnection(there.reader, back.writer));
    const far = stdioConnection(back.reader, there.writer);
    onTestFinished(() => void far.destroy());
    for (const fd of [there.reader, there.writer, back.reader, back.writer]) fs.closeSync(fd);
    await talk(far, server);
  });

  test('a file is no connection', () => {
    const fd = fs.openSync('/dev/null', 'r+');
    onTestFinished(() => fs.closeSync(fd));
    expect(() => stdioConnection(fd, fd)).toThrow(/standard input is neither a pipe nor a socket/);
  });
});

/** Two sockets that are connected to each other. */
async function pair(): Promise<{ near: net.Socket; far: net.Socket }> {
  const file = path.join(temporaryDirectory(), 'pair');
  const server = net.createServer({ pauseOnConnect: true });
  onTestFinished(() => void server.close());
  await new Promise<void>((resolve) => server.listen(file, resolve));
  const accepted = new Promise<net.Socket>((resolve) => server.once('connection', resolve));
  const far = await connected(file);
  const near = await accepted;
  onTestFinished(() => void near.destroy());
  return { near, far };
}

/** A client's whole conversation over a stream. */
async function talk(stream: Duplex, server: NbdServer): Promise<void> {
  const nbd = await connectNbd({ stream });
  const data = Buffer.alloc(300_000, 7);
  await nbd.write(4096, data);
  expect((await nbd.read(4096, data.length)).equals(data)).toBe(true);
  expect(server.connections()).toHaveLength(1);
  await nbd.disconnect();
  await eventually(() => server.connections()).toEqual([]);
}
