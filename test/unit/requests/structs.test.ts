import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decodeJson, encodeJson, parseListRequest } from '../../../src/requests/json.js';
import {
  CLONE_STRUCT_SIZE,
  decodeBlocks,
  decodeClone,
  decodeCreate,
  decodeInfo,
  decodeMapReply,
  decodeName,
  decodeVolumeInfo,
  encodeBlocks,
  encodeClone,
  encodeCreate,
  encodeInfo,
  encodeMapReply,
  encodeName,
  encodeVolumeInfo,
  mapReplySize,
  NAME_STRUCT_SIZE,
  VOLUME_INFO_SIZE,
} from '../../../src/requests/structs.js';

const invalid = expect.objectContaining({ code: 'EINVAL' });
const names = fc.stringMatching(/^[a-zA-Z0-9_.äλ-]{1,100}$/);

describe('structs of requests', () => {
  it('decode to what was encoded', () => {
    fc.assert(
      fc.property(names, fc.maxSafeNat(), fc.boolean(), fc.array(names, { maxLength: 5 }), (name, size, flag, list) => {
        expect(decodeName(encodeName(name), 'RENAME')).toBe(name);
        expect(decodeClone(encodeClone({ parent: name, size }))).toEqual({ parent: name, size });
        expect(decodeInfo(encodeInfo({ size }))).toEqual({ size });
        expect(decodeInfo(encodeInfo({ size, allocated: 7 }))).toEqual({ size, allocated: 7 });
        const object = { size, allocated: 7, modified: 1_700_000_000_000 };
        expect(decodeInfo(encodeInfo(object))).toEqual(object);
        const info = { size, blockSize: 1 << 22, readOnly: flag, version: 2, epoch: size };
        const lineage = { created: 1_700_000_000_000, parent: name || null, id: '0123456789abcdef'.repeat(2) };
        const none = { created: null, parent: null, id: null };
        const told = { ...info, ...(flag ? lineage : none) };
        expect(decodeVolumeInfo(encodeVolumeInfo(told))).toEqual(told);
        const cut = encodeVolumeInfo(told).subarray(0, VOLUME_INFO_SIZE);
        expect(decodeVolumeInfo(cut)).toEqual({ ...info, ...none });
        const create = { blockSize: 65536, readOnly: flag, objects: list.map((n) => ({ name: n, readOnly: !flag })) };
        expect(decodeCreate(encodeCreate(create))).toEqual(create);
        const segments = list.map((target) => ({ target, zero: flag, offset: size, size: 5 }));
        expect(decodeMapReply(encodeMapReply(segments))).toEqual(segments);
        const blocks = [size, 0, list.length, size];
        expect(decodeBlocks(encodeBlocks(blocks))).toEqual(blocks);
      }),
    );
  });

  it('have the layout of the C structs', () => {
    const clone = encodeClone({ parent: 'parent', size: 0x1122334455 });
    expect(clone.length).toBe(CLONE_STRUCT_SIZE);
    expect(clone.toString('latin1', 0, 6)).toBe('parent');
    expect(clone.readUInt32LE(256)).toBe(6);
    expect(clone.readBigUInt64LE(264)).toBe(0x1122334455n);
    const name = encodeName('new-name');
    expect([name.length, name.readUInt32LE(256)]).toEqual([NAME_STRUCT_SIZE, 8]);
    const reply = encodeMapReply([{ target: 'object', zero: true, offset: 3, size: 4 }]);
    expect(reply.length).toBe(8 + 280);
    expect(reply.readUInt32LE(0)).toBe(1);
    expect(reply.toString('latin1', 8, 14)).toBe('object');
    expect([reply.readUInt32LE(8 + 256), reply.readUInt32LE(8 + 260)]).toEqual([2, 6]);
    expect([reply.readBigUInt64LE(8 + 264), reply.readBigUInt64LE(8 + 272)]).toEqual([3n, 4n]);
  });

  it('cut short, or with lengths that do not fit, are refused', () => {
    const long = encodeName('x');
    long.writeUInt32LE(257, 256);
    const nul = encodeName('xx');
    nul[1] = 0;
    const many = encodeMapReply([]);
    many.writeUInt32LE(1000, 0);
    const objects = encodeCreate({ blockSize: 0, readOnly: false, objects: [] });
    objects.writeUInt32LE(0xffffffff, 0);
    const cases: (() => unknown)[] = [
      () => decodeName(Buffer.alloc(259), 'SNAPSHOT'),
      () => decodeName(long, 'SNAPSHOT'),
      () => decodeName(nul, 'SNAPSHOT'),
      () => decodeClone(Buffer.alloc(271)),
      () => decodeInfo(Buffer.alloc(7)),
      () => decodeVolumeInfo(Buffer.alloc(31)),
      () => decodeCreate(Buffer.alloc(11)),
      () => decodeCreate(objects),
      () => decodeBlocks(encodeBlocks([1, 2]).subarray(0, 15)),
      () => decodeMapReply(Buffer.alloc(7)),
      () => decodeMapReply(many),
      () => decodeMapReply(Buffer.concat([many.subarray(0, 8), Buffer.alloc(mapReplySize(999))])),
    ];
    for (const each of cases) expect(each).toThrow(invalid);
    const clone = encodeClone({ parent: '', size: 0 });
    clone.writeBigUInt64LE(2n ** 60n, 264);
    expect(() => decodeClone(clone)).toThrow(expect.objectContaining({ code: 'EFBIG' }));
    expect(() => encodeName('n'.repeat(257))).toThrow(expect.objectContaining({ code: 'ENAMETOOLONG' }));
  });
});

describe('JSON bodies', () => {
  it('that are no JSON, or no object, are refused', () => {
    expect(decodeJson(encodeJson({ a: 1 }), 'X')).toEqual({ a: 1 });
    expect(decodeJson(encodeJson(null), 'X')).toBeNull();
    for (const text of ['', '{', '[1]', '5', '"x"']) expect(() => decodeJson(Buffer.from(text), 'X')).toThrow(invalid);
  });

  it('of LIST have defaults and are checked', () => {
    expect(parseListRequest(Buffer.alloc(0))).toEqual({ cursor: null, limit: 256, deleted: false });
    expect(parseListRequest(encodeJson({ cursor: 'c', limit: 5, deleted: true }))).toEqual({
      cursor: 'c',
      limit: 5,
      deleted: true,
    });
    for (const bad of [{ cursor: 5 }, { limit: 0 }, { limit: 1.5 }, { limit: 'x' }, { deleted: 1 }]) {
      expect(() => parseListRequest(encodeJson(bad))).toThrow(invalid);
    }
  });
});
