/** The reply parser without I/O: every style, cut anywhere, and everything that a server must not send. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Pending, type PendingOptions } from '../../../src/nbd/client-pending.js';
import { ReplyParser } from '../../../src/nbd/client-replies.js';
import { Chunk, Command } from '../../../src/nbd/constants.js';
import type { Extent } from '../../../src/nbd/device.js';
import { ProtocolError } from '../../../src/nbd/errors.js';
import { pattern } from './client-support.js';

const styles = {
  simple: { structured: false, extended: false },
  structured: { structured: true, extended: false },
  extended: { structured: true, extended: true },
} as const;
type StyleName = keyof typeof styles;

// The wire by hand, so that a mistake of the library's own codec is none of the test's.
const u16 = (value: number) => Buffer.from([value >> 8, value & 255]);
const u32 = (value: number) => {
  const out = Buffer.alloc(4);
  out.writeUInt32BE(value);
  return out;
};
const u64 = (value: number | bigint) => {
  const out = Buffer.alloc(8);
  out.writeBigUInt64BE(BigInt(value));
  return out;
};
const simple = (cookie: number, error: number, data: Buffer = Buffer.alloc(0)) =>
  Buffer.concat([u32(0x67446698), u32(error), u64(cookie), data]);
function chunk(
  style: StyleName,
  cookie: number,
  offset: number,
  flags: number,
  type: number,
  ...payload: Buffer[]
): Buffer {
  const body = Buffer.concat(payload);
  return style === 'extended'
    ? Buffer.concat([u32(0x6e8a278c), u16(flags), u16(type), u64(cookie), u64(offset), u64(body.length), body])
    : Buffer.concat([u32(0x668e33ef), u16(flags), u16(type), u64(cookie), u32(body.length), body]);
}
const words = (text: string) => Buffer.concat([u16(Buffer.byteLength(text)), Buffer.from(text)]);

type Outcome = { ok: true; pending: Pending } | { ok: false; error: Error };

/** A parser with requests; the outcome of each as it comes. */
class Bench {
  readonly outcomes = new Map<number, Outcome>();
  readonly #requests = new Map<number, Pending>();
  readonly parser: ReplyParser;
  constructor(style: StyleName, requests: readonly PendingOptions[]) {
    requests.forEach((options, cookie) => {
      const pending = new Pending(
        options,
        (done) => this.outcomes.set(cookie, { ok: true, pending: done }),
        (error) => this.outcomes.set(cookie, { ok: false, error }),
      );
      this.#requests.set(cookie, pending);
    });
    this.parser = new ReplyParser(styles[style], this.#requests);
  }
  get waiting(): number {
    return this.#requests.size;
  }
  /** Pushes in pieces of these sizes, the last again and again. */
  push(bytes: Buffer, cuts: readonly number[] = [bytes.length]): void {
    let i = 0;
    for (let at = 0; at < bytes.length; i++) {
      const size = Math.max(1, cuts[Math.min(i, cuts.length - 1)]);
      this.parser.push(bytes.subarray(at, at + size));
      at += size;
    }
  }
}

const contexts = new Map([
  [7, 'base:allocation'],
  [9, 'other:context'],
]);
const read = (offset: number, length: number): PendingOptions => ({
  command: Command.READ,
  offset,
  length,
  target: Buffer.alloc(length, 0xee),
});
const status = (offset: number, length: number): PendingOptions => ({
  command: Command.BLOCK_STATUS,
  offset,
  length,
  contexts,
});
const extents: Extent[] = [
  { length: 4096, flags: 3 },
  { length: 8192, flags: 0 },
];

/** A conversation: requests, the bytes of their answers in a mixed order, and what must come of each. */
function conversation(style: StyleName) {
  const data = pattern(3000, 77);
  const requests: PendingOptions[] = [
    read(512, 3000),
    { command: Command.WRITE, offset: 1e12, length: 99 },
    status(4096, 10_000),
    read(0, 100),
    read(1000, 0),
  ];
  const chunks: Buffer[] = [];
  if (style === 'simple') {
    chunks.push(simple(1, 28), simple(0, 0, data), simple(3, 5), simple(2, 22), simple(4, 0));
    return { data, requests, bytes: Buffer.concat(chunks) };
  }
  const c = (cookie: number, flags: number, type: number, ...payload: Buffer[]) =>
    chunk(style, cookie, requests[cookie].offset, flags, type, ...payload);
  const ext = style === 'extended';
  const body = ext
    ? extents.flatMap(({ length, flags }) => [u64(length), u64(flags)])
    : extents.flatMap(({ length, flags }) => [u32(length), u32(flags)]);
  const type = ext ? Chunk.BLOCK_STATUS_EXT : Chunk.BLOCK_STATUS;
  chunks.push(
    // Data out of order, between answers to others: 2000..3000, 0..500, a hole 500..1000, 1000..2000.
    c(0, 0, Chunk.OFFSET_DATA, u64(2512), data.subarray(2000)),
    c(2, 0, type, u32(9), ...(ext ? [u32(0)] : []), ...body),
    c(0, 0, Chunk.OFFSET_DATA, u64(512), data.subarray(0, 500)),
    ext ? c(1, 1, Chunk.ERROR, u32(28), words('full')) : simple(1, 28),
    c(3, 0, Chunk.ERROR_OFFSET, u32(5), words('bad sector'), u64(33)),
    c(0, 0, Chunk.OFFSET_HOLE, u64(1012), u32(500)),
    c(2, 1, type, u32(7), ...(ext ? [u32(2)] : []), ...body),
    c(3, 1, Chunk.NONE),
    c(0, 1, Chunk.OFFSET_DATA, u64(1512), data.subarray(1000, 2000)),
    c(4, 1, Chunk.NONE),
  );
  data.fill(0, 500, 1000);
  return { data, requests, bytes: Buffer.concat(chunks) };
}

function check(style: StyleName, bench: Bench, data: Buffer): void {
  expect(bench.waiting).toBe(0);
  expect(bench.parser.idle).toBe(true);
  const of = (cookie: number) => bench.outcomes.get(cookie) as Outcome;
  const [first, write, blocks, failed, nothing] = [of(0), of(1), of(2), of(3), of(4)];
  expect(first.ok && first.pending.target?.equals(data)).toBe(true);
  expect(write).toMatchObject({ ok: false, error: { name: 'NbdError', errno: 28 } });
  expect(nothing.ok).toBe(true);
  if (style === 'simple') {
    expect(failed).toMatchObject({ ok: false, error: { errno: 5, offset: null } });
    expect(blocks).toMatchObject({ ok: false, error: { errno: 22 } });
    return;
  }
  expect(failed).toMatchObject({ ok: false, error: { errno: 5, offset: 33, text: 'bad sector' } });
  expect(blocks.ok && [...blocks.pending.extents]).toEqual([
    ['other:context', extents],
    ['base:allocation', extents],
  ]);
}

describe.each(Object.keys(styles) as StyleName[])('%s replies', (style) => {
  test('are the same however they are cut: into bytes, at each byte, at random', () => {
    const { bytes } = conversation(style);
    for (const cuts of [[bytes.length], [1], [2], [3], [7], [19]]) {
      const { data, requests } = conversation(style);
      const bench = new Bench(style, requests);
      bench.push(bytes, cuts);
      check(style, bench, data);
    }
    for (let at = 1; at < bytes.length; at++) {
      const { data, requests } = conversation(style);
      const bench = new Bench(style, requests);
      bench.push(bytes, [at, bytes.length]);
      if (at % 50 === 0) check(style, bench, data);
      else expect(bench.outcomes.size).toBe(5);
    }
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1 }), (cuts) => {
        const { data, requests } = conversation(style);
        const bench = new Bench(style, requests);
        bench.push(bytes, cuts);
        check(style, bench, data);
      }),
      { numRuns: 50 },
    );
  });

  test('that were changed anywhere end in a protocol error, a wait for more, or an answer; never in a crash, nor data beside its place', () => {
    const mutation = fc.record({
      at: fc.nat(5000),
      value: fc.integer({ min: 0, max: 255 }),
      cut: fc.option(fc.nat(5000), { nil: null }),
      insert: fc.uint8Array({ maxLength: 40 }),
    });
    fc.assert(
      fc.property(fc.array(mutation, { minLength: 1, maxLength: 4 }), (mutations) => {
        const { requests, bytes: original } = conversation(style);
        let bytes = Buffer.from(original);
        for (const { at, value, cut, insert } of mutations) {
          const place = at % bytes.length;
          if (cut !== null && cut < 800)
            bytes = Buffer.concat([bytes.subarray(0, place), insert, bytes.subarray(place)]);
          else bytes[place] = value;
        }
        const guard = Buffer.alloc(3000 + 128, 0x55);
        const target = guard.subarray(64, 64 + 3000);
        const bench = new Bench(style, [{ ...requests[0], target }, ...requests.slice(1)]);
        try {
          bench.push(bytes, [137]);
        } catch (error) {
          expect(error).toBeInstanceOf(ProtocolError);
        }
        for (const outcome of bench.outcomes.values()) {
          if (!outcome.ok) expect(outcome.error.name).toMatch(/^(NbdError|ProtocolError)$/);
        }
        expect(guard.subarray(0, 64).every((byte) => byte === 0x55)).toBe(true);
        expect(guard.subarray(-64).every((byte) => byte === 0x55)).toBe(true);
      }),
      { numRuns: 1500 },
    );
  });

  test('of nothing but noise are refused', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 4, maxLength: 200 }), (noise) => {
        fc.pre(![0x67, 0x66, 0x6e].includes(noise[0]));
        expect(() => new Bench(style, [read(0, 512)]).push(Buffer.from(noise))).toThrow(ProtocolError);
      }),
    );
  });
});

describe('a read’s pieces', () => {
  test('may come in any order and are whole at the end, and no piece may come twice', () => {
    const cuts = fc
      .uniqueArray(fc.integer({ min: 1, max: 999 }), { maxLength: 30 })
      .map((all) => [0, ...all.sort((a, b) => a - b), 1000]);
    const shuffled = cuts.chain((all) => {
      const pieces = all.slice(1).map((end, i) => [all[i], end] as const);
      return fc.shuffledSubarray(pieces, { minLength: pieces.length });
    });
    const data = pattern(1000, 3);
    fc.assert(
      fc.property(shuffled, fc.nat(), (pieces, pick) => {
        const send = (bench: Bench, [start, end]: readonly [number, number], done: boolean) =>
          bench.push(
            chunk('structured', 0, 0, done ? 1 : 0, Chunk.OFFSET_DATA, u64(5000 + start), data.subarray(start, end)),
          );
        const whole = new Bench('structured', [read(5000, 1000)]);
        pieces.forEach((piece, i) => {
          send(whole, piece, i === pieces.length - 1);
        });
        const outcome = whole.outcomes.get(0) as Outcome;
        expect(outcome.ok && outcome.pending.target?.equals(data)).toBe(true);

        const twice = new Bench('structured', [read(5000, 1000)]);
        const until = pick % pieces.length;
        pieces.slice(0, until + 1).forEach((piece) => {
          send(twice, piece, false);
        });
        const [start, end] = pieces[pick % (until + 1)];
        const middle = Math.min(end - 1, start + 1);
        expect(() => send(twice, [middle, Math.min(1000, end + (pick % 3))], false)).toThrow(/twice/);
      }),
      { numRuns: 300 },
    );
  });

  test.each([
    ['short of what was asked for', [0, 900], /only 900 bytes/],
    ['before it', [-1, 10], /outside/],
    ['behind it', [999, 1001], /outside/],
    ['with nothing in it', [5, 5], /cannot be 8 bytes/],
  ] as const)('are refused: %s', (_, [start, end], message) => {
    const bench = new Bench('structured', [read(5000, 1000)]);
    const send = () =>
      bench.push(chunk('structured', 0, 0, 1, Chunk.OFFSET_DATA, u64(5000 + start), Buffer.alloc(end - start)));
    expect(send).toThrow(message);
  });

  test('with DF it is one', () => {
    const bench = new Bench('structured', [{ ...read(0, 100), df: true }]);
    bench.push(chunk('structured', 0, 0, 0, Chunk.OFFSET_DATA, u64(0), Buffer.alloc(50)));
    expect(() => bench.push(chunk('structured', 0, 0, 1, Chunk.OFFSET_DATA, u64(50), Buffer.alloc(50)))).toThrow(/DF/);
  });
});

describe('what a server must not send is a protocol error', () => {
  const st = (cookie: number, flags: number, type: number, ...payload: Buffer[]) =>
    chunk('structured', cookie, 0, flags, type, ...payload);
  const ex = (cookie: number, offset: number, flags: number, type: number, ...payload: Buffer[]) =>
    chunk('extended', cookie, offset, flags, type, ...payload);
  const flush: PendingOptions = { command: Command.FLUSH, offset: 0, length: 0 };
  const done = st(0, 1, Chunk.NONE);
  test.each<[string, StyleName, PendingOptions, Buffer, RegExp]>([
    ['an answer to nothing', 'simple', flush, simple(5, 0), /not made/],
    [
      'a cookie with something in its upper half',
      'simple',
      flush,
      Buffer.concat([u32(0x67446698), u32(0), u64(1n << 32n)]),
      /not made/,
    ],
    ['an answer twice', 'simple', flush, Buffer.concat([simple(0, 0), simple(0, 0)]), /answered before/],
    ['a chunk after the last', 'structured', flush, Buffer.concat([done, done]), /answered before/],
    ['a structured reply that was not agreed on', 'simple', flush, done, /magic/],
    ['an extended reply that was not agreed on', 'structured', flush, ex(0, 0, 1, Chunk.NONE), /magic/],
    ['a simple reply among extended ones', 'extended', flush, simple(0, 0), /magic/],
    ['a structured reply among extended ones', 'extended', flush, done, /magic/],
    ['a simple reply to a structured READ', 'structured', read(0, 4), simple(0, 0, Buffer.alloc(4)), /simple reply/],
    ['a simple error to a structured READ', 'structured', read(0, 4), simple(0, 5), /simple reply/],
    ['a simple success to BLOCK_STATUS', 'structured', status(0, 512), simple(0, 0), /without extents/],
    ['an extended reply with another offset', 'extended', read(512, 4), ex(0, 513, 1, Chunk.NONE), /another offset/],
    ['success without data', 'structured', read(0, 4), done, /only 0 bytes/],
    ['data for a FLUSH', 'structured', flush, st(0, 1, Chunk.OFFSET_DATA, u64(0), Buffer.alloc(1)), /not asked for/],
    ['a hole for a FLUSH', 'structured', flush, st(0, 1, Chunk.OFFSET_HOLE, u64(0), u32(1)), /not asked for/],
    ['a hole of no bytes', 'structured', read(0, 4), st(0, 1, Chunk.OFFSET_HOLE, u64(0), u32(0)), /without content/],
    [
      'block status for a READ',
      'structured',
      read(0, 4),
      st(0, 1, Chunk.BLOCK_STATUS, u32(7), u32(1), u32(0)),
      /not asked for/,
    ],
    ['NONE that is not the last', 'structured', flush, st(0, 0, Chunk.NONE), /not the last/],
    ['NONE with content', 'structured', flush, st(0, 1, Chunk.NONE, Buffer.alloc(1)), /cannot be 1 bytes/],
    ['a type that nobody knows', 'structured', flush, st(0, 1, 77, Buffer.alloc(8)), /type 77/],
    ['an error of no error', 'structured', flush, st(0, 1, Chunk.ERROR, u32(0), words('')), /without an error/],
    ['an error cut short', 'structured', flush, st(0, 1, Chunk.ERROR, u32(5)), /cannot be 4 bytes/],
    [
      'an error text longer than its chunk',
      'structured',
      flush,
      st(0, 1, Chunk.ERROR, u32(5), u16(9), Buffer.from('short')),
      /error text/,
    ],
    [
      'an error of megabytes',
      'structured',
      flush,
      st(0, 1, Chunk.ERROR, u32(5), words('x'.repeat(60_000))),
      /cannot be/,
    ],
    [
      'an error elsewhere',
      'structured',
      read(0, 4),
      st(0, 1, Chunk.ERROR_OFFSET, u32(5), words(''), u64(4)),
      /outside/,
    ],
    [
      'more data than was asked for',
      'structured',
      read(0, 4),
      st(0, 1, Chunk.OFFSET_DATA, u64(0), Buffer.alloc(5)),
      /not asked for/,
    ],
    [
      'extents of a context not chosen',
      'structured',
      status(0, 512),
      st(0, 1, Chunk.BLOCK_STATUS, u32(8), u32(512), u32(0)),
      /context 8/,
    ],
    [
      'extents of a context twice',
      'structured',
      status(0, 512),
      Buffer.concat([0, 1].map((flag) => st(0, flag, Chunk.BLOCK_STATUS, u32(7), u32(512), u32(0)))),
      /twice/,
    ],
    [
      'extents of one context only',
      'structured',
      status(0, 512),
      st(0, 1, Chunk.BLOCK_STATUS, u32(7), u32(512), u32(0)),
      /1 contexts instead of 2/,
    ],
    [
      'an extent of no bytes',
      'structured',
      status(0, 512),
      st(0, 1, Chunk.BLOCK_STATUS, u32(7), u32(0), u32(0)),
      /no bytes/,
    ],
    [
      'an extent that begins behind the range',
      'structured',
      status(0, 512),
      st(0, 1, Chunk.BLOCK_STATUS, u32(7), u32(512), u32(0), u32(1), u32(0)),
      /begins after/,
    ],
    [
      'two extents where one was asked for',
      'structured',
      { ...status(0, 512), reqOne: true },
      st(0, 1, Chunk.BLOCK_STATUS, u32(7), u32(1), u32(0), u32(1), u32(0)),
      /the one extent/,
    ],
    ['no extents', 'structured', status(0, 512), st(0, 1, Chunk.BLOCK_STATUS, u32(7)), /cannot be 4 bytes/],
    [
      'half an extent',
      'structured',
      status(0, 512),
      st(0, 1, Chunk.BLOCK_STATUS, u32(7), u32(512), u32(0), u32(1)),
      /cannot be 16/,
    ],
    [
      '64-bit extents without extended headers',
      'structured',
      status(0, 512),
      st(0, 1, Chunk.BLOCK_STATUS_EXT, u32(7), u32(1), u64(1), u64(0)),
      /cannot be/,
    ],
    [
      'a wrong count of extents',
      'extended',
      status(0, 512),
      ex(0, 0, 1, Chunk.BLOCK_STATUS_EXT, u32(7), u32(2), u64(512), u64(0)),
      /wrong number/,
    ],
    [
      'a chunk of terabytes',
      'extended',
      status(0, 512),
      Buffer.concat([u32(0x6e8a278c), u16(0), u16(6), u64(0), u64(0), u64(8 + 16 * 2 ** 36)]),
      /cannot be/,
    ],
    [
      'data of exabytes',
      'extended',
      read(0, 512),
      Buffer.concat([u32(0x6e8a278c), u16(0), u16(1), u64(0), u64(0), u64(2n ** 63n)]),
      /not asked for/,
    ],
  ])('%s', (_, style, request, bytes, message) => {
    const bench = new Bench(style, [request]);
    expect(() => bench.push(bytes)).toThrow(
      expect.objectContaining({ name: 'ProtocolError', message: expect.stringMatching(message) }),
    );
    // The same in single bytes, and no answer was taken for success after it went wrong.
    expect(() => new Bench(style, [request]).push(bytes, [1])).toThrow(ProtocolError);
  });
});

describe('errors', () => {
  const flush: PendingOptions = { command: Command.FLUSH, offset: 0, length: 0 };
  const failing = (...payload: Buffer[]) => {
    const bench = new Bench('structured', [flush]);
    bench.push(chunk('structured', 0, 0, 1, Chunk.ERROR, ...payload));
    return (bench.outcomes.get(0) as { error: Error }).error;
  };

  test('a number that the protocol does not have is taken for EINVAL', () => {
    expect(failing(u32(122), words(''))).toMatchObject({ errno: 22, wire: 122, message: /error 122/ });
  });

  test('the words lose what would steer a terminal', () => {
    expect(failing(u32(5), words('\u001b[31mred\u0007\nline'))).toMatchObject({ text: '?[31mred? line' });
  });

  test('an error type of a later protocol is an error', () => {
    const bench = new Bench('structured', [flush]);
    bench.push(chunk('structured', 0, 0, 1, 0x8077, u32(28), words('new'), Buffer.alloc(20)));
    expect(bench.outcomes.get(0)).toMatchObject({ ok: false, error: { errno: 28, text: 'new' } });
  });

  test('the first of several counts, and data beside it is no success', () => {
    const bench = new Bench('structured', [read(0, 8)]);
    bench.push(chunk('structured', 0, 0, 0, Chunk.OFFSET_DATA, u64(0), Buffer.alloc(8)));
    bench.push(chunk('structured', 0, 0, 0, Chunk.ERROR, u32(5), words('first')));
    bench.push(chunk('structured', 0, 0, 1, Chunk.ERROR, u32(28), words('second')));
    expect(bench.outcomes.get(0)).toMatchObject({ ok: false, error: { errno: 5, text: 'first' } });
  });
});

test('extents beyond 4 GiB with 64-bit flags arrive exact', () => {
  const bench = new Bench('extended', [{ ...status(0, 2 ** 45), contexts: new Map([[7, 'x:y']]) }]);
  const body = [u32(7), u32(2), u64(2 ** 44), u64(0x1_0000_0003n), u64(2 ** 45), u64(2)];
  bench.push(chunk('extended', 0, 0, 1, Chunk.BLOCK_STATUS_EXT, ...body));
  const outcome = bench.outcomes.get(0) as Outcome;
  expect(outcome.ok && outcome.pending.extents.get('x:y')).toEqual([
    { length: 2 ** 44, flags: 3, flagsHigh: 1 },
    { length: 2 ** 45, flags: 2 },
  ]);
});
