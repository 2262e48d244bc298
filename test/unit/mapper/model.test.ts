/** Random operations on volumes against byte arrays: every volume reads what was written to it, and to nothing else, ever. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { errnoName, errnoOf } from '../../../src/sys/errno.js';
import { checkInvariants } from './invariants.js';
import { createSmall, memoryNode, memoryStores, type Node, readVolume, writeVolume } from './support.js';

const BLOCK = 256;
const NAMES = ['volume-a', 'volume-b', 'volume-c', 'volume-d'];

/**
 * Which name an operation takes: mostly one that lets it succeed (of a volume for what it works on, a free one for what it makes),
 * found when it runs, so that long lives of names are frequent; else any.
 */
interface Pick {
  any: boolean;
  index: number;
}
const names: fc.Arbitrary<Pick> = fc.record({
  any: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
  index: fc.nat({ max: 11 }),
});

function nameOf(model: Map<string, Modelled>, pick: Pick, wanted: (volume: Modelled | undefined) => boolean): string {
  const suitable = pick.any ? NAMES : NAMES.filter((name) => wanted(model.get(name)));
  const from = suitable.length > 0 ? suitable : NAMES;
  return from[pick.index % from.length];
}

/** The operation with its names decided. */
function decide(model: Map<string, Modelled>, drawn: Drawn): Operation {
  const free = (volume?: Modelled): boolean => volume === undefined;
  const exists = (volume?: Modelled): boolean => volume !== undefined;
  const writable = (volume?: Modelled): boolean => volume?.readOnly === false;
  const readOnly = (volume?: Modelled): boolean => volume?.readOnly === true;
  switch (drawn.op) {
    case 'restart':
      return drawn;
    case 'create':
      return { ...drawn, name: nameOf(model, drawn.name, free) };
    case 'write':
    case 'zero':
    case 'resize':
      return { ...drawn, name: nameOf(model, drawn.name, writable) };
    case 'remove':
    case 'close':
      return { ...drawn, name: nameOf(model, drawn.name, exists) };
    case 'snapshot':
    case 'rename':
      return { ...drawn, name: nameOf(model, drawn.name, exists), to: nameOf(model, drawn.to, free) };
    case 'clone':
      return { ...drawn, name: nameOf(model, drawn.name, readOnly), to: nameOf(model, drawn.to, free) };
  }
}
const sizes = fc.integer({ min: 1, max: BLOCK * 6 });

const operations = fc.oneof(
  { weight: 3, arbitrary: fc.record({ op: fc.constant('create' as const), name: names, size: sizes }) },
  {
    weight: 8,
    arbitrary: fc.record({
      op: fc.constant('write' as const),
      name: names,
      at: fc.double({ min: 0, max: 1, noNaN: true }),
      length: fc.integer({ min: 1, max: BLOCK * 2 }),
      byte: fc.integer({ min: 1, max: 255 }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant('zero' as const),
      name: names,
      block: fc.nat({ max: 5 }),
      count: fc.integer({ min: 1, max: 3 }),
    }),
  },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('snapshot' as const), name: names, to: names }) },
  {
    weight: 4,
    arbitrary: fc.record({ op: fc.constant('clone' as const), name: names, to: names, more: fc.nat({ max: 600 }) }),
  },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('resize' as const), name: names, size: sizes }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('rename' as const), name: names, to: names }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('remove' as const), name: names }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('close' as const), name: names }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('restart' as const) }) },
);
type Drawn = typeof operations extends fc.Arbitrary<infer T> ? T : never;
type Named<T> = { [K in keyof T]: T[K] extends Pick ? string : T[K] };
type Operation = Drawn extends infer D ? (D extends Drawn ? Named<D> : never) : never;

interface Modelled {
  bytes: Buffer;
  readOnly: boolean;
}

/** Does the operation to the model. Returns the code the mapper must fail with, or null. */
function expected(model: Map<string, Modelled>, operation: Operation): string | null {
  if (operation.op === 'restart' || operation.op === 'close') return null;
  const volume = model.get(operation.name);
  if (operation.op === 'create') {
    if (volume) return 'EEXIST';
    model.set(operation.name, { bytes: Buffer.alloc(operation.size), readOnly: false });
    return null;
  }
  if ('to' in operation && operation.to === operation.name) return 'EINVAL';
  if (operation.op === 'clone') {
    // `name` is the parent here; its state is looked at before the name of the clone.
    if (!volume) return 'ENOENT';
    if (!volume.readOnly) return 'EINVAL';
    if (model.has(operation.to)) return 'EEXIST';
    const bytes = Buffer.concat([volume.bytes], volume.bytes.length + operation.more);
    model.set(operation.to, { bytes, readOnly: false });
    return null;
  }
  if (!volume) return 'ENOENT';
  switch (operation.op) {
    case 'write': {
      if (volume.readOnly) return 'EROFS';
      const { offset, length } = span(volume.bytes.length, operation);
      volume.bytes.fill(operation.byte, offset, offset + length);
      return null;
    }
    case 'zero': {
      if (volume.readOnly) return 'EROFS';
      const start = operation.block * BLOCK;
      if (start >= volume.bytes.length) return 'EINVAL';
      volume.bytes.fill(0, start, Math.min(start + operation.count * BLOCK, volume.bytes.length));
      return null;
    }
    case 'snapshot':
      if (model.has(operation.to)) return 'EEXIST';
      model.set(operation.to, { bytes: Buffer.from(volume.bytes), readOnly: true });
      return null;
    case 'rename':
      if (model.has(operation.to)) return 'EEXIST';
      model.set(operation.to, volume);
      model.delete(operation.name);
      return null;
    case 'remove':
      model.delete(operation.name);
      return null;
    case 'resize': {
      if (volume.readOnly) return 'EROFS';
      const { bytes } = volume;
      volume.bytes = Buffer.concat([bytes.subarray(0, operation.size)], operation.size);
      return null;
    }
  }
}

function span(size: number, { at, length }: { at: number; length: number }): { offset: number; length: number } {
  const offset = Math.min(Math.floor(at * size), size - 1);
  return { offset, length: Math.min(length, size - offset) };
}

async function run(node: Node, model: Map<string, Modelled>, operation: Operation): Promise<void> {
  const { mapper } = node;
  switch (operation.op) {
    case 'create':
      await createSmall(node, operation.name, operation.size, BLOCK);
      break;
    case 'write': {
      const { offset, length } = span(model.get(operation.name)?.bytes.length ?? 1, operation);
      await writeVolume(node, operation.name, offset, Buffer.alloc(length, operation.byte));
      break;
    }
    case 'zero': {
      const size = model.get(operation.name)?.bytes.length ?? BLOCK;
      const start = operation.block * BLOCK;
      const end = Math.min(start + operation.count * BLOCK, Math.max(size, start + 1));
      await mapper.mapZero(operation.name, start, end - start, 500);
      break;
    }
    case 'snapshot':
      await mapper.snapshot(operation.name, operation.to);
      break;
    case 'clone': {
      const size = model.get(operation.name)?.bytes.length ?? 0;
      await mapper.clone(operation.to, operation.name, operation.more === 0 ? 0 : size + operation.more);
      break;
    }
    case 'resize':
      await mapper.resize(operation.name, operation.size, true);
      break;
    case 'rename':
      await mapper.rename(operation.name, operation.to);
      break;
    case 'remove':
      await mapper.remove(operation.name);
      break;
    case 'close':
      await mapper.close(operation.name);
      break;
  }
}

it('keeps every byte of every volume through any sequence of operations', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(operations, { minLength: 1, maxLength: 60, size: 'max' }), async (sequence) => {
      const stores = memoryStores();
      let node = memoryNode(stores);
      const model = new Map<string, Modelled>();
      for (const drawn of sequence) {
        const operation = decide(model, drawn);
        if (operation.op === 'restart') {
          await node.mapper.stop();
          await checkInvariants(node, []);
          node = memoryNode(stores);
        }
        const before = new Map([...model].map(([name, volume]) => [name, { ...volume }]));
        const code = expected(model, operation);
        let failed: string | null = null;
        try {
          await run(node, before, operation);
        } catch (error) {
          failed = errnoName(errnoOf(error));
          if (failed !== code) throw error;
        }
        expect(failed).toBe(code);
        await checkInvariants(node);
        for (const [name, { bytes }] of model) {
          const read = await readVolume(node, name, 0, bytes.length);
          expect(read.equals(bytes), `${name} after ${JSON.stringify(operation)}`).toBe(true);
        }
      }
      const listed = (await node.mapper.list({ cursor: null, limit: 1000 })).volumes;
      expect(listed.map((volume) => volume.name).sort()).toEqual([...model.keys()].sort());
      expect(node.warnings).toEqual([]);
      await node.mapper.stop();
      await checkInvariants(node, []);
    }),
    { numRuns: 120 },
  );
}, 120_000);
