/** Clients that break off, send garbage, do not read, or are many. */
import fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import type { NbdClient } from '../../../src/nbd/client.js';
import { connectNbd } from '../../../src/nbd/client-connect.js';
import { writeRequest } from '../../../src/nbd/codec.js';
import { Command, Option } from '../../../src/nbd/constants.js';
import type { Io } from '../../../src/nbd/device.js';
import { encodeClientFlags, encodeOption } from '../../../src/nbd/handshake-codec.js';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import { eventually, RawPeer, SteeredProvider, serve, serveMemory, transports } from './support.js';

const KiB = 1024;
const MiB = 1024 * KiB;

async function client(path: string): Promise<NbdClient> {
  const connected = await connectNbd({ path });
  onTestFinished(() => connected.destroy());
  return connected;
}

/** A raw peer in transmission, with simple replies. */
async function entered(path: string): Promise<RawPeer> {
  const peer = await RawPeer.connect(path);
  peer.send(encodeClientFlags(3));
  peer.send(encodeOption(Option.EXPORT_NAME, Buffer.from('disk')));
  await peer.take(18 + 10);
  return peer;
}

function request(command: number, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(28);
  writeRequest(new DataView(bytes.buffer, bytes.byteOffset, 28), 0, {
    flags: 0,
    command,
    cookieHigh: 0,
    cookieLow: 7,
    offset,
    length,
  });
  return bytes;
}

describe.each(transports)('over the %s transport', (transport) => {
  test('half a request, then the end: nothing is written, nothing is kept', async () => {
    const { path, server, disk } = await serveMemory({}, { transport });
    const write = Buffer.concat([request(Command.WRITE, 0, 8192), Buffer.alloc(8192, 1)]);
    for (const length of [1, 27, 28, 29, 28 + 8191]) {
      const peer = await entered(path);
      peer.socket.end(write.subarray(0, length));
      expect(await peer.closed()).toHaveLength(0);
    }
    await eventually(() => server.connections()).toEqual([]);
    expect(disk.pool.inUse).toBe(0);
    expect((await (await client(path)).read(0, 8192)).equals(Buffer.alloc(8192))).toBe(true);
  });

  test('a client that vanishes in the middle of a long write leaves no buffer behind', async () => {
    const { path, server, disk } = await serveMemory({ maxIo: 64 * KiB }, { transport });
    const peer = await entered(path);
    peer.send(request(Command.WRITE, 0, 4 * MiB));
    peer.send(Buffer.alloc(100 * KiB, 1));
    await eventually(() => disk.pool.inUse).toBe(1);
    peer.socket.destroy();
    await eventually(() => server.connections()).toEqual([]);
    expect(disk.pool.inUse).toBe(0);
  });

  test('a client that vanishes while its requests are in the device: they are awaited, then the device is closed', async () => {
    const held: Io[] = [];
    const disk = new MemoryDisk({ size: MiB });
    const provider = new SteeredProvider(disk, (device) => {
      device.hook = (io) => held.push(io) > 0;
    });
    const { path, server } = await serve(provider, { transport });
    const peer = await entered(path);
    peer.send(Buffer.concat([request(Command.READ, 0, 512), request(Command.WRITE, 0, 512), Buffer.alloc(512)]));
    await eventually(() => held.length).toBe(2);
    peer.socket.destroy();
    await eventually(() => provider.devices[0].abandoned).toBeGreaterThan(0);
    held[0].complete(0);
    expect(provider.devices[0].closed).toBe(0);
    expect(server.connections()).toHaveLength(1);
    held[1].complete(5);
    await eventually(() => provider.devices[0].closed).toBe(1);
    await eventually(() => server.connections()).toEqual([]);
    expect(disk.pool.inUse).toBe(0);
  });

  test('a client that vanishes while it is not read, or says goodbye, leaves nobody waiting for what waits in the device', async () => {
    for (const goodbye of [false, true]) {
      const held: Io[] = [];
      const provider = new SteeredProvider(new MemoryDisk({ size: MiB }), (device) => {
        device.hook = (io) => held.push(io) > 0;
      });
      const { path, server } = await serve(provider, { transport, limits: { inFlight: 2 } });
      const peer = await entered(path);
      // The third is not taken, and so the end of the connection is not read.
      peer.send(Buffer.concat(Array.from({ length: goodbye ? 1 : 3 }, () => request(Command.READ, 0, 512))));
      await eventually(() => held.length).toBe(goodbye ? 1 : 2);
      if (goodbye) peer.send(request(Command.DISC, 0, 0));
      else peer.socket.destroy();
      await eventually(() => provider.devices[0].abandoned).toBeGreaterThan(0);
      expect(held).toHaveLength(goodbye ? 1 : 2);
      // Whoever waits for nobody is ended by the device; the third as well, should it be taken then.
      provider.devices[0].hook = () => false;
      for (const io of held) io.complete(5);
      await eventually(() => server.connections()).toEqual([]);
      expect(provider.devices[0].closed).toBe(1);
      peer.socket.destroy();
    }
  });

  test('what a client that vanished had sent and nobody has read is known as such before the client that comes next does anything', async () => {
    const held: Io[] = [];
    const provider = new SteeredProvider(new MemoryDisk({ size: MiB }), (device) => {
      device.hook = (io) => held.push(io) > 0;
    });
    const { path, server } = await serve(provider, { transport, limits: { inFlight: 2 } });
    const peer = await entered(path);
    peer.send(Buffer.concat(Array.from({ length: 3 }, () => request(Command.READ, 0, 512))));
    await eventually(() => held.length).toBe(2);
    const abandoned = new Promise<number>((resolve) => {
      server.once('open', () => resolve(provider.devices[0].abandoned));
    });
    peer.socket.destroy();
    await client(path);
    expect(await abandoned).toBeGreaterThan(0);
    provider.devices[0].hook = () => false;
    for (const io of held) io.complete(5);
    await eventually(() => server.connections()).toHaveLength(1);
  });

  test('a request without its magic number ends the connection after the answers to those before it', async () => {
    const { path } = await serveMemory({}, { transport });
    const peer = await entered(path);
    peer.send(Buffer.concat([request(Command.READ, 0, 4), Buffer.alloc(28, 0x55), request(Command.READ, 0, 4)]));
    expect(await peer.closed()).toEqual(Buffer.from('67446698000000000000000000000007' + '00000000', 'hex'));
  });

  test('random bytes, before and after the handshake, end in an answer or a closed connection', async () => {
    const { path, server, disk } = await serveMemory({ size: MiB }, { transport });
    const other = await client(path);
    await fc.assert(
      fc.asyncProperty(
        fc.boolean(),
        fc.uint8Array({ minLength: 1, maxLength: 3000 }),
        fc.boolean(),
        async (enter, bytes, magic) => {
          const peer = enter ? await entered(path) : await RawPeer.connect(path);
          const data = Buffer.from(bytes);
          if (enter && magic) for (let at = 0; at + 28 <= data.length; at += 28) data.writeUInt32BE(0x25609513, at);
          peer.socket.end(data);
          await peer.closed();
          expect((await other.read(0, 16)).length).toBe(16);
        },
      ),
      { numRuns: 60 },
    );
    other.destroy();
    await eventually(() => server.connections()).toEqual([]);
    expect(disk.pool.inUse).toBe(0);
  });

  test('a client that does not read is held back by its socket and costs a bounded number of buffers', async () => {
    const limits = { inFlight: 8, inFlightBytes: 256 * KiB };
    const { path, disk } = await serveMemory({ maxIo: 64 * KiB, buffers: 1000 }, { transport, limits });
    const slow = await entered(path);
    slow.socket.pause();
    for (let i = 0; i < 500; i++) slow.send(request(Command.READ, 0, 64 * KiB));
    await eventually(() => disk.pool.inUse).toBe(4);
    const quick = await client(path);
    for (let i = 0; i < 50; i++) await quick.read(0, 64 * KiB);
    expect(disk.pool.inUse).toBe(4);
    slow.socket.resume();
    for (let i = 0; i < 500; i++) await slow.take(16 + 64 * KiB);
    await eventually(() => disk.pool.inUse).toBe(0);
  });

  test('replies that the socket takes in pieces arrive whole and in order', async () => {
    const { path, disk } = await serveMemory({ size: MiB, buffers: 1000, maxIo: 4 * KiB }, { transport });
    const image = Buffer.from(Array.from({ length: MiB }, (_, i) => (i * 7 + (i >> 8)) & 0xff));
    disk.write(image, 0, MiB);
    const peer = await entered(path);
    peer.socket.pause();
    const lengths = Array.from({ length: 6000 }, (_, i) => 1 + ((i * 37) % 2000));
    lengths.forEach((length, i) => {
      peer.send(request(Command.READ, i * 100, length));
    });
    await eventually(() => disk.pool.inUse).toBeGreaterThan(0);
    peer.socket.resume();
    for (const [i, length] of lengths.entries()) {
      const reply = await peer.take(16 + length);
      expect(reply.readUInt32BE(4)).toBe(0);
      expect(reply.subarray(16).equals(image.subarray(i * 100, i * 100 + length)), `reply ${i}`).toBe(true);
    }
    await eventually(() => disk.pool.inUse).toBe(0);
  });

  test('without a buffer the server waits, and goes on when there is one', async () => {
    const held: Io[] = [];
    const disk = new MemoryDisk({ size: MiB, buffers: 2, maxIo: 4 * KiB });
    const provider = new SteeredProvider(disk, (device) => {
      device.hook = (io) => held.push(io) > 0;
    });
    const { path } = await serve(provider, { transport });
    const [a, b] = await Promise.all([client(path), client(path)]);
    const reads = [
      a.read(0, 4 * KiB),
      a.read(0, 4 * KiB),
      b.read(0, 4 * KiB),
      a.write(0, Buffer.alloc(4 * KiB)),
      b.read(0, 12 * KiB),
    ];
    const done = Promise.all(reads);
    await eventually(() => held.length).toBe(2);
    expect(disk.pool.inUse).toBe(2);
    let finished = false;
    done.then(() => {
      finished = true;
    });
    await eventually(() => {
      held.shift()?.complete(0);
      return finished;
    }).toBe(true);
    expect(disk.pool.inUse).toBe(0);
  });

  test('two hundred connections are served, the one beyond the limit is turned away', async () => {
    const { path, server } = await serveMemory({}, { transport, limits: { connections: 200 } });
    const clients: NbdClient[] = [];
    for (let i = 0; i < 200; i++) clients.push(await client(path));
    await expect(connectNbd({ path })).rejects.toMatchObject({ errno: expect.any(Number) });
    await Promise.all(clients.map((nbd, i) => nbd.write(i * 512, Buffer.alloc(512, i))));
    const sectors = await Promise.all(clients.map((nbd, i) => nbd.read(((i + 1) % 200) * 512, 512)));
    expect(sectors.every((sector, i) => sector[0] === (i + 1) % 200)).toBe(true);
    expect(server.connections()).toHaveLength(200);
    await Promise.all(clients.map((nbd) => nbd.disconnect()));
    await eventually(() => server.connections()).toEqual([]);
    await client(path);
  });

  test('connections that come and go leave nothing behind', async () => {
    const { path, server, disk } = await serveMemory({}, { transport });
    for (let i = 0; i < 200; i++) {
      const nbd = await connectNbd({ path });
      const read = nbd.read(0, 128 * KiB);
      if (i % 3 === 0) nbd.destroy();
      await read.catch(() => {});
      if (i % 3 === 1) await nbd.disconnect();
      if (i % 3 === 2) nbd.destroy();
    }
    await eventually(() => server.connections()).toEqual([]);
    expect(disk.pool.inUse).toBe(0);
  });
});

test('a device that completes twice is reported and harms nobody', async () => {
  const provider = new SteeredProvider(new MemoryDisk({ size: MiB }), (device) => {
    device.hook = (io) => {
      device.run(io);
      io.complete(0);
      return true;
    };
  });
  const lines: string[] = [];
  const log = { debug() {}, info() {}, warn() {}, error: (line: string) => lines.push(line) };
  const { path } = await serve(provider, { log });
  const nbd = await client(path);
  expect(await nbd.read(0, 16)).toHaveLength(16);
  expect(await nbd.read(0, 16)).toHaveLength(16);
  expect(lines).toEqual([
    'unix: the device completed an operation twice',
    'unix: the device completed an operation twice',
  ]);
});

test('a device that cannot allocate loses that client, not the server', async () => {
  const lines: string[] = [];
  const log = { debug() {}, info() {}, warn() {}, error: (line: string) => lines.push(line) };
  const provider = new SteeredProvider(new MemoryDisk({ size: MiB }));
  const { path, server } = await serve(provider, { log });
  const [unlucky, other] = [await client(path), await client(path)];
  provider.devices[0].allocate = () => {
    throw new Error('no memory');
  };
  await expect(unlucky.read(0, 512)).rejects.toMatchObject({ name: 'DisconnectedError' });
  expect(await other.read(0, 512)).toHaveLength(512);
  await eventually(() => server.connections().length).toBe(1);
  expect(provider.devices[0].closed).toBe(1);
  expect(lines).toEqual(['unix: the connection is dropped: no memory']);
});

test('a device that throws fails that request only', async () => {
  const lines: string[] = [];
  const log = { debug() {}, info() {}, warn() {}, error: (line: string) => lines.push(line) };
  const disk = new MemoryDisk({ size: MiB });
  const provider = new SteeredProvider(disk, (device) => {
    device.hook = (io) => {
      if (io.offset === 512) throw new Error('broken');
      return false;
    };
  });
  const { path } = await serve(provider, { log });
  const nbd = await client(path);
  await expect(nbd.read(512, 16)).rejects.toMatchObject({ errno: 5 });
  expect(await nbd.read(0, 16)).toHaveLength(16);
  expect(lines).toEqual(['unix: the device threw instead of completing: broken']);
  expect(disk.pool.inUse).toBe(0);
});

test('a client with endless long reads at hand leaves the event loop to others', async () => {
  const { path } = await serveMemory({ size: 64 * MiB });
  const greedy = await entered(path);
  const quick = await client(path);
  for (let i = 0; i < 20; i++) greedy.send(request(Command.READ, 0, 64 * MiB));
  let received = 0;
  greedy.socket.removeAllListeners('data');
  greedy.socket.on('data', (chunk) => {
    received += chunk.length;
  });
  await eventually(() => received).toBeGreaterThan(0);
  for (let i = 0; i < 20; i++) await quick.read(0, 4 * KiB);
  expect(received).toBeLessThan(20 * (16 + 64 * MiB));
});
