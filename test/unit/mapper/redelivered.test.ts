/**
 * Operations whose mapper died, at each of their steps and after the last one before the answer, and whose request its successor gets
 * again: done once, answered as done, and nothing of anybody else is touched.
 */
import { describe, expect, it } from 'vitest';
import { MapStore, noV0 } from '../../../src/mapper/map-store.js';
import { encodeNote, newNote, type Once } from '../../../src/requests/once.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { checkInvariants } from './invariants.js';
import {
  createSmall,
  failure,
  memoryNode,
  memoryStores,
  type Node,
  readVolume,
  type Stores,
  writeVolume,
} from './support.js';

const BLOCK = 256;
const SIZE = 4 * BLOCK + 10;
const content = Buffer.alloc(SIZE, 0);
content.fill(1, 0, BLOCK).fill(2, BLOCK, 3 * BLOCK);
const ones = Buffer.alloc(SIZE, 0).fill(1, 0, BLOCK);
const other = Buffer.alloc(BLOCK, 9);

async function prepare(stores: Stores): Promise<void> {
  const node = memoryNode(stores);
  await createSmall(node, 'the-volume', SIZE, BLOCK);
  await writeVolume(node, 'the-volume', 0, content.subarray(0, BLOCK));
  await node.mapper.snapshot('the-volume', 'a-snapshot');
  await writeVolume(node, 'the-volume', BLOCK, content.subarray(BLOCK, 3 * BLOCK));
  await createSmall(node, 'used-name', SIZE, BLOCK);
  await writeVolume(node, 'used-name', 0, other);
  await node.mapper.remove('used-name');
  await createSmall(node, 'still-used', SIZE, BLOCK);
  await node.mapper.stop();
}

interface Case {
  what: string;
  run: (node: Node, once: Once) => Promise<void>;
  /** What volumes read as when it is done; null: missing. */
  done: Record<string, Buffer | null>;
  /** The volume that it makes, if it makes one. */
  makes?: string;
  /** The name that it takes away, if it does. */
  takes?: string;
}

const zeros = (node: Node, name: string, once?: Once): Promise<void> =>
  node.mapper.createFromObjects(
    name,
    BLOCK,
    { blockSize: BLOCK, readOnly: false, objects: [{ name: zeroName, readOnly: false }] },
    once,
  );
const zeroName = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';

const cases: Case[] = [
  {
    what: 'create',
    run: (node, once) => node.mapper.create('a-new-one', SIZE, once),
    done: { 'a-new-one': Buffer.alloc(SIZE) },
    makes: 'a-new-one',
  },
  {
    what: 'create under the name of a deleted volume',
    run: (node, once) => zeros(node, 'used-name', once),
    done: { 'used-name': Buffer.alloc(BLOCK) },
    makes: 'used-name',
  },
  {
    what: 'clone',
    run: (node, once) => node.mapper.clone('a-clone', 'a-snapshot', 2 * SIZE, noV0, once),
    done: { 'a-clone': Buffer.concat([ones], 2 * SIZE) },
    makes: 'a-clone',
  },
  {
    what: 'snapshot',
    run: (node, once) => node.mapper.snapshot('the-volume', 'a-later-one', noV0, once),
    done: { 'a-later-one': content, 'the-volume': content, 'a-snapshot': ones },
    makes: 'a-later-one',
  },
  {
    what: 'rename',
    run: (node, once) => node.mapper.rename('the-volume', 'other-name', noV0, once),
    done: { 'the-volume': null, 'other-name': content },
    makes: 'other-name',
    takes: 'the-volume',
  },
  {
    what: 'rename of a snapshot',
    run: (node, once) => node.mapper.rename('a-snapshot', 'used-name', noV0, once),
    done: { 'a-snapshot': null, 'used-name': ones, 'the-volume': content },
    makes: 'used-name',
    takes: 'a-snapshot',
  },
  {
    what: 'remove',
    run: (node, once) => node.mapper.remove('the-volume', noV0, once),
    done: { 'the-volume': null, 'a-snapshot': ones },
    takes: 'the-volume',
  },
];

async function contentOf(node: Node, name: string): Promise<Buffer | null> {
  try {
    const { size } = await node.mapper.describe(name);
    return await readVolume(node, name, 0, size);
  } catch (error) {
    expect(error).toEqual(failure('ENOENT'));
    return null;
  }
}

async function expectDone(node: Node, done: Case['done'], when: string): Promise<void> {
  for (const [name, bytes] of Object.entries(done)) {
    const found = await contentOf(node, name);
    expect(found?.toString('hex') ?? null, `${name} ${when}`).toBe(bytes?.toString('hex') ?? null);
  }
}

const idOf = async (node: Node, name: string): Promise<string | undefined> =>
  (await new MapStore(node.maps).open(name, noV0))?.header.lineage?.id;

/** Runs it on a mapper that dies at step k. Resolves to how many steps there were. */
async function runAndDie(stores: Stores, test: Case, once: Once, k: number): Promise<number> {
  const node = memoryNode(stores);
  let count = 0;
  const before = (operation: string, name: string): void => {
    if (count++ >= k) throw new SystemError(errnos.EIO, `${operation} of ${name}: the process is over`);
  };
  node.maps.before = before;
  node.blocks.before = before;
  await test.run(node, once).catch((error) => expect(error).toEqual(failure('EIO')));
  return count;
}

describe.each(cases)('$what', (test) => {
  it('killed at any step, and before its answer, is done once', async () => {
    for (let k = 0, more = true; more; k++) {
      const stores = memoryStores();
      await prepare(stores);
      const once: Once = { note: '' };
      more = (await runAndDie(stores, test, once, k)) > k;
      const node = memoryNode(stores);
      // Twice: the second mapper dies before its answer, too.
      await test.run(node, once);
      const id = test.makes && (await idOf(node, test.makes));
      const again = memoryNode(stores);
      await test.run(again, once);
      expect(test.makes && (await idOf(again, test.makes))).toBe(id);
      await expectDone(again, test.done, `interrupted at step ${k}`);
      await checkInvariants(again);
    }
  });

  it('killed at any two steps is done once', async () => {
    for (let k = 0, more = true; more; k += 3) {
      for (let l = 0, left = true; left; l += 5) {
        const stores = memoryStores();
        await prepare(stores);
        const once: Once = { note: '' };
        more = (await runAndDie(stores, test, once, k)) > k;
        left = (await runAndDie(stores, test, once, l)) > l;
        const node = memoryNode(stores);
        await test.run(node, once);
        await expectDone(node, test.done, `interrupted at steps ${k} and ${l}`);
      }
    }
  });

  it('in another request is what it always was: EEXIST or ENOENT', async () => {
    const stores = memoryStores();
    await prepare(stores);
    const node = memoryNode(stores);
    await test.run(node, { note: '' });
    const code = test.takes ? 'ENOENT' : 'EEXIST';
    await expect(test.run(node, { note: '' })).rejects.toEqual(failure(code));
    // An id that its asker gave it says nothing of what was done.
    await expect(test.run(node, { note: newNote() })).rejects.toEqual(failure(code));
  });

  const { makes, takes } = test;
  if (makes)
    it('does not take for its own what somebody else made under the name meanwhile', async () => {
      for (let k = 0, more = true; more; k++) {
        const stores = memoryStores();
        await prepare(stores);
        const once: Once = { note: '' };
        more = (await runAndDie(stores, test, once, k)) > k;
        const node = memoryNode(stores);
        if ((await contentOf(node, makes as string)) !== null) await node.mapper.remove(makes as string);
        await zeros(node, makes as string);
        await writeVolume(node, makes as string, 0, other);
        await expect(test.run(node, once)).rejects.toEqual(
          expect.objectContaining({ code: expect.stringMatching(/^(EEXIST|ESTALE|ENOENT)$/) }),
        );
        expect((await contentOf(node, makes as string))?.equals(other)).toBe(true);
      }
    });

  if (makes)
    it('does not make again what was deleted meanwhile', async () => {
      const stores = memoryStores();
      await prepare(stores);
      const once: Once = { note: '' };
      await runAndDie(stores, test, once, Number.POSITIVE_INFINITY);
      const node = memoryNode(stores);
      await node.mapper.remove(makes as string);
      await test.run(node, once);
      expect(await contentOf(node, makes as string)).toBeNull();
    });

  if (takes)
    it('does not take away what somebody else made under the name meanwhile', async () => {
      const stores = memoryStores();
      await prepare(stores);
      const once: Once = { note: '' };
      await runAndDie(stores, test, once, Number.POSITIVE_INFINITY);
      const node = memoryNode(stores);
      await zeros(node, takes as string);
      await writeVolume(node, takes as string, 0, other);
      await test.run(node, once);
      expect((await contentOf(node, takes as string))?.equals(other)).toBe(true);
    });
});

it('a snapshot that was passed on by a composer which died with the note is known again by its id', async () => {
  for (let k = 0, more = true; more; k++) {
    const stores = memoryStores();
    await prepare(stores);
    const note = newNote();
    const test = cases.find((c) => c.makes && c.what.startsWith('snapshot')) as Case;
    more = (await runAndDie(stores, test, { note }, k)) > k;
    const node = memoryNode(stores);
    await test.run(node, { note });
    expect(await idOf(node, test.makes as string)).toBe(note);
    await expectDone(node, test.done, `interrupted at step ${k}`);
    await expect(test.run(node, { note: newNote() })).rejects.toEqual(failure('EEXIST'));
    await checkInvariants(node);
  }
});

describe('a rename that was cut in the middle', () => {
  it('is not finished when one of the two volumes was written meanwhile', async () => {
    for (const written of ['the-volume', 'other-name']) {
      let met = 0;
      for (let k = 0, more = true; more; k++) {
        const stores = memoryStores();
        await prepare(stores);
        const once: Once = { note: '' };
        const test = cases.find((c) => c.what === 'rename') as Case;
        more = (await runAndDie(stores, test, once, k)) > k;
        const node = memoryNode(stores);
        const both = (await contentOf(node, 'the-volume')) && (await contentOf(node, 'other-name'));
        if (!both) continue;
        met++;
        await writeVolume(node, written, 0, other);
        await expect(test.run(node, once)).rejects.toEqual(failure('EEXIST', 'interrupted'));
        for (const name of ['the-volume', 'other-name']) {
          const expected = name === written ? Buffer.concat([other, content.subarray(BLOCK)]) : content;
          expect((await contentOf(node, name))?.equals(expected)).toBe(true);
        }
      }
      expect(met).toBeGreaterThan(0);
    }
  });
});

it('a note that no mapper wrote is refused', async () => {
  const node = memoryNode();
  await expect(node.mapper.create('a-volume', SIZE, { note: 'anything' })).rejects.toEqual(failure('EINVAL', 'note'));
});

it('a removal that is asked for by id leaves a volume of the name that was made since', async () => {
  const stores = memoryStores();
  await prepare(stores);
  const node = memoryNode(stores);
  const { id, epoch } = await node.mapper.describe('the-volume');
  // As a composer notes it that dies once the mapper has done it; its successor asks for it again.
  const note = encodeNote({ id: id!, epoch });
  await node.mapper.remove('the-volume', noV0, { note });
  await createSmall(node, 'the-volume', SIZE, BLOCK);
  await writeVolume(node, 'the-volume', 0, other);
  await node.mapper.remove('the-volume', noV0, { note });
  expect(await readVolume(node, 'the-volume', 0, BLOCK)).toEqual(other);
  await node.mapper.stop();
});
