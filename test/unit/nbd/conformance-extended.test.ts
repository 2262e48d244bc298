/** What the protocol document asks of a server with extended headers, and of BLOCK_STATUS with a payload. */
import { describe, expect, test } from 'vitest';
import {
  ask,
  CFLAG,
  CHUNK,
  CMD,
  decodeStatus,
  E,
  type Entered,
  enter,
  execute,
  extendedRequest,
  greet,
  infoData,
  metaData,
  OPT,
  option,
  REP,
  request,
  TFLAG,
  takeOutcome,
  u16,
  u32,
  u64,
  verdict,
} from './proto.js';
import { RawPeer, serveMemory, transports } from './support.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const GiB = 1024 * MiB;

async function peerOf(path: string, queries?: string[]): Promise<RawPeer & { entered: Entered }> {
  const peer = await RawPeer.connect(path);
  return Object.assign(peer, { entered: await enter(peer, 'extended', 'disk', queries) });
}

async function greeted(path: string): Promise<RawPeer> {
  const peer = await RawPeer.connect(path);
  await greet(peer);
  return peer;
}

describe.each(transports)('over the %s transport', (transport) => {
  const memory = (disk = {}) => serveMemory(disk, { transport });

  describe('negotiation', () => {
    test('EXTENDED_HEADERS is acknowledged, with or without structured replies before; data is INVALID', async () => {
      const { path } = await memory();
      const peer = await greeted(path);
      expect(await verdict(peer, OPT.EXTENDED_HEADERS, Buffer.from('x'))).toBe(REP.ERR_INVALID);
      expect(await verdict(peer, OPT.EXTENDED_HEADERS)).toBe(REP.ACK);
      expect([REP.ACK, REP.ERR_INVALID]).toContain(await verdict(peer, OPT.EXTENDED_HEADERS));
      expect(await verdict(peer, OPT.GO, infoData('disk'))).toBe(REP.ACK);
      const other = await greeted(path);
      expect(await verdict(other, OPT.STRUCTURED_REPLY)).toBe(REP.ACK);
      expect(await verdict(other, OPT.EXTENDED_HEADERS)).toBe(REP.ACK);
      expect(await verdict(other, OPT.GO, infoData('disk'))).toBe(REP.ACK);
      expect((await execute(other, 'extended', { type: CMD.READ, length: 512 })).error).toBe(0);
    });

    test('STRUCTURED_REPLY after it is EXT_HEADER_REQD, and extended headers stay', async () => {
      const { path } = await memory();
      const peer = await greeted(path);
      expect(await verdict(peer, OPT.EXTENDED_HEADERS)).toBe(REP.ACK);
      expect(await verdict(peer, OPT.STRUCTURED_REPLY)).toBe(REP.ERR_EXT_HEADER_REQD);
      expect(await verdict(peer, OPT.GO, infoData('disk'))).toBe(REP.ACK);
      expect((await execute(peer, 'extended', { type: CMD.READ, length: 512 })).error).toBe(0);
    });

    test('meta contexts need no structured replies before', async () => {
      const { path } = await memory();
      const peer = await greeted(path);
      expect(await verdict(peer, OPT.EXTENDED_HEADERS)).toBe(REP.ACK);
      const answers = await ask(peer, OPT.SET_META_CONTEXT, metaData('disk', ['base:allocation']));
      expect(answers.map(({ type }) => type)).toEqual([REP.META_CONTEXT, REP.ACK]);
    });

    test('a client without it is served compact headers: EXT_HEADER_REQD is no answer to GO', async () => {
      const { path } = await memory();
      expect(await verdict(await greeted(path), OPT.GO, infoData('disk'))).toBe(REP.ACK);
    });

    test('EXPORT_NAME after it does not enter transmission with the wrong headers', async () => {
      const { path } = await memory();
      const peer = await greeted(path);
      expect(await verdict(peer, OPT.EXTENDED_HEADERS)).toBe(REP.ACK);
      peer.send(option(OPT.EXPORT_NAME, Buffer.from('disk')));
      expect(await peer.closed()).toHaveLength(0);
    });

    test('DF and BLOCK_STATUS_PAYLOAD are offered', async () => {
      const { path } = await memory();
      const { flags } = (await peerOf(path)).entered;
      expect(flags & TFLAG.SEND_DF).toBe(TFLAG.SEND_DF);
      expect(flags & TFLAG.BLOCK_STATUS_PAYLOAD).toBe(TFLAG.BLOCK_STATUS_PAYLOAD);
      const structured = await enter(await RawPeer.connect(path), 'structured');
      expect(structured.flags & TFLAG.BLOCK_STATUS_PAYLOAD).toBe(0);
    });
  });

  test('every reply has the extended magic number, the cookie and the offset of its request, errors too', async () => {
    const { path } = await memory();
    const peer = await peerOf(path);
    const requests = [
      { type: CMD.READ, offset: 4096, length: 512 },
      { type: CMD.READ, offset: 2 ** 50, length: 512 },
      { type: CMD.READ, offset: 0xfffffffffffffff0n, length: 512 },
      { type: CMD.READ, offset: 7, length: 0 },
      { type: CMD.READ, offset: 99, length: 10, flags: 0x8000 },
      { type: CMD.TRIM, offset: 512, length: 512 },
      { type: CMD.TRIM, offset: 0x8000000000000001n, length: 512 },
      { type: CMD.WRITE_ZEROES, offset: 1024, length: 512 },
      { type: CMD.CACHE, offset: 2048, length: 512 },
      { type: CMD.FLUSH },
      { type: CMD.BLOCK_STATUS, offset: 65_536, length: 512 },
      { type: CMD.BLOCK_STATUS, offset: 2 ** 60, length: 512 },
      { type: 77, offset: 12_345 },
    ];
    for (const [i, fields] of requests.entries()) {
      const cookie = 0xabcdef0000000000n + BigInt(i);
      const { chunks } = await execute(peer, 'extended', { ...fields, cookie });
      for (const chunk of chunks) {
        expect(chunk.cookie).toBe(cookie);
        expect(chunk.offset, `command ${fields.type} at ${fields.offset}`).toBe(BigInt(fields.offset ?? 0));
      }
    }
  });

  test('a long READ: each chunk repeats the offset of the request and has its own in the payload', async () => {
    const { path, disk } = await memory({ maxIo: 16 * KiB });
    disk.write(Buffer.alloc(100 * KiB, 8), 0, 100 * KiB);
    const peer = await peerOf(path);
    const { chunks, data } = await execute(peer, 'extended', { type: CMD.READ, offset: 1000, length: 64 * KiB });
    expect(data?.equals(Buffer.alloc(64 * KiB, 8))).toBe(true);
    for (const chunk of chunks) expect(chunk.offset).toBe(1000n);
  });

  test("a WRITE without PAYLOAD_LEN, as qemu's client sends it, has its data all the same", async () => {
    const { path, disk } = await memory();
    const peer = await peerOf(path);
    peer.send(Buffer.concat([extendedRequest({ type: CMD.WRITE, length: 512 }), Buffer.alloc(512, 0x25)]));
    expect((await takeOutcome(peer, 'extended', { type: CMD.WRITE })).error).toBe(0);
    expect((await execute(peer, 'extended', { type: CMD.FLUSH })).error).toBe(0);
    const read = Buffer.alloc(512);
    disk.read(read, 0, 512);
    expect(read.equals(Buffer.alloc(512, 0x25))).toBe(true);
  });

  test('a payload that the command does not take is consumed and EINVAL', async () => {
    const { path } = await memory();
    const peer = await peerOf(path);
    const flags = CFLAG.PAYLOAD_LEN;
    for (const type of [CMD.READ, CMD.FLUSH, CMD.TRIM, CMD.CACHE, CMD.WRITE_ZEROES, 8, 77]) {
      for (const length of [1, 32, 5000, 70_000]) {
        peer.send(Buffer.concat([extendedRequest({ type, flags, length }), Buffer.alloc(length, 0x21)]));
        expect((await takeOutcome(peer, 'extended', { type })).error, `command ${type}`).toBe(E.INVAL);
      }
    }
    expect((await execute(peer, 'extended', { type: CMD.FLUSH })).error).toBe(0);
  });

  test('a payload longer than the maximum ends the connection and is written nowhere', async () => {
    const { path, disk } = await serveMemory({}, { transport, limits: { payload: MiB } });
    const peer = await peerOf(path);
    peer.send(extendedRequest({ type: CMD.WRITE, flags: CFLAG.PAYLOAD_LEN, length: 2 ** 40 }));
    const said = await peer.closed();
    if (said.length > 0) expect([said.readUInt16BE(6), said.readUInt32BE(32)]).toEqual([CHUNK.ERROR, E.INVAL]);
    const read = Buffer.alloc(4096);
    disk.read(read, 0, 4096);
    expect(read.equals(Buffer.alloc(4096))).toBe(true);
  });

  test('TRIM, WRITE_ZEROES, CACHE and BLOCK_STATUS take lengths over 32 bits', async () => {
    const { path, disk } = await memory({ size: 20 * GiB });
    disk.write(Buffer.alloc(100, 1), 10 * GiB, 100);
    const peer = await peerOf(path);
    for (const type of [CMD.CACHE, CMD.TRIM, CMD.WRITE_ZEROES])
      expect((await execute(peer, 'extended', { type, offset: GiB, length: 12 * GiB })).error).toBe(0);
    const read = Buffer.alloc(100);
    disk.read(read, 10 * GiB, 100);
    expect(read.equals(Buffer.alloc(100))).toBe(true);
    disk.write(Buffer.alloc(100, 1), 10 * GiB, 100);
    const { chunks, error } = await execute(peer, 'extended', { type: CMD.BLOCK_STATUS, length: 20 * GiB });
    expect(error).toBe(0);
    const [status] = chunks.filter(({ type }) => type !== CHUNK.NONE);
    expect(status.type).toBe(CHUNK.BLOCK_STATUS_EXT);
    expect(decodeStatus(status).extents.slice(0, 2)).toEqual([
      { length: BigInt(10 * GiB), flags: 3n },
      { length: BigInt(64 * KiB), flags: 0n },
    ]);
  });

  test('lengths that pass the end are refused, however large', async () => {
    const { path } = await memory();
    const peer = await peerOf(path);
    for (const length of [
      2 ** 32,
      2 ** 32 + 512,
      2 ** 53,
      0x7fffffffffffffffn,
      0x8000000000000000n,
      0xffffffffffffffffn,
    ]) {
      for (const offset of [0, 1, 512, 16 * MiB]) {
        const errorOf = async (type: number) => (await execute(peer, 'extended', { type, offset, length })).error;
        expect(await errorOf(CMD.WRITE_ZEROES)).toBe(E.NOSPC);
        for (const type of [CMD.READ, CMD.TRIM, CMD.CACHE, CMD.BLOCK_STATUS]) expect(await errorOf(type)).toBe(E.INVAL);
      }
    }
    expect((await execute(peer, 'extended', { type: CMD.READ, length: 512 })).error).toBe(0);
  });

  test('BLOCK_STATUS with REQ_ONE: one extent, no longer than the request, also beyond 32 bits', async () => {
    const { path } = await memory({ size: 20 * GiB });
    const peer = await peerOf(path);
    for (const length of [512, MiB, 5 * GiB, 20 * GiB]) {
      const { chunks } = await execute(peer, 'extended', { type: CMD.BLOCK_STATUS, flags: CFLAG.REQ_ONE, length });
      const status = chunks.filter(({ type }) => type !== CHUNK.NONE).map(decodeStatus);
      expect(status).toHaveLength(1);
      expect(status[0].extents).toHaveLength(1);
      expect(status[0].extents[0].length <= BigInt(length)).toBe(true);
    }
  });

  test('a request with a compact header ends the connection', async () => {
    const { path } = await memory();
    const peer = await peerOf(path);
    peer.send(Buffer.concat([request({ type: CMD.FLUSH }), u32(0)]));
    expect(await peer.closed()).toHaveLength(0);
  });

  test('PAYLOAD_LEN with compact headers is EINVAL, and framing stays', async () => {
    const { path } = await memory();
    for (const style of ['simple', 'structured'] as const) {
      const peer = await RawPeer.connect(path);
      await enter(peer, style);
      const flags = CFLAG.PAYLOAD_LEN;
      for (const type of [CMD.READ, CMD.TRIM, CMD.BLOCK_STATUS, CMD.CACHE])
        expect((await execute(peer, style, { type, flags, length: 512 })).error).toBe(E.INVAL);
      expect((await execute(peer, style, { type: CMD.WRITE, flags, length: 512 }, Buffer.alloc(512))).error).toBe(
        E.INVAL,
      );
      expect((await execute(peer, style, { type: CMD.FLUSH })).error).toBe(0);
    }
  });

  describe('BLOCK_STATUS with a payload', () => {
    const metaContexts = ['base:allocation', 'x-a:one', 'x-a:two'];
    const queried = (
      peer: RawPeer,
      length: number | bigint,
      ids: number[],
      more: Uint8Array = u16(0).subarray(2),
      flags = 0,
    ) => {
      const payload = Buffer.concat([u64(length), ...ids.map(u32), more]);
      return execute(peer, 'extended', { type: CMD.BLOCK_STATUS, flags, length: payload.length }, payload);
    };

    test('answers for the contexts it names, each once', async () => {
      const { path } = await memory({ info: { metaContexts } });
      const peer = await peerOf(path, metaContexts);
      const ids = [...peer.entered.contexts.values()];
      expect(ids).toHaveLength(3);
      for (const some of [[ids[0]], [ids[1]], [ids[2], ids[0]], ids]) {
        for (const flags of [0, CFLAG.REQ_ONE]) {
          const { chunks, error } = await queried(peer, MiB, some, undefined, flags);
          expect(error).toBe(0);
          const status = chunks.filter(({ type }) => type !== CHUNK.NONE).map(decodeStatus);
          expect(status.map(({ id }) => id).sort()).toEqual([...some].sort());
          if (flags) for (const { extents } of status) expect(extents).toHaveLength(1);
        }
      }
    });

    test('contexts that were not negotiated, repeated ids and other lengths are EINVAL, and framing stays', async () => {
      const { path } = await memory({ info: { metaContexts } });
      const peer = await peerOf(path, metaContexts.slice(0, 2));
      const [one] = [...peer.entered.contexts.values()];
      const unknown = Math.max(...peer.entered.contexts.values()) + 1000;
      expect((await queried(peer, MiB, [unknown])).error).toBe(E.INVAL);
      expect((await queried(peer, MiB, [one, unknown])).error).toBe(E.INVAL);
      expect((await queried(peer, MiB, [one, one])).error).toBe(E.INVAL);
      expect((await queried(peer, MiB, [one], u16(0))).error).toBe(E.INVAL);
      for (const length of [1, 4, 7, 9, 15, 70_000]) {
        const fields = { type: CMD.BLOCK_STATUS, length };
        expect((await execute(peer, 'extended', fields, Buffer.alloc(length))).error, `payload of ${length}`).toBe(
          E.INVAL,
        );
      }
      expect((await queried(peer, MiB, [one])).error).toBe(0);
    });

    test('the length in the payload is judged as any other', async () => {
      const { path } = await memory({ info: { metaContexts } });
      const peer = await peerOf(path, metaContexts);
      const [one] = [...peer.entered.contexts.values()];
      for (const length of [16 * MiB + 1, 2 ** 40, 0xffffffffffffffffn])
        expect((await queried(peer, length, [one])).error).toBe(E.INVAL);
      expect((await queried(peer, 16 * MiB, [one])).error).toBe(0);
    });
  });
});
