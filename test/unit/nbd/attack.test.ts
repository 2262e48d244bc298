/** Clients that stop in the middle of something, many of them, beside one that works: it must not notice, and nothing may stay behind. */
import { describe, expect, onTestFinished, test } from 'vitest';
import type { NbdClient } from '../../../src/nbd/client.js';
import { connectNbd } from '../../../src/nbd/client-connect.js';
import { writeRequest } from '../../../src/nbd/codec.js';
import { Command, Option } from '../../../src/nbd/constants.js';
import type { ExportProvider } from '../../../src/nbd/device.js';
import { encodeClientFlags, encodeOption } from '../../../src/nbd/handshake-codec.js';
import { MemoryDisk, MemoryProvider } from '../../../src/nbd/memory-device.js';
import { eventually, RawPeer, RecordingLog, SteeredProvider, serve, serveMemory, transports } from './support.js';

const MiB = 1 << 20;

async function client(path: string): Promise<NbdClient> {
  const connected = await connectNbd({ path });
  onTestFinished(() => connected.destroy());
  return connected;
}

function request(command: number, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(28);
  const header = { flags: 0, command, cookieHigh: 0, cookieLow: 7, offset, length };
  writeRequest(new DataView(bytes.buffer, bytes.byteOffset, 28), 0, header);
  return bytes;
}

/** In transmission, with simple replies. */
async function entered(path: string): Promise<RawPeer> {
  const peer = await RawPeer.connect(path);
  peer.send(encodeClientFlags(3));
  peer.send(encodeOption(Option.EXPORT_NAME, Buffer.from('disk')));
  await peer.take(18 + 10);
  return peer;
}

/** What a client does before it stops for ever. */
const stops: Record<string, (path: string) => Promise<RawPeer>> = {
  'takes no replies': async (path) => {
    const peer = await entered(path);
    peer.socket.pause();
    for (let i = 0; i < 64; i++) peer.send(request(Command.READ, 0, MiB));
    return peer;
  },
  'sends half a write': async (path) => {
    const peer = await entered(path);
    peer.send(Buffer.concat([request(Command.WRITE, 0, 4 * MiB), Buffer.alloc(MiB + 1000)]));
    return peer;
  },
  'sends the head of a write': async (path) => {
    const peer = await entered(path);
    peer.send(request(Command.WRITE, 0, MiB));
    return peer;
  },
  'sends half a head': async (path) => {
    const peer = await entered(path);
    peer.send(request(Command.READ, 0, MiB).subarray(0, 13));
    return peer;
  },
  'sends half an option': async (path) => {
    const peer = await RawPeer.connect(path);
    peer.send(encodeClientFlags(3));
    peer.send(encodeOption(Option.GO, Buffer.alloc(100)).subarray(0, 40));
    return peer;
  },
  'says nothing': (path) => RawPeer.connect(path),
};

describe.each(transports)('over the %s transport', (transport) => {
  test.each(Object.keys(stops))(
    'many a client that %s and stops costs another nothing, and leaves nothing',
    async (how) => {
      const stopped = 30;
      const { path, server, disk } = await serveMemory(
        { size: 16 * MiB, maxIo: MiB, buffers: 64 },
        { transport, limits: { connections: 40, totalInFlightBytes: 64 * MiB, handshakeMs: 600_000 } },
      );
      const good = await client(path);
      const peers = await Promise.all(Array.from({ length: stopped }, () => stops[how](path)));
      await eventually(() => server.connections().length).toBe(stopped + 1);
      for (let round = 0; round < 20; round++) {
        const data = Buffer.alloc(2 * MiB, round + 1);
        await Promise.all([good.write(8 * MiB, data), good.read(0, 4 * MiB)]);
        expect((await good.read(8 * MiB, data.length)).equals(data)).toBe(true);
      }
      expect(disk.pool.inUse).toBeLessThanOrEqual(64);
      for (const peer of peers) peer.socket.destroy();
      await eventually(() => server.connections().length).toBe(1);
      expect(disk.pool.inUse).toBe(0);
      await good.disconnect();
    },
  );

  test('attacks again and again do not make the process grow', async () => {
    const { path, server, disk } = await serveMemory({ maxIo: MiB, buffers: 32 }, { transport });
    const attack = async (): Promise<void> => {
      const peers = await Promise.all(Object.values(stops).flatMap((stop) => [stop(path), stop(path)]));
      for (const peer of peers) peer.socket.destroy();
      await eventually(() => server.connections()).toEqual([]);
    };
    for (let round = 0; round < 5; round++) await attack();
    const before = process.memoryUsage().rss;
    for (let round = 0; round < 25; round++) await attack();
    expect(disk.pool.inUse).toBe(0);
    expect(process.memoryUsage().rss - before).toBeLessThan(64 * MiB);
  });

  test('who holds all that is lent leaves each other client its own part', async () => {
    const { path, server, disk } = await serveMemory(
      { size: 16 * MiB, maxIo: MiB, buffers: 64 },
      { transport, limits: { connections: 8, totalInFlightBytes: 16 * MiB } },
    );
    // Each asks for more than the 8 MiB there are to lend, and takes no replies.
    const greedy = await Promise.all(Array.from({ length: 4 }, () => stops['takes no replies'](path)));
    await eventually(() => disk.pool.inUse).toBeGreaterThanOrEqual(8);
    const good = await client(path);
    const data = Buffer.alloc(8 * MiB, 5);
    await good.write(0, data);
    expect((await good.read(0, data.length)).equals(data)).toBe(true);
    expect(disk.pool.inUse).toBeLessThanOrEqual(16);
    for (const peer of greedy) peer.socket.destroy();
    await eventually(() => server.connections().length).toBe(1);
  });

  describe('when the memory for long reads in one piece is held by a client that does not take them', () => {
    const limits = { payload: 4 * MiB, gatherBytes: 4 * MiB };

    /** Takes all of it, and stops. */
    async function hold(path: string): Promise<void> {
      const peer = await entered(path);
      peer.socket.pause();
      for (let i = 0; i < 3; i++) peer.send(request(Command.READ, 0, 4 * MiB));
    }

    test.each(['simple', 'structured', 'extended'] as const)('others get theirs, with %s replies', async (replies) => {
      const maxIo = 256 * 1024;
      const { path, server, disk } = await serveMemory({ size: 16 * MiB, maxIo }, { transport, limits });
      await hold(path);
      await eventually(() => server.connections()[0]?.counters.requests ?? 0).toBeGreaterThan(0);
      const good = await connectNbd({ path }, { replies });
      onTestFinished(() => good.destroy());
      const data = Buffer.alloc(8 * MiB);
      for (let at = 0; at < data.length; at += 512) data.writeUInt32LE(at, at);
      await good.write(0, data.subarray(0, 4 * MiB));
      await good.write(4 * MiB, data.subarray(4 * MiB));
      const df = replies !== 'simple';
      for (let round = 0; round < 3; round++) {
        const ranges = Array.from({ length: 12 }, (_, i) => ({
          offset: i * 300_001,
          length: i % 2 ? 4 * MiB - i : 1000 + i,
        }));
        const answers = await Promise.all(ranges.map(({ offset, length }) => good.read(offset, length, { df })));
        for (const [i, { offset, length }] of ranges.entries()) {
          expect(answers[i].equals(data.subarray(offset, offset + length))).toBe(true);
        }
      }
      await good.disconnect();
      await eventually(() => server.connections().length).toBe(1);
      expect(disk.pool.inUse).toBe(0);
    });

    test.each(['simple', 'extended'] as const)(
      'one that fails is an error, or the end, with %s replies',
      async (replies) => {
        const disk = new MemoryDisk({ size: 16 * MiB, maxIo: 256 * 1024 });
        let failing = -1;
        const provider = new SteeredProvider(disk, (device) => {
          device.hook = (io) => {
            if (io.offset !== failing) return false;
            io.complete(5, 'the medium is bad here');
            return true;
          };
        });
        const { path, server } = await serve(provider, { transport, limits });
        await hold(path);
        await eventually(() => server.connections()[0]?.counters.requests ?? 0).toBeGreaterThan(0);
        const good = await connectNbd({ path }, { replies });
        onTestFinished(() => good.destroy());
        const df = replies !== 'simple';
        failing = MiB;
        await expect(good.read(MiB, 2 * MiB, { df })).rejects.toMatchObject({ name: 'NbdError', errno: 5 });
        failing = -1;
        expect(await good.read(MiB, 2 * MiB, { df })).toHaveLength(2 * MiB);
        failing = 2 * MiB;
        const [broken, next] = [good.read(MiB, 2 * MiB, { df }), good.read(0, 512)];
        if (df) {
          // The chunk is completed, and the error comes behind it.
          await expect(broken).rejects.toMatchObject({ name: 'NbdError', errno: 5, text: 'the medium is bad here' });
          expect(await next).toHaveLength(512);
        } else {
          await expect(broken).rejects.toMatchObject({ code: 'ECONNRESET' });
          await expect(next).rejects.toMatchObject({ code: 'ECONNRESET' });
          await eventually(() => server.connections().length).toBe(1);
        }
        await eventually(() => disk.pool.inUse).toBe(0);
      },
    );

    test('one that leaves in the middle leaves nothing', async () => {
      const { path, server, disk } = await serveMemory({ size: 16 * MiB, maxIo: 256 * 1024 }, { transport, limits });
      await hold(path);
      await eventually(() => server.connections()[0]?.counters.requests ?? 0).toBeGreaterThan(0);
      for (let round = 0; round < 10; round++) {
        const peer = await entered(path);
        for (let i = 0; i < 3; i++) peer.send(request(Command.READ, 0, 4 * MiB));
        await peer.take(16 + round * 300_000);
        if (round % 2) peer.socket.destroy();
        else peer.socket.end();
        await peer.closed();
      }
      await eventually(() => server.connections().length).toBe(1);
      await eventually(() => disk.pool.inUse).toBe(0);
    });
  });

  test('a client that takes no answers to its options is dropped when its time to negotiate is over', async () => {
    const names = Array.from({ length: 5000 }, (_, i) => ({ name: `${i}`.padStart(1000, 'x') }));
    const disk = new MemoryDisk({ size: MiB });
    class Wordy extends MemoryProvider implements ExportProvider {
      override async list(): Promise<{ name: string }[]> {
        return names;
      }
    }
    const log = new RecordingLog();
    const provider: ExportProvider = new Wordy([['disk', disk]]);
    const { path, server } = await serve(provider, { transport, log, limits: { handshakeMs: 300 } });
    const peer = await RawPeer.connect(path);
    peer.socket.pause();
    peer.send(encodeClientFlags(3));
    for (let i = 0; i < 30; i++) peer.send(encodeOption(Option.LIST, Buffer.alloc(0)));
    await eventually(() => log.lines.join()).toMatch(/the handshake was not done within 0.3 s/);
    await eventually(() => server.connections()).toEqual([]);
  });

  test('a flood of connections is told of in one line, and who is served does not notice', async () => {
    const log = new RecordingLog();
    const { path, server } = await serveMemory({}, { transport, log, limits: { connections: 10 } });
    const good = await client(path);
    const flood = await Promise.all(Array.from({ length: 100 }, () => RawPeer.connect(path)));
    await eventually(() => server.connections().length).toBe(10);
    for (let i = 0; i < 50; i++) expect(await good.read(i * 512, 512)).toHaveLength(512);
    expect(log.lines.filter((line) => line.includes('turned away')).length).toBeLessThanOrEqual(2);
    for (const peer of flood) peer.socket.destroy();
    await eventually(() => server.connections().length).toBe(1);
    await (await client(path)).disconnect();
  });
});
