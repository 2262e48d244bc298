/** Messages of generic netlink, of the nbd driver and of unix_diag, against bytes put together by hand from the kernel's headers. */
import { describe, expect, it } from 'vitest';
import {
  decodeAttributes,
  decodeFamily,
  decodeMessages,
  encodeRequest,
  listAttributes,
  string,
  text,
  u64,
} from '../../../src/devices/genl.js';
import {
  Command,
  decodeIndex,
  encodeConnect,
  encodeDisconnect,
  encodeReconnect,
  encodeResize,
} from '../../../src/devices/nbd-messages.js';
import { decodeUnixDiag, encodeUnixDiag } from '../../../src/devices/unix-diag.js';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const bytes = (...parts: string[]): string => parts.join('').replaceAll(' ', '');
/** nlmsghdr (flags REQUEST | ACK), genlmsghdr of version 1. */
const head = (length: string, family: string, sequence: string, command: string): string =>
  bytes(length, family, '0500', sequence, '00000000', command, '01', '0000');

describe('requests to the nbd driver', () => {
  it('ask for a device without naming one, with sockets nested twice', () => {
    const message = encodeConnect(0x1c, 7, {
      size: 0x12345600,
      blockSize: 512,
      flags: 0x16d,
      timeout: 0,
      deadConnTimeout: 86_400,
      identifier: 'archipelago:seg:vol',
      sockets: [21, 22],
    });
    expect(hex(message)).toBe(
      bytes(
        head('84000000', '1c00', '07000000', '01'),
        '0c00 0200 0056341200000000',
        '0c00 0300 0002000000000000',
        '0c00 0400 0000000000000000',
        '0c00 0500 6d01000000000000',
        '0c00 0800 8051010000000000',
        '1c00 0780 0c00 0180 0800 0100 15000000 0c00 0180 0800 0100 16000000',
        `1800 0a00 ${Buffer.from('archipelago:seg:vol\0').toString('hex')}`,
      ),
    );
  });

  it('say which device is to end', () => {
    expect(hex(encodeDisconnect(0x1c, 1, 3))).toBe(
      bytes(head('1c000000', '1c00', '01000000', '02'), '0800 0100 03000000'),
    );
  });

  it('name what they change by the identifier as well', () => {
    const identifier = `0900 0a00 ${Buffer.from('abcd\0').toString('hex')} 000000`;
    expect(hex(encodeResize(0x1c, 2, 300, 'abcd', 2 ** 40 + 512))).toBe(
      bytes(head('34000000', '1c00', '02000000', '03'), '0800 0100 2c010000', '0c00 0200 0002000000010000', identifier),
    );
    expect(hex(encodeReconnect(0x1c, 2, 0, 'abcd', [9]))).toBe(
      bytes(
        head('38000000', '1c00', '02000000', '03'),
        '0800 0100 00000000',
        '1000 0780 0c00 0180 0800 0100 09000000',
        identifier,
      ),
    );
  });
});

describe('answers', () => {
  const from = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex');

  it('tell the device that was made, and the acknowledgement in one datagram', () => {
    const made = '1c000000 1c00 0000 07000000 39050000 01 01 0000 0800 0100 11000000';
    const acknowledged = '24000000 0200 0000 07000000 39050000 00000000 24000000 1c00 0500 07000000 00000000';
    const messages = decodeMessages(from(made + acknowledged));
    expect(messages.map(({ type, sequence, error, command }) => ({ type, sequence, error, command }))).toEqual([
      { type: 0x1c, sequence: 7, error: null, command: Command.CONNECT },
      { type: 2, sequence: 7, error: 0, command: -1 },
    ]);
    expect(decodeIndex(messages[0].body)).toBe(17);
  });

  it('tell a refusal as a positive errno', () => {
    const refused = '24000000 0200 0000 01000000 00000000 eaffffff 14000000 1c00 0500 01000000 00000000';
    expect(decodeMessages(from(refused))[0].error).toBe(22);
  });

  it('name no device where they name none', () => {
    expect(decodeIndex(Buffer.alloc(0))).toBe(-1);
    expect(decodeIndex(from('0600 0100 1100 0000'))).toBe(-1);
  });

  it('tell the number of a family and of its groups', () => {
    const group = '2000 0100 0800 0200 09000000 1100 0100 6e62645f6d635f67726f757000 000000';
    const body = from(`0800 0200 6e626400 0600 0100 1c00 0000 2400 0700 ${group}`);
    expect(decodeFamily(body)).toEqual({ id: 28, groups: new Map([['nbd_mc_group', 9]]) });
    expect(decodeFamily(from('0800 0200 6e626400'))).toBeNull();
  });

  it('are read without a step past their end, wherever they are cut', () => {
    const whole = encodeRequest(28, 1, 5, [u64(2, 1), string(10, 'text')]);
    for (let end = 0; end < whole.length; end++) {
      expect(decodeMessages(whole.subarray(0, end))).toEqual([]);
      const attributes = listAttributes(whole.subarray(20, Math.max(20, end)));
      expect(attributes.length, `cut at ${end}`).toBe(end < 32 ? 0 : end < 41 ? 1 : 2);
    }
    expect(text(decodeAttributes(whole.subarray(20)).get(10))).toBe('text');
    expect(listAttributes(Buffer.alloc(64))).toEqual([]);
  });
});

describe('unix_diag', () => {
  it('is asked about one socket by its inode, whatever its cookie', () => {
    expect(hex(encodeUnixDiag(0x1234, 3))).toBe(
      bytes('28000000 1400 0100 03000000 00000000', '01 00 0000 ffffffff 34120000 00000000 ffffffff ffffffff'),
    );
  });

  const answer = (shutdown: string): Buffer => {
    const attribute = bytes('0500 0600', shutdown, '000000');
    const header = '28000000 1400 0000 03000000 00000000 01 01 01 00 34120000 01000000 00000000';
    return Buffer.from(bytes(header, attribute), 'hex');
  };

  it('tells a connection that both sides have, and one that has ended', () => {
    expect(decodeUnixDiag(answer('00'))).toBe(true);
    expect(decodeUnixDiag(answer('01'))).toBe(false);
    expect(decodeUnixDiag(answer('03'))).toBe(false);
  });

  it('tells a socket that is not there any more, and keeps quiet about what it does not know', () => {
    const error = (errno: number): Buffer => {
      const message = Buffer.alloc(36);
      message.writeUInt32LE(36, 0);
      message.writeUInt16LE(2, 4);
      message.writeInt32LE(-errno, 16);
      return message;
    };
    expect(decodeUnixDiag(error(2))).toBe(false);
    expect(decodeUnixDiag(error(1))).toBeNull();
    expect(decodeUnixDiag(Buffer.alloc(3))).toBeNull();
    expect(decodeUnixDiag(answer('00').subarray(0, 32))).toBeNull();
  });
});
