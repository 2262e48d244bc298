/** What the protocol document asks of a server in transmission, with simple and with structured replies. */
import { describe, expect, test } from 'vitest';
import { MemoryDisk, MemoryProvider } from '../../../src/nbd/memory-device.js';
import { errnos } from '../../../src/sys/errno.js';
import {
  CFLAG,
  CHUNK,
  CMD,
  decodeStatus,
  E,
  type Entered,
  enter,
  execute,
  greet,
  infoData,
  metaData,
  OPT,
  type Outcome,
  REP,
  type RequestFields,
  request,
  type Style,
  verdict,
} from './proto.js';
import { RawPeer, SteeredProvider, serve, serveMemory, transports } from './support.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const pattern = (length: number): Buffer => Buffer.from(Array.from({ length }, (_, i) => (i * 31 + (i >> 8)) & 0xff));

async function peerOf(path: string, style: Style, name = 'disk'): Promise<RawPeer & { entered: Entered }> {
  const peer = await RawPeer.connect(path);
  const entered = await enter(peer, style, name);
  return Object.assign(peer, { entered });
}

describe.each(transports)('over the %s transport', (transport) => {
  describe.each(['simple', 'structured', 'extended'] as const)('%s replies', (style) => {
    const memory = (disk = {}) => serveMemory(disk, { transport });
    const errorOf = async (peer: RawPeer, fields: RequestFields, payload?: Uint8Array): Promise<number> =>
      (await execute(peer, style, fields, payload)).error;

    test('every command is answered with the cookie of its request', async () => {
      const { path } = await memory();
      const peer = await peerOf(path, style);
      const cookies = [
        0n,
        1n,
        0xffffffffn,
        0x100000000n,
        0x8000000000000000n,
        0xffffffffffffffffn,
        0x0123456789abcdefn,
      ];
      for (const cookie of cookies) {
        for (const type of [CMD.READ, CMD.FLUSH, CMD.TRIM, CMD.CACHE, CMD.WRITE_ZEROES]) {
          const length = type === CMD.FLUSH ? 0 : 512;
          const outcome = await execute(peer, style, { type, cookie, length });
          expect(outcome.error).toBe(0);
          for (const chunk of outcome.chunks) expect(chunk.cookie).toBe(cookie);
        }
      }
    });

    test('READ and WRITE move the bytes', async () => {
      const { path } = await memory({ maxIo: 64 * KiB });
      const peer = await peerOf(path, style);
      const data = pattern(200 * KiB);
      expect(await errorOf(peer, { type: CMD.WRITE, offset: 12_345, length: data.length }, data)).toBe(0);
      const outcome = await execute(peer, style, { type: CMD.READ, offset: 12_345, length: data.length });
      expect(outcome.data?.equals(data)).toBe(true);
      const around = await execute(peer, style, { type: CMD.READ, offset: 0, length: 300 * KiB });
      expect(around.data?.subarray(0, 12_345).equals(Buffer.alloc(12_345))).toBe(true);
      expect(around.data?.subarray(12_345, 12_345 + data.length).equals(data)).toBe(true);
    });

    test('past the end: WRITE and WRITE_ZEROES are ENOSPC, READ, TRIM and CACHE are EINVAL', async () => {
      const { path } = await memory();
      const peer = await peerOf(path, style);
      const size = 16 * MiB;
      for (const offset of [size - 511, size, size + 512, 2 ** 40, 0x7fffffffffffffffn, 0xfffffffffffffe00n]) {
        const at = { offset, length: 512 };
        expect(await errorOf(peer, { type: CMD.WRITE, ...at }, Buffer.alloc(512))).toBe(E.NOSPC);
        expect(await errorOf(peer, { type: CMD.WRITE_ZEROES, ...at })).toBe(E.NOSPC);
        expect(await errorOf(peer, { type: CMD.READ, ...at })).toBe(E.INVAL);
        expect(await errorOf(peer, { type: CMD.TRIM, ...at })).toBe(E.INVAL);
        expect(await errorOf(peer, { type: CMD.CACHE, ...at })).toBe(E.INVAL);
      }
      expect(await errorOf(peer, { type: CMD.READ, offset: size - 512, length: 512 })).toBe(0);
    });

    test('a read-only export answers everything that writes with EPERM, after its data', async () => {
      const { path } = await memory({ info: { readOnly: true } });
      const peer = await peerOf(path, style);
      expect(await errorOf(peer, { type: CMD.WRITE, length: 512 }, Buffer.alloc(512, 1))).toBe(E.PERM);
      expect(await errorOf(peer, { type: CMD.TRIM, length: 512 })).toBe(E.PERM);
      expect(await errorOf(peer, { type: CMD.WRITE_ZEROES, length: 512 })).toBe(E.PERM);
      const outcome = await execute(peer, style, { type: CMD.READ, length: 512 });
      expect(outcome.data?.equals(Buffer.alloc(512))).toBe(true);
    });

    test('offsets and lengths off the minimum block size are EINVAL and change nothing', async () => {
      const blockSize = { minimum: 512, preferred: 4096, maximum: 32 * MiB };
      const { path } = await memory({ info: { blockSize } });
      const peer = await peerOf(path, style);
      for (const [offset, length] of [
        [1, 512],
        [0, 511],
        [511, 1],
        [512, 513],
      ]) {
        expect(await errorOf(peer, { type: CMD.WRITE, offset, length }, Buffer.alloc(length, 7))).toBe(E.INVAL);
        for (const type of [CMD.READ, CMD.TRIM, CMD.WRITE_ZEROES, CMD.CACHE])
          expect(await errorOf(peer, { type, offset, length })).toBe(E.INVAL);
      }
      const outcome = await execute(peer, style, { type: CMD.READ, length: 4096 });
      expect(outcome.data?.equals(Buffer.alloc(4096))).toBe(true);
    });

    test('an unknown command is EINVAL, and the connection goes on', async () => {
      const { path } = await memory();
      const peer = await peerOf(path, style);
      for (const type of [8, 9, 10, 255, 0x8000, 0xffff])
        expect(await errorOf(peer, { type, length: 0 }), `command ${type}`).toBe(E.INVAL);
      expect(await errorOf(peer, { type: CMD.FLUSH })).toBe(0);
    });

    test('a flag that is unknown or does not belong to the command is EINVAL', async () => {
      const { path } = await memory();
      const peer = await peerOf(path, style);
      const { NO_HOLE, DF, REQ_ONE, FAST_ZERO } = CFLAG;
      const wrong: [number, number[]][] = [
        [CMD.READ, [NO_HOLE, REQ_ONE, FAST_ZERO, 64, 128, 0x8000, ...(style === 'simple' ? [DF] : [])]],
        [CMD.WRITE, [NO_HOLE, DF, REQ_ONE, FAST_ZERO, 64, 0x8000]],
        [CMD.FLUSH, [NO_HOLE, DF, REQ_ONE, FAST_ZERO, 64]],
        [CMD.TRIM, [NO_HOLE, DF, REQ_ONE, FAST_ZERO, 64]],
        [CMD.CACHE, [NO_HOLE, DF, REQ_ONE, FAST_ZERO, 64]],
        [CMD.WRITE_ZEROES, [DF, REQ_ONE, 64, 0x8000]],
        [CMD.BLOCK_STATUS, [NO_HOLE, DF, FAST_ZERO, 64]],
      ];
      for (const [type, flags] of wrong) {
        for (const flag of flags) {
          const length = type === CMD.FLUSH ? 0 : 512;
          const payload = type === CMD.WRITE ? Buffer.alloc(512) : undefined;
          expect(await errorOf(peer, { type, flags: flag, length }, payload), `${type} with ${flag}`).toBe(E.INVAL);
        }
      }
    });

    test('FUA is accepted with every command', async () => {
      const { path } = await memory();
      const peer = await peerOf(path, style);
      for (const type of [CMD.READ, CMD.TRIM, CMD.CACHE, CMD.WRITE_ZEROES])
        expect(await errorOf(peer, { type, flags: CFLAG.FUA, length: 512 })).toBe(0);
      expect(await errorOf(peer, { type: CMD.FLUSH, flags: CFLAG.FUA })).toBe(0);
      expect(await errorOf(peer, { type: CMD.WRITE, flags: CFLAG.FUA, length: 512 }, Buffer.alloc(512))).toBe(0);
      if (style !== 'simple')
        expect(await errorOf(peer, { type: CMD.BLOCK_STATUS, flags: CFLAG.FUA, length: 512 })).toBe(0);
    });

    test('what was not offered is EINVAL', async () => {
      const info = {
        canFlush: false,
        canFua: false,
        canTrim: false,
        canWriteZeroes: false,
        canFastZero: false,
        canCache: false,
      };
      const { path } = await memory({ info });
      const peer = await peerOf(path, style);
      expect(await errorOf(peer, { type: CMD.FLUSH })).toBe(E.INVAL);
      for (const type of [CMD.TRIM, CMD.WRITE_ZEROES, CMD.CACHE])
        expect(await errorOf(peer, { type, length: 512 })).toBe(E.INVAL);
      expect(await errorOf(peer, { type: CMD.READ, flags: CFLAG.FUA, length: 512 })).toBe(E.INVAL);
    });

    test('FAST_ZERO is EINVAL where it was not offered, and ENOTSUP comes only with it', async () => {
      const slow = await memory({ info: { canFastZero: false } });
      const peer = await peerOf(slow.path, style);
      expect(await errorOf(peer, { type: CMD.WRITE_ZEROES, flags: CFLAG.FAST_ZERO, length: 512 })).toBe(E.INVAL);
      const provider = new SteeredProvider(new MemoryDisk({ size: MiB }), (device) => {
        device.hook = (io) => {
          io.complete(errnos.EOPNOTSUPP);
          return true;
        };
      });
      const other = await peerOf((await serve(provider, { transport })).path, style);
      expect(await errorOf(other, { type: CMD.WRITE_ZEROES, flags: CFLAG.FAST_ZERO, length: 512 })).toBe(E.NOTSUP);
      for (const type of [CMD.WRITE_ZEROES, CMD.READ, CMD.TRIM, CMD.CACHE])
        expect(await errorOf(other, { type, length: 512 })).not.toBe(E.NOTSUP);
    });

    test('NO_HOLE is taken by WRITE_ZEROES, and what it zeroes reads as zeros', async () => {
      const { path } = await memory();
      const peer = await peerOf(path, style);
      for (const flags of [0, CFLAG.NO_HOLE, CFLAG.FAST_ZERO, CFLAG.NO_HOLE | CFLAG.FUA]) {
        expect(await errorOf(peer, { type: CMD.WRITE, length: 8192 }, Buffer.alloc(8192, 9))).toBe(0);
        expect(await errorOf(peer, { type: CMD.WRITE_ZEROES, flags, offset: 100, length: 5000 })).toBe(0);
        const { data } = await execute(peer, style, { type: CMD.READ, length: 8192 });
        expect(data?.equals(Buffer.concat([Buffer.alloc(100, 9), Buffer.alloc(5000), Buffer.alloc(3092, 9)]))).toBe(
          true,
        );
      }
    });

    test('requests of length zero do not end the connection', async () => {
      const { path } = await memory();
      const peer = await peerOf(path, style);
      for (const type of [CMD.READ, CMD.TRIM, CMD.CACHE, CMD.WRITE_ZEROES, CMD.BLOCK_STATUS]) {
        for (const offset of [0, 16 * MiB])
          expect([0, E.INVAL]).toContain(await errorOf(peer, { type, offset, length: 0 }));
      }
      expect(await errorOf(peer, { type: CMD.FLUSH })).toBe(0);
    });

    test('TRIM, WRITE_ZEROES and CACHE may be longer than any payload', async () => {
      const { path } = await memory({ size: 3 * 1024 * MiB });
      const peer = await peerOf(path, style);
      for (const type of [CMD.TRIM, CMD.WRITE_ZEROES, CMD.CACHE])
        expect(await errorOf(peer, { type, length: 3 * 1024 * MiB })).toBe(0);
    });

    test('a payload of 32 MiB goes both ways', async () => {
      const { path } = await memory({ size: 40 * MiB });
      const peer = await peerOf(path, style);
      const data = Buffer.alloc(32 * MiB, 0x5a);
      expect(await errorOf(peer, { type: CMD.WRITE, offset: MiB, length: data.length }, data)).toBe(0);
      const outcome = await execute(peer, style, { type: CMD.READ, offset: MiB, length: data.length });
      expect(outcome.data?.equals(data)).toBe(true);
    });

    test('errors of the device arrive as values the protocol knows', async () => {
      const provider = new SteeredProvider(new MemoryDisk({ size: MiB }), (device) => {
        device.hook = (io) => {
          io.complete(io.offset, 'a text');
          return true;
        };
      });
      const { path } = await serve(provider, { transport });
      const peer = await peerOf(path, style);
      const mapped: [number, number][] = [
        [errnos.EPERM, E.PERM],
        [errnos.EROFS, E.PERM],
        [errnos.EIO, E.IO],
        [errnos.EINVAL, E.INVAL],
        [errnos.ENOSPC, E.NOSPC],
        [errnos.EDQUOT, E.NOSPC],
        [errnos.EFBIG, E.NOSPC],
        [108, E.SHUTDOWN],
        [errnos.ENOENT, E.IO],
        [errnos.EOPNOTSUPP, E.IO],
      ];
      for (const [errno, wire] of mapped) {
        const outcome = await execute(peer, style, { type: CMD.READ, offset: errno, length: 1 });
        expect(outcome.error, `errno ${errno}`).toBe(wire);
        if (style !== 'simple') expect(outcome.text).toBe('a text');
      }
    });

    test('DISC has no reply: what came before is answered, then the server closes', async () => {
      const { path } = await memory();
      const peer = await peerOf(path, style);
      const { data } = await execute(peer, style, { type: CMD.READ, length: 16 });
      expect(data).toHaveLength(16);
      if (style === 'extended') {
        const bytes = Buffer.alloc(32);
        bytes.writeUInt32BE(0x21e41c71);
        bytes.writeUInt16BE(2, 6);
        peer.send(bytes);
      } else peer.send(request({ type: CMD.DISC }));
      expect(await peer.closed()).toHaveLength(0);
    });

    test('a request without its magic number ends the connection', async () => {
      const { path } = await memory();
      const peer = await peerOf(path, style);
      peer.send(Buffer.alloc(64, 0x25));
      expect(await peer.closed()).toHaveLength(0);
    });
  });

  test('without negotiation every reply is simple, errors too', async () => {
    const { path } = await serveMemory({}, { transport });
    const peer = await peerOf(path, 'simple');
    const requests: RequestFields[] = [
      { type: CMD.READ, length: 512 },
      { type: CMD.READ, length: 512, offset: 2 ** 40 },
      { type: CMD.READ, length: 512, flags: 0x4000 },
      { type: CMD.BLOCK_STATUS, length: 512 },
      { type: CMD.FLUSH },
      { type: 77 },
    ];
    for (const fields of requests) expect((await execute(peer, 'simple', fields)).simple).toBe(true);
  });

  describe('structured replies', () => {
    test('READ is never answered by a simple reply, not even for an early EINVAL', async () => {
      const { path } = await serveMemory({}, { transport });
      const peer = await peerOf(path, 'structured');
      const wrong: RequestFields[] = [
        { type: CMD.READ, length: 512, flags: 0x8000 },
        { type: CMD.READ, length: 512, flags: CFLAG.NO_HOLE },
        { type: CMD.READ, length: 512, offset: 2 ** 50 },
        { type: CMD.READ, length: 0xffffffff },
        { type: CMD.READ, length: 0 },
        { type: CMD.READ, length: 512 },
      ];
      for (const fields of wrong) expect((await execute(peer, 'structured', fields)).simple).toBe(false);
    });

    test('errors come with a text for people, UTF-8 of at most 4096 bytes', async () => {
      const { path } = await serveMemory({}, { transport });
      const peer = await peerOf(path, 'structured');
      for (const type of [CMD.READ, CMD.WRITE_ZEROES, CMD.TRIM, CMD.BLOCK_STATUS, 99]) {
        const { text } = await execute(peer, 'structured', { type, offset: 2 ** 50, length: 512 });
        expect(text.length).toBeGreaterThan(0);
        expect(Buffer.from(text).length).toBeLessThanOrEqual(4096);
      }
    });

    test('content chunks cover the request once, DONE is on the last chunk only, no other flag is set', async () => {
      const { path, disk } = await serveMemory({ maxIo: 16 * KiB }, { transport });
      const data = pattern(64 * KiB);
      disk.write(data, 100_000, data.length);
      const peer = await peerOf(path, 'structured');
      for (const [offset, length] of [
        [0, 300 * KiB],
        [99_999, 1],
        [99_999, 2],
        [100_000, 64 * KiB],
        [131_071, 2],
        [65_535, 131_074],
      ]) {
        const { chunks, data: got } = await execute(peer, 'structured', { type: CMD.READ, offset, length });
        const expected = Buffer.alloc(length);
        disk.read(expected, offset, length);
        expect(got?.equals(expected)).toBe(true);
        chunks.forEach((chunk, i) => {
          expect(chunk.flags).toBe(i === chunks.length - 1 ? 1 : 0);
          if (chunk.type === CHUNK.NONE) expect([chunk.flags, chunk.payload.length]).toEqual([1, 0]);
        });
      }
    });

    test.each([1, 512, 65_536])('DF: %i bytes, data and holes, are one chunk of data', async (length) => {
      const { path, disk } = await serveMemory({ maxIo: 4 * KiB }, { transport });
      disk.write(Buffer.alloc(4096, 3), 96 * KiB, 4096);
      const peer = await peerOf(path, 'structured');
      for (const offset of [0, 64 * KiB, 96 * KiB - 100, 60 * KiB]) {
        const { chunks, data } = await execute(peer, 'structured', { type: CMD.READ, flags: CFLAG.DF, offset, length });
        const content = chunks.filter(({ type }) => type === CHUNK.OFFSET_DATA || type === CHUNK.OFFSET_HOLE);
        expect(content).toHaveLength(1);
        const expected = Buffer.alloc(length);
        disk.read(expected, offset, length);
        expect(data?.equals(expected)).toBe(true);
      }
    });

    test('a hole in the answer to READ is zeros, where the request lies, and never without a byte', async () => {
      const { path, disk } = await serveMemory({ maxIo: 64 * KiB }, { transport });
      disk.write(Buffer.alloc(64 * KiB, 4), 128 * KiB, 64 * KiB);
      const peer = await peerOf(path, 'structured');
      const { chunks, data } = await execute(peer, 'structured', { type: CMD.READ, offset: 0, length: 512 * KiB });
      const expected = Buffer.alloc(512 * KiB);
      disk.read(expected, 0, 512 * KiB);
      expect(data?.equals(expected)).toBe(true);
      const holes = chunks.filter(({ type }) => type === CHUNK.OFFSET_HOLE);
      expect(holes.length).toBeGreaterThan(0);
      for (const { payload } of holes) expect(payload.readUInt32BE(8)).toBeGreaterThan(0);
    });

    test('a READ that fails in its middle tells where, inside the request, after the chunks that are good', async () => {
      const disk = new MemoryDisk({ size: MiB, maxIo: 16 * KiB });
      disk.write(Buffer.alloc(MiB, 6), 0, MiB);
      const provider = new SteeredProvider(disk, (device) => {
        device.hook = (io) => {
          if (io.offset < 64 * KiB || io.offset >= 80 * KiB) return false;
          io.complete(errnos.EIO, 'unreadable');
          return true;
        };
      });
      const { path } = await serve(provider, { transport });
      const peer = await peerOf(path, 'structured');
      const { error, errorOffsets, chunks, text } = await execute(peer, 'structured', {
        type: CMD.READ,
        offset: 1000,
        length: 200 * KiB,
      });
      expect(error).toBe(E.IO);
      expect(text).toBe('unreadable');
      expect(errorOffsets.length).toBeGreaterThan(0);
      for (const at of errorOffsets) expect(at >= 64n * 1024n && at < 80n * 1024n).toBe(true);
      for (const { type, payload } of chunks) {
        if (type !== CHUNK.OFFSET_DATA) continue;
        const at = Number(payload.readBigUInt64BE(0));
        const good = payload.subarray(8, at < 64 * KiB ? 8 + Math.max(0, 64 * KiB - at) : undefined);
        expect(at < 64 * KiB || at >= 80 * KiB).toBe(true);
        expect(good.every((byte) => byte === 6)).toBe(true);
      }
    });

    test('WRITE that fails in its middle is one error', async () => {
      const disk = new MemoryDisk({ size: MiB, maxIo: 16 * KiB });
      const provider = new SteeredProvider(disk, (device) => {
        device.hook = (io) => {
          if (io.offset < 64 * KiB) return false;
          io.complete(errnos.ENOSPC, 'full');
          return true;
        };
      });
      const { path } = await serve(provider, { transport });
      const peer = await peerOf(path, 'structured');
      const length = 200 * KiB;
      const fields = { type: CMD.WRITE, offset: 1000, length };
      const { error, errorOffsets } = await execute(peer, 'structured', fields, Buffer.alloc(length));
      expect(error).toBe(E.NOSPC);
      for (const at of errorOffsets) expect(at >= 1000n && at < BigInt(1000 + length)).toBe(true);
      expect((await execute(peer, 'structured', { type: CMD.FLUSH })).error).toBe(0);
    });

    const status = async (peer: RawPeer & { entered: Entered }, fields: Partial<RequestFields>) => {
      const outcome: Outcome = await execute(peer, 'structured', { type: CMD.BLOCK_STATUS, ...fields });
      expect(outcome.error).toBe(0);
      return outcome.chunks.filter(({ type }) => type !== CHUNK.NONE).map(decodeStatus);
    };

    test('BLOCK_STATUS: one chunk for each context, extents that are true and end where they may', async () => {
      const { path, disk } = await serveMemory({ size: 4 * MiB }, { transport });
      for (let at = 0; at < 4 * MiB; at += 192 * KiB) disk.write(Buffer.alloc(100, 5), at + 1000, 100);
      const peer = await peerOf(path, 'structured');
      for (const [offset, length] of [
        [0, 4 * MiB],
        [1, 1],
        [65_535, 2],
        [64 * KiB, 64 * KiB],
        [1000, 3 * MiB],
      ]) {
        const chunks = await status(peer, { offset, length });
        expect(chunks.map(({ id }) => id)).toEqual([peer.entered.contexts.get('base:allocation')]);
        const { extents } = chunks[0];
        const before = extents.slice(0, -1).reduce((sum, extent) => sum + Number(extent.length), 0);
        expect(before).toBeLessThan(length);
        let at = offset;
        extents.forEach((extent, i) => {
          expect(extent.length > 0n).toBe(true);
          if (i > 0) expect(extent.flags).not.toBe(extents[i - 1].flags);
          expect(extent.flags <= 3n).toBe(true);
          if (extent.flags & 2n) {
            const bytes = Buffer.alloc(Number(extent.length));
            disk.read(bytes, at, bytes.length);
            expect(bytes.some((byte) => byte !== 0)).toBe(false);
          }
          at += Number(extent.length);
        });
        expect(at).toBeLessThanOrEqual(4 * MiB);
      }
    });

    test('BLOCK_STATUS with REQ_ONE: one extent, no longer than the request', async () => {
      const { path, disk } = await serveMemory({ size: 4 * MiB }, { transport });
      disk.write(Buffer.alloc(100, 5), MiB, 100);
      const peer = await peerOf(path, 'structured');
      for (const [offset, length] of [
        [0, 4 * MiB],
        [0, 512],
        [MiB - 512, 1024],
        [MiB, 4096],
      ]) {
        const chunks = await status(peer, { offset, length, flags: CFLAG.REQ_ONE });
        expect(chunks).toHaveLength(1);
        expect(chunks[0].extents).toHaveLength(1);
        expect(chunks[0].extents[0].length <= BigInt(length)).toBe(true);
      }
    });

    test('BLOCK_STATUS past the end, unaligned, or without a context is EINVAL', async () => {
      const blockSize = { minimum: 512, preferred: 4096, maximum: 32 * MiB };
      const { path } = await serveMemory({ info: { blockSize } }, { transport });
      const peer = await peerOf(path, 'structured');
      const type = CMD.BLOCK_STATUS;
      for (const fields of [
        { offset: 16 * MiB - 512, length: 1024 },
        { offset: 16 * MiB, length: 512 },
        { offset: 1, length: 512 },
        { offset: 0, length: 511 },
      ])
        expect((await execute(peer, 'structured', { type, ...fields })).error).toBe(E.INVAL);
      const none = await RawPeer.connect(path);
      await enter(none, 'structured', 'disk', []);
      expect((await execute(none, 'structured', { type, length: 512 })).error).toBe(E.INVAL);
    });

    test('BLOCK_STATUS of contexts that were chosen for another export is EINVAL', async () => {
      const provider = new MemoryProvider([
        ['disk', new MemoryDisk({ size: MiB })],
        ['other', new MemoryDisk({ size: MiB })],
      ]);
      const { path } = await serve(provider, { transport });
      const peer = await RawPeer.connect(path);
      await greet(peer);
      expect(await verdict(peer, OPT.STRUCTURED_REPLY)).toBe(REP.ACK);
      expect(await verdict(peer, OPT.SET_META_CONTEXT, metaData('other', ['base:allocation']))).toBe(REP.ACK);
      expect(await verdict(peer, OPT.GO, infoData('disk'))).toBe(REP.ACK);
      expect((await execute(peer, 'structured', { type: CMD.BLOCK_STATUS, length: 512 })).error).toBe(E.INVAL);
    });

    test('extents are multiples of an advertised minimum block size', async () => {
      const blockSize = { minimum: 4096, preferred: 4096, maximum: 32 * MiB };
      const { path, disk } = await serveMemory({ info: { blockSize } }, { transport });
      disk.write(Buffer.alloc(10, 5), 5 * 64 * KiB, 10);
      const peer = await peerOf(path, 'structured');
      const [{ extents }] = await status(peer, { offset: 4096, length: 8 * MiB });
      for (const { length } of extents) expect(length % 4096n).toBe(0n);
    });
  });
});
