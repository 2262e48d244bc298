import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  answerOf,
  BadLine,
  type BridgeCall,
  BridgeRefusal,
  bytesOf,
  decodeRequest,
  encodeRequest,
  MAX_LINE,
  RefusedRequest,
  resultOf,
} from '../../../src/bridge/protocol.js';
import type { Peer } from '../../../src/config/peers.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { ReplyError } from '../../../src/xseg/call.js';
import { MAX_ALLOCATION, MAX_TARGET } from '../../../src/xseg/layout.js';

const decode = (value: unknown): ReturnType<typeof decodeRequest> =>
  decodeRequest(Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)));
const good = { id: 1, peer: 'mapper', op: 69, target: 'volume1' };

const calls: fc.Arbitrary<BridgeCall> = fc.record(
  {
    op: fc.nat(100),
    target: fc.string({ maxLength: 60, unit: 'grapheme' }),
    offset: fc.nat(Number.MAX_SAFE_INTEGER),
    size: fc.nat(Number.MAX_SAFE_INTEGER),
    flags: fc.nat(0xffff_ffff),
    v0Size: fc.integer({ min: -1, max: Number.MAX_SAFE_INTEGER }),
    data: fc.uint8Array({ maxLength: 600 }),
    capacity: fc.nat(4096),
  },
  { requiredKeys: ['op'] },
);

describe('a request', () => {
  it('arrives as it was asked', () => {
    const peers = fc.constantFrom<Peer[]>('mapper', 'composer', 'endpoint', 'blocks', 'maps');
    fc.assert(
      fc.property(fc.nat(), peers, calls, (id, peer, call) => {
        fc.pre(Buffer.byteLength(call.target ?? '') <= MAX_TARGET);
        const line = encodeRequest(id, peer, call);
        expect(line.indexOf('\n')).toBe(line.length - 1);
        const read = decode(line.slice(0, -1));
        const data = call.data && Buffer.from(call.data);
        expect(read).toEqual({ id, peer, call: { target: '', ...call, ...(data ? { data } : {}) } });
      }),
    );
  });

  it('with the largest piece of data of a tool fits into a line, one with more is not sent', () => {
    const write = { op: 2, target: 'x'.repeat(MAX_TARGET), data: Buffer.alloc(512 << 10, 0xff) };
    expect(encodeRequest(1, 'blocks', write).length).toBeLessThan(MAX_LINE);
    expect(() => encodeRequest(1, 'blocks', { op: 2, data: Buffer.alloc(1 << 20) })).toThrow('too long for the bridge');
  });

  it.each([
    ['{', 'not JSON'],
    ['', 'not JSON'],
    ['[1]', 'not a JSON object'],
    ['null', 'not a JSON object'],
    ['7', 'not a JSON object'],
    ['['.repeat(100_000), 'not JSON'],
    ['{"op":1}', 'id is not a number'],
    [{ ...good, id: -1 }, 'id is not a number'],
    [{ ...good, id: 1.5 }, 'id is not a number'],
    [{ ...good, id: '1' }, 'id is not a number'],
  ])('that is none ends the conversation: %#', (line, problem) => {
    expect(() => decode(line)).toThrow(BadLine);
    expect(() => decode(line)).toThrow(problem);
  });

  it.each<[object, string]>([
    [{ peer: 'toString' }, 'peer is none of'],
    [{ peer: undefined }, 'peer is none of'],
    [{ peer: 3 }, 'peer is none of'],
    [{ op: undefined }, 'op is missing'],
    [{ op: -1 }, 'op is not a whole number from 0'],
    [{ op: 'STAT' }, 'op is not a whole number'],
    [{ target: 4 }, 'target is not a string'],
    [{ target: 'é'.repeat(129) }, 'target is longer than 256 bytes'],
    [{ offset: 2 ** 53 }, 'offset is not a whole number'],
    [{ offset: -1 }, 'offset is not a whole number'],
    [{ size: null }, 'size is not a whole number'],
    [{ flags: 2 ** 32 }, 'flags is not a whole number'],
    [{ v0Size: -2 }, 'v0Size is not a whole number from -1'],
    [{ capacity: MAX_ALLOCATION + 1 }, 'capacity is not a whole number'],
    [{ data: 'a' }, 'data is not base64'],
    [{ data: 'ab=c' }, 'data is not base64'],
    [{ data: 'ab-_' }, 'data is not base64'],
    [{ data: {} }, 'data is not base64'],
    [{ deadline: 5 }, 'knows no field "deadline"'],
  ])('that cannot be asked is refused by its number, and the conversation goes on: %#', (change, problem) => {
    const line = { ...good, ...change };
    expect(() => decode(line)).toThrow(RefusedRequest);
    expect(() => decode(line)).toThrow(problem);
  });

  it('has no fields of JavaScript’s own', () => {
    expect(() => decode('{"id":1,"peer":"mapper","op":1,"__proto__":{"op":2}}')).toThrow('knows no field "__proto__"');
  });
});

describe('an answer', () => {
  it('has all of the buffer, also its zeros', () => {
    const contents = fc.uint8Array({ maxLength: 100 });
    fc.assert(
      fc.property(contents, fc.nat(100), fc.nat(200), (bytes, zeros, serviced) => {
        const data = Buffer.concat([bytes, Buffer.alloc(zeros)]);
        const call = { op: 1, capacity: data.length };
        expect(bytesOf(call)).toBe(data.length);
        const sent = JSON.parse(JSON.stringify(answerOf(7, { serviced, data })));
        expect(sent.id).toBe(7);
        expect(resultOf(sent, call)).toEqual({ serviced, data });
      }),
    );
  });

  it('tells who refused: the peer, the segment, or the bridge', () => {
    const from = (answer: object): unknown => {
      try {
        return resultOf({ id: 1, ...answer }, { op: 1 });
      } catch (error) {
        return error;
      }
    };
    const peer = from({ errno: errnos.ERANGE, message: 'more', serviced: 90 });
    expect(peer).toBeInstanceOf(ReplyError);
    expect(peer).toMatchObject({ errno: errnos.ERANGE, message: 'more', serviced: 90 });
    const segment = from({ errno: errnos.ECONNRESET, message: 'gone' });
    expect(segment).toBeInstanceOf(SystemError);
    expect(segment).not.toBeInstanceOf(ReplyError);
    expect(segment).not.toBeInstanceOf(BridgeRefusal);
    expect(from({ errno: errnos.EAGAIN, message: 'busy', refused: true })).toBeInstanceOf(BridgeRefusal);
    expect(from({})).toMatchObject({ errno: errnos.EPROTO });
  });
});
