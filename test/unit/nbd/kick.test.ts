/** Devices that end operations within kick(), as the endpoint's does when composer and blocker are in its process: no client may be left waiting. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { connectNbd } from '../../../src/nbd/client-connect.js';
import type { Io } from '../../../src/nbd/device.js';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import type { NbdServerOptions } from '../../../src/nbd/server.js';
import { SteeredDevice, type SteeredProvider, serve, transports } from './support.js';

const KiB = 1024;
const PIECE = 4 * KiB;
const SIZE = 1024 * KiB;

/** What becomes of an operation: it ends within submit, at the next kick, at a kick later, or from the event loop. */
type Fate = 'now' | 'kick' | 'second kick' | 'later';

class KickedDevice extends SteeredDevice {
  #held: { io: Io; kicks: number }[] = [];

  constructor(disk: MemoryDisk, fate: () => Fate) {
    super(disk);
    this.hook = (io) => {
      const what = fate();
      if (what === 'now') return false;
      if (what === 'later') setImmediate(() => this.run(io));
      else this.#held.push({ io, kicks: what === 'kick' ? 1 : 2 });
      return true;
    };
  }

  kick(): void {
    const held = this.#held;
    this.#held = [];
    for (const one of held) {
      if (--one.kicks > 0) {
        this.#held.push(one);
        // Whoever did not end it yet ends it from the event loop.
        setImmediate(() => this.kick());
      } else this.run(one.io);
    }
  }
}

/** A server of one disk. @param fate asked for each operation */
async function serveKicked(disk: MemoryDisk, options: NbdServerOptions, fate: () => Fate): Promise<string> {
  const provider: Pick<SteeredProvider, 'list' | 'describe' | 'open'> = {
    list: async () => [{ name: 'disk' }],
    describe: async () => ({ info: disk.info, size: disk.size }),
    open: async () => new KickedDevice(disk, fate),
  };
  return (await serve(provider, options)).path;
}

describe.each(transports)('over the %s transport', (transport) => {
  const disk = (buffers = 64) => new MemoryDisk({ size: SIZE, maxIo: PIECE, buffers });

  test('a long write goes on when the pieces that held its share end in the kick that followed', async () => {
    const limits = { inFlightBytes: 2 * PIECE, blockedBytes: 2 * PIECE };
    const client = await connectNbd({ path: await serveKicked(disk(), { transport, limits }, () => 'kick') });
    const data = Buffer.alloc(8 * PIECE, 7);
    await client.write(0, data);
    expect((await client.read(0, data.length)).equals(data)).toBe(true);
    await client.disconnect();
  });

  test('a long read that must be whole does too', async () => {
    const limits = { inFlightBytes: 2 * PIECE, blockedBytes: 2 * PIECE };
    const path = await serveKicked(disk(), { transport, limits }, () => 'kick');
    const client = await connectNbd({ path }, { replies: 'simple' });
    expect((await client.read(0, 8 * PIECE)).equals(Buffer.alloc(8 * PIECE))).toBe(true);
    await client.disconnect();
  });

  test("and when they were short of the device's buffers", async () => {
    const client = await connectNbd({ path: await serveKicked(disk(2), { transport }, () => 'kick') });
    await client.write(0, Buffer.alloc(8 * PIECE, 7));
    await client.disconnect();
  });

  test.each<Fate>(['kick', 'second kick'])(
    'long payloads begin while later ones are still received, and all end (%s)',
    async (fate) => {
      const piece = 256 * KiB;
      const large = new MemoryDisk({ size: 16 * piece, maxIo: piece });
      const limits = { inFlightBytes: 3 * piece, blockedBytes: 3 * piece };
      const client = await connectNbd({ path: await serveKicked(large, { transport, limits }, () => fate) });
      const data = Array.from({ length: 8 }, (_, i) => Buffer.alloc(2 * piece, i + 1));
      await Promise.all(data.map((bytes, i) => client.write(i * bytes.length, bytes)));
      const back = await Promise.all(data.map((bytes, i) => client.read(i * bytes.length, bytes.length)));
      expect(back.map((bytes, i) => bytes.equals(data[i]))).toEqual(data.map(() => true));
      await client.disconnect();
    },
  );

  test('whatever ends when and whatever is short, everybody is answered', async () => {
    const fates = fc.array(fc.constantFrom<Fate>('now', 'kick', 'second kick', 'later'), {
      minLength: 1,
      maxLength: 16,
    });
    const scene = fc.record({
      fates,
      clients: fc.integer({ min: 1, max: 5 }),
      depth: fc.integer({ min: 1, max: 12 }),
      pieces: fc.integer({ min: 1, max: 12 }),
      replies: fc.constantFrom('simple' as const, 'structured' as const),
      inFlight: fc.integer({ min: 1, max: 20 }),
      inFlightPieces: fc.integer({ min: 1, max: 8 }),
      totalPieces: fc.integer({ min: 1, max: 16 }),
      buffers: fc.integer({ min: 5, max: 16 }),
    });
    await fc.assert(
      fc.asyncProperty(scene, async ({ fates, clients, depth, pieces, replies, buffers, ...bounds }) => {
        let asked = 0;
        const path = await serveKicked(
          disk(buffers),
          {
            transport,
            limits: {
              connections: 8,
              inFlight: bounds.inFlight,
              totalInFlight: 2 * bounds.inFlight,
              inFlightBytes: bounds.inFlightPieces * PIECE,
              blockedBytes: bounds.inFlightPieces * PIECE,
              totalInFlightBytes: bounds.totalPieces * PIECE,
            },
          },
          () => fates[asked++ % fates.length],
        );
        const all = Array.from({ length: clients }, async (_, c) => {
          const client = await connectNbd({ path }, { replies });
          const length = pieces * PIECE;
          const at = (i: number): number => ((c * 12 + i) * 12 * PIECE) % (SIZE - length);
          await Promise.all(
            Array.from({ length: depth }, (_, i) =>
              i % 3 === 2 ? client.read(at(i), length) : client.write(at(i), Buffer.alloc(length, c + 1)),
            ),
          );
          await client.disconnect();
        });
        await Promise.all(all);
      }),
      { numRuns: 60 },
    );
  });
});
