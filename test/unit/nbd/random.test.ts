/** Random requests, valid and not, in every style of replies, against a model: a byte array and the protocol document's rules. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { MemoryDisk } from '../../../src/nbd/memory-device.js';
import { CFLAG, CHUNK, CMD, decodeStatus, E, type Style, u32, u64 } from './proto.js';
import { type Asked, parseReplies, requestBytes, type Told, talk } from './talk.js';

const SIZE = 64 * 1024;
const MAX_PAYLOAD = 20_000;
const CONTEXTS = [
  { id: 3, name: 'base:allocation' },
  { id: 9, name: 'x-test:other' },
];

interface Case {
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  /** Ids in a block status's payload. */
  readonly ids: readonly number[];
  readonly value: number;
}

const often = (usual: fc.Arbitrary<number>, ...odd: number[]) =>
  fc.oneof({ weight: 6, arbitrary: usual }, { weight: 1, arbitrary: fc.constantFrom(...odd) });
const aCase: fc.Arbitrary<Case> = fc
  .record({
    type: often(fc.constantFrom(0, 1, 1, 3, 4, 5, 6, 7, 7), CMD.RESIZE, 9, 0xffff),
    flags: often(fc.constantFrom(0, 0, 1, 2, 4, 8, 16, 3, 18), 32, 40, 64, 0x8000, 0xffff),
    filtered: fc.boolean(),
    offset: often(fc.nat(SIZE), SIZE, SIZE + 1, 2 ** 32, 2 ** 53),
    length: often(fc.nat(9000), 0, MAX_PAYLOAD, MAX_PAYLOAD + 1, SIZE + 1),
    /** Where the request ends, relative to the end of the export; null: wherever it does. */
    end: fc.option(fc.integer({ min: -1, max: 1 }), { freq: 3 }),
    ids: fc.array(fc.constantFrom(3, 3, 9, 4), { maxLength: 3 }),
    value: fc.integer({ min: 1, max: 255 }),
  })
  .map(({ end, filtered, ...drawn }) => ({
    ...drawn,
    flags: filtered && drawn.type === CMD.BLOCK_STATUS ? drawn.flags | CFLAG.PAYLOAD_LEN : drawn.flags,
    length: end === null || drawn.offset > SIZE ? drawn.length : Math.max(0, SIZE - drawn.offset + end),
  }));

/** The case as a client sends it: its payload is there, and longer than the maximum only where that keeps the connection. */
function asAsked(style: Style, { type, flags, offset, length, ids, value }: Case): Asked {
  if (style !== 'extended') {
    return { type, flags, offset, length, payload: type === CMD.WRITE ? Buffer.alloc(length, value) : undefined };
  }
  const withPayload = (flags & CFLAG.PAYLOAD_LEN) !== 0;
  if (type === CMD.BLOCK_STATUS && withPayload) {
    const payload = Buffer.concat([u64(length), ...ids.map(u32)]);
    return { type, flags, offset, length: payload.length, payload };
  }
  // Most writes are made as they must be; where the flag was drawn it is left out instead, as qemu's client does.
  const flipped = type === CMD.WRITE ? flags ^ CFLAG.PAYLOAD_LEN : flags;
  if (type !== CMD.WRITE && !withPayload) return { type, flags, offset, length };
  const bytes = Math.min(length, MAX_PAYLOAD);
  return { type, flags: flipped, offset, length: bytes, payload: Buffer.alloc(bytes, value) };
}

const FLAGS: Record<number, number> = {
  [CMD.READ]: CFLAG.DF,
  [CMD.WRITE]: 0,
  [CMD.FLUSH]: 0,
  [CMD.TRIM]: 0,
  [CMD.CACHE]: 0,
  [CMD.WRITE_ZEROES]: CFLAG.NO_HOLE | CFLAG.FAST_ZERO,
  [CMD.BLOCK_STATUS]: CFLAG.REQ_ONE,
};

/** The error the document asks for, 0 for none. */
function expectedError(
  style: Style,
  { type, flags = 0, offset, length }: Asked,
  { ids, length: effect }: Case,
): number {
  const extended = style === 'extended';
  if (!(type in FLAGS)) return E.INVAL;
  let known = FLAGS[type] | CFLAG.FUA;
  if (style === 'simple') known &= ~CFLAG.DF;
  const payload = extended && (flags & CFLAG.PAYLOAD_LEN) !== 0;
  if (extended && (type === CMD.WRITE || type === CMD.BLOCK_STATUS)) known |= CFLAG.PAYLOAD_LEN;
  if ((flags & ~known) !== 0) return E.INVAL;
  const at = Number(offset);
  let bytes = Number(length);
  if (type === CMD.FLUSH) return at !== 0 || bytes !== 0 ? E.INVAL : 0;
  if (type === CMD.READ && bytes > MAX_PAYLOAD) return flags & CFLAG.DF ? E.OVERFLOW : E.INVAL;
  if (type === CMD.WRITE && bytes > MAX_PAYLOAD) return E.INVAL;
  if (type === CMD.BLOCK_STATUS) {
    if (style === 'simple') return E.INVAL;
    if (payload) {
      if (ids.length === 0 || ids.length > 2 || ids.includes(4) || new Set(ids).size < ids.length) return E.INVAL;
      bytes = effect;
    }
    if (bytes === 0) return E.INVAL;
  }
  if (at + bytes <= SIZE) return 0;
  return type === CMD.WRITE || type === CMD.WRITE_ZEROES ? E.NOSPC : E.INVAL;
}

/** What a successful answer says, against the model; then what the request does to the model. */
function check(style: Style, model: Buffer, asked: Asked, drawn: Case, told: Told): void {
  const { type, flags = 0 } = asked;
  const from = Number(asked.offset);
  const to = from + Number(asked.length);
  if (type === CMD.READ) expect(told.data?.equals(model.subarray(from, to))).toBe(true);
  if (type === CMD.READ && flags & CFLAG.DF) {
    const content = told.chunks.filter((chunk) => chunk.type !== CHUNK.NONE).map((chunk) => chunk.type);
    expect(content).toEqual(from === to ? [] : [CHUNK.OFFSET_DATA]);
  }
  if (type === CMD.WRITE) model.fill(drawn.value, from, to);
  if (type === CMD.WRITE_ZEROES || type === CMD.TRIM) model.fill(0, from, to);
  if (type !== CMD.BLOCK_STATUS) return;
  const payload = (flags & CFLAG.PAYLOAD_LEN) !== 0;
  const wanted = payload ? drawn.length : Number(asked.length);
  const statuses = told.chunks.map((chunk) => {
    expect(chunk.type).toBe(style === 'extended' ? CHUNK.BLOCK_STATUS_EXT : CHUNK.BLOCK_STATUS);
    return decodeStatus(chunk);
  });
  expect(statuses.map(({ id }) => id)).toEqual(payload ? drawn.ids : [3, 9]);
  for (const { extents } of statuses) {
    if (flags & CFLAG.REQ_ONE) expect(extents).toHaveLength(1);
    let at = from;
    for (const extent of extents) {
      const end = at + Number(extent.length);
      if (extent.flags & 2n) expect(model.subarray(at, end).every((byte) => byte === 0)).toBe(true);
      at = end;
    }
    if (flags & CFLAG.REQ_ONE) expect(at).toBeLessThanOrEqual(from + wanted);
    else expect(at).toBe(from + wanted);
  }
}

test.each(['simple', 'structured', 'extended'] as const)(
  'every request is answered once and rightly (%s)',
  async (style) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(aCase, { maxLength: 25 }),
        fc.constantFrom(37, 512, 4096, 65_536),
        fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 6 }),
        async (cases, maxIo, cuts) => {
          const disk = new MemoryDisk({ size: SIZE, maxIo, info: { metaContexts: CONTEXTS.map(({ name }) => name) } });
          const asked = cases.map((drawn) => asAsked(style, drawn));
          const bytes = requestBytes(style, [...asked, { type: CMD.DISC }]);
          const borders = [0, ...cuts.map((cut) => Math.floor(cut * bytes.length)).sort((a, b) => a - b), bytes.length];
          const chunks = borders.slice(1).map((end, i) => bytes.subarray(borders[i], end));
          const limits = { payload: MAX_PAYLOAD, gatherBytes: 4 * MAX_PAYLOAD };
          const answers = await talk({ style, device: disk.open(), contexts: CONTEXTS, limits }, chunks);
          const told = parseReplies(style, answers, asked);
          const model = Buffer.alloc(SIZE);
          cases.forEach((drawn, i) => {
            const reply = told.get(i);
            expect(reply?.done, `request ${i} is answered`).toBe(true);
            const error = expectedError(style, asked[i], drawn);
            expect(reply?.error, `error of request ${i}: ${JSON.stringify({ ...asked[i], payload: 0 })}`).toBe(error);
            if (error === 0) check(style, model, asked[i], drawn, reply!);
          });
          const read = Buffer.alloc(SIZE);
          disk.read(read, 0, SIZE);
          expect(read.equals(model)).toBe(true);
          expect(disk.pool.inUse).toBe(0);
        },
      ),
      { numRuns: 400 },
    );
  },
);
