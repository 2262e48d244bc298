/** What the protocol document asks of a client: not to ask for what it must not, and to say goodbye. */
import net from 'node:net';
import path from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { connectNbd, openNbd } from '../../../src/nbd/client-connect.js';
import { Option, Reply } from '../../../src/nbd/constants.js';
import { encodeGreeting, encodeOptionReply } from '../../../src/nbd/handshake-codec.js';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import { errnos } from '../../../src/sys/errno.js';
import { client } from './client-support.js';
import { OPT } from './proto.js';
import { eventually, SteeredProvider, serve, serveMemory, temporaryDirectory } from './support.js';

const MiB = 1024 * 1024;

describe('requests that the export does not allow are not sent', () => {
  const nothing = { canFlush: false, canFua: false, canTrim: false, canWriteZeroes: false, canCache: false };

  test('what was not offered', async () => {
    const provider = new SteeredProvider(new MemoryDisk({ size: MiB, info: nothing }));
    const { path } = await serve(provider);
    const nbd = await client({ path }, { replies: 'simple' });
    const requests = [
      nbd.flush(),
      nbd.trim(0, 512),
      nbd.cache(0, 512),
      nbd.writeZeroes(0, 512),
      nbd.resize(2 * MiB),
      nbd.read(0, 512, { df: true }),
    ];
    for (const request of requests) {
      await expect(request).rejects.toMatchObject({ name: 'SystemError', errno: errnos.EOPNOTSUPP });
    }
    const slow = await serveMemory({ info: { canFastZero: false } });
    const other = await client({ path: slow.path });
    await expect(other.writeZeroes(0, 512, { fastZero: true })).rejects.toMatchObject({ errno: errnos.EOPNOTSUPP });
    await other.writeZeroes(0, 512);
    await nbd.read(0, 512);
    expect(provider.devices[0].submitted).toHaveLength(1);
  });

  test('writes to a read-only export', async () => {
    const { path } = await serveMemory({ info: { readOnly: true } });
    const nbd = await client({ path });
    for (const request of [nbd.write(0, Buffer.alloc(1)), nbd.trim(0, 1), nbd.writeZeroes(0, 1), nbd.resize(1)]) {
      await expect(request).rejects.toMatchObject({ name: 'SystemError', errno: errnos.EPERM });
    }
    expect(await nbd.read(0, 1)).toHaveLength(1);
  });

  test('ranges past the end, off the minimum block size, over the maximum', async () => {
    const blockSize = { minimum: 512, preferred: 4096, maximum: MiB };
    const { path } = await serveMemory({ size: 4 * MiB, info: { blockSize } });
    const nbd = await client({ path });
    const { EINVAL, ENOSPC } = errnos;
    const refused: [Promise<unknown>, number][] = [
      [nbd.read(4 * MiB, 512), EINVAL],
      [nbd.read(2 ** 53, 512), EINVAL],
      [nbd.write(4 * MiB - 512, Buffer.alloc(1024)), ENOSPC],
      [nbd.writeZeroes(4 * MiB, 512), ENOSPC],
      [nbd.trim(0, 4 * MiB + 512), EINVAL],
      [nbd.blockStatus(4 * MiB, 512), EINVAL],
      [nbd.read(1, 512), EINVAL],
      [nbd.write(0, Buffer.alloc(511)), EINVAL],
      [nbd.read(0, MiB + 512), EINVAL],
      [nbd.write(0, Buffer.alloc(MiB + 512)), EINVAL],
      [nbd.read(-512, 512), EINVAL],
      [nbd.read(0, -1), EINVAL],
      [nbd.read(0, Number.NaN), EINVAL],
    ];
    for (const [request, errno] of refused) await expect(request).rejects.toMatchObject({ name: 'SystemError', errno });
    await nbd.write(3 * MiB, Buffer.alloc(MiB, 7));
    expect((await nbd.read(3 * MiB, MiB))[MiB - 1]).toBe(7);
    await nbd.trim(0, 4 * MiB);
    const lenient = await client({ path }, { strict: false });
    await expect(lenient.read(1, 512)).rejects.toMatchObject({ name: 'NbdError', errno: EINVAL });
  });
});

/** A server that answers each option by `answer`, and keeps the options it was sent. */
async function scripted(
  answer: (option: number) => Buffer,
): Promise<{ path: string; options: number[]; over: () => boolean }> {
  const socket = path.join(temporaryDirectory(), 's');
  const options: number[] = [];
  let over = false;
  const listener = net.createServer((stream) => {
    stream
      .on('error', () => {})
      .on('close', () => {
        over = true;
      });
    stream.write(encodeGreeting(3));
    let received = Buffer.alloc(0);
    let skip = 4;
    stream.on('data', (bytes) => {
      received = Buffer.concat([received, bytes]);
      while (received.length >= skip + 16 && received.length >= skip + 16 + received.readUInt32BE(skip + 12)) {
        const option = received.readUInt32BE(skip + 8);
        received = received.subarray(skip + 16 + received.readUInt32BE(skip + 12));
        skip = 0;
        options.push(option);
        if (option === OPT.ABORT) stream.end(encodeOptionReply(option, Reply.ACK));
        else stream.write(answer(option));
      }
    });
  });
  onTestFinished(() => void listener.close());
  await new Promise<void>((resolve) => listener.listen(socket, resolve));
  return { path: socket, options, over: () => over };
}

describe('a client that goes says so', () => {
  test.each([
    ['no such export', Reply.ERR_UNKNOWN, {}],
    ['a server that goes down', Reply.ERR_SHUTDOWN, {}],
    ['no TLS where it is required', Reply.ERR_UNSUP, { tls: {} }],
  ])('%s: ABORT', async (_, error, options) => {
    const server = await scripted((option) =>
      encodeOptionReply(option, option === OPT.STRUCTURED_REPLY ? Reply.ACK : error),
    );
    await expect(connectNbd({ path: server.path }, { replies: 'simple', ...options })).rejects.toMatchObject({
      errno: expect.any(Number),
    });
    await eventually(server.over).toBe(true);
    expect(server.options.at(-1)).toBe(OPT.ABORT);
    expect(server.options.filter((option) => option === OPT.ABORT)).toHaveLength(1);
  });

  test('ERR_SHUTDOWN to any option', async () => {
    const server = await scripted((option) => encodeOptionReply(option, Reply.ERR_SHUTDOWN));
    const handshake = await openNbd({ path: server.path });
    await expect(handshake.list()).rejects.toMatchObject({ errno: 108 });
    await eventually(server.over).toBe(true);
    expect(server.options).toEqual([Option.LIST, Option.ABORT]);
    await expect(handshake.list()).rejects.toMatchObject({ name: 'DisconnectedError' });
  });

  test('ESHUTDOWN in transmission: DISC, after what is in flight', async () => {
    const provider = new SteeredProvider(new MemoryDisk({ size: MiB }), (device) => {
      device.hook = (io) => {
        if (io.offset !== 512) return false;
        io.complete(108, 'going down');
        return true;
      };
    });
    const { path } = await serve(provider);
    const nbd = await client({ path }, { maxInFlight: 1 });
    const reads = [nbd.read(512, 1), nbd.read(0, 1)];
    await expect(reads[0]).rejects.toMatchObject({ name: 'NbdError', errno: 108 });
    await expect(nbd.read(0, 1)).rejects.toMatchObject({ name: 'DisconnectedError', message: /shutting down/ });
    expect(await reads[1]).toHaveLength(1);
    expect(await nbd.closed).toMatchObject({ message: /shutting down/ });
    await eventually(() => provider.devices[0].closed).toBe(1);
  });
});

test('EXPORT_NAME does not follow extended headers', async () => {
  const { path } = await serveMemory();
  const handshake = await openNbd({ path });
  onTestFinished(() => handshake.destroy());
  expect(await handshake.extendedHeaders()).toBe(true);
  await expect(handshake.exportName('disk')).rejects.toMatchObject({ errno: errnos.EINVAL, message: /extended/ });
  const server = await scripted((option) => encodeOptionReply(option, option === OPT.GO ? Reply.ERR_UNSUP : Reply.ACK));
  await expect(connectNbd({ path: server.path })).rejects.toMatchObject({ name: 'ProtocolError', message: /GO/ });
});

test('answers to one option cost a bounded amount of memory', async () => {
  const entry = encodeOptionReply(
    OPT.LIST,
    Reply.SERVER,
    Buffer.concat([Buffer.from([0, 0, 0, 1, 97]), Buffer.alloc(60_000, 97)]),
  );
  const server = await scripted(() => Buffer.concat(Array.from({ length: 1000 }, () => entry)));
  const handshake = await openNbd({ path: server.path });
  onTestFinished(() => handshake.destroy());
  await expect(handshake.list()).rejects.toMatchObject({ name: 'ProtocolError', message: /without an end/ });
});
