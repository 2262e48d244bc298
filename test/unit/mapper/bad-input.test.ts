/** What is asked wrongly or stored wrongly: each with its errno and a sentence that names the thing, and nothing changed by it. */
import { describe, expect, it } from 'vitest';
import { DEFAULT_BLOCK_SIZE, ZERO_NAME } from '../../../src/mapper/formats/header.js';
import * as v2 from '../../../src/mapper/formats/v2.js';
import { checkNewName } from '../../../src/mapper/names.js';
import { checkInvariants } from './invariants.js';
import { createSmall, failure, memoryNode, type Node, readVolume, writeVolume } from './support.js';

const BLOCK = 256;

describe('names of new volumes', () => {
  it.each([
    ['', 'EINVAL', 'no volume'],
    ['short', 'EINVAL', 'at least 6'],
    ['a'.repeat(83), 'ENAMETOOLONG', 'at most 82'],
    ['ü'.repeat(42), 'ENAMETOOLONG', 'at most 82'],
    ['archip_volume', 'EINVAL', 'reserved'],
    ['volume_lock', 'EINVAL', 'reserved'],
    ['volume_0123456789abcdef', 'EINVAL', 'reserved'],
    ['a_0123456789abcdef_and_more', 'EINVAL', 'reserved'],
    ['vol/ume', 'EINVAL', 'slash'],
    ['vol\0ume', 'EINVAL', 'NUL'],
  ])('%j is refused everywhere', async (name, code, part) => {
    const node = memoryNode();
    await createSmall(node, 'volume', BLOCK, BLOCK);
    await node.mapper.snapshot('volume', 'snapshot');
    const attempts = [
      node.mapper.create(name, BLOCK),
      node.mapper.clone(name, 'snapshot', 0),
      node.mapper.snapshot('volume', name),
      node.mapper.rename('volume', name),
    ];
    for (const attempt of attempts) await expect(attempt).rejects.toEqual(failure(code, part));
    await checkInvariants(node, []);
  });

  it('of 6 and of 82 bytes, and nearly reserved ones, are taken', () => {
    for (const name of [
      'sixsix',
      'a'.repeat(82),
      'volume_0123456789ABCDEF',
      'volume_0123456789abcde',
      'lock_volume',
      'x_locked',
    ]) {
      expect(() => checkNewName(name)).not.toThrow();
    }
  });

  it('of 82 bytes work with the longest object names', async () => {
    const node = memoryNode();
    const name = 'n'.repeat(82);
    await createSmall(node, name, BLOCK, BLOCK);
    await writeVolume(node, name, 0, Buffer.from('x'));
    await node.mapper.close(name);
    expect((await readVolume(node, name, 0, 1)).toString()).toBe('x');
  });
});

describe('sizes', () => {
  it('of 0, below 0 or past every limit are refused', async () => {
    const node = memoryNode();
    await expect(node.mapper.create('volume', 0)).rejects.toEqual(failure('EINVAL', 'at least 1'));
    await expect(node.mapper.create('volume', -5)).rejects.toEqual(failure('EINVAL'));
    await createSmall(node, 'volume', BLOCK, BLOCK);
    await expect(node.mapper.resize('volume', 0, true)).rejects.toEqual(failure('EINVAL'));
    await expect(node.mapper.resize('volume', 2 ** 52, false)).rejects.toEqual(failure('EFBIG', 'too many'));
    await checkInvariants(node, []);
  });

  it('need not be multiples of anything', async () => {
    const node = memoryNode();
    await node.mapper.create('odd-volume', 2 * DEFAULT_BLOCK_SIZE + 1);
    await writeVolume(node, 'odd-volume', 2 * DEFAULT_BLOCK_SIZE, Buffer.from('x'));
    expect((await readVolume(node, 'odd-volume', 2 * DEFAULT_BLOCK_SIZE, 1)).toString()).toBe('x');
    await node.mapper.mapZero('odd-volume', 2 * DEFAULT_BLOCK_SIZE, 1, 500);
    expect((await readVolume(node, 'odd-volume', 2 * DEFAULT_BLOCK_SIZE, 1))[0]).toBe(0);
  });

  it('of clones are not below the parent, and shrinking needs force', async () => {
    const node = memoryNode();
    await createSmall(node, 'volume', 3 * BLOCK, BLOCK);
    await node.mapper.snapshot('volume', 'snapshot');
    await expect(node.mapper.clone('the-clone', 'snapshot', 3 * BLOCK - 1)).rejects.toEqual(
      failure('EINVAL', 'less than'),
    );
    await expect(node.mapper.resize('volume', 5, false)).rejects.toEqual(failure('EINVAL', 'use --force'));
    await expect(node.mapper.resize('snapshot', 9 * BLOCK, false)).rejects.toEqual(failure('EROFS', 'snapshot'));
  });
});

describe('operations on the wrong thing', () => {
  it('missing volumes are ENOENT by name', async () => {
    const { mapper } = memoryNode();
    for (const attempt of [
      mapper.describe('no-volume'),
      mapper.stat('no-volume'),
      mapper.lease('no-volume', { write: false }, 500),
      mapper.mapRead('no-volume', 0, 1),
      mapper.mapWrite('no-volume', 0, 1, 500),
      mapper.mapZero('no-volume', 0, 1, 500),
      mapper.mapFetch('no-volume', 0, 1, 4096),
      mapper.snapshot('no-volume', 'snapshot'),
      mapper.clone('the-clone', 'no-volume', 0),
      mapper.rename('no-volume', 'new-name'),
      mapper.resize('no-volume', 5, true),
    ]) {
      await expect(attempt).rejects.toEqual(failure('ENOENT', 'no-volume does not exist'));
    }
  });

  it('a clone of what can be written, of itself, or over what exists is refused', async () => {
    const node = memoryNode();
    await createSmall(node, 'volume', BLOCK, BLOCK);
    await node.mapper.snapshot('volume', 'snapshot');
    await expect(node.mapper.clone('the-clone', 'volume', 0)).rejects.toEqual(
      failure('EINVAL', 'vlmc snapshot volume'),
    );
    await expect(node.mapper.clone('snapshot', 'snapshot', 0)).rejects.toEqual(failure('EINVAL', 'own parent'));
    await expect(node.mapper.clone('volume', 'snapshot', 0)).rejects.toEqual(failure('EEXIST', 'volume'));
    await expect(node.mapper.rename('volume', 'volume')).rejects.toEqual(failure('EINVAL', 'the same'));
    await expect(node.mapper.create('snapshot', 5)).rejects.toEqual(failure('EEXIST', 'snapshot'));
  });

  it('writes to a snapshot, past the end, or zeroing parts of blocks are refused', async () => {
    const node = memoryNode();
    await createSmall(node, 'volume', 2 * BLOCK + 7, BLOCK);
    await node.mapper.snapshot('volume', 'snapshot');
    const { mapper } = node;
    await expect(mapper.mapWrite('snapshot', 0, 1, 500)).rejects.toEqual(failure('EROFS', 'is a snapshot'));
    await expect(mapper.mapZero('snapshot', 0, BLOCK, 500)).rejects.toEqual(failure('EROFS'));
    await expect(mapper.mapRead('volume', 2 * BLOCK, 8)).rejects.toEqual(failure('EINVAL', 'past its end'));
    await expect(mapper.mapWrite('volume', 3 * BLOCK, 1, 500)).rejects.toEqual(failure('EINVAL', 'past its end'));
    await expect(mapper.mapZero('volume', 1, BLOCK, 500)).rejects.toEqual(failure('EINVAL', 'not whole blocks'));
    await expect(mapper.mapZero('volume', 0, BLOCK + 1, 500)).rejects.toEqual(failure('EINVAL', 'not whole blocks'));
    expect(await mapper.mapRead('volume', 5, 0)).toEqual([]);
    expect(await mapper.mapWrite('volume', 5, 0, 500)).toEqual([]);
  });

  it('a stored name of a legacy volume is not a volume name', async () => {
    const node = memoryNode();
    await expect(node.mapper.remove('archip_volume')).rejects.toEqual(failure('EINVAL', 'use the name volume'));
  });
});

describe('X_CREATE', () => {
  const create = (node: Node, size: number, blockSize: number, names: string[]): Promise<void> =>
    node.mapper.createFromObjects('the-image', size, {
      blockSize,
      readOnly: true,
      objects: names.map((name) => ({ name, readOnly: true })),
    });

  it('makes a map of given objects', async () => {
    const node = memoryNode();
    await node.blocks.write('f'.repeat(64), 0, Buffer.from('image'));
    await create(node, BLOCK + 1, BLOCK, ['f'.repeat(64), ZERO_NAME]);
    expect((await readVolume(node, 'the-image', 0, 5)).toString()).toBe('image');
    expect(await node.mapper.stat('the-image')).toMatchObject({
      readOnly: true,
      blocks: { total: 2, zero: 1, foreign: 1, own: 0, shared: 0, damaged: 0 },
    });
  });

  it('refuses counts, block sizes and names that do not fit', async () => {
    const node = memoryNode();
    await expect(create(node, BLOCK, BLOCK, [])).rejects.toEqual(failure('EINVAL', '0 objects are given'));
    await expect(create(node, BLOCK, BLOCK, ['object', 'object'])).rejects.toEqual(failure('EINVAL'));
    await expect(create(node, BLOCK, 1000, ['object'])).rejects.toEqual(failure('EINVAL', 'power of two'));
    await expect(create(node, BLOCK, BLOCK, [''])).rejects.toEqual(failure('EINVAL'));
    await expect(create(node, BLOCK, BLOCK, ['o'.repeat(124)])).rejects.toEqual(failure('EINVAL', 'longer than 123'));
    await expect(create(node, BLOCK, BLOCK, ['a/b'])).rejects.toEqual(failure('EINVAL', 'slash'));
    expect((await node.maps.list(null, 100)).names).toEqual([]);
    await checkInvariants(node, []);
  });
});

describe('stored maps', () => {
  it('garbage, empty and half-written headers are told apart', async () => {
    const node = memoryNode();
    const { mapper } = node;
    await node.maps.write('garbage-map', 0, Buffer.from('this is not a map'));
    await node.maps.write('empty-map', 0, Buffer.alloc(0));
    await node.maps.write('zeros-map', 0, Buffer.alloc(512));
    await node.maps.write('short-map', 0, Buffer.from('AMF.\0\0\0\x02'));
    await expect(mapper.describe('garbage-map')).rejects.toEqual(failure('EINVAL', 'garbage-map is not a map'));
    await expect(mapper.create('garbage-map', 5)).rejects.toEqual(failure('EEXIST', 'garbage-map is in use'));
    await expect(mapper.snapshot('garbage-map', 'snapshot')).rejects.toEqual(failure('EINVAL', 'garbage-map'));
    await expect(mapper.describe('garbage-map', { assumeV0: true, v0Size: -1 })).rejects.toEqual(
      failure('EIO', '17 bytes'),
    );
    await expect(mapper.describe('short-map')).rejects.toEqual(failure('EIO', 'short-map'));
    await expect(mapper.create('short-map', 5)).rejects.toEqual(failure('EEXIST', 'short-map is in use'));
    for (const name of ['empty-map', 'zeros-map']) {
      await expect(mapper.describe(name)).rejects.toEqual(failure('ENOENT', name));
      await mapper.create(name, 5);
      expect((await mapper.describe(name)).size).toBe(5);
    }
    const { volumes } = await mapper.list({ cursor: null, limit: 100 });
    expect(volumes.map((volume) => volume.name).sort()).toEqual(['empty-map', 'short-map', 'zeros-map']);
    expect(volumes.find((volume) => volume.name === 'short-map')?.error).toMatch(/damaged/);
    await checkInvariants(memoryNode(), []);
  });

  it('a v1 map of the wrong length is damaged, and says so', async () => {
    const node = memoryNode();
    const bytes = Buffer.alloc(12 + 33);
    bytes.writeUInt32LE(1, 0);
    bytes.writeBigUInt64LE(9_000_000n, 4);
    await node.maps.write('old-volume', 0, bytes);
    await expect(node.mapper.describe('old-volume')).rejects.toEqual(failure('EIO', 'not a v1 map of the size'));
    await expect(node.mapper.upgrade('old-volume')).rejects.toEqual(failure('EIO', 'old-volume'));
    expect((await node.maps.read('old-volume', 0, 45)).equals(bytes)).toBe(true);
  });

  it('truncated or missing map data fails the blocks it describes, the rest works', async () => {
    const node = memoryNode();
    // 512 byte blocks: 4 entries an object.
    await createSmall(node, 'volume', 12 * 512, 512);
    await writeVolume(node, 'volume', 0, Buffer.alloc(12 * 512, 1));
    await node.mapper.close('volume');
    await node.maps.truncate(v2.mapDataName('volume', 1), 2 * 128 + 30);
    await node.maps.delete(v2.mapDataName('volume', 2));
    const { mapper } = node;
    for (const block of [0, 3, 4, 5]) expect((await readVolume(node, 'volume', block * 512, 512))[511]).toBe(1);
    await expect(readVolume(node, 'volume', 6 * 512, 1)).rejects.toEqual(failure('EIO', 'entry of block 6'));
    await expect(readVolume(node, 'volume', 7 * 512, 1)).rejects.toEqual(
      failure('EIO', 'entry of block 7: it is empty'),
    );
    await expect(readVolume(node, 'volume', 8 * 512, 1)).rejects.toEqual(failure('EIO', 'is missing (block 8'));
    for (const allocated of [true, false]) {
      expect((await mapper.stat('volume', undefined, allocated)).blocks).toMatchObject({ own: 6, damaged: 6 });
    }
    // With a lease: the pieces carry such entries as deleted ones, and writing there fails as well.
    await mapper.lease('volume', { write: true }, 500);
    await writeVolume(node, 'volume', 0, Buffer.from('still writable'));
    await expect(mapper.mapWrite('volume', 8 * 512, 1, 500)).rejects.toEqual(failure('EIO', 'is missing'));
    await expect(mapper.mapZero('volume', 8 * 512, 512, 500)).rejects.toEqual(failure('EIO', 'is missing'));
    await expect(mapper.snapshot('volume', 'snapshot')).rejects.toEqual(failure('EIO', 'block 6'));
    expect((await node.maps.list(null, 100)).names).not.toContain('snapshot');
    // It can still be removed, with the objects that are known.
    await mapper.remove('volume');
    expect((await node.blocks.list(null, 100)).names.length).toBe(6);
  });

  it('an object longer than the block is cut at the block, and a longer shared one is not shown after copy-up', async () => {
    const node = memoryNode();
    await createSmall(node, 'volume', 2 * BLOCK, BLOCK);
    await writeVolume(node, 'volume', 0, Buffer.alloc(BLOCK, 1));
    const [{ target }] = await node.mapper.mapRead('volume', 0, 1);
    await node.blocks.write(target, BLOCK, Buffer.alloc(BLOCK, 9));
    expect(
      (await readVolume(node, 'volume', 0, 2 * BLOCK)).equals(Buffer.concat([Buffer.alloc(BLOCK, 1)], 2 * BLOCK)),
    ).toBe(true);
    await node.mapper.snapshot('volume', 'snapshot');
    await writeVolume(node, 'volume', 0, Buffer.from([2]));
    const [copied] = await node.mapper.mapRead('volume', 0, 1);
    expect((await node.blocks.info(copied.target)).size).toBe(BLOCK);
  });
});
