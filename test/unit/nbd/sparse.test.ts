/** Reads: how they are cut, holes, and what is told of the parts that failed. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Io } from '../../../src/nbd/device.js';
import { IoCommand } from '../../../src/nbd/device.js';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import { CFLAG, CHUNK, CMD, E, type Style } from './proto.js';
import { SteeredDevice, until } from './support.js';
import { type Asked, parseReplies, requestBytes, Talk, type Told, talk } from './talk.js';

const KiB = 1024;
const styles = ['simple', 'structured', 'extended'] as const;
const chunked = ['structured', 'extended'] as const;
const disconnect: Asked = { type: CMD.DISC };

const pattern = (length: number, seed: number): Buffer =>
  Buffer.from(Array.from({ length }, (_, i) => 1 + ((i * 31 + seed + (i >> 8)) % 255)));

/** What is told of one READ. */
async function read(style: Style, device: SteeredDevice, offset: number, length: number, flags = 0): Promise<Told> {
  const asked: Asked[] = [{ type: CMD.READ, flags, offset, length }, disconnect];
  return parseReplies(style, await talk({ style, device }, [requestBytes(style, asked)]), asked).get(0)!;
}

/** Type, offset and length of each content chunk. */
const contents = ({ chunks }: Told): [number, number, number][] =>
  chunks
    .filter(({ type }) => type === CHUNK.OFFSET_DATA || type === CHUNK.OFFSET_HOLE)
    .map(({ type, payload }) => [
      type,
      Number(payload.readBigUInt64BE(0)),
      type === CHUNK.OFFSET_DATA ? payload.length - 8 : payload.readUInt32BE(8),
    ]);

/** 1 MiB in pieces of 64 KiB, with data at 128..192 KiB and at 300..301 KiB. */
function holey(): { disk: MemoryDisk; device: SteeredDevice; image: Buffer } {
  const disk = new MemoryDisk({ size: 1024 * KiB, maxIo: 64 * KiB });
  const image = Buffer.alloc(1024 * KiB);
  pattern(64 * KiB, 1).copy(image, 128 * KiB);
  pattern(KiB, 2).copy(image, 300 * KiB);
  disk.write(image.subarray(128 * KiB, 192 * KiB), 128 * KiB, 64 * KiB);
  disk.write(image.subarray(300 * KiB, 301 * KiB), 300 * KiB, KiB);
  return { disk, device: new SteeredDevice(disk), image };
}

describe('a read longer than the device takes', () => {
  test.each(styles)('is cut at multiples of maxIo, a shorter one not at all (%s)', async (style) => {
    const { device, image } = holey();
    const places = (): number[][] =>
      device.submitted.splice(0).map(({ offset, length }) => [offset / KiB, length / KiB]);
    expect((await read(style, device, 100 * KiB, 200 * KiB)).data).toEqual(image.subarray(100 * KiB, 300 * KiB));
    expect(places()).toEqual([
      [100, 28],
      [128, 64],
      [192, 64],
      [256, 44],
    ]);
    expect((await read(style, device, 100 * KiB, 64 * KiB)).data).toEqual(image.subarray(100 * KiB, 164 * KiB));
    expect(places()).toEqual([[100, 64]]);
    await read(style, device, 128 * KiB, 128 * KiB);
    expect(places()).toEqual([
      [128, 64],
      [192, 64],
    ]);
  });
});

describe('holes', () => {
  test.each(chunked)('are told without their zeros, neighbours in one chunk (%s)', async (style) => {
    const { device, image } = holey();
    const told = await read(style, device, 0, 1024 * KiB);
    expect(told.data?.equals(image)).toBe(true);
    expect(contents(told)).toEqual([
      [CHUNK.OFFSET_HOLE, 0, 128 * KiB],
      [CHUNK.OFFSET_DATA, 128 * KiB, 64 * KiB],
      [CHUNK.OFFSET_HOLE, 192 * KiB, 64 * KiB],
      [CHUNK.OFFSET_DATA, 256 * KiB, 64 * KiB],
      [CHUNK.OFFSET_HOLE, 320 * KiB, 704 * KiB],
    ]);
    expect(contents(await read(style, device, 5, 7))).toEqual([[CHUNK.OFFSET_HOLE, 5, 7]]);
  });

  test.each(chunked)('are data with DF, whatever the length (%s)', async (style) => {
    const { device, image } = holey();
    expect(contents(await read(style, device, 0, 512, CFLAG.DF))).toEqual([[CHUNK.OFFSET_DATA, 0, 512]]);
    const told = await read(style, device, 0, 1024 * KiB, CFLAG.DF);
    expect(told.data?.equals(image)).toBe(true);
    expect(contents(told)).toEqual([[CHUNK.OFFSET_DATA, 0, 1024 * KiB]]);
  });

  test('are only offered to the device where the client understands them', async () => {
    const { device } = holey();
    const seen: boolean[] = [];
    device.hook = (io: Io) => {
      seen.push(io.mayBeHole);
      return false;
    };
    const may = async (style: Style, flags = 0) => {
      await read(style, device, 0, 512, flags);
      await read(style, device, 0, 128 * KiB, flags);
      return seen.splice(0);
    };
    expect(await may('simple')).toEqual([false, false, false]);
    expect(await may('structured', CFLAG.DF)).toEqual([false, false, false]);
    expect(await may('structured')).toEqual([true, true, true]);
    expect(await may('extended')).toEqual([true, true, true]);
  });

  test.each(styles)(
    'that a device tells though it may not are zeros, not what was in the buffer (%s)',
    async (style) => {
      const disk = new MemoryDisk({ size: 1024 * KiB, maxIo: 64 * KiB, buffers: 2 });
      const device = new SteeredDevice(disk);
      device.hook = (io: Io) => {
        io.buffer?.bytes.fill(0xee);
        io.hole = true;
        io.complete(0);
        return true;
      };
      const flags = style === 'simple' ? 0 : CFLAG.DF;
      expect((await read(style, device, 0, 512, flags)).data).toEqual(Buffer.alloc(512));
      expect((await read(style, device, 7, 200 * KiB, flags)).data?.equals(Buffer.alloc(200 * KiB))).toBe(true);
      expect(disk.pool.inUse).toBe(0);
    },
  );

  test('a piece that was a hole is none the next time', async () => {
    const { disk, device } = holey();
    const asked: Asked[] = [
      { type: CMD.READ, length: 4096 },
      { type: CMD.WRITE, length: 4096, payload: pattern(4096, 3) },
      { type: CMD.READ, length: 4096 },
      { type: CMD.READ, flags: CFLAG.DF, offset: 700 * KiB, length: 4096 },
      disconnect,
    ];
    const answers = await talk({ style: 'structured', device }, [requestBytes('structured', asked)]);
    const told = parseReplies('structured', answers, asked);
    expect(contents(told.get(0)!)).toEqual([[CHUNK.OFFSET_HOLE, 0, 4096]]);
    expect(contents(told.get(2)!)).toEqual([[CHUNK.OFFSET_DATA, 0, 4096]]);
    expect(told.get(2)?.data).toEqual(pattern(4096, 3));
    expect(contents(told.get(3)!)).toEqual([[CHUNK.OFFSET_DATA, 700 * KiB, 4096]]);
    expect(disk.pool.inUse).toBe(0);
  });

  test('cost no buffer while the client does not read', async () => {
    const disk = new MemoryDisk({ size: 64 * 1024 * KiB, maxIo: 64 * KiB, buffers: 2 });
    const conversation = new Talk({ style: 'extended', device: disk.open() });
    const { transport } = conversation;
    const send = transport.send.bind(transport);
    transport.send = () => false;
    const asked: Asked[] = [
      { type: CMD.FLUSH },
      ...Array.from({ length: 30 }, (_, i) => ({ type: CMD.READ, offset: i * 64 * KiB, length: 1024 * KiB })),
      disconnect,
    ];
    conversation.feed(requestBytes('extended', asked));
    await until(() => conversation.transmission.counters.requests === 31);
    expect(disk.pool.inUse).toBe(0);
    transport.send = send;
    send();
    transport.events.drained();
    const told = parseReplies('extended', await conversation.sent(), asked);
    for (let i = 1; i <= 30; i++) expect(told.get(i)?.data?.equals(Buffer.alloc(1024 * KiB))).toBe(true);
  });
});

describe('parts of a read that fail', () => {
  /** Pieces of 64 KiB at these offsets (in KiB) fail, each with words of its own. */
  function failing(...at: number[]): { disk: MemoryDisk; device: SteeredDevice; image: Buffer } {
    const made = holey();
    made.device.hook = (io: Io) => {
      const bad = io.command === IoCommand.READ && at.includes(io.offset / KiB);
      if (bad) io.complete(io.offset === 0 ? 28 : 5, `at ${io.offset / KiB}`);
      return bad;
    };
    return made;
  }

  test.each(chunked)('are told where they are, the other parts are there (%s)', async (style) => {
    const { disk, device, image } = failing(64, 192);
    const told = await read(style, device, 0, 320 * KiB);
    expect(told).toMatchObject({ error: E.IO, text: 'at 64', data: null, done: true });
    expect(told.errorOffsets).toEqual([BigInt(64 * KiB), BigInt(192 * KiB)]);
    expect(told.chunks.every(({ type }) => type !== CHUNK.ERROR)).toBe(true);
    expect(contents(told)).toEqual([
      [CHUNK.OFFSET_HOLE, 0, 64 * KiB],
      [CHUNK.OFFSET_DATA, 128 * KiB, 64 * KiB],
      [CHUNK.OFFSET_DATA, 256 * KiB, 64 * KiB],
    ]);
    const data = told.chunks.filter(({ type }) => type === CHUNK.OFFSET_DATA);
    expect(data[0].payload.subarray(8).equals(image.subarray(128 * KiB, 192 * KiB))).toBe(true);
    expect(disk.pool.inUse).toBe(0);
  });

  test.each(chunked)('the first, the last, or all of them (%s)', async (style) => {
    expect((await read(style, failing(0).device, 0, 192 * KiB)).errorOffsets).toEqual([0n]);
    expect((await read(style, failing(0).device, 0, 192 * KiB)).error).toBe(E.NOSPC);
    expect((await read(style, failing(128).device, 0, 192 * KiB)).errorOffsets).toEqual([BigInt(128 * KiB)]);
    const all = await read(style, failing(0, 64, 128).device, 0, 192 * KiB);
    expect(all.errorOffsets).toEqual([0n, BigInt(64 * KiB), BigInt(128 * KiB)]);
    expect(contents(all)).toEqual([]);
  });

  test.each(chunked)('a read that was not cut fails as a whole (%s)', async (style) => {
    const told = await read(style, failing(64).device, 64 * KiB, 512);
    expect(told).toMatchObject({ error: E.IO, text: 'at 64', errorOffsets: [] });
    expect(told.chunks.map(({ type }) => type)).toEqual([CHUNK.ERROR]);
  });

  test.each(chunked)('with DF there is one error and no data (%s)', async (style) => {
    const { device, disk } = failing(64, 128);
    const told = await read(style, device, 0, 192 * KiB, CFLAG.DF);
    expect(told.chunks.map(({ type }) => type)).toEqual([CHUNK.ERROR]);
    expect(told).toMatchObject({ error: E.IO, text: 'at 64' });
    expect(disk.pool.inUse).toBe(0);
  });

  test('with simple replies there is one error and no data', async () => {
    expect(await read('simple', failing(64).device, 0, 192 * KiB)).toMatchObject({ error: E.IO, data: null });
  });

  test('one read counts as one error, however many parts failed', async () => {
    const { device } = failing(0, 64, 128);
    const asked: Asked[] = [
      { type: CMD.READ, length: 192 * KiB },
      { type: CMD.READ, length: 512 },
      { type: 99 },
      disconnect,
    ];
    const conversation = new Talk({ style: 'extended', device });
    conversation.feed(requestBytes('extended', asked));
    await conversation.finished;
    expect(conversation.transmission.counters).toMatchObject({ requests: 3, errors: 3, reads: 2 });
  });
});

test('pieces that complete in any order, holes, data and failures: every byte is told once and rightly', async () => {
  const what = fc.constantFrom('hole', 'data', 'failure');
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...styles),
      fc.array(what, { minLength: 8, maxLength: 8 }),
      fc.array(fc.record({ offset: fc.nat(8 * 4096 - 1), length: fc.nat(8 * 4096), df: fc.boolean() }), {
        minLength: 1,
        maxLength: 6,
      }),
      fc.infiniteStream(fc.nat(1000)),
      async (style, blocks, reads, random) => {
        const size = 8 * 4096;
        const disk = new MemoryDisk({ size, maxIo: 4096 });
        const device = new SteeredDevice(disk);
        const image = Buffer.alloc(size);
        blocks.forEach((block, i) => {
          if (block === 'data') pattern(4096, i).copy(image, i * 4096);
        });
        const held: Io[] = [];
        device.hook = (io: Io) => held.push(io) > 0;
        const answer = (io: Io): void => {
          const touched = blocks.slice(Math.floor(io.offset / 4096), Math.ceil((io.offset + io.length) / 4096));
          if (touched.includes('failure')) io.complete(5, 'bad block');
          else if (io.mayBeHole && touched.every((block) => block === 'hole')) {
            io.buffer?.bytes.fill(0xee);
            io.hole = true;
            io.complete(0);
          } else {
            io.buffer?.bytes.set(image.subarray(io.offset, io.offset + io.length));
            io.complete(0);
          }
        };
        const asked: Asked[] = reads.map(({ offset, length, df }) => ({
          type: CMD.READ,
          flags: df && style !== 'simple' ? CFLAG.DF : 0,
          offset,
          length: Math.min(length, size - offset),
        }));
        const conversation = new Talk({ style, device });
        conversation.feed(requestBytes(style, [...asked, disconnect]));
        let over = false;
        conversation.finished.then(() => {
          over = true;
        });
        while (!over) {
          await until(() => held.length > 0 || over);
          if (held.length > 0) answer(held.splice(random.next().value % held.length, 1)[0]);
        }
        const told = parseReplies(style, conversation.transport.sent, asked);
        asked.forEach(({ offset, length, flags }, i) => {
          const [from, to] = [Number(offset), Number(offset) + Number(length)];
          const reply = told.get(i)!;
          const touched = blocks.slice(Math.floor(from / 4096), Math.ceil(to / 4096));
          if (from === to || !touched.includes('failure')) {
            expect(reply.error).toBe(0);
            expect(reply.data?.equals(image.subarray(from, to))).toBe(true);
            return;
          }
          expect(reply).toMatchObject({ error: E.IO, done: true });
          if (style === 'simple') return;
          for (const { type, payload } of reply.chunks) {
            if (type !== CHUNK.OFFSET_DATA && type !== CHUNK.OFFSET_HOLE) continue;
            const at = Number(payload.readBigUInt64BE(0));
            const bytes = type === CHUNK.OFFSET_DATA ? payload.subarray(8) : Buffer.alloc(payload.readUInt32BE(8));
            expect(bytes.equals(image.subarray(at, at + bytes.length))).toBe(true);
          }
          const covered = contents(reply).reduce((sum, [, , count]) => sum + count, 0);
          if (flags === CFLAG.DF || to - from <= 4096) {
            expect(covered).toBe(0);
            expect(reply.errorOffsets).toEqual([]);
            return;
          }
          let failed = 0;
          for (const offset of reply.errorOffsets.map(Number)) {
            expect(offset === from || offset % 4096 === 0).toBe(true);
            expect(blocks[Math.floor(offset / 4096)]).toBe('failure');
            failed += Math.min(to, (Math.floor(offset / 4096) + 1) * 4096) - offset;
          }
          expect(new Set(reply.errorOffsets).size).toBe(reply.errorOffsets.length);
          expect(covered + failed).toBe(to - from);
        });
        expect(disk.pool.inUse).toBe(0);
      },
    ),
    { numRuns: 150 },
  );
});
