/** A graceful end: what was asked is answered, before the connection ends. */
import net from 'node:net';
import { describe, expect, onTestFinished, test } from 'vitest';
import { connectNbd } from '../../../src/nbd/client-connect.js';
import { writeRequest } from '../../../src/nbd/codec.js';
import { Command, Option, Reply } from '../../../src/nbd/constants.js';
import type { Io } from '../../../src/nbd/device.js';
import { encodeClientFlags, encodeOption } from '../../../src/nbd/handshake-codec.js';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import { NbdServer } from '../../../src/nbd/server.js';
import { eventually, RawPeer, SteeredProvider, serve, serveMemory, transports } from './support.js';

const MiB = 1 << 20;

function request(command: number, cookie: number, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(28);
  const header = { flags: 0, command, cookieHigh: 0, cookieLow: cookie, offset, length };
  writeRequest(new DataView(bytes.buffer, bytes.byteOffset, 28), 0, header);
  return bytes;
}

/** Enters transmission with simple replies. */
async function enter(peer: RawPeer): Promise<void> {
  peer.send(encodeClientFlags(3));
  peer.send(encodeOption(Option.EXPORT_NAME, Buffer.from('disk')));
  await peer.take(18 + 10);
}

describe.each(transports)('over the %s transport', (transport) => {
  test('under load, each request is done and answered, or has no answer; then the connection ends', async () => {
    const { path, server } = await serveMemory({ size: 16 * MiB }, { transport });
    const clients = await Promise.all(Array.from({ length: 4 }, () => connectNbd({ path })));
    const outcomes = { done: 0, cut: 0 };
    let closing = false;
    let closed: Promise<void> | null = null;
    const work = clients.map(async (nbd, at) => {
      for (let i = 0; ; i++) {
        const batch = Array.from({ length: 8 }, (_, j) =>
          (j % 2 ? nbd.write((at * 4 + j / 2) * 4096, Buffer.alloc(4096, i)) : nbd.read(j * MiB, 64 * 1024)).then(
            () => outcomes.done++,
            (error: { errno: number }) => {
              outcomes.cut++;
              // Never before the end began, and never an error that clients take for one of the disk.
              expect(closing).toBe(true);
              expect([104, 32]).toContain(error.errno);
            },
          ),
        );
        await Promise.all(batch);
        if (closing) return;
        if (outcomes.done > 2000 && closed === null) {
          closing = true;
          closed = server.close({ graceful: true });
        }
      }
    });
    await Promise.all(work);
    await closed;
    expect(server.connections()).toEqual([]);
    for (const nbd of clients) nbd.destroy();
  });

  test('a reply that was given is not lost to requests that nobody reads any more', async () => {
    const held: Io[] = [];
    const steered = new SteeredProvider(new MemoryDisk({ size: 16 * MiB }), (device) => {
      device.hook = (io) => held.push(io) > 0;
    });
    const server = new NbdServer(steered, { transport });
    onTestFinished(() => server.close());
    const bound = await server.listen({ host: '127.0.0.1', port: 0 });
    if (!('port' in bound)) throw new Error('no port');
    const socket = net.connect(bound.port, bound.host);
    onTestFinished(() => void socket.destroy());
    await new Promise<void>((resolve) => socket.once('connect', resolve));
    const peer = RawPeer.over(socket);
    await enter(peer);
    socket.pause();
    const reads = 32;
    for (let i = 0; i < reads; i++) peer.send(request(Command.READ, i, 0, 128 * 1024));
    await eventually(() => held.length).toBe(reads);
    const closed = server.close({ graceful: true });
    // More than the server ever reads again lies in its socket when it is done.
    peer.send(Buffer.concat(Array.from({ length: 5000 }, (_, i) => request(Command.FLUSH, 1000 + i, 0, 0))));
    for (const io of held) {
      io.buffer?.bytes.fill(9, 0, io.length);
      io.complete(0);
    }
    socket.resume();
    for (let i = 0; i < reads; i++) {
      const head = await takeReply(peer);
      expect(head).toBe(0);
      expect((await peer.take(128 * 1024)).every((byte) => byte === 9)).toBe(true);
    }
    await closed;
  });

  test('an option gets ERR_SHUTDOWN, and the handshake ends', async () => {
    const { path, server } = await serveMemory({}, { transport });
    const peer = await RawPeer.connect(path);
    await peer.take(18);
    peer.send(encodeClientFlags(3));
    const closed = server.close({ graceful: true });
    peer.send(encodeOption(Option.LIST, Buffer.alloc(0)));
    const reply = await peer.take(20);
    expect(reply.readUInt32BE(12)).toBe(Reply.ERR_SHUTDOWN);
    await closed;
    await peer.closed();
  });

  test('a connection without a request in flight ends at once, and the export is closed', async () => {
    const steered = new SteeredProvider(new MemoryDisk({ size: MiB }));
    const { path, server } = await serve(steered, { transport });
    const nbd = await connectNbd({ path });
    await nbd.read(0, 512);
    await server.close({ graceful: true, timeoutMs: 600_000 });
    await expect(nbd.read(0, 512)).rejects.toMatchObject({ code: 'ECONNRESET' });
    expect(steered.devices[0].closed).toBe(1);
  });
});

/** The error of the next simple reply; those to flushes are passed over. */
async function takeReply(peer: RawPeer): Promise<number> {
  for (;;) {
    const head = await peer.take(16);
    expect(head.readUInt32BE(0)).toBe(0x67446698);
    if (head.readUInt32BE(12) < 1000) return head.readUInt32BE(4);
  }
}
