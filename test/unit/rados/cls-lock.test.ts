import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  clientLocker,
  decodeState,
  encodeBreak,
  encodeGetInfo,
  encodeLock,
  encodeState,
  encodeUnlock,
  type Locker,
  LockType,
  lockerName,
  MAY_RENEW,
} from '../../../src/blockers/rados/cls-lock.js';

const hex = (text: string): Buffer => Buffer.from(text.replace(/\s/g, ''), 'hex');

/** The attribute that `rados lock get o RadosLock --lock-cookie foo` of Ceph 16 left. */
const stored = hex(`
  0101 54000000 01000000
    0101 10000000 08 2510000000000000 03000000 666f6f
    0101 2f000000 00000000 00000000
      01 0101 1c000000 01000000 0793c420 10000000 0200 0000 7f000001 0000000000000000
      00000000
  01 00000000`);

const original: Locker = {
  kind: 8,
  id: 4133n,
  cookie: 'foo',
  expires: 0,
  address: '127.0.0.1:0/549753607',
  description: '',
};

const addresses = fc.oneof(
  fc.constant(''),
  fc
    .tuple(fc.ipV4(), fc.integer({ min: 0, max: 65535 }), fc.integer({ min: 0, max: 0xffff_ffff }))
    .map(([ip, port, nonce]) => `${ip}:${port}/${nonce}`),
  fc
    .tuple(fc.ipV6(), fc.integer({ min: 0, max: 65535 }), fc.integer({ min: 0, max: 0xffff_ffff }))
    .map(([ip, port, nonce]) => `${new URL(`http://[${ip}]`).hostname}:${port}/${nonce}`),
);

const lockers = fc.record({
  kind: fc.constantFrom(1, 2, 4, 8, 16, 77),
  id: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  cookie: fc.string(),
  expires: fc.integer({ min: 0, max: 4_000_000_000_000 }),
  address: addresses,
  description: fc.string({ unit: 'grapheme' }),
});

describe('the lock class’s bytes', () => {
  it('what Ceph stored is understood, and written the same', () => {
    expect(decodeState(stored)).toEqual({ type: LockType.EXCLUSIVE, tag: '', lockers: [original] });
    expect(encodeState({ type: LockType.EXCLUSIVE, tag: '', lockers: [original] })).toEqual(stored);
    expect(lockerName(original)).toBe('client.4133');
    expect(clientLocker(4133n, 'foo', original.address, '')).toEqual(original);
  });

  it('a lock that was given up has no lockers', () => {
    expect(decodeState(hex('0101 09000000 00000000 01 00000000'))).toEqual({ type: 1, tag: '', lockers: [] });
  });

  it('whatever is written is read again', () => {
    fc.assert(
      fc.property(fc.array(lockers, { maxLength: 4 }), fc.constantFrom(0, 1, 2, 3), fc.string(), (all, type, tag) => {
        const state = { lockers: all, type, tag };
        expect(decodeState(encodeState(state))).toEqual(state);
      }),
    );
  });

  it('an address in the form from before versions is understood', () => {
    const address = Buffer.alloc(4 + 4 + 128);
    address.writeUInt32LE(99, 4);
    address.writeUInt16BE(2, 8);
    Buffer.from([0, 0, 192, 0, 2, 7]).copy(address, 10);
    const info = Buffer.concat([Buffer.alloc(8), address, Buffer.alloc(4)]);
    const length = Buffer.alloc(4);
    length.writeUInt32LE(info.length);
    const inner = Buffer.concat([
      hex('01000000 0101 10000000 08 2510000000000000 03000000 666f6f 0101'),
      length,
      info,
      hex('01 00000000'),
    ]);
    const all = Buffer.alloc(4);
    all.writeUInt32LE(inner.length);
    const [locker] = decodeState(Buffer.concat([hex('0101'), all, inner])).lockers;
    expect(locker.address).toBe('192.0.2.7:0/99');
  });

  it('what a later version adds is passed over; what cannot be read any more is refused', () => {
    const longer = Buffer.concat([stored.subarray(0, 2), hex('56000000'), stored.subarray(6), hex('abcd')]);
    longer[0] = 2;
    expect(decodeState(longer).lockers).toEqual([original]);
    const newer = Buffer.from(stored);
    newer[0] = newer[1] = 2;
    expect(() => decodeState(newer)).toThrow(/version 2/);
  });

  it('bytes from outside are refused with EBADMSG or understood, whatever they are', () => {
    const sound = (bytes: Uint8Array): void => {
      try {
        const { lockers: found, tag } = decodeState(bytes);
        expect(found.length * 8 + tag.length).toBeLessThanOrEqual(bytes.length);
      } catch (error) {
        expect((error as { code?: string }).code).toBe('EBADMSG');
      }
    };
    for (let length = 0; length < stored.length; length++) {
      const cut = (): unknown => decodeState(stored.subarray(0, length));
      expect(cut).toThrow(/cannot be understood/);
    }
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), sound));
    const places = fc.array(fc.tuple(fc.nat(stored.length - 1), fc.integer({ min: 0, max: 255 })), { maxLength: 6 });
    fc.assert(
      fc.property(places, (changes) => {
        const bytes = Buffer.from(stored);
        for (const [at, value] of changes) bytes[at] = value;
        sound(bytes);
      }),
      { numRuns: 2000 },
    );
  });

  it('the inputs of the methods are Ceph’s', () => {
    const request = { name: 'N', type: LockType.EXCLUSIVE, cookie: 'c', tag: 't', description: 'dd', flags: MAY_RENEW };
    expect(encodeLock(request)).toEqual(
      hex('0101 1f000000 01000000 4e 01 01000000 63 01000000 74 02000000 6464 00000000 00000000 01'),
    );
    expect(encodeUnlock('N', 'c')).toEqual(hex('0101 0a000000 01000000 4e 01000000 63'));
    expect(encodeBreak('N', original)).toEqual(hex('0101 15000000 01000000 4e 08 2510000000000000 03000000 666f6f'));
    expect(encodeGetInfo('N')).toEqual(hex('0101 05000000 01000000 4e'));
  });
});
