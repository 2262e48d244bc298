/** Extended headers and block status filters in the transmission phase: framing wherever it is cut, 64-bit lengths, extents. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Extent, Io } from '../../../src/nbd/device.js';
import { IoCommand } from '../../../src/nbd/device.js';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import { CFLAG, CHUNK, CMD, decodeStatus, E, type Style, u32, u64 } from './proto.js';
import { SteeredDevice, until } from './support.js';
import { type Asked, parseReplies, requestBytes, Talk, talk } from './talk.js';

const KiB = 1024;
const { FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN } = CFLAG;
const contexts = [
  { id: 1, name: 'base:allocation' },
  { id: 0x80000005, name: 'x-test:two' },
  { id: 7, name: 'x-test:three' },
];
const bytes = (length: number, value: number) => Buffer.alloc(length, value);
const write = (offset: number, data: Uint8Array, flags = 0): Asked => ({
  type: CMD.WRITE,
  flags: PAYLOAD_LEN | flags,
  offset,
  length: data.length,
  payload: data,
});
const status = (length: number | bigint, ids: number[], flags = 0): Asked => {
  const payload = Buffer.concat([u64(length), ...ids.map(u32)]);
  return { type: CMD.BLOCK_STATUS, flags: PAYLOAD_LEN | flags, length: payload.length, payload };
};
const disconnect: Asked = { type: CMD.DISC };

describe('an extended session cut in pieces', () => {
  const asked: Asked[] = [
    write(10, bytes(50, 0x61)),
    write(2 ** 50, bytes(20, 0x62)),
    { type: CMD.READ, length: 100 },
    { type: CMD.READ, offset: 0xffffffffffffff01n, length: 0xffffffffffffffffn },
    status(100_000, [7, 1]),
    status(100_000, [1, 1]),
    { type: CMD.TRIM, flags: PAYLOAD_LEN, length: 40, payload: bytes(40, 0x21) },
    { type: CMD.BLOCK_STATUS, flags: PAYLOAD_LEN, length: 7, payload: bytes(7, 0x21) },
    { type: CMD.BLOCK_STATUS, flags: PAYLOAD_LEN, length: 0 },
    { type: CMD.BLOCK_STATUS, flags: REQ_ONE, length: 2 ** 20 },
    { type: 99, flags: PAYLOAD_LEN, length: 33, payload: bytes(33, 0x21) },
    write(20, Buffer.from('hello'), FUA),
    { type: CMD.WRITE, offset: 30, length: 0, flags: PAYLOAD_LEN },
    // qemu's client leaves the flag out; the data comes all the same.
    { type: CMD.WRITE, offset: 30, length: 9, payload: bytes(9, 0x63) },
    { type: CMD.FLUSH },
    { type: CMD.READ, flags: DF, offset: 15, length: 64 },
    disconnect,
  ];
  const session = requestBytes('extended', asked);
  const run = async (chunks: Uint8Array[]): Promise<Buffer> => {
    const disk = new MemoryDisk({ size: 1024 * KiB, maxIo: 32 });
    const answers = await talk({ style: 'extended', device: disk.open(), contexts }, chunks);
    expect(disk.pool.inUse).toBe(0);
    return answers;
  };
  const whole = run([session]);

  test('has the expected answers', async () => {
    const told = parseReplies('extended', await whole, asked);
    const errors = asked.slice(0, -1).map((_, i) => told.get(i)?.error);
    const { INVAL, NOSPC } = E;
    expect(errors).toEqual([0, NOSPC, 0, INVAL, 0, INVAL, INVAL, INVAL, INVAL, 0, INVAL, 0, 0, 0, 0, 0]);
    expect(told.get(2)?.data).toEqual(Buffer.concat([bytes(10, 0), bytes(50, 0x61), bytes(40, 0)]));
    expect(told.get(15)?.data?.subarray(5, 10).toString()).toBe('hello');
    expect(told.get(4)?.chunks.map((chunk) => decodeStatus(chunk).id)).toEqual([7, 1]);
    expect(told.get(9)?.chunks.map((chunk) => decodeStatus(chunk).extents.length)).toEqual([1, 1, 1]);
  });

  test('at every single byte boundary', async () => {
    const expected = await whole;
    for (let cut = 1; cut < session.length; cut++) {
      const answers = await run([session.subarray(0, cut), session.subarray(cut)]);
      expect(parseReplies('extended', answers, asked), `cut at ${cut}`).toEqual(
        parseReplies('extended', expected, asked),
      );
    }
  });

  test('into single bytes, and into any pieces', async () => {
    const expected = parseReplies('extended', await whole, asked);
    const single = await run(Array.from(session, (_, i) => session.subarray(i, i + 1)));
    expect(parseReplies('extended', single, asked)).toEqual(expected);
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 1, max: session.length - 1 }), { maxLength: 20 }), async (cuts) => {
        const sorted = [0, ...cuts.sort((a, b) => a - b), session.length];
        const answers = await run(sorted.slice(1).map((end, i) => session.subarray(sorted[i], end)));
        expect(parseReplies('extended', answers, asked)).toEqual(expected);
      }),
      { numRuns: 60 },
    );
  });

  test('that ends anywhere leaves nothing behind', async () => {
    for (let length = 0; length < session.length; length += 3) {
      const disk = new MemoryDisk({ size: 1024 * KiB, maxIo: 32 });
      const conversation = new Talk({ style: 'extended', device: disk.open(), contexts });
      conversation.feed(session.subarray(0, length));
      await until(() => conversation.idle);
      conversation.transmission.ended();
      await conversation.finished;
      expect(disk.pool.inUse).toBe(0);
      expect(conversation.transmission.inFlight).toBe(0);
    }
  });
});

test.each([
  ['a compact request', Buffer.concat([Buffer.from('25609513', 'hex'), Buffer.alloc(60)])],
  [
    'a payload longer than the maximum',
    requestBytes('extended', [write(0, bytes(1, 1)), disconnect]).fill(0xff, 24, 32),
  ],
  [
    'one byte more than the maximum',
    requestBytes('extended', [{ type: CMD.CACHE, flags: PAYLOAD_LEN, length: 64 * KiB + 1 }]),
  ],
])('%s ends the connection after the answers to what came before', async (_, end) => {
  const disk = new MemoryDisk({ size: 1024 * KiB });
  const asked: Asked[] = [{ type: CMD.READ, length: 10 }];
  const rest = requestBytes('extended', [write(0, bytes(512, 9))]);
  const stream = Buffer.concat([requestBytes('extended', asked), end, rest]);
  const answers = await talk({ style: 'extended', device: disk.open(), limits: { payload: 64 * KiB } }, [stream]);
  expect([...parseReplies('extended', answers, asked).keys()]).toEqual([0]);
  expect(disk.isHole(0, 1024 * KiB)).toBe(true);
});

test('a payload of exactly the maximum is taken', async () => {
  const disk = new MemoryDisk({ size: 1024 * KiB, maxIo: 16 * KiB });
  const asked = [write(5, bytes(64 * KiB, 9)), { type: CMD.READ, offset: 5, length: 64 * KiB }, disconnect];
  const options = { style: 'extended' as const, device: disk.open(), limits: { payload: 64 * KiB } };
  const told = parseReplies('extended', await talk(options, [requestBytes('extended', asked)]), asked);
  expect(told.get(0)?.error).toBe(0);
  expect(told.get(1)?.data).toEqual(bytes(64 * KiB, 9));
});

test('effects of more than 32 bits reach the device as they are', async () => {
  const device = new SteeredDevice(new MemoryDisk({ size: 2 ** 45 }));
  const fields = { offset: 2 ** 33 + 512, length: 2 ** 44 };
  const asked: Asked[] = [
    { type: CMD.TRIM, flags: FUA, ...fields },
    { type: CMD.WRITE_ZEROES, flags: FAST_ZERO, ...fields },
    { type: CMD.CACHE, ...fields },
    { type: CMD.BLOCK_STATUS, ...fields },
    disconnect,
  ];
  const told = parseReplies(
    'extended',
    await talk({ style: 'extended', device }, [requestBytes('extended', asked)]),
    asked,
  );
  expect([0, 1, 2, 3].map((i) => told.get(i)?.error)).toEqual([0, 0, 0, 0]);
  expect(device.submitted.map(({ command, offset, length }) => ({ command, offset, length }))).toEqual(
    [IoCommand.TRIM, IoCommand.WRITE_ZEROES, IoCommand.CACHE, IoCommand.BLOCK_STATUS].map((command) => ({
      command,
      ...fields,
    })),
  );
  expect(decodeStatus(told.get(3)!.chunks[0]).extents).toEqual([{ length: BigInt(2 ** 44), flags: 3n }]);
});

describe('extents', () => {
  /** What a client is told of extents that a device gives. */
  async function told(style: Style, extents: Extent[], length: number, flags = 0) {
    const device = new SteeredDevice(new MemoryDisk({ size: 2 ** 45 }));
    device.hook = (io: Io) => {
      io.extents = extents;
      io.complete(0);
      return true;
    };
    const asked: Asked[] = [{ type: CMD.BLOCK_STATUS, length, flags }, disconnect];
    const reply = parseReplies(style, await talk({ style, device }, [requestBytes(style, asked)]), asked).get(0)!;
    return reply.error === 0 ? { type: reply.chunks[0].type, ...decodeStatus(reply.chunks[0]) } : reply.error;
  }
  const FULL = 2 ** 32 - 1;

  test.each([
    ['one longer than 32 bits', [{ length: 2 ** 33, flags: 1 }], FULL, [[FULL, 1]]],
    ['one of exactly 2^32', [{ length: 2 ** 32, flags: 1 }], FULL, [[FULL, 1]]],
    ['one that ends with the request', [{ length: FULL, flags: 1 }], FULL, [[FULL, 1]]],
    [
      'two whose sum passes 32 bits',
      [
        { length: FULL, flags: 1 },
        { length: FULL, flags: 2 },
      ],
      FULL,
      [[FULL, 1]],
    ],
    [
      'a last one that begins one byte before the end',
      [
        { length: FULL - 1, flags: 1 },
        { length: 2 ** 40, flags: 2 },
      ],
      FULL,
      [
        [FULL - 1, 1],
        [1, 2],
      ],
    ],
    [
      'one that begins at the end',
      [
        { length: 4096, flags: 1 },
        { length: 4096, flags: 2 },
      ],
      4096,
      [[4096, 1]],
    ],
    [
      'empty ones',
      [
        { length: 0, flags: 1 },
        { length: 512, flags: 2 },
        { length: 0, flags: 3 },
        { length: 512, flags: 2 },
      ],
      4096,
      [[1024, 2]],
    ],
    [
      'neighbours with the same status',
      [
        { length: 512, flags: 3 },
        { length: 512, flags: 3, flagsHigh: 5 },
        { length: 512, flags: 0 },
      ],
      4096,
      [
        [1024, 3],
        [512, 0],
      ],
    ],
  ])('for a compact client: %s', async (_, extents, length, expected) => {
    expect(await told('structured', extents, length)).toMatchObject({
      type: CHUNK.BLOCK_STATUS,
      extents: expected.map(([bytes, flags]) => ({ length: BigInt(bytes), flags: BigInt(flags) })),
    });
  });

  test('for an extended client they have 64 bits, and end with the request all the same', async () => {
    const extents = [
      { length: 2 ** 40, flags: 3 },
      { length: 2 ** 40, flags: 3, flagsHigh: 0x80000001 },
      { length: 2 ** 40, flags: 0xffffffff, flagsHigh: 0xffffffff },
    ];
    expect(await told('extended', extents, 2 ** 41 + 1)).toEqual({
      type: CHUNK.BLOCK_STATUS_EXT,
      id: 1,
      extents: [
        { length: BigInt(2 ** 40), flags: 3n },
        { length: BigInt(2 ** 40), flags: 0x8000000100000003n },
        { length: 1n, flags: 0xffffffffffffffffn },
      ],
    });
  });

  test.each(['structured', 'extended'] as const)('REQ_ONE is one extent within the request (%s)', async (style) => {
    const same = { length: 4096, flags: 2 };
    const many = [same, same, { length: 512, flags: 1 }, same];
    expect(await told(style, many, 100_000, REQ_ONE)).toMatchObject({ extents: [{ length: 8192n, flags: 2n }] });
    expect(await told(style, many, 8191, REQ_ONE)).toMatchObject({ extents: [{ length: 8191n, flags: 2n }] });
  });

  test.each(['structured', 'extended'] as const)('are at most 2^20 in a chunk (%s)', async (style) => {
    const many = Array.from({ length: 2 ** 20 + 7 }, (_, i) => ({ length: 512, flags: i & 1 }));
    const answer = await told(style, many, FULL);
    if (typeof answer === 'number') throw new Error(`error ${answer}`);
    expect(answer.extents).toHaveLength(2 ** 20);
  });

  test.each(['structured', 'extended'] as const)("none at all is the server's error (%s)", async (style) => {
    expect(await told(style, [], 4096)).toBe(E.IO);
    expect(await told(style, [{ length: 0, flags: 0 }], 4096)).toBe(E.IO);
  });

  test('one context that fails fails the request, whichever comes last', async () => {
    for (const failing of contexts) {
      const device = new SteeredDevice(new MemoryDisk({ size: 2 ** 20 }));
      device.hook = (io: Io) => {
        if (io.context === failing.name) io.complete(5, 'no such luck');
        return io.context === failing.name;
      };
      const asked: Asked[] = [{ type: CMD.BLOCK_STATUS, length: 4096 }, disconnect];
      const answers = await talk({ style: 'extended', device, contexts }, [requestBytes('extended', asked)]);
      const reply = parseReplies('extended', answers, asked).get(0)!;
      expect(reply).toMatchObject({ error: E.IO, text: 'no such luck', done: true });
      expect(reply.chunks.at(-1)?.type).toBe(CHUNK.ERROR);
    }
  });
});

test('a fast zeroing that the device refuses is ENOTSUP with its words, and nothing was written', async () => {
  for (const style of ['simple', 'structured', 'extended'] as const) {
    const disk = new MemoryDisk({ size: 2 ** 20 });
    disk.write(bytes(4096, 7), 0, 4096);
    const device = new SteeredDevice(disk);
    device.hook = (io: Io) => {
      if (io.fastZero) io.complete(95, 'it would have to be copied first');
      return io.fastZero;
    };
    const asked: Asked[] = [
      { type: CMD.WRITE_ZEROES, flags: FAST_ZERO | NO_HOLE, length: 4096 },
      { type: CMD.READ, length: 4096 },
      { type: CMD.WRITE_ZEROES, flags: NO_HOLE, length: 512 },
      { type: CMD.READ, length: 4096 },
      disconnect,
    ];
    const told = parseReplies(style, await talk({ style, device }, [requestBytes(style, asked)]), asked);
    expect(told.get(0)?.error).toBe(E.NOTSUP);
    expect(told.get(0)?.text).toBe(style === 'simple' ? '' : 'it would have to be copied first');
    expect(told.get(1)?.data).toEqual(bytes(4096, 7));
    expect(told.get(2)?.error).toBe(0);
    expect(told.get(3)?.data).toEqual(Buffer.concat([bytes(512, 0), bytes(3584, 7)]));
  }
});

describe('after shutDown()', () => {
  test.each(['simple', 'structured', 'extended'] as const)(
    'what is in flight is answered, and nothing else: the client sends it again elsewhere (%s)',
    async (style) => {
      const held: Io[] = [];
      const disk = new MemoryDisk({ size: 2 ** 20 });
      const device = new SteeredDevice(disk);
      device.hook = (io: Io) => held.push(io) > 0;
      const payload = style === 'extended' ? PAYLOAD_LEN : 0;
      const asked: Asked[] = [
        { type: CMD.READ, length: 512 },
        { type: CMD.WRITE, flags: payload, length: 70, payload: bytes(70, 0x21) },
        { type: CMD.READ, length: 512 },
        { type: CMD.FLUSH },
        { type: 99 },
      ];
      const conversation = new Talk({ style, device });
      const stream = requestBytes(style, asked);
      const first = requestBytes(style, asked.slice(0, 1)).length;
      conversation.feed(stream.subarray(0, first));
      await until(() => held.length === 1);
      conversation.transmission.shutDown();
      conversation.feed(stream.subarray(first));
      device.run(held[0]);
      await until(() => conversation.idle);
      const told = parseReplies(style, await conversation.sent(), asked);
      expect(asked.map((_, i) => told.get(i)?.error)).toEqual([0, ...new Array(4).fill(undefined)]);
      expect(disk.isHole(0, 2 ** 20)).toBe(true);
      expect(held).toHaveLength(1);
      expect(device.abandoned).toBe(0);
    },
  );

  test('a block status whose filter is still arriving is answered when it is there', async () => {
    const held: Io[] = [];
    const device = new SteeredDevice(new MemoryDisk({ size: 2 ** 20 }));
    device.hook = (io: Io) => held.push(io) > 0;
    const asked: Asked[] = [{ type: CMD.READ, length: 512 }, status(4096, [1])];
    const stream = requestBytes('extended', asked);
    const conversation = new Talk({ style: 'extended', device });
    conversation.feed(stream.subarray(0, stream.length - 3));
    await until(() => conversation.transmission.counters.requests === 2);
    conversation.transmission.shutDown();
    conversation.feed(stream.subarray(stream.length - 3));
    await until(() => held.length === 2);
    for (const io of held) device.run(io);
    await until(() => conversation.idle);
    const told = parseReplies('extended', await conversation.sent(), asked);
    expect([told.get(0)?.error, told.get(1)?.error]).toEqual([0, 0]);
  });
});

describe('a client that asks for block status and does not read', () => {
  test('is asked for no more than a few answers at a time; all come when it reads', async () => {
    const device = new SteeredDevice(new MemoryDisk({ size: 2 ** 30 }));
    device.hook = (io: Io) => {
      io.extents = Array.from({ length: 1000 }, (_, i) => ({ length: 512, flags: i & 1 }));
      io.complete(0);
      return true;
    };
    const asked: Asked[] = [
      ...Array.from({ length: 60 }, () => ({ type: CMD.BLOCK_STATUS, length: 2 ** 20 })),
      { type: CMD.READ, length: 0 },
      disconnect,
    ];
    const conversation = new Talk({ style: 'extended', device, contexts });
    const { transport } = conversation;
    const send = transport.send.bind(transport);
    transport.send = () => false;
    // The fake's own feeding tells of batches that are gone; this one never is.
    const drained = transport.events.drained.bind(transport.events);
    transport.events.drained = () => {};
    conversation.feed(requestBytes('extended', asked));
    await until(() => device.submitted.length >= 16);
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
    expect(device.submitted).toHaveLength(16);
    transport.send = send;
    transport.events.drained = drained;
    send();
    drained();
    const told = parseReplies('extended', await conversation.sent(), asked);
    for (let i = 0; i < 60; i++) {
      expect(told.get(i)?.chunks.map((chunk) => decodeStatus(chunk).extents.length)).toEqual([1000, 1000, 1000]);
    }
    expect(told.get(60)?.done).toBe(true);
  });

  test('answers that are held by the device are bounded too', async () => {
    const held: Io[] = [];
    const device = new SteeredDevice(new MemoryDisk({ size: 2 ** 30 }));
    device.hook = (io: Io) => held.push(io) > 0;
    const asked: Asked[] = [...Array.from({ length: 40 }, () => ({ type: CMD.BLOCK_STATUS, length: 512 })), disconnect];
    const conversation = new Talk({ style: 'structured', device, contexts });
    conversation.feed(requestBytes('structured', asked));
    let most = 0;
    let over = false;
    conversation.finished.then(() => {
      over = true;
    });
    while (!over) {
      await until(() => held.length > 0 || over);
      most = Math.max(most, held.length);
      const io = held.pop();
      if (io !== undefined && held.length % 3 === 0) io.complete(5, 'no');
      else if (io !== undefined) device.run(io);
    }
    expect(most).toBe(16);
    const told = parseReplies('structured', conversation.transport.sent, asked);
    expect(asked.slice(0, -1).every((_, i) => told.get(i)?.done)).toBe(true);
  });
});
