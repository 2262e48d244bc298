/**
 * MAPSTATUS against byte arrays: what it calls equal has equal bytes, what nothing touched is called equal, and the three properties
 * agree with each other, after any sequence of operations and in pieces of any size.
 */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { decodeExtents, EXTENT_BYTES, ObjectFlag } from '../../../src/requests/extents.js';
import type { MapStatusRequest } from '../../../src/requests/json.js';
import { createSmall, memoryNode, memoryStores, type Node, readVolume, writeVolume } from './support.js';

const BLOCK = 256;

interface Modelled {
  name: string;
  bytes: Buffer;
  readOnly: boolean;
  /** Of a snapshot: the volume it was taken of, and that volume's blocks that were changed since. */
  source?: Modelled;
  touched: Set<number>;
}

const pick = fc.nat({ max: 20 });
const operations = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant('write' as const),
      volume: pick,
      at: fc.nat({ max: 6 * BLOCK }),
      length: fc.integer({ min: 1, max: 300 }),
      byte: fc.nat({ max: 3 }),
    }),
  },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('zero' as const), volume: pick, block: fc.nat({ max: 5 }) }) },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('snapshot' as const), volume: pick }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('clone' as const), volume: pick, more: fc.nat({ max: 600 }) }) },
  {
    weight: 3,
    arbitrary: fc.record({ op: fc.constant('resize' as const), volume: pick, size: fc.integer({ min: 1, max: 1600 }) }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('rename' as const), volume: pick }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('restart' as const) }) },
);
type Operation = typeof operations extends fc.Arbitrary<infer T> ? T : never;

class World {
  readonly stores = memoryStores();
  node: Node = memoryNode(this.stores);
  readonly all: Modelled[] = [];
  #names = 0;

  name(kind: string): string {
    return `${kind}-${String(this.#names++).padStart(4, '0')}`;
  }

  touch(volume: Modelled, from: number, end: number): void {
    for (const snapshot of this.all) {
      if (snapshot.source !== volume) continue;
      for (let i = Math.floor(from / BLOCK); i * BLOCK < end; i++) snapshot.touched.add(i);
    }
  }

  async run(operation: Operation): Promise<void> {
    if (operation.op === 'restart') {
      await this.node.mapper.stop();
      this.node = memoryNode(this.stores);
      return;
    }
    const { mapper } = this.node;
    const suitable = this.all.filter((volume) => volume.readOnly === (operation.op === 'clone'));
    if (suitable.length === 0) return;
    const volume = suitable[operation.volume % suitable.length];
    const { name, bytes } = volume;
    switch (operation.op) {
      case 'write': {
        const offset = Math.min(operation.at, bytes.length - 1);
        const end = Math.min(offset + operation.length, bytes.length);
        bytes.fill(operation.byte, offset, end);
        await writeVolume(this.node, name, offset, Buffer.from(bytes.subarray(offset, end)));
        this.touch(volume, offset, end);
        break;
      }
      case 'zero': {
        const offset = operation.block * BLOCK;
        const end = Math.min(offset + BLOCK, bytes.length);
        if (offset >= end) break;
        bytes.fill(0, offset, end);
        await mapper.mapZero(name, offset, end - offset, 500);
        this.touch(volume, offset, end);
        break;
      }
      case 'snapshot': {
        const made = { name: this.name('snap'), bytes: Buffer.from(bytes), readOnly: true, source: volume };
        await mapper.snapshot(name, made.name);
        this.all.push({ ...made, touched: new Set() });
        break;
      }
      case 'clone': {
        const made = { name: this.name('clone'), bytes: Buffer.concat([bytes], bytes.length + operation.more) };
        await mapper.clone(made.name, name, made.bytes.length);
        this.all.push({ ...made, readOnly: false, touched: new Set() });
        break;
      }
      case 'resize':
        volume.bytes = Buffer.concat([bytes.subarray(0, operation.size)], operation.size);
        await mapper.resize(name, operation.size, true);
        this.touch(volume, Math.min(bytes.length, operation.size) - 1, Math.max(bytes.length, operation.size));
        break;
      case 'rename':
        volume.name = this.name('volume');
        await mapper.rename(name, volume.name);
    }
  }

  /** Flags of each block, from as many requests as it takes. */
  async scan(volume: Modelled, request: MapStatusRequest, room: number): Promise<number[]> {
    const flags: number[] = [];
    const size = volume.bytes.length;
    for (let at = 0; at < size; ) {
      const extents = decodeExtents(await this.node.mapper.mapStatus(volume.name, request, at, size - at, room));
      expect(extents.length).toBeGreaterThan(0);
      for (const extent of extents) {
        expect(extent.length % BLOCK === 0 || at + extent.length === size).toBe(true);
        for (const end = at + extent.length; at < end; at = Math.min(at + BLOCK, end)) flags.push(extent.flags);
      }
      expect(at).toBeLessThanOrEqual(size);
    }
    return flags;
  }

  async check(room: number): Promise<void> {
    for (const volume of this.all) {
      const { name, bytes } = volume;
      const depths = await this.scan(volume, { what: 'depth' }, room);
      const objects = await this.scan(volume, { what: 'object' }, room);
      expect(depths.length).toBe(Math.ceil(bytes.length / BLOCK));
      const block = (of: Buffer, i: number): Buffer =>
        Buffer.concat([of.subarray(i * BLOCK, (i + 1) * BLOCK)], Math.min(BLOCK, bytes.length - i * BLOCK));
      depths.forEach((depth, i) => {
        expect(objects[i] === 0, `${name} block ${i}`).toBe(depth === 0);
        expect((objects[i] & ObjectFlag.WRITABLE) !== 0, `${name} block ${i}`).toBe(depth === 1);
        if (depth === 0) expect(block(bytes, i).every((byte) => byte === 0)).toBe(true);
        if (volume.readOnly) expect(depth).not.toBe(1);
      });
      for (const from of this.all) {
        if (!from.readOnly) continue;
        const differs = await this.scan(volume, { what: 'diff', from: from.name }, room);
        differs.forEach((flag, i) => {
          const where = `block ${i} of ${name} against ${from.name}`;
          if (flag === 0) expect(block(bytes, i).equals(block(from.bytes, i)), where).toBe(true);
          if (from === volume) expect(flag, where).toBe(0);
          if (from.source === volume && !from.touched.has(i)) expect(flag, where).toBe(0);
        });
      }
    }
  }
}

it('tells the truth about every block, whatever was done to the volumes', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(operations, { minLength: 1, maxLength: 25, size: 'max' }),
      fc.constantFrom(EXTENT_BYTES, 3 * EXTENT_BYTES, 4096),
      async (sequence, room) => {
        const world = new World();
        const first = { name: world.name('volume'), bytes: Buffer.alloc(5 * BLOCK + 77), readOnly: false };
        await createSmall(world.node, first.name, first.bytes.length, BLOCK);
        world.all.push({ ...first, touched: new Set() });
        for (const operation of sequence) {
          await world.run(operation);
          await world.check(room);
        }
        for (const { name, bytes } of world.all) {
          expect((await readVolume(world.node, name, 0, bytes.length)).equals(bytes)).toBe(true);
        }
      },
    ),
    { numRuns: 60 },
  );
}, 120_000);
