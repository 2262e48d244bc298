/** Sentences of the protocol document that are easily passed over, one test each. */
import { describe, expect, onTestFinished, test } from 'vitest';
import type { ExportProvider, Io } from '../../../src/nbd/device.js';
import { TlsRequiredError } from '../../../src/nbd/errors.js';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import { NbdServer } from '../../../src/nbd/server.js';
import { errnos } from '../../../src/sys/errno.js';
import {
  ask,
  CFLAG,
  CHUNK,
  type Chunk,
  CMD,
  E,
  enter,
  execute,
  extendedRequest,
  greet,
  infoData,
  metaData,
  OPT,
  REP,
  request,
  TFLAG,
  takeChunks,
  takeOutcome,
  verdict,
} from './proto.js';
import { eventually, RawPeer, SteeredProvider, serve, serveMemory, temporaryDirectory } from './support.js';

const MiB = 1024 * 1024;

async function greeted(path: string, flags = 3): Promise<RawPeer> {
  const peer = await RawPeer.connect(path);
  await greet(peer, flags);
  return peer;
}

test('BLOCK_STATUS_PAYLOAD is offered by GO only to a client that has chosen contexts, or has just been told of it by INFO', async () => {
  const { path } = await serveMemory();
  const offered = async (queries: string[], before: readonly number[], of = 'disk'): Promise<number[]> => {
    const peer = await greeted(path);
    expect(await verdict(peer, OPT.EXTENDED_HEADERS)).toBe(REP.ACK);
    if (queries.length > 0) expect(await verdict(peer, OPT.SET_META_CONTEXT, metaData(of, queries))).toBe(REP.ACK);
    const flags: number[] = [];
    for (const type of [...before, OPT.GO]) {
      const [{ data }] = await ask(peer, type, type === OPT.LIST ? undefined : infoData('disk'));
      if (type !== OPT.LIST) flags.push(data.readUInt16BE(10) & TFLAG.BLOCK_STATUS_PAYLOAD);
    }
    return flags;
  };
  const flag = TFLAG.BLOCK_STATUS_PAYLOAD;
  expect(await offered([], [])).toEqual([0]);
  expect(await offered(['x-none:of'], [])).toEqual([0]);
  expect(await offered(['base:allocation'], [], '')).toEqual([0]);
  expect(await offered(['base:allocation'], [])).toEqual([flag]);
  // INFO tells what could be had, and GO must not tell anything else right after it.
  expect(await offered([], [OPT.INFO])).toEqual([flag, flag]);
  expect(await offered([], [OPT.INFO, OPT.LIST])).toEqual([flag, 0]);
});

test('an unknown option is UNSUP and ABORT is acknowledged, whatever the length of their data', async () => {
  const { path } = await serveMemory();
  const peer = await greeted(path);
  for (const length of [0, 1000, 65_536, 65_537, 3_000_000]) {
    expect(await verdict(peer, 99, Buffer.alloc(length))).toBe(REP.ERR_UNSUP);
    expect(await verdict(peer, OPT.STARTTLS, Buffer.alloc(length))).toBe(REP.ERR_UNSUP);
  }
  expect(await verdict(peer, OPT.LIST, Buffer.alloc(65_537))).toBe(REP.ERR_INVALID);
  expect(await verdict(peer, OPT.INFO, Buffer.alloc(65_537))).toBe(REP.ERR_TOO_BIG);
  expect(await verdict(peer, OPT.ABORT, Buffer.alloc(65_537))).toBe(REP.ACK);
  expect(await peer.closed()).toHaveLength(0);
});

test('a SET_META_CONTEXT that is too long takes back what was chosen, as any that fails', async () => {
  const { path } = await serveMemory();
  const peer = await greeted(path);
  expect(await verdict(peer, OPT.STRUCTURED_REPLY)).toBe(REP.ACK);
  expect(await verdict(peer, OPT.SET_META_CONTEXT, metaData('disk', ['base:allocation']))).toBe(REP.ACK);
  expect(await verdict(peer, OPT.SET_META_CONTEXT, Buffer.alloc(65_537))).toBe(REP.ERR_TOO_BIG);
  expect(await verdict(peer, OPT.GO, infoData('disk'))).toBe(REP.ACK);
  expect((await execute(peer, 'structured', { type: CMD.BLOCK_STATUS, length: 512 })).error).toBe(E.INVAL);
});

test('SELECTIVETLS: TLS_REQD is the answer to INFO and GO alone, and to nobody without fixed newstyle', async () => {
  const refuse = (): Promise<never> => Promise.reject(new TlsRequiredError('TLS first'));
  const provider: ExportProvider = { list: refuse, describe: refuse, open: refuse };
  const server = new NbdServer(provider, { tls: { psk: () => null } });
  onTestFinished(() => server.close());
  const path = `${temporaryDirectory()}/s`;
  await server.listen({ path }, { tls: 'selective' });
  const peer = await greeted(path);
  expect(await verdict(peer, OPT.STRUCTURED_REPLY)).toBe(REP.ACK);
  for (const [type, data, wanted] of [
    [OPT.LIST, undefined, REP.ERR_POLICY],
    [OPT.LIST_META_CONTEXT, metaData('disk', []), REP.ERR_POLICY],
    [OPT.SET_META_CONTEXT, metaData('disk', ['base:allocation']), REP.ERR_POLICY],
    [OPT.INFO, infoData('disk'), REP.ERR_TLS_REQD],
    [OPT.GO, infoData('disk'), REP.ERR_TLS_REQD],
  ] as const) {
    expect(await verdict(peer, type, data), `option ${type}`).toBe(wanted);
  }
  const old = await greeted(path, 2);
  for (const type of [OPT.INFO, OPT.GO]) expect(await verdict(old, type, infoData('disk'))).toBe(REP.ERR_POLICY);
});

test('FORCEDTLS: STARTTLS with too much data is INVALID, ABORT with it is acknowledged', async () => {
  const { server } = await serveMemory({}, { tls: { psk: () => null } });
  const path = `${temporaryDirectory()}/s`;
  await server.listen({ path }, { tls: 'required' });
  const peer = await greeted(path);
  expect(await verdict(peer, OPT.STARTTLS, Buffer.alloc(65_537))).toBe(REP.ERR_INVALID);
  expect(await verdict(peer, 99, Buffer.alloc(65_537))).toBe(REP.ERR_TLS_REQD);
  expect(await verdict(peer, OPT.ABORT, Buffer.alloc(65_537))).toBe(REP.ACK);
});

test('the maximum block size is a multiple of the minimum, whatever the limits are', async () => {
  const blockSize = { minimum: 4096, preferred: 4096, maximum: 64 * MiB };
  const { path } = await serveMemory({ info: { blockSize } }, { limits: { payload: 40_000_000 } });
  const answers = await ask(await greeted(path), OPT.INFO, infoData('disk', [3]));
  const sizes = answers.find(({ data }) => data.length === 14)?.data as Buffer;
  expect(sizes.readUInt32BE(10)).toBe(39_997_440);
});

test.each(['FLUSH', 'FUA'] as const)('%s on one connection is seen by all when it is answered', async (how) => {
  const { path } = await serveMemory();
  const [writer, ...readers] = await Promise.all(Array.from({ length: 4 }, () => RawPeer.connect(path)));
  const { flags } = await enter(writer, 'structured');
  expect(flags & TFLAG.CAN_MULTI_CONN).toBe(TFLAG.CAN_MULTI_CONN);
  for (const reader of readers) await enter(reader, 'structured');
  for (let i = 1; i <= 5; i++) {
    const fields = { type: CMD.WRITE, offset: 4096 * i, length: 512, flags: how === 'FUA' ? CFLAG.FUA : 0 };
    expect((await execute(writer, 'structured', fields, Buffer.alloc(512, i))).error).toBe(0);
    if (how === 'FLUSH') expect((await execute(writer, 'structured', { type: CMD.FLUSH })).error).toBe(0);
    for (const reader of readers) {
      const { data } = await execute(reader, 'structured', { type: CMD.READ, offset: 4096 * i, length: 512 });
      expect(data?.equals(Buffer.alloc(512, i))).toBe(true);
    }
  }
});

describe.each(['structured', 'extended'] as const)(
  'a long DF read for which there is no memory, %s replies',
  (style) => {
    const KiB = 1024;
    /** Holds the first read until the second is there, which then finds no memory to be gathered in. */
    async function streamed(failAt: number): Promise<{ peer: RawPeer; chunks: Chunk[] }> {
      const disk = new MemoryDisk({ size: MiB, maxIo: 16 * KiB });
      disk.write(Buffer.alloc(MiB, 6), 0, MiB);
      const held: Io[] = [];
      const provider = new SteeredProvider(disk, (device) => {
        device.hook = (io) => {
          if (io.command === CMD.READ && io.offset < 64 * KiB) return held.length < 4 && held.push(io) > 0;
          if (io.offset === failAt) io.complete(errnos.EIO, 'unreadable');
          return io.offset === failAt;
        };
      });
      const { path } = await serve(provider, { limits: { payload: 64 * KiB, gatherBytes: 64 * KiB } });
      const peer = await RawPeer.connect(path);
      await enter(peer, style);
      const message = style === 'extended' ? extendedRequest : request;
      const read = { type: CMD.READ, flags: CFLAG.DF, length: 64 * KiB };
      peer.send(Buffer.concat([message(read), message({ ...read, offset: 128 * KiB })]));
      await eventually(() => held.length).toBe(4);
      for (const io of held) provider.devices[0].run(io);
      expect((await takeOutcome(peer, style, read)).data?.equals(Buffer.alloc(64 * KiB, 6))).toBe(true);
      return { peer, chunks: await takeChunks(peer, style) };
    }

    test('comes whole, and its last chunk is none that could still have failed', async () => {
      const { peer, chunks } = await streamed(-1);
      expect(chunks.map(({ type, flags }) => [type, flags])).toEqual([
        [CHUNK.OFFSET_DATA, 0],
        [CHUNK.NONE, 1],
      ]);
      expect(chunks[0].payload.subarray(8).equals(Buffer.alloc(64 * KiB, 6))).toBe(true);
      expect((await execute(peer, style, { type: CMD.FLUSH })).error).toBe(0);
    });

    test('fails in its middle: the chunk is completed, an error follows, and the connection goes on', async () => {
      for (const failAt of [144 * KiB, 176 * KiB]) {
        const { peer, chunks } = await streamed(failAt);
        expect(chunks.map(({ type, flags }) => [type, flags])).toEqual([
          [CHUNK.OFFSET_DATA, 0],
          [CHUNK.ERROR, 1],
        ]);
        expect(chunks[0].payload).toHaveLength(8 + 64 * KiB);
        expect(chunks[1].payload.readUInt32BE()).toBe(E.IO);
        expect((await execute(peer, style, { type: CMD.READ, offset: 64 * KiB, length: 512 })).error).toBe(0);
      }
    });

    test('fails at its beginning: an error and nothing else', async () => {
      const { peer, chunks } = await streamed(128 * KiB);
      expect(chunks.map(({ type, flags }) => [type, flags])).toEqual([[CHUNK.ERROR, 1]]);
      expect((await execute(peer, style, { type: CMD.FLUSH })).error).toBe(0);
    });
  },
);
