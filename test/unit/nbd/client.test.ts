/** The client with this library's server, and with servers that do what they must not. */
import net from 'node:net';
import path from 'node:path';
import fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import { connectNbd, openNbd } from '../../../src/nbd/client-connect.js';
import type { ExtentAt } from '../../../src/nbd/client-extents.js';
import { Info, Option, Reply, TransmissionFlag } from '../../../src/nbd/constants.js';
import { type Extent, type Io, IoCommand } from '../../../src/nbd/device.js';
import {
  encodeGreeting,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeMetaContext,
  encodeOptionReply,
} from '../../../src/nbd/handshake-codec.js';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import { errnos } from '../../../src/sys/errno.js';
import { client, pattern } from './client-support.js';
import { eventually, SteeredProvider, serve, serveMemory, temporaryDirectory } from './support.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const GiB = 1024 * MiB;
const TiB = 1024 * GiB;

describe.each(['extended', 'structured', 'simple'] as const)('%s replies', (replies) => {
  test('are what was asked for, and every command works', async () => {
    const { path, disk } = await serveMemory({ size: 16 * MiB, info: { canResize: true } });
    const nbd = await client({ path }, { replies, strict: false });
    expect([nbd.extended, nbd.structured]).toEqual([replies === 'extended', replies !== 'simple']);
    const data = pattern(3 * MiB + 17, 9);
    await nbd.write(MiB, data, { fua: true });
    const target = new Uint8Array(4 * MiB).fill(0xee);
    await nbd.readInto(target, 0);
    expect(Buffer.from(target).equals(Buffer.concat([Buffer.alloc(MiB), data.subarray(0, 3 * MiB)]))).toBe(true);
    await nbd.flush();
    await nbd.cache(0, MiB);
    await nbd.writeZeroes(MiB, MiB, { noHole: true, fastZero: true });
    await nbd.trim(2 * MiB, MiB);
    expect((await nbd.read(MiB, MiB)).every((byte) => byte === 0)).toBe(true);
    await nbd.resize(32 * MiB);
    expect([nbd.size, disk.size]).toEqual([32 * MiB, 32 * MiB]);
    await nbd.write(31 * MiB, Buffer.from('end'));
    expect((await nbd.read(31 * MiB, 3)).toString()).toBe('end');
    await expect(nbd.read(32 * MiB, 1)).rejects.toMatchObject({ name: 'NbdError', errno: errnos.EINVAL });
    await nbd.disconnect();
    await expect(nbd.read(0, 1)).rejects.toMatchObject({ name: 'DisconnectedError' });
  });

  test('what was written is read, with many in flight under limits', async () => {
    const { path } = await serveMemory({ size: 16 * MiB, maxIo: 64 * KiB, buffers: 8 });
    const nbd = await client({ path }, { replies, maxInFlight: 7, maxInFlightBytes: 300 * KiB });
    const place = fc.tuple(fc.nat(16 * MiB - 200 * KiB), fc.integer({ min: 1, max: 200 * KiB }));
    await fc.assert(
      fc.asyncProperty(fc.array(place, { minLength: 1, maxLength: 20 }), fc.nat(), async (places, seed) => {
        const model = Buffer.alloc(16 * MiB);
        await nbd.writeZeroes(0, 16 * MiB);
        for (const [offset, length] of places) {
          const data = pattern(length, seed + offset);
          data.copy(model, offset);
          await nbd.write(offset, data);
        }
        const back = await Promise.all(places.map(([offset, length]) => nbd.read(offset, length)));
        back.forEach((bytes, i) => {
          expect(bytes.equals(model.subarray(places[i][0], places[i][0] + places[i][1]))).toBe(true);
        });
      }),
      { numRuns: 10 },
    );
  });
});

describe('limits', () => {
  test.each([
    [{ maxInFlight: 3 }, 3],
    [{ maxInFlightBytes: 4096 }, 4],
    [{ maxInFlightBytes: 100 }, 1],
    [{}, 20],
  ])('%o keep the rest waiting, in order, and all are answered', async (limits, most) => {
    const held: Io[] = [];
    const provider = new SteeredProvider(new MemoryDisk({ size: MiB }), (device) => {
      device.hook = (io) => io.command === IoCommand.READ && held.push(io) > 0;
    });
    const { path } = await serve(provider);
    const nbd = await client({ path }, limits);
    const reads = Array.from({ length: 20 }, (_, i) => nbd.read(i * 1024, 1024));
    const order: number[] = [];
    let highest = 0;
    while (order.length < 20) {
      // What is in flight all arrives: requests are taken in order, and a flush after them would be the last.
      await eventually(() => held.length).toBe(Math.min(most, 20 - order.length));
      highest = Math.max(highest, held.length);
      const io = held.shift() as Io;
      order.push(io.offset / 1024);
      provider.devices[0].run(io);
    }
    await Promise.all(reads);
    expect(highest).toBe(most);
    expect(order).toEqual(Array.from({ length: 20 }, (_, i) => i));
  });

  test('what waits is ended with the connection', async () => {
    const provider = new SteeredProvider(new MemoryDisk({ size: MiB }), (device) => {
      device.hook = (io) => io.command === IoCommand.READ;
    });
    const { path } = await serve(provider);
    const nbd = await client({ path }, { maxInFlight: 1 });
    const reads = [nbd.read(0, 1), nbd.read(1, 1), nbd.read(2, 1)];
    const reason = new Error('enough');
    nbd.destroy(reason);
    for (const read of reads) await expect(read).rejects.toBe(reason);
    expect(await nbd.closed).toBe(reason);
  });
});

test('disconnect waits for what is in flight and takes nothing more', async () => {
  const held: Io[] = [];
  const provider = new SteeredProvider(new MemoryDisk({ size: MiB }), (device) => {
    device.hook = (io) => io.command === IoCommand.READ && held.push(io) > 0;
  });
  const { path } = await serve(provider);
  const nbd = await client({ path }, { maxInFlight: 1 });
  const first = nbd.read(0, 1);
  const second = nbd.read(1, 1);
  const gone = Promise.all([nbd.disconnect(), nbd.disconnect()]);
  await expect(nbd.read(2, 1)).rejects.toMatchObject({ name: 'DisconnectedError' });
  for (let i = 0; i < 2; i++) {
    await eventually(() => held.length).toBe(1);
    provider.devices[0].run(held.pop() as Io);
  }
  expect((await Promise.all([first, second])).length).toBe(2);
  await gone;
  expect((await nbd.closed).message).toMatch(/has disconnected/);
});

describe('block status', () => {
  const huge: Extent[] = [
    { length: 5 * GiB, flags: 3 },
    { length: 6 * TiB, flags: 0 },
    { length: 16 * TiB - 6 * TiB - 5 * GiB, flags: 3 },
  ];
  /** A disk of 16 TiB with the extents above, for two contexts; tells what it was asked for. */
  function hugeDisk(asked: string[]): SteeredProvider {
    const metaContexts = ['base:allocation', 'test:other'];
    return new SteeredProvider(new MemoryDisk({ size: 16 * TiB, info: { metaContexts } }), (device) => {
      device.hook = (io) => {
        if (io.command !== IoCommand.BLOCK_STATUS) return false;
        asked.push(io.context);
        io.extents = slice(huge, io.offset, io.length);
        io.complete(0);
        return true;
      };
    });
  }
  function slice(all: readonly Extent[], offset: number, length: number): Extent[] {
    let at = 0;
    return all.flatMap((extent) => {
      const start = Math.max(at, offset);
      at += extent.length;
      const end = Math.min(at, offset + length);
      return end > start ? [{ length: end - start, flags: extent.flags }] : [];
    });
  }

  test('over 4 GiB is one question with extended headers', async () => {
    const asked: string[] = [];
    const { path } = await serve(hugeDisk(asked));
    const nbd = await client({ path });
    expect((await nbd.blockStatus(0, 16 * TiB)).get('base:allocation')).toEqual(huge);
    expect(asked).toEqual(['base:allocation']);
    await nbd.trim(0, 6 * GiB).catch((error: unknown) => expect(error).toMatchObject({ name: 'NbdError' }));
    expect((await nbd.read(0, 512)).length).toBe(512);
  });

  test.each(['extended', 'structured'] as const)(
    'of a whole disk is the same by %s replies, in any range',
    async (replies) => {
      const { path } = await serve(hugeDisk([]));
      const nbd = await client({ path }, { replies });
      const place = fc
        .tuple(fc.nat(16 * 1024), fc.nat(64))
        .map(([at, length]) => ({ offset: at * GiB, length: length * GiB }));
      const ranges = [
        {},
        { offset: 5 * GiB - 512, length: 1024 },
        { offset: 7 * GiB, length: 0 },
        ...fc.sample(place, 10),
      ];
      for (const range of ranges) {
        const { offset = 0, length = 16 * TiB - offset } = range as { offset?: number; length?: number };
        const cut = Math.min(length, 16 * TiB - offset);
        const found: ExtentAt[] = [];
        for await (const extent of nbd.extents({ offset, length: cut })) found.push(extent);
        let at = offset;
        const expected = slice(huge, offset, cut).map((extent) => {
          at += extent.length;
          return { offset: at - extent.length, length: extent.length, flags: extent.flags, flagsHigh: 0 };
        });
        expect(found).toEqual(expected);
      }
    },
  );

  test('is asked for some contexts only, by the server where it can', async () => {
    for (const replies of ['extended', 'structured'] as const) {
      const asked: string[] = [];
      const { path } = await serve(hugeDisk(asked));
      const metaContexts = ['base:allocation', 'test:other', 'test:missing'];
      const nbd = await client({ path }, { replies, metaContexts });
      expect(nbd.contexts.map(({ name }) => name)).toEqual(['base:allocation', 'test:other']);
      expect(nbd.can.blockStatusFilter).toBe(replies === 'extended');
      const answer = await nbd.blockStatus(GiB, GiB, { contexts: ['test:other'], reqOne: true });
      expect([...answer]).toEqual([['test:other', [{ length: GiB, flags: 3 }]]]);
      expect(asked).toEqual(replies === 'extended' ? ['test:other'] : ['base:allocation', 'test:other']);
      expect((await nbd.blockStatus(0, GiB)).size).toBe(2);
      const missing = nbd.blockStatus(0, GiB, { contexts: ['test:missing'] });
      await expect(missing).rejects.toMatchObject({ errno: errnos.EINVAL, message: /test:missing/ });
      await expect(nbd.blockStatus(0, GiB, { contexts: [] })).rejects.toMatchObject({ errno: errnos.EINVAL });
    }
  });
});

test('numbers that do not fit into a request are refused here, not cut', async () => {
  const { path } = await serveMemory();
  const nbd = await client({ path }, { replies: 'structured' });
  await expect(nbd.writeZeroes(0, 4 * GiB)).rejects.toMatchObject({ errno: errnos.EOVERFLOW });
  for (const [offset, length] of [
    [-1, 1],
    [0.5, 1],
    [Number.NaN, 1],
    [2 ** 64, 1],
    [0, -1],
  ]) {
    await expect(nbd.trim(offset, length)).rejects.toMatchObject({ errno: errnos.EINVAL });
  }
  await nbd.flush();
});

test('a write that must be durable is refused where there is no FUA', async () => {
  const { path } = await serveMemory({ info: { canFua: false } });
  const nbd = await client({ path });
  await expect(nbd.write(0, Buffer.alloc(1), { fua: true })).rejects.toMatchObject({ errno: errnos.EOPNOTSUPP });
  await nbd.write(0, Buffer.alloc(1));
});

interface Scripted {
  readonly path: string;
  /** Connections that are open now. */
  readonly open: Set<net.Socket>;
}

/** A server that sends `greeting` and then a list of answers, one for each option whatever it is; then nothing, or `end`s. */
async function scripted(greeting: Buffer, answers: readonly Buffer[], end = false): Promise<Scripted> {
  const socket = path.join(temporaryDirectory(), 's');
  const left = [...answers];
  const open = new Set<net.Socket>();
  const listener = net.createServer((stream) => {
    open.add(stream);
    stream.on('error', () => {}).on('close', () => open.delete(stream));
    stream.write(greeting);
    if (end && left.length === 0) stream.end();
    let received = Buffer.alloc(0);
    let greeted = false;
    stream.on('data', (bytes) => {
      received = Buffer.concat([received, bytes]);
      if (!greeted && received.length >= 4) {
        greeted = true;
        received = received.subarray(4);
      }
      while (greeted && received.length >= 16 && received.length >= 16 + received.readUInt32BE(12)) {
        received = received.subarray(16 + received.readUInt32BE(12));
        const answer = left.shift();
        if (answer !== undefined) stream.write(answer);
        if (end && left.length === 0) stream.end();
      }
    });
  });
  onTestFinished(() => {
    listener.close();
  });
  await new Promise<void>((resolve) => listener.listen(socket, resolve));
  return { path: socket, open };
}

const greeting = encodeGreeting(3);
const unsupported = (option: number) => encodeOptionReply(option, Reply.ERR_UNSUP);
const acknowledged = (option: number) => encodeOptionReply(option, Reply.ACK);
const exported = encodeOptionReply(Option.GO, Reply.INFO, encodeInfoExport(MiB, TransmissionFlag.HAS_FLAGS));

describe('servers that do what they must not', () => {
  const simple = [unsupported(Option.EXTENDED_HEADERS), unsupported(Option.STRUCTURED_REPLY)];
  const context = encodeOptionReply(
    Option.SET_META_CONTEXT,
    Reply.META_CONTEXT,
    encodeMetaContext(1, 'base:allocation'),
  );
  test.each<[string, Buffer, Buffer[], RegExp]>([
    ['another protocol', Buffer.from('SSH-2.0-OpenSSH_9.2 and more\r\n'), [], /no NBD server/],
    ['oldstyle', Buffer.concat([greeting.subarray(0, 8), Buffer.alloc(200, 1)]), [], /oldstyle/],
    ['no fixed newstyle', encodeGreeting(0), [], /fixed newstyle/],
    ['an answer to another option', greeting, [acknowledged(Option.LIST)], /answered LIST/],
    ['an answer without magic', greeting, [Buffer.alloc(20, 7)], /magic/],
    [
      'an answer of gigabytes',
      greeting,
      [Buffer.concat([acknowledged(11).subarray(0, 16), Buffer.from([127, 0, 0, 0])])],
      /bytes long/,
    ],
    ['GO without a size', greeting, [...simple, acknowledged(Option.GO)], /without telling the size/],
    ['GO with half of a size', greeting, [...simple, encodeOptionReply(Option.GO, Reply.INFO, Buffer.alloc(7))], /./],
    [
      'an export of exabytes',
      greeting,
      [
        ...simple,
        Buffer.concat([
          encodeOptionReply(Option.GO, Reply.INFO, Buffer.concat([Buffer.alloc(2), Buffer.alloc(10, 255)])),
          acknowledged(Option.GO),
        ]),
      ],
      /more than this client can address/,
    ],
    [
      'a meta context twice',
      greeting,
      [acknowledged(11), Buffer.concat([context, context, acknowledged(Option.SET_META_CONTEXT)])],
      /twice/,
    ],
    [
      'a meta context whose name is no text',
      greeting,
      [
        acknowledged(11),
        Buffer.concat([
          encodeOptionReply(Option.SET_META_CONTEXT, Reply.META_CONTEXT, Buffer.alloc(8, 255)),
          acknowledged(Option.SET_META_CONTEXT),
        ]),
      ],
      /not UTF-8/,
    ],
    [
      'answers without an end',
      greeting,
      [Buffer.concat(Array.from({ length: 70_000 }, () => encodeOptionReply(11, Reply.INFO)))],
      /without an end/,
    ],
  ])('%s: an error that says so', async (_, hello, answers, message) => {
    const { path } = await scripted(hello, answers, true);
    await expect(connectNbd({ path })).rejects.toMatchObject({ message });
  });

  test('any noise instead of a handshake ends in an error', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 60 }), fc.nat(4), async (noise, good) => {
        const answers = [...simple, Buffer.concat([exported, acknowledged(Option.GO)])].slice(0, good);
        const { path } = await scripted(greeting, [...answers, Buffer.from(noise)], true);
        const result = await connectNbd({ path }).catch((error: unknown) => error);
        if (result instanceof Error) expect(result).toMatchObject({ errno: expect.any(Number) });
        else (result as { destroy(): void }).destroy();
      }),
      { numRuns: 60 },
    );
  });

  test('a server that falls silent anywhere is given up after the time-out, and its connection closed', async () => {
    for (const [hello, answers] of [
      [Buffer.alloc(0), []],
      [greeting.subarray(0, 17), []],
      [greeting, []],
      [greeting, [...simple, exported]],
    ] as const) {
      const { path, open } = await scripted(hello, answers);
      await expect(connectNbd({ path }, { timeoutMs: 30 })).rejects.toMatchObject({
        errno: errnos.ETIMEDOUT,
        message: /did not answer within 30 ms/,
      });
      await eventually(() => open.size).toBe(0);
    }
  });

  test('a server without GO is entered by EXPORT_NAME, with all that was negotiated', async () => {
    const size = Buffer.from('000000000010000000 01'.replace(' ', ''), 'hex');
    const answers = [...simple, unsupported(Option.GO), size];
    const { path } = await scripted(greeting, answers);
    const nbd = await client({ path }, { exportName: 'old' });
    expect([nbd.size, nbd.flags, nbd.info.name]).toEqual([MiB, 1, 'old']);
    const closing = await scripted(greeting, [...simple, unsupported(Option.GO), Buffer.alloc(0)], true);
    await expect(client(closing, { exportName: 'old' })).rejects.toMatchObject({
      name: 'DisconnectedError',
      message: /"old".*no such export/,
    });
  });

  test('an abort ends the attempt with its own reason, before and while connecting', async () => {
    const { path } = await scripted(greeting, []);
    const reason = new Error('changed my mind');
    await expect(connectNbd({ path }, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const controller = new AbortController();
    const attempt = openNbd({ path }, { signal: controller.signal }).then(async (handshake) => {
      onTestFinished(() => handshake.destroy());
      return handshake;
    });
    await attempt;
    const entering = connectNbd({ path }, { signal: controller.signal });
    setImmediate(() => controller.abort(reason));
    await expect(entering).rejects.toBe(reason);
  });

  test('replies that come with the last word of the handshake are not lost, nor believed', async () => {
    const last = Buffer.concat([
      exported,
      acknowledged(Option.GO),
      Buffer.from('6744669800000000000000000000000a', 'hex'),
    ]);
    const { path } = await scripted(greeting, [...simple, last]);
    const nbd = await connectNbd({ path });
    expect(await nbd.closed).toMatchObject({ name: 'ProtocolError', message: /not made/ });
    await expect(nbd.read(0, 1)).rejects.toMatchObject({ name: 'ProtocolError' });
  });

  test('a server that leaves in the middle of an answer leaves an error', async () => {
    const answer = encodeInfoBlockSize(1, 4096, MiB);
    const info = encodeOptionReply(Option.GO, Reply.INFO, answer);
    const { path } = await scripted(
      greeting,
      [...simple, Buffer.concat([info, exported, acknowledged(Option.GO)])],
      true,
    );
    const nbd = await connectNbd({ path });
    expect(nbd.info.blockSize).toEqual({ minimum: 1, preferred: 4096, maximum: MiB });
    expect(Info.BLOCK_SIZE).toBe(answer.readUInt16BE(0));
    const socketWide = nbd.write(0, Buffer.alloc(64, 0));
    await expect(Promise.race([socketWide, nbd.closed.then((reason) => Promise.reject(reason))])).rejects.toMatchObject(
      {
        errno: expect.any(Number),
      },
    );
  });
});

test('a socket of the abstract namespace is reached by its URI', async () => {
  const { server } = await serveMemory();
  const name = `nbd-client-test-${process.pid}`;
  const listener = net.createServer({ pauseOnConnect: true }, (socket) => server.serve(socket));
  onTestFinished(() => {
    listener.close();
  });
  await new Promise<void>((resolve) => listener.listen(`\0${name}`, resolve));
  expect((await client(`nbd+unix:///disk?socket=%00${name}`)).size).toBe(16 * MiB);
});

test('an open stream is as good as an address', async () => {
  const { path } = await serveMemory();
  const stream = net.connect({ path });
  const nbd = await client({ stream });
  await nbd.write(0, Buffer.from('x'));
  expect((await nbd.read(0, 1)).toString()).toBe('x');
});
