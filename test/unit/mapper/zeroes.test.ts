/** Trims that are acknowledged before they are durable: what a flush, a write, a snapshot, a dead mapper, a power cut, a lost lock make of them. */
import { beforeEach, describe, expect, it } from 'vitest';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import type { SimulatedNotes } from '../../sim/notes.js';
import { checkInvariants } from './invariants.js';
import { A, B, type NodeOptions, settle, startNode, type TestClock } from './nodes.js';
import {
  BLOCK,
  ENTRY,
  endOf,
  filled,
  kill,
  NAME,
  OBJECT,
  PORT,
  SIZE,
  startScene,
  storedIn,
  successorOf,
  watch,
  writeBlock,
} from './provisional-rig.js';
import { createSmall, failure, type Node, readVolume, type Stores, writeVolume } from './support.js';

let clock: TestClock;
let stores: Stores;
let notes: SimulatedNotes;
let node: Node;

const successor = (options: NodeOptions = {}): Node => successorOf({ clock, stores, notes, node }, options);
const asStored = (): Promise<Buffer> => storedIn(stores);
const write = (block: number, byte: number): Promise<void> => writeBlock(node, block, byte);
const done = <T>(promise: Promise<T>): Promise<T> => endOf(clock, promise);
const trim = (block: number, count = 1): Promise<void> => node.mapper.mapZero(NAME, block * BLOCK, count * BLOCK, PORT);

const objects = (): string[] => [...stores.blocks.objects.keys()].sort();

/** What the first request for one of these fails with, and all after it. */
function fail(of: 'maps' | 'blocks', what: string, errno: number): void {
  node[of].before = (operation) => {
    if (operation === what) throw new SystemError(errno, 'the disk says no');
  };
}

beforeEach(async () => {
  ({ clock, stores, notes, node } = await startScene());
  for (const block of [1, 2, 3]) await write(block, block);
  await node.mapper.flush(NAME, true, PORT);
});

describe('a trim of whole blocks', () => {
  it('waits for its note alone; a flush has the zeros durable before the objects go', async () => {
    const order = watch(node);
    await trim(2, 2);
    expect(order).toEqual([]);
    expect(await readVolume(node, NAME, 0, SIZE)).toEqual(filled(0, 1));
    expect(await asStored()).toEqual(filled(0, 1, 2, 3));
    expect(node.mapper.status().provisional).toBe(2);
    await node.mapper.flush(NAME, true, PORT);
    expect(order).toEqual([
      `maps write ${ENTRY(2)}`,
      `maps flush ${ENTRY(2)}`,
      `blocks delete ${OBJECT(2)}`,
      `blocks delete ${OBJECT(3)}`,
    ]);
    expect(await asStored()).toEqual(filled(0, 1));
    expect(node.mapper.status().provisional).toBe(0);
  });

  it('is in the stored map soon, without being asked for, and sooner than a first write is', async () => {
    await write(5, 5);
    await trim(1);
    await clock.pass(150);
    expect(await asStored()).toEqual(filled(0, 0, 2, 3, 0, 5));
    expect(objects()).not.toContain(OBJECT(1));
  });

  it('keeps a first write to the block waiting until its entry is zero, durably, and the object is gone', async () => {
    await trim(2, 2);
    const order = watch(node);
    await write(2, 9);
    const steps = [`maps flush ${ENTRY(2)}`, `blocks delete ${OBJECT(2)}`, `blocks reset ${OBJECT(2)}`];
    expect(order.filter((what) => steps.includes(what))).toEqual(steps);
    expect(await readVolume(node, NAME, 0, SIZE)).toEqual(filled(0, 1, 9));
    expect(await asStored()).toEqual(filled(0, 1));
    await node.mapper.flush(NAME, true, PORT);
    expect(await asStored()).toEqual(filled(0, 1, 9));
  });

  it('is not waited for by first writes that were asked for with one to it', async () => {
    await trim(2);
    const order = watch(node);
    await expect(node.mapper.mapOwn(NAME, [6, 2, 0], PORT)).rejects.toMatchObject({ code: 'EAGAIN' });
    await node.mapper.mapOwn(NAME, [6, 0], PORT);
    expect(order.filter((what) => /entry|delete/.test(what))).toEqual([]);
    await node.mapper.mapWrite(NAME, 2 * BLOCK, BLOCK, PORT);
    const steps = [`blocks delete ${OBJECT(2)}`, `blocks reset ${OBJECT(2)}`];
    expect(order.filter((what) => steps.includes(what))).toEqual(steps);
    expect(order.findIndex((what) => what.startsWith('maps flush'))).toBeLessThan(order.indexOf(steps[0]));
    expect(await readVolume(node, NAME, 0, SIZE)).toEqual(filled(0, 1, 0, 3));
    await node.mapper.flush(NAME, true, PORT);
    expect(objects()).toEqual([0, 1, 2, 3, 6].map((block) => OBJECT(block)));
  });

  it('of a shared block leaves the object to the snapshot', async () => {
    await done(node.mapper.snapshot(NAME, 'snapshot'));
    await node.mapper.lease(NAME, { write: true }, PORT);
    await trim(1);
    await node.mapper.flush(NAME, true, PORT);
    expect(await asStored()).toEqual(filled(0, 0, 2, 3));
    expect(await readVolume(node, 'snapshot', 0, SIZE)).toEqual(filled(0, 1, 2, 3));
  });

  it('is in a snapshot that is made after it, and the object is gone', async () => {
    await trim(1);
    await done(node.mapper.snapshot(NAME, 'snapshot'));
    expect(await readVolume(node, 'snapshot', 0, SIZE)).toEqual(filled(0, 0, 2, 3));
    expect(objects()).toEqual([OBJECT(2), OBJECT(3)]);
    await checkInvariants(node);
  });

  it('of a block that was first written just before is durable at once, with those around that are zero already', async () => {
    await trim(3);
    await node.mapper.flush(NAME, true, PORT);
    await trim(2);
    await write(3, 9);
    expect(node.mapper.status().provisional).toBe(2);
    await trim(2, 2);
    expect(await asStored()).toEqual(filled(0, 1));
    expect(objects()).toEqual([OBJECT(1)]);
    expect(node.mapper.status().provisional).toBe(0);
  });

  it('is durable at once where it cannot be noted, and where another node is meant to see it', async () => {
    const { write: note } = notes;
    notes.write = () => {
      throw new SystemError(errnos.ENOSPC, 'no space is left');
    };
    await trim(1);
    expect(await asStored()).toEqual(filled(0, 0, 2, 3));
    expect(node.warnings.join()).toContain('cannot be noted');
    notes.write = note;
    await done(node.mapper.open(NAME, undefined, true));
    await trim(2);
    expect(await asStored()).toEqual(filled(0, 0, 0, 3));
    expect(objects()).toEqual([OBJECT(3)]);
  });

  it('fails where the store takes no entries any more, once a flush has failed with those before', async () => {
    await trim(1);
    fail('maps', 'write', errnos.ENOSPC);
    await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('ENOSPC'));
    await expect(trim(2)).rejects.toEqual(failure('ENOSPC'));
    await expect(write(1, 9)).rejects.toEqual(failure('ENOSPC'));
    expect(await readVolume(node, NAME, 0, SIZE)).toEqual(filled(0, 0, 2, 3));
    node.maps.before = () => {};
    await clock.pass(1000);
    expect(await asStored()).toEqual(filled(0, 0, 2, 3));
    expect(objects()).toEqual([OBJECT(2), OBJECT(3)]);
  });

  it('deletes nothing as long as its zeros are not durable', async () => {
    await trim(1);
    fail('maps', 'flush', errnos.EIO);
    await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO'));
    expect(objects()).toContain(OBJECT(1));
    node.maps.before = () => {};
    await node.mapper.flush(NAME, true, PORT);
    expect(objects()).not.toContain(OBJECT(1));
  });

  it('waits for its commit while the file system of the objects is not mounted: they would only seem to be gone', async () => {
    let mount: string | null = '1';
    node = successor({ mount: () => mount });
    node.holders.set(PORT, async () => {});
    await done(node.mapper.lease(NAME, { write: true }, PORT));
    await trim(1);
    mount = null;
    await expect(done(node.mapper.flush(NAME, true, PORT))).rejects.toEqual(failure('EIO', 'not mounted'));
    expect(objects()).toContain(OBJECT(1));
    mount = '1';
    await done(node.mapper.flush(NAME, true, PORT));
    expect(objects()).not.toContain(OBJECT(1));
  });

  it('counts as done when an object cannot be deleted, which is logged', async () => {
    await trim(1);
    fail('blocks', 'delete', errnos.EACCES);
    await node.mapper.flush(NAME, true, PORT);
    expect(node.warnings.join()).toContain('left over');
    expect(node.mapper.status().provisional).toBe(0);
    expect(await asStored()).toEqual(filled(0, 0, 2, 3));
  });

  it('of more than may wait at a time is durable when it is answered', async () => {
    const blocks = 1200;
    await createSmall(node, 'large-volume', blocks * BLOCK, BLOCK);
    await node.mapper.lease('large-volume', { write: true }, PORT);
    await writeVolume(node, 'large-volume', 0, Buffer.alloc(blocks * BLOCK, 1), PORT);
    await node.mapper.flush('large-volume', true, PORT);
    const before = stores.blocks.objects.size;
    const at = (first: number, count: number): Promise<void> =>
      node.mapper.mapZero('large-volume', first * BLOCK, count * BLOCK, PORT);
    // An entry is 128 bytes, so that two of them are in each map-data object.
    for (let first = 0; first < 1024; first += 2) await at(first, 2);
    expect(node.mapper.status().provisional).toBe(1024);
    expect(stores.blocks.objects.size).toBe(before);
    await at(1024, 2);
    expect(node.mapper.status().provisional).toBe(1024);
    expect(stores.blocks.objects.size).toBe(before - 2);
    await node.mapper.flush('large-volume', true, PORT);
    expect(stores.blocks.objects.size).toBe(before - 1026);
  });

  it('keeps a volume from being released until its objects are gone: their names may be made again', async () => {
    await trim(1);
    let go = (): void => {};
    const held = new Promise<void>((resolve) => (go = resolve));
    node.blocks.before = (operation) => (operation === 'delete' ? held : undefined);
    await clock.pass(150);
    let isClosed = false;
    const closing = node.mapper.close(NAME).then(() => {
      isClosed = true;
    });
    await clock.pass(1000);
    expect(isClosed).toBe(false);
    go();
    await done(closing);
    expect(objects()).toEqual([OBJECT(2), OBJECT(3)]);
  });
});

describe('removing a volume after a trim', () => {
  it('deletes the objects of the trimmed blocks, too', async () => {
    await trim(1);
    await done(node.mapper.remove(NAME));
    expect(objects()).toEqual([]);
  });

  it('that an earlier mapper noted does so, too', async () => {
    await trim(1);
    node = successor();
    await done(node.mapper.remove(NAME));
    expect(objects()).toEqual([]);
  });
});

describe('after the mapper was killed', () => {
  it('a trim that was acknowledged counts, and is committed by its successor', async () => {
    await trim(1, 2);
    const next = successor();
    expect(await readVolume(next, NAME, 0, SIZE)).toEqual(filled(0, 0, 0, 3));
    await clock.pass(1000);
    expect(await asStored()).toEqual(filled(0, 0, 0, 3));
    expect(objects()).toEqual([OBJECT(3)]);
    expect(await next.maps.lockHolder(NAME)).toBeNull();
    expect(notes.load().size).toBe(0);
    await checkInvariants(next, []);
  });

  it.each(['write', 'flush', 'delete'])(
    'in the middle of a commit, before its %s, no object is left over',
    async (last) => {
      await trim(1, 2);
      const never = (operation: string): Promise<never> | undefined =>
        operation === last ? new Promise(() => {}) : undefined;
      node.maps.before = never;
      node.blocks.before = never;
      void node.mapper.flush(NAME, true, PORT);
      await settle();
      successor();
      await clock.pass(1000);
      expect(await asStored()).toEqual(filled(0, 0, 0, 3));
      expect(objects()).toEqual([OBJECT(3)]);
    },
  );

  it('an object that has the name of the volume before it was renamed goes as well', async () => {
    await done(node.mapper.rename(NAME, 'renamed'));
    await node.mapper.lease('renamed', { write: true }, PORT);
    const before = objects();
    // Its entries are the volume's own still, by the names that they had.
    await node.mapper.mapZero('renamed', BLOCK, BLOCK, PORT);
    const next = successor();
    await clock.pass(1000);
    expect(await readVolume(next, 'renamed', 0, SIZE)).toEqual(filled(0, 0, 2, 3));
    expect(objects()).toEqual(before.filter((name) => name !== OBJECT(1)));
  });

  it('and the objects were mounted anew, a trim counts: nothing of it hangs on what was not synced', async () => {
    node = successor({ mount: () => '1' });
    node.holders.set(PORT, async () => {});
    await done(node.mapper.lease(NAME, { write: true }, PORT));
    await trim(1);
    await write(5, 5);
    const next = successor({ mount: () => '2' });
    expect(await readVolume(next, NAME, 0, SIZE)).toEqual(filled(0, 0, 2, 3));
    await clock.pass(1000);
    expect(await asStored()).toEqual(filled(0, 0, 2, 3));
    expect(objects()).not.toContain(OBJECT(1));
  });

  it('and the machine started anew, the block is what it was before', async () => {
    await trim(1);
    const next = successor({ boot: 'the next start' });
    expect(await readVolume(next, NAME, 0, SIZE)).toEqual(filled(0, 1, 2, 3));
    await clock.pass(1000);
    expect(objects()).toEqual([OBJECT(1), OBJECT(2), OBJECT(3)]);
  });

  it('and another node has had the lock since, nothing of the note counts', async () => {
    await trim(1);
    kill(node);
    const other = startNode(stores, clock, B);
    await done(other.mapper.unlock(NAME, true));
    await writeVolume(other, NAME, BLOCK, Buffer.alloc(BLOCK, 66), PORT);
    await done(other.mapper.close(NAME));
    startNode(stores, clock, A, { notes });
    await clock.pass(1000);
    expect(notes.load().size).toBe(0);
    expect(await asStored()).toEqual(filled(0, 66, 2, 3));
  });

  it('a first write of its successor to a block that is zero waits for the commit', async () => {
    await trim(1);
    node = successor();
    node.holders.set(PORT, async () => {});
    await done(node.mapper.lease(NAME, { write: true }, PORT));
    await done(writeVolume(node, NAME, BLOCK, Buffer.alloc(10, 9), PORT));
    const expected = filled(0, 0, 2, 3);
    expected.fill(9, BLOCK, BLOCK + 10);
    expect(await readVolume(node, NAME, 0, SIZE)).toEqual(expected);
    await node.mapper.flush(NAME, true, PORT);
    expect(await asStored()).toEqual(expected);
    expect(objects()).toEqual([OBJECT(1), OBJECT(2), OBJECT(3)]);
  });
});

describe('a lock that is lost', () => {
  it('refuses trims from then on, and nothing is deleted of those before', async () => {
    await trim(1);
    const other = startNode(stores, clock, B);
    await done(other.mapper.unlock(NAME, true));
    await expect(done(trim(2))).rejects.toEqual(failure('EIO'));
    await clock.pass(2000);
    expect(objects()).toEqual([OBJECT(1), OBJECT(2), OBJECT(3)]);
    expect(await asStored()).toEqual(filled(0, 1, 2, 3));
    expect(notes.load().size).toBe(0);
  });

  it('is looked at before a trim is acknowledged, when that was not done for long', async () => {
    node.locks.before = () => {
      throw new SystemError(errnos.EIO, 'the store does not answer');
    };
    await clock.pass(5000);
    node.locks.before = () => {};
    stores.maps.locks.set(NAME, { owner: B, since: 0 });
    await expect(trim(1)).rejects.toEqual(failure('EIO'));
    expect(notes.load().size).toBe(0);
  });
});
