/** Every command, over both transports, against a model in memory. */
import fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import type { NbdClient } from '../../../src/nbd/client.js';
import { type ConnectOptions, connectNbd } from '../../../src/nbd/client-connect.js';
import { Command, CommandFlag, TransmissionFlag } from '../../../src/nbd/constants.js';
import { type Io, IoCommand } from '../../../src/nbd/device.js';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import { errnos } from '../../../src/sys/errno.js';
import { eventually, SteeredProvider, serve, serveMemory, transports } from './support.js';

const KiB = 1024;
const MiB = 1024 * KiB;

/** It is the server that is tested: what is wrong must reach it. */
async function client(path: string, options: ConnectOptions = {}): Promise<NbdClient> {
  const connected = await connectNbd({ path }, { strict: false, ...options });
  onTestFinished(() => connected.destroy());
  return connected;
}

const pattern = (length: number, seed = 1): Buffer => {
  const bytes = Buffer.allocUnsafe(length);
  let x = seed;
  for (let i = 0; i < length; i++) {
    x = (Math.imul(x, 1103515245) + 12345) >>> 0;
    bytes[i] = x >>> 16;
  }
  return bytes;
};

describe.each(transports)('over the %s transport', (transport) => {
  describe.each([true, false])('structured replies %s', (structured) => {
    test('what was written is read, at any offset and length', async () => {
      const { path } = await serveMemory({ maxIo: 64 * KiB }, { transport });
      const nbd = await client(path, { structured });
      const model = Buffer.alloc(nbd.size);
      const place = fc
        .tuple(fc.integer({ min: 0, max: nbd.size - 1 }), fc.integer({ min: 1, max: 300 * KiB }))
        .map(([offset, length]) => ({ offset, length: Math.min(length, nbd.size - offset) }));
      await fc.assert(
        fc.asyncProperty(place, place, fc.nat(), async (w, r, seed) => {
          const data = pattern(w.length, seed);
          data.copy(model, w.offset);
          await nbd.write(w.offset, data);
          expect((await nbd.read(w.offset, w.length)).equals(data)).toBe(true);
          expect((await nbd.read(r.offset, r.length)).equals(model.subarray(r.offset, r.offset + r.length))).toBe(true);
        }),
        { numRuns: 40 },
      );
    });

    test('a payload of 64 MiB goes both ways whole', async () => {
      const { path, disk } = await serveMemory({ size: 65 * MiB, buffers: 4 }, { transport });
      const nbd = await client(path, { structured });
      const data = pattern(64 * MiB, 7);
      await nbd.write(513, data, { fua: true });
      expect((await nbd.read(513, data.length)).equals(data)).toBe(true);
      nbd.destroy();
      await eventually(() => disk.pool.inUse).toBe(0);
    });

    test('many requests in flight on several connections are answered each with its own data', async () => {
      const { path } = await serveMemory({ buffers: 8, maxIo: 32 * KiB }, { transport, limits: { inFlight: 16 } });
      const clients = await Promise.all([1, 2, 3, 4].map(() => client(path, { structured })));
      await Promise.all(
        clients.flatMap((nbd, c) =>
          Array.from({ length: 100 }, async (_, i) => {
            const offset = (c * 100 + i) * 40_000;
            const data = pattern(39_000 + i, offset);
            await nbd.write(offset, data);
            expect((await nbd.read(offset, data.length)).equals(data)).toBe(true);
          }),
        ),
      );
    });

    test('flush, trim, write zeroes and cache reach the device with their flags', async () => {
      const provider = new SteeredProvider(new MemoryDisk({ size: MiB }));
      const { path } = await serve(provider, { transport });
      const nbd = await client(path, { structured });
      await nbd.write(0, pattern(MiB));
      await nbd.flush();
      await nbd.trim(4 * KiB, 8 * KiB, { fua: true });
      await nbd.writeZeroes(64 * KiB, 128 * KiB, { noHole: true, fastZero: true });
      await nbd.cache(0, 512);
      const rest = { fua: false, noHole: false };
      expect(provider.devices[0].submitted.slice(1)).toEqual([
        { command: IoCommand.FLUSH, offset: 0, length: 0, ...rest },
        { command: IoCommand.TRIM, offset: 4 * KiB, length: 8 * KiB, ...rest, fua: true },
        { command: IoCommand.WRITE_ZEROES, offset: 64 * KiB, length: 128 * KiB, ...rest, noHole: true },
        { command: IoCommand.CACHE, offset: 0, length: 512, ...rest },
      ]);
      expect((await nbd.read(4 * KiB, 8 * KiB)).equals(Buffer.alloc(8 * KiB))).toBe(true);
      expect((await nbd.read(64 * KiB, 128 * KiB)).equals(Buffer.alloc(128 * KiB))).toBe(true);
    });

    test('trim and write zeroes may be longer than any payload', async () => {
      const { path } = await serveMemory({ size: 2 ** 32 }, { transport });
      const nbd = await client(path, { structured });
      await nbd.write(2 ** 31, pattern(KiB));
      await nbd.trim(0, 2 ** 32 - 1);
      await nbd.write(2 ** 31, pattern(KiB));
      await nbd.writeZeroes(0, 2 ** 32 - 1);
      expect((await nbd.read(2 ** 31, KiB)).equals(Buffer.alloc(KiB))).toBe(true);
    });

    test.each([
      ['a read past the end', Command.READ, 0, MiB - 1, 2, errnos.EINVAL],
      ['a read far past the end', Command.READ, 0, 2 ** 53, 1, errnos.EINVAL],
      ['a read longer than the maximum', Command.READ, 0, 0, 64 * MiB + 1, errnos.EINVAL],
      ['a write past the end', Command.WRITE, 0, MiB - 1, 2, errnos.ENOSPC],
      ['a trim past the end', Command.TRIM, 0, MiB, 1, errnos.EINVAL],
      ['write zeroes past the end', Command.WRITE_ZEROES, 0, 0, MiB + 1, errnos.ENOSPC],
      ['an unknown command', 99, 0, 0, 0, errnos.EINVAL],
      ['an unknown flag', Command.READ, 0x8000, 0, 512, errnos.EINVAL],
      ['a flag of another command', Command.WRITE, CommandFlag.NO_HOLE, 0, 512, errnos.EINVAL],
      ['a flush of a range', Command.FLUSH, 0, 0, 512, errnos.EINVAL],
    ] as const)('%s is refused, and the connection goes on', async (_, command, flags, offset, length, errno) => {
      const { path } = await serveMemory({ size: MiB }, { transport });
      const nbd = await client(path, { structured });
      const payload = command === Command.WRITE ? Buffer.alloc(length) : undefined;
      await expect(nbd.raw(command, flags, offset, length, payload)).rejects.toMatchObject({ name: 'NbdError', errno });
      expect((await nbd.read(MiB - 512, 512)).equals(Buffer.alloc(512))).toBe(true);
    });

    test('requests of length zero are harmless', async () => {
      const { path } = await serveMemory({}, { transport });
      const nbd = await client(path, { structured });
      expect(await nbd.read(nbd.size, 0)).toHaveLength(0);
      await nbd.write(nbd.size, Buffer.alloc(0));
      await nbd.trim(5, 0);
      await nbd.writeZeroes(5, 0);
      await nbd.cache(5, 0);
      expect(await nbd.read(0, 1)).toHaveLength(1);
    });

    test('a write longer than the maximum is refused after its data, and the connection goes on', async () => {
      const { path, disk } = await serveMemory({}, { transport, limits: { payload: MiB } });
      const nbd = await client(path, { structured });
      await expect(nbd.write(0, pattern(MiB + 1))).rejects.toMatchObject({ errno: errnos.EINVAL });
      await nbd.write(0, pattern(MiB));
      expect((await nbd.read(0, MiB)).equals(pattern(MiB))).toBe(true);
      expect(disk.pool.inUse).toBe(0);
    });

    test('a read-only export refuses what would change it with EPERM', async () => {
      const { path } = await serveMemory({ info: { readOnly: true } }, { transport });
      const nbd = await client(path, { structured });
      expect(nbd.flags & TransmissionFlag.READ_ONLY).not.toBe(0);
      expect(nbd.flags & (TransmissionFlag.SEND_TRIM | TransmissionFlag.SEND_WRITE_ZEROES)).toBe(0);
      await expect(nbd.write(0, Buffer.alloc(512))).rejects.toMatchObject({ errno: errnos.EPERM });
      await expect(nbd.trim(0, 512)).rejects.toMatchObject({ errno: errnos.EPERM });
      await expect(nbd.writeZeroes(0, 512)).rejects.toMatchObject({ errno: errnos.EPERM });
      expect((await nbd.read(0, 512)).equals(Buffer.alloc(512))).toBe(true);
    });

    test('what the device cannot do is neither offered nor done', async () => {
      const info = {
        canFlush: false,
        canFua: false,
        canTrim: false,
        canWriteZeroes: false,
        canCache: false,
        canResize: false,
        multiConn: false,
      };
      const { path } = await serveMemory({ info }, { transport });
      const nbd = await client(path, { structured });
      expect(nbd.flags).toBe(TransmissionFlag.HAS_FLAGS | (structured ? TransmissionFlag.SEND_DF : 0));
      const invalid = { errno: errnos.EINVAL };
      await expect(nbd.flush()).rejects.toMatchObject(invalid);
      await expect(nbd.trim(0, 512)).rejects.toMatchObject(invalid);
      await expect(nbd.writeZeroes(0, 512)).rejects.toMatchObject(invalid);
      await expect(nbd.cache(0, 512)).rejects.toMatchObject(invalid);
      await expect(nbd.raw(Command.WRITE, CommandFlag.FUA, 0, 512, Buffer.alloc(512))).rejects.toMatchObject(invalid);
    });

    test('offsets and lengths are multiples of the minimum block size', async () => {
      const { path } = await serveMemory(
        { info: { blockSize: { minimum: 512, preferred: 4096, maximum: MiB } } },
        { transport },
      );
      const nbd = await client(path, { structured });
      expect(nbd.info.blockSize).toEqual({ minimum: 512, preferred: 4096, maximum: MiB });
      await expect(nbd.read(1, 512)).rejects.toMatchObject({ errno: errnos.EINVAL });
      await expect(nbd.write(0, Buffer.alloc(511))).rejects.toMatchObject({ errno: errnos.EINVAL });
      await nbd.write(512, Buffer.alloc(512));
    });

    test.each([
      [errnos.EDQUOT, errnos.ENOSPC],
      [errnos.EFBIG, errnos.ENOSPC],
      [errnos.ENOSPC, errnos.ENOSPC],
      [errnos.EROFS, errnos.EPERM],
      [errnos.EBADF, errnos.EIO],
      [errnos.EOPNOTSUPP, errnos.EIO],
    ])("the device's errno %i is the client's %i", async (errno, wire) => {
      const provider = new SteeredProvider(new MemoryDisk({ size: MiB }), (device) => {
        device.hook = (io) => {
          io.complete(errno, 'because');
          return true;
        };
      });
      const { path } = await serve(provider, { transport });
      const nbd = await client(path, { structured });
      const error = structured ? { errno: wire, message: expect.stringContaining('because') } : { errno: wire };
      await expect(nbd.read(0, 512)).rejects.toMatchObject(error);
      await expect(nbd.write(0, Buffer.alloc(512))).rejects.toMatchObject(error);
      await expect(nbd.flush()).rejects.toMatchObject(error);
      await expect(nbd.trim(0, 512)).rejects.toMatchObject(error);
    });

    test('write zeroes that cannot be fast says ENOTSUP to FAST_ZERO', async () => {
      const provider = new SteeredProvider(new MemoryDisk({ size: MiB }), (device) => {
        device.hook = (io) => {
          if (io.fastZero) io.complete(errnos.EOPNOTSUPP);
          return io.fastZero;
        };
      });
      const { path } = await serve(provider, { transport });
      const nbd = await client(path, { structured });
      await expect(nbd.writeZeroes(0, 512, { fastZero: true })).rejects.toMatchObject({ errno: errnos.EOPNOTSUPP });
      await nbd.writeZeroes(0, 512);
    });

    test('one failed piece fails the whole request, once, and no buffer is lost', async () => {
      const disk = new MemoryDisk({ size: MiB, maxIo: 64 * KiB });
      const provider = new SteeredProvider(disk, (device) => {
        device.hook = (io) => {
          const bad = io.offset === 128 * KiB;
          if (bad) io.complete(errnos.EIO);
          return bad;
        };
      });
      const { path } = await serve(provider, { transport });
      const nbd = await client(path, { structured });
      await expect(nbd.read(0, 512 * KiB)).rejects.toMatchObject({ errno: errnos.EIO });
      await expect(nbd.write(0, pattern(512 * KiB))).rejects.toMatchObject({ errno: errnos.EIO });
      expect((await nbd.read(0, 64 * KiB)).equals(pattern(512 * KiB).subarray(0, 64 * KiB))).toBe(true);
      expect(disk.pool.inUse).toBe(0);
    });

    test('pieces and requests may complete later and in any order', async () => {
      const held: Io[] = [];
      const provider = new SteeredProvider(new MemoryDisk({ size: MiB, maxIo: 64 * KiB }), (device) => {
        device.hook = (io) => {
          held.push(io);
          if (held.length === 12) for (const late of held.splice(0).reverse()) setImmediate(() => device.run(late));
          return true;
        };
      });
      const { path } = await serve(provider, { transport });
      const nbd = await client(path, { structured });
      const data = pattern(512 * KiB);
      // 8 + 4 pieces: neither request can end before both are in the device.
      await Promise.all([nbd.write(0, data), nbd.write(640 * KiB, pattern(256 * KiB, 3))]);
      const [a, b] = await Promise.all([nbd.read(0, 512 * KiB), nbd.read(640 * KiB, 256 * KiB)]);
      expect(a.equals(data)).toBe(true);
      expect(b.equals(pattern(256 * KiB, 3))).toBe(true);
    });

    test('a slow request does not hold back a later one', async () => {
      const held: Io[] = [];
      const provider = new SteeredProvider(new MemoryDisk({ size: MiB }), (device) => {
        device.hook = (io) => io.offset === 0 && held.push(io) > 0;
      });
      const { path } = await serve(provider, { transport });
      const nbd = await client(path, { structured });
      const slow = nbd.read(0, 512);
      await nbd.read(4096, 512);
      held[0].complete(0);
      expect(await slow).toHaveLength(512);
    });

    test('DISC lets what is in flight be finished and answered', async () => {
      const held: Io[] = [];
      const provider = new SteeredProvider(new MemoryDisk({ size: MiB }), (device) => {
        device.hook = (io) => {
          held.push(io);
          return true;
        };
      });
      const { path } = await serve(provider, { transport });
      const nbd = await client(path, { structured });
      const write = nbd.write(0, pattern(512));
      const disconnected = nbd.disconnect();
      await eventually(() => held.length).toBe(1);
      expect(provider.devices[0].closed).toBe(0);
      provider.devices[0].run(held[0]);
      await write;
      await disconnected;
      await eventually(() => provider.devices[0].closed).toBe(1);
      expect(provider.devices[0].abandoned).toBe(0);
    });

    test('a device that grows is served to its new end', async () => {
      const { path, disk } = await serveMemory({ size: MiB }, { transport });
      const nbd = await client(path, { structured });
      await expect(nbd.write(MiB, pattern(512))).rejects.toMatchObject({ errno: errnos.ENOSPC });
      disk.size = 2 * MiB;
      await nbd.write(MiB, pattern(512));
      expect((await nbd.read(MiB, 512)).equals(pattern(512))).toBe(true);
    });
  });

  test('a read with DF is one chunk, however long', async () => {
    const { path } = await serveMemory({ maxIo: 64 * KiB, buffers: 2 }, { transport });
    const nbd = await client(path);
    await nbd.write(0, pattern(4 * MiB));
    expect((await nbd.read(0, 4 * MiB, { df: true })).equals(pattern(4 * MiB))).toBe(true);
  });

  test('a read with DF that is too long says EOVERFLOW', async () => {
    const { path } = await serveMemory({}, { transport, limits: { payload: MiB } });
    const nbd = await client(path);
    await expect(nbd.read(0, 2 * MiB, { df: true })).rejects.toMatchObject({ errno: errnos.EOVERFLOW });
  });

  test('long simple reads of many clients share a bounded memory and all end', async () => {
    const limits = { payload: 4 * MiB, gatherBytes: 4 * MiB };
    const { path, disk } = await serveMemory({ maxIo: 64 * KiB, buffers: 2 }, { transport, limits });
    const clients = await Promise.all([1, 2, 3, 4, 5].map(() => client(path, { structured: false })));
    await clients[0].write(0, pattern(4 * MiB));
    const reads = await Promise.all(clients.flatMap((nbd) => [nbd.read(0, 4 * MiB), nbd.read(0, 4 * MiB)]));
    expect(reads.every((read) => read.equals(pattern(4 * MiB)))).toBe(true);
    expect(disk.pool.inUse).toBe(0);
  });

  test('block status tells holes and data exactly, one extent with REQ_ONE', async () => {
    const { path } = await serveMemory({ size: MiB }, { transport });
    const nbd = await client(path);
    await nbd.write(128 * KiB, pattern(64 * KiB));
    const hole = (length: number) => ({ length, flags: 3 });
    const status = await nbd.blockStatus(0, MiB);
    expect([...status]).toEqual([
      ['base:allocation', [hole(128 * KiB), { length: 64 * KiB, flags: 0 }, hole(MiB - 192 * KiB)]],
    ]);
    expect((await nbd.blockStatus(100 * KiB, MiB - 100 * KiB, { reqOne: true })).get('base:allocation')).toEqual([
      hole(28 * KiB),
    ]);
  });

  test('block status with thousands of extents arrives whole', async () => {
    const { path } = await serveMemory({ size: 512 * MiB }, { transport });
    const nbd = await client(path);
    for (let i = 0; i < 4096; i++) await nbd.write(i * 128 * KiB, Buffer.from([1]));
    const extents = (await nbd.blockStatus(0, 512 * MiB)).get('base:allocation');
    expect(extents).toHaveLength(8192);
  });

  test('block status without a negotiated context is invalid', async () => {
    const { path } = await serveMemory({}, { transport });
    const nbd = await client(path, { metaContexts: [] });
    await expect(nbd.blockStatus(0, 4096)).rejects.toMatchObject({ errno: errnos.EINVAL });
    const other = await client(path);
    await expect(other.blockStatus(0, 0)).rejects.toMatchObject({ errno: errnos.EINVAL });
  });

  test('several meta contexts have a chunk each', async () => {
    const provider = new SteeredProvider(
      new MemoryDisk({ size: MiB, info: { metaContexts: ['base:allocation', 'test:depth', 'test:other'] } }),
      (device) => {
        device.hook = (io) => {
          io.extents = [{ length: 2 ** 32 + 1, flags: io.context.length }];
          io.complete(0);
          return true;
        };
      },
    );
    const { path } = await serve(provider, { transport });
    const nbd = await client(path, { metaContexts: ['test:depth', 'nobody:knows', 'base:allocation'] });
    expect(nbd.contexts.map(({ name }) => name).sort()).toEqual(['base:allocation', 'test:depth']);
    expect(await nbd.blockStatus(0, 4096)).toEqual(
      new Map([
        ['base:allocation', [{ length: 4096, flags: 15 }]],
        ['test:depth', [{ length: 4096, flags: 10 }]],
      ]),
    );
  });

  test('a device that gives no extents is an I/O error of the server, not of the protocol', async () => {
    const provider = new SteeredProvider(new MemoryDisk({ size: MiB }), (device) => {
      device.hook = (io) => {
        io.extents = [];
        io.complete(0);
        return true;
      };
    });
    const { path } = await serve(provider, { transport });
    const nbd = await client(path);
    await expect(nbd.blockStatus(0, 4096)).rejects.toMatchObject({ errno: errnos.EIO });
  });
});
