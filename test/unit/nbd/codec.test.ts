import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  encodeBlockStatusChunk,
  encodeErrorChunk,
  readExtendedRequest,
  readRequest,
  readU64,
  writeChunkHeader,
  writeDataChunk,
  writeExtendedRequest,
  writeHoleChunk,
  writeRequest,
  writeSimpleReply,
  writeU64,
} from '../../../src/nbd/codec.js';
import {
  decodeExportNameReply,
  decodeGreeting,
  decodeInfo,
  decodeInfoRequest,
  decodeMetaContext,
  decodeMetaRequest,
  decodeOptionHeader,
  decodeOptionReplyHeader,
  decodeServerEntry,
  decodeString,
  encodeExportNameReply,
  encodeGreeting,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoRequest,
  encodeInfoText,
  encodeMetaContext,
  encodeMetaRequest,
  encodeOption,
  encodeOptionReply,
  encodeServerEntry,
  encodeString,
  InvalidOptionError,
} from '../../../src/nbd/handshake-codec.js';

const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffffffff });
const size = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER });
const name = fc.string({ unit: 'grapheme', maxLength: 60 }).map((text) => text.replaceAll('\0', ''));
const view = (bytes: Buffer) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
const blank = {
  flags: 0,
  command: 0,
  cookieHigh: 0,
  cookieLow: 0,
  offset: 0,
  offsetHigh: 0,
  offsetLow: 0,
  length: 0,
};
/** The request a reply is for; its offset is beyond what a number holds. */
const to = { cookieHigh: 1, cookieLow: 2, offsetHigh: 0xf0000000, offsetLow: 0x0000000e };
const hex = (text: string) => Buffer.from(text.replaceAll(' ', ''), 'hex');

describe('transmission messages', () => {
  test('a request survives the way to bytes and back', () => {
    fc.assert(
      fc.property(u16, u16, u32, u32, size, u32, (flags, command, cookieHigh, cookieLow, offset, length) => {
        const request = { flags, command, cookieHigh, cookieLow, offset, length };
        const bytes = Buffer.alloc(31);
        writeRequest(view(bytes), 3, request);
        const back = { flags: 0, command: 0, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 };
        expect(readRequest(view(bytes), 3, back)).toBe(true);
        expect(back).toEqual(request);
      }),
    );
  });

  test('a request is laid out as the protocol says', () => {
    const bytes = Buffer.alloc(28);
    writeRequest(view(bytes), 0, {
      flags: 0x0102,
      command: 1,
      cookieHigh: 0x11223344,
      cookieLow: 0x55667788,
      offset: 0x1234567890,
      length: 0xfedcba98,
    });
    expect(bytes).toEqual(hex('25609513 0102 0001 1122334455667788 0000001234567890 fedcba98'));
  });

  test('an extended request survives the way to bytes and back', () => {
    fc.assert(
      fc.property(u16, u16, u32, u32, size, size, (flags, command, cookieHigh, cookieLow, offset, length) => {
        const request = { flags, command, cookieHigh, cookieLow, offset, length };
        const bytes = Buffer.alloc(35);
        writeExtendedRequest(view(bytes), 3, request);
        const back = { ...blank };
        expect(readExtendedRequest(view(bytes), 3, back)).toBe(true);
        expect(back).toEqual({ ...request, offsetHigh: Math.floor(offset / 2 ** 32), offsetLow: offset % 2 ** 32 });
      }),
    );
  });

  test('a request without its magic number, or with that of the other style, is refused', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 32, maxLength: 32 }),
        fc.constantFrom('compact', 'extended', 'no'),
        (raw, magic) => {
          const bytes = Buffer.from(raw);
          if (magic === 'compact') bytes.writeUInt32BE(0x25609513);
          else if (magic === 'extended') bytes.writeUInt32BE(0x21e41c71);
          expect(readRequest(view(bytes), 0, { ...blank })).toBe(bytes.readUInt32BE(0) === 0x25609513);
          expect(readExtendedRequest(view(bytes), 0, { ...blank })).toBe(bytes.readUInt32BE(0) === 0x21e41c71);
        },
      ),
    );
  });

  test('replies are laid out as the protocol says', () => {
    const bytes = Buffer.alloc(64);
    expect(writeSimpleReply(view(bytes), 0, 5, 0xaabbccdd, 0x01020304)).toBe(16);
    expect(bytes.subarray(0, 16)).toEqual(hex('67446698 00000005 aabbccdd01020304'));
    expect(writeChunkHeader(view(bytes), 0, false, true, 0x8001, to, 9)).toBe(20);
    expect(bytes.subarray(0, 20)).toEqual(hex('668e33ef 0001 8001 0000000100000002 00000009'));
    expect(writeDataChunk(view(bytes), 0, false, false, to, 2 ** 40 + 5, 512)).toBe(28);
    expect(bytes.subarray(0, 28)).toEqual(hex('668e33ef 0000 0001 0000000100000002 00000208 0000010000000005'));
    expect(writeHoleChunk(view(bytes), 0, false, true, to, 2 ** 40 + 5, 512)).toBe(32);
    expect(bytes.subarray(0, 32)).toEqual(
      hex('668e33ef 0001 0002 0000000100000002 0000000c 0000010000000005 00000200'),
    );
    expect(encodeErrorChunk(false, true, to, 28, Buffer.from('full'), null)).toEqual(
      hex('668e33ef 0001 8001 0000000100000002 0000000a 0000001c 0004 66756c6c'),
    );
    expect(encodeErrorChunk(false, false, to, 5, Buffer.from('bad'), 2 ** 40)).toEqual(
      hex('668e33ef 0000 8002 0000000100000002 00000011 00000005 0003 626164 0000010000000000'),
    );
    expect(encodeBlockStatusChunk(false, true, to, 7, [{ length: 4096, flags: 3, flagsHigh: 9 }])).toEqual(
      hex('668e33ef 0001 0005 0000000100000002 0000000c 00000007 00001000 00000003'),
    );
  });

  test('extended requests and replies are laid out as the protocol says', () => {
    const bytes = Buffer.alloc(64);
    writeExtendedRequest(view(bytes), 0, {
      flags: 0x20,
      command: 7,
      cookieHigh: 0x11223344,
      cookieLow: 0x55667788,
      offset: 0x1234567890,
      length: 0x10fedcba98,
    });
    expect(bytes.subarray(0, 32)).toEqual(hex('21e41c71 0020 0007 1122334455667788 0000001234567890 00000010fedcba98'));
    const header = '0000000100000002 f00000000000000e';
    expect(writeChunkHeader(view(bytes), 0, true, true, 0, to, 0)).toBe(32);
    expect(bytes.subarray(0, 32)).toEqual(hex(`6e8a278c 0001 0000 ${header} 0000000000000000`));
    expect(writeDataChunk(view(bytes), 0, true, false, to, 2 ** 40 + 5, 512)).toBe(40);
    expect(bytes.subarray(0, 40)).toEqual(hex(`6e8a278c 0000 0001 ${header} 0000000000000208 0000010000000005`));
    expect(writeHoleChunk(view(bytes), 0, true, true, to, 2 ** 40 + 5, 512)).toBe(44);
    expect(bytes.subarray(0, 44)).toEqual(
      hex(`6e8a278c 0001 0002 ${header} 000000000000000c 0000010000000005 00000200`),
    );
    expect(encodeErrorChunk(true, true, to, 22, Buffer.alloc(0), null)).toEqual(
      hex(`6e8a278c 0001 8001 ${header} 0000000000000006 00000016 0000`),
    );
    const extents = [
      { length: 2 ** 40 + 1, flags: 3 },
      { length: 1, flags: 0xfffffffe, flagsHigh: 0x80000001 },
    ];
    expect(encodeBlockStatusChunk(true, true, to, 7, extents)).toEqual(
      hex(
        `6e8a278c 0001 0006 ${header} 0000000000000028 00000007 00000002` +
          '0000010000000001 0000000000000003 0000000000000001 80000001fffffffe',
      ),
    );
  });

  test('64-bit numbers up to 2^53 are exact', () => {
    fc.assert(
      fc.property(size, (value) => {
        const bytes = Buffer.alloc(8);
        writeU64(view(bytes), 0, value);
        expect(bytes.readBigUInt64BE()).toBe(BigInt(value));
        expect(readU64(view(bytes), 0)).toBe(value);
      }),
    );
  });
});

describe('handshake messages', () => {
  test('greeting, options and option replies survive the way to bytes and back', () => {
    fc.assert(
      fc.property(u16, u32, u32, fc.uint8Array({ maxLength: 100 }), (flags, option, type, data) => {
        expect(decodeGreeting(encodeGreeting(flags))).toBe(flags);
        const sent = encodeOption(option, data);
        expect(decodeOptionHeader(sent)).toEqual({ option, length: data.length });
        expect(sent.subarray(16)).toEqual(Buffer.from(data));
        const reply = encodeOptionReply(option, type, data);
        expect(decodeOptionReplyHeader(reply)).toEqual({ option, type, length: data.length });
        expect(reply.subarray(20)).toEqual(Buffer.from(data));
      }),
    );
  });

  test('names, infos and meta contexts survive the way to bytes and back', () => {
    fc.assert(
      fc.property(
        name,
        name,
        fc.array(name, { maxLength: 8 }),
        fc.array(u16, { maxLength: 8 }),
        u32,
        size,
        (a, b, list, infos, id, bytes) => {
          expect(decodeServerEntry(encodeServerEntry(a, b))).toEqual({ name: a, description: b });
          expect(decodeInfoRequest(encodeInfoRequest(a, infos))).toEqual({ name: a, infos });
          expect(decodeMetaRequest(encodeMetaRequest(a, list))).toEqual({ name: a, queries: list });
          expect(decodeMetaContext(encodeMetaContext(id, b))).toEqual({ id, name: b });
          expect(decodeInfo(encodeInfoExport(bytes, 77))).toEqual({ info: 'export', size: bytes, flags: 77 });
          expect(decodeInfo(encodeInfoText(1, a))).toEqual({ info: 'name', text: a });
          expect(decodeInfo(encodeInfoText(2, a))).toEqual({ info: 'description', text: a });
          expect(decodeInfo(encodeInfoBlockSize(1, 2, id))).toEqual({
            info: 'blockSize',
            minimum: 1,
            preferred: 2,
            maximum: id,
          });
          expect(decodeExportNameReply(encodeExportNameReply(bytes, 5, true))).toEqual({ size: bytes, flags: 5 });
        },
      ),
    );
  });

  test('the answer to EXPORT_NAME has 124 zeroes unless both ends left them out', () => {
    expect(encodeExportNameReply(1, 2, false)).toEqual(
      Buffer.concat([encodeExportNameReply(1, 2, true), Buffer.alloc(124)]),
    );
  });

  test('option data that is cut anywhere, or goes on, is invalid, never a crash', () => {
    const whole = [
      [encodeInfoRequest('disk', [1, 2, 3]), decodeInfoRequest],
      [encodeMetaRequest('disk', ['base:allocation', 'x:']), decodeMetaRequest],
    ] as const;
    for (const [data, decode] of whole) {
      for (let length = 0; length < data.length; length++) {
        expect(() => decode(data.subarray(0, length))).toThrow(InvalidOptionError);
      }
      expect(() => decode(Buffer.concat([data, Buffer.from([0])]))).toThrow(InvalidOptionError);
    }
  });

  test('random option data is understood or invalid, never anything else', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        for (const decode of [decodeInfoRequest, decodeMetaRequest, decodeServerEntry, decodeMetaContext]) {
          try {
            decode(Buffer.from(bytes));
          } catch (error) {
            expect(error).toBeInstanceOf(InvalidOptionError);
          }
        }
      }),
    );
  });

  test('a count of queries beyond the data is refused before anything is kept', () => {
    const data = encodeMetaRequest('disk', []);
    data.writeUInt32BE(0xffffffff, data.length - 4);
    expect(() => decodeMetaRequest(data)).toThrow(/do not fit/);
  });

  test('strings are UTF-8 without NUL and at most 4096 bytes', () => {
    expect(() => decodeString(Buffer.from([0x61, 0]), 'name')).toThrow(/NUL/);
    expect(() => decodeString(Buffer.from([0xff]), 'name')).toThrow(/UTF-8/);
    expect(() => decodeString(Buffer.alloc(4097, 0x61), 'name')).toThrow(/4097/);
    expect(decodeString(Buffer.alloc(4096, 0x61), 'name')).toHaveLength(4096);
  });

  test('a text that is too long is cut between characters', () => {
    const cut = encodeString(`a${'ä'.repeat(4000)}`);
    expect(cut.length).toBe(4095);
    expect(cut.toString('utf8')).toBe(`a${'ä'.repeat(2047)}`);
  });

  test('another protocol, or oldstyle, is no greeting', () => {
    expect(() => decodeGreeting(Buffer.from('SSH-2.0-OpenSSH_9.2p1'))).toThrow(/no NBD server/);
    const oldstyle = encodeGreeting(0);
    oldstyle.writeBigUInt64BE(0x00420281861253n, 8);
    expect(() => decodeGreeting(oldstyle)).toThrow(/oldstyle/);
  });
});
