/** First writes that the disk did not take: who is told, what goes on, what is given up, and when. */
import { beforeEach, describe, expect, it } from 'vitest';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import type { SimulatedNotes } from '../../sim/notes.js';
import { checkInvariants } from './invariants.js';
import type { NodeOptions, TestClock } from './nodes.js';
import {
  BLOCK,
  endOf,
  filled,
  NAME,
  OBJECT,
  PORT,
  SIZE,
  startScene,
  storedIn,
  successorOf,
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

beforeEach(async () => {
  ({ clock, stores, notes, node } = await startScene());
});

describe('an object that the disk did not take', () => {
  const fail = (): void => {
    node.blocks.before = (operation, name) => {
      if (
        operation === 'flush' &&
        ['*', OBJECT(2)].some((one) => name.includes(one)) &&
        stores.blocks.objects.has(OBJECT(2))
      ) {
        throw new SystemError(errnos.EIO, 'writes may be lost');
      }
    };
  };

  /** A mapper that starts while the composer lives. */
  const restarted = (): Node =>
    successor({ inherited: [PORT], prepare: (next) => void next.holders.set(PORT, async () => {}) });

  beforeEach(async () => {
    await write(2, 7);
    await write(5, 8);
    fail();
    await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO', 'block 2'));
  });

  it('is never committed, though later syncs say that all is well; others are', async () => {
    node.blocks.before = () => {};
    await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO', 'block 2'));
    await expect(done(node.mapper.snapshot(NAME, 'another'))).rejects.toEqual(failure('EIO', 'block 2'));
    expect(await asStored()).toEqual(filled(0, 0, 0, 0, 0, 8));
    expect(await readVolume(node, NAME, 0, SIZE)).toEqual(filled(0, 0, 7, 0, 0, 8));
    // A later mapper goes by what was durable.
    const next = successor();
    expect(await readVolume(next, NAME, 0, SIZE)).toEqual(filled(0, 0, 0, 0, 0, 8));
  });

  it('is owed by a later mapper: each flush fails, whatever is written to the block since, until that becomes zero', async () => {
    node = restarted();
    expect((await done(node.mapper.lease(NAME, { write: true }, PORT))).granted).toBe('exclusive');
    await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO', 'block 2'));
    await writeVolume(node, NAME, 2 * BLOCK + 100, Buffer.alloc(10, 4), PORT);
    await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO', 'block 2'));
    expect(await asStored()).toEqual(await readVolume(node, NAME, 0, SIZE));
    node = restarted();
    await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO', 'block 2'));
    await expect(done(node.mapper.snapshot(NAME, 'another'))).rejects.toEqual(failure('EIO', 'block 2'));
    await done(node.mapper.lease(NAME, { write: true }, PORT));
    await node.mapper.mapZero(NAME, 2 * BLOCK, BLOCK, PORT);
    await node.mapper.flush(NAME, true, PORT);
    expect(await asStored()).toEqual(filled(0, 0, 0, 0, 0, 8));
    await done(node.mapper.snapshot(NAME, 'another'));
  });

  it('is owed no more when a block that is zero without it is made zero', async () => {
    node = restarted();
    await done(node.mapper.lease(NAME, { write: true }, PORT));
    await node.mapper.mapZero(NAME, 0, 2 * BLOCK, PORT);
    await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO', 'block 2'));
    await node.mapper.mapZero(NAME, 0, 4 * BLOCK, PORT);
    await node.mapper.flush(NAME, true, PORT);
    expect(await asStored()).toEqual(filled(0, 0, 0, 0, 0, 8));
    expect(stores.blocks.objects.has(OBJECT(2))).toBe(false);
  });

  it('is owed no more then, and what is zero beside it by a note alone stays so', async () => {
    node = restarted();
    await done(node.mapper.lease(NAME, { write: true }, PORT));
    await node.mapper.mapZero(NAME, 5 * BLOCK, BLOCK, PORT);
    await node.mapper.mapZero(NAME, 5 * BLOCK, BLOCK, PORT);
    await node.mapper.mapZero(NAME, 2 * BLOCK, 4 * BLOCK, PORT);
    await node.mapper.flush(NAME, true, PORT);
    expect(await asStored()).toEqual(filled());
    expect([2, 5].map((block) => stores.blocks.objects.has(OBJECT(block)))).toEqual([false, false]);
  });

  it('is given up when the volume is closed after a flush has told, by whichever mapper', async () => {
    for (const next of [() => node, restarted]) {
      node = next();
      await done(node.mapper.lease(NAME, { write: true }, PORT));
      await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO', 'disconnect all clients'));
      await done(node.mapper.close(NAME, true, true));
      expect(node.warnings.join()).toContain('have what they had before');
      expect(await node.maps.lockHolder(NAME)).toBeNull();
      expect(notes.load().size).toBe(0);
      await done(node.mapper.lease(NAME, { write: true }, PORT));
      await node.mapper.flush(NAME, true, PORT);
      expect(await readVolume(node, NAME, 0, SIZE)).toEqual(filled(0, 0, 0, 0, 0, 8));
      await checkInvariants(node, [NAME]);
      // Once more for the next mapper.
      await write(2, 7);
      fail();
      await clock.pass(600);
    }
  });

  it('is kept when the last client leaves whom nobody told, also by a later mapper: who comes back is told', async () => {
    node = restarted();
    fail();
    for (const opens of [false, true]) {
      if (opens) await done(node.mapper.lease(NAME, { write: true }, PORT));
      await expect(done(node.mapper.close(NAME, true))).rejects.toEqual(failure('EIO', 'block 2'));
      expect(await node.maps.lockHolder(NAME)).not.toBeNull();
    }
    // With no composer at all.
    node = successor();
    fail();
    await clock.pass(20_000);
    expect(await node.maps.lockHolder(NAME)).not.toBeNull();
    node.holders.set(PORT, async () => {});
    await done(node.mapper.lease(NAME, { write: true }, PORT));
    await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO', 'block 2'));
    await done(node.mapper.close(NAME, true, true));
    expect(await node.maps.lockHolder(NAME)).toBeNull();
    await checkInvariants(node, []);
  });

  it('is kept when the last client leaves who did not hear of it, whatever flushes failed with', async () => {
    for (const asked of [PORT, undefined]) {
      await expect(node.mapper.flush(NAME, true, asked)).rejects.toEqual(failure('EIO', 'block 2'));
      await expect(done(node.mapper.close(NAME, true))).rejects.toEqual(failure('EIO', 'block 2'));
      expect(await node.maps.lockHolder(NAME)).not.toBeNull();
      await done(node.mapper.lease(NAME, { write: true }, PORT));
    }
    // One that heard before somebody else left, who did not.
    await expect(done(node.mapper.close(NAME, true, true))).rejects.toEqual(failure('EIO', 'block 2'));
    await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO', 'block 2'));
    await done(node.mapper.close(NAME, true, true));
    expect(await node.maps.lockHolder(NAME)).toBeNull();
  });

  it('and another one since somebody was told: that is told, too, before either is given up', async () => {
    await write(3, 9);
    node.blocks.before = (operation, name) => {
      if (operation === 'flush' && ['*', OBJECT(2), OBJECT(3)].some((one) => name.includes(one)))
        throw new SystemError(errnos.EIO, 'writes may be lost');
    };
    await clock.pass(600);
    await expect(done(node.mapper.close(NAME, true))).rejects.toEqual(failure('EIO', 'may be lost'));
    expect(await readVolume(node, NAME, 0, SIZE)).toEqual(filled(0, 0, 7, 9, 0, 8));
    await done(node.mapper.lease(NAME, { write: true }, PORT));
    await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO', 'may be lost'));
    node.blocks.before = () => {};
    await done(node.mapper.close(NAME, true, true));
    await done(node.mapper.lease(NAME, { write: true }, PORT));
    await node.mapper.flush(NAME, true, PORT);
    expect(await readVolume(node, NAME, 0, SIZE)).toEqual(filled(0, 0, 0, 0, 0, 8));
  });

  it("is told by no flush that is asked for while the lease is taken back, which may be no client's", async () => {
    node = restarted();
    fail();
    await done(node.mapper.lease(NAME, { write: true }, PORT));
    node.holders.set(PORT, () => node.mapper.flush(NAME, true, PORT).catch(() => {}));
    await expect(done(node.mapper.close(NAME, true))).rejects.toEqual(failure('EIO', 'block 2'));
  });

  it('and of which a flush has told is not given up by a close that somebody asks for, until one was refused: who was told may be gone', async () => {
    for (const work of [() => node.mapper.close(NAME), () => node.mapper.unlock(NAME, false)]) {
      await expect(done<unknown>(work())).rejects.toEqual(failure('EIO', 'block 2'));
      expect(await readVolume(node, NAME, 0, SIZE)).toEqual(filled(0, 0, 7, 0, 0, 8));
      // Who left may have written since.
      await expect(done(node.mapper.close(NAME, true))).rejects.toEqual(failure('EIO', 'block 2'));
    }
    await expect(done(node.mapper.close(NAME))).rejects.toEqual(failure('EIO', 'block 2'));
    await done(node.mapper.close(NAME));
    expect(await node.maps.lockHolder(NAME)).toBeNull();
    expect(await asStored()).toEqual(filled(0, 0, 0, 0, 0, 8));
  });

  it('and of which a flush has told is given up when a close was refused by who flushed for it', async () => {
    await done(node.mapper.close(NAME, false, true));
    expect(await node.maps.lockHolder(NAME)).toBeNull();
  });

  it('whose deletion fails stays owed, and its name noted, until that succeeds', async () => {
    const before = node.blocks.before;
    node.blocks.before = (operation, name) => {
      if (operation === 'delete') throw new SystemError(errnos.EROFS, 'read-only');
      return before(operation, name);
    };
    await expect(done(node.mapper.close(NAME, false, true))).rejects.toEqual(failure('EROFS'));
    await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO', 'block 2'));
    node = restarted();
    fail();
    await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO', 'block 2'));
    await done(node.mapper.close(NAME, false, true));
    expect(await node.maps.lockHolder(NAME)).toBeNull();
    await checkInvariants(node, []);
  });

  it.each<[string, () => Promise<unknown>]>([
    ['close', () => node.mapper.close(NAME)],
    ['unlock', () => node.mapper.unlock(NAME, false)],
  ])('keeps a volume from %s once, which tells, when nobody was told before', async (_what, work) => {
    node = restarted();
    fail();
    await expect(done(work())).rejects.toEqual(failure('EIO', 'block 2'));
    expect(await node.maps.lockHolder(NAME)).not.toBeNull();
    await done(work());
    expect(await node.maps.lockHolder(NAME)).toBeNull();
    expect(await asStored()).toEqual(filled(0, 0, 0, 0, 0, 8));
    await checkInvariants(node, []);
  });

  it.each([false, true])('does not keep the volume from being removed, also by a later mapper (%s)', async (later) => {
    if (later) node = successor();
    fail();
    await done(node.mapper.remove(NAME));
    expect(notes.load().size).toBe(0);
    expect(await node.maps.lockHolder(NAME)).toBeNull();
    await clock.pass(2000);
    await checkInvariants(node, []);
    await createSmall(node, NAME, SIZE, BLOCK);
    expect(await asStored()).toEqual(filled());
  });

  describe('beside others of which the flush fails for another reason', () => {
    const shortage = new SystemError(errnos.EMFILE, 'too many open files');
    beforeEach(async () => {
      await write(3, 9);
      await write(4, 4);
    });
    /** A flush of several fails with EIO, one of each alone as it says here. */
    const answers = (alone: Record<number, SystemError>): void => {
      node.blocks.before = (operation, name) => {
        if (operation !== 'flush') return;
        if (name === '*' || name.includes(' ')) throw new SystemError(errnos.EIO, 'writes may be lost');
        for (const [block, error] of Object.entries(alone)) if (name === OBJECT(Number(block))) throw error;
      };
    };

    it('is the only one that is spoiled: the others are durable with the next flush', async () => {
      answers({ 3: new SystemError(errnos.EIO, 'writes may be lost'), 4: shortage });
      await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO', 'may be lost'));
      node.blocks.before = () => {};
      await node.mapper.mapZero(NAME, 2 * BLOCK, 2 * BLOCK, PORT);
      await node.mapper.flush(NAME, true, PORT);
      expect(await asStored()).toEqual(filled(0, 0, 0, 0, 4, 8));
    });

    it('is not guessed: nothing is committed, nor spoiled, until each was asked', async () => {
      await node.mapper.mapZero(NAME, 2 * BLOCK, BLOCK, PORT);
      for (const asked of [1, 2]) {
        answers({ 4: shortage });
        if (asked === 2)
          node.blocks.before = (operation, name) => {
            if (operation === 'flush' && name.includes(OBJECT(4))) throw shortage;
          };
        await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EMFILE'));
        expect(await asStored()).toEqual(filled(0, 0, 0, 0, 0, 8));
      }
      answers({ 3: new SystemError(errnos.EIO, 'writes may be lost') });
      await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO', 'block 3'));
      expect(await asStored()).toEqual(filled(0, 0, 0, 0, 4, 8));
    });

    it('is any of them when none says so in the end', async () => {
      await node.mapper.mapZero(NAME, 2 * BLOCK, BLOCK, PORT);
      answers({ 4: shortage });
      await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EMFILE'));
      await write(6, 6);
      node.blocks.before = () => {};
      await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO', 'may be lost'));
      expect(await asStored()).toEqual(filled(0, 0, 0, 0, 0, 8, 6));
    });
  });

  describe('keeps nothing of another volume', () => {
    const OTHER = 'neighbour';
    const use = async (): Promise<void> => {
      await done(node.mapper.lease(OTHER, { write: true }, PORT));
      await writeVolume(node, OTHER, 0, Buffer.alloc(BLOCK, 3), PORT);
    };
    beforeEach(async () => {
      await createSmall(node, OTHER, SIZE, BLOCK);
      await use();
    });
    it.each<[string, () => Promise<unknown>]>([
      ['closed when its last client goes', () => node.mapper.close(OTHER, true)],
      ['closed', () => node.mapper.close(OTHER)],
      ['unlocked', () => node.mapper.unlock(OTHER, false)],
      ['shared with a snapshot', () => node.mapper.snapshot(OTHER, 'snapshot')],
      ['renamed', () => node.mapper.rename(OTHER, 'renamed')],
    ])('from being %s, once its own objects are durable', async (what, work) => {
      const flushed: string[] = [];
      const { before } = node.blocks;
      let bad = true;
      node.blocks.before = (operation, name) => {
        if (operation === 'flush' && name.split(' ').includes(OBJECT(0).replace(NAME, OTHER))) {
          flushed.push(name);
          if (bad && flushed.length > 1) throw new SystemError(errnos.EIO, 'its own may be lost');
        }
        return before(operation, name);
      };
      await node.mapper.flush(OTHER, true, PORT);
      expect(flushed.length).toBe(1);
      await expect(done(work())).rejects.toEqual(failure('EIO', 'its own may be lost'));
      bad = false;
      await done(work());
      if (what !== 'shared with a snapshot') expect(await node.maps.lockHolder(OTHER)).toBeNull();
      await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO', 'block 2'));
    });

    it.each([true, false])('from being released by a later mapper that knows of it by a note (%s)', async (noted) => {
      if (!noted) await node.mapper.flush(OTHER, true, PORT);
      node = successor();
      fail();
      await clock.pass(20_000);
      expect(await node.maps.lockHolder(OTHER)).toBeNull();
      expect(await node.maps.lockHolder(NAME)).not.toBeNull();
    });
  });

  it('is forgotten when its block becomes zero', async () => {
    node.blocks.before = () => {};
    await node.mapper.mapZero(NAME, 2 * BLOCK, BLOCK, PORT);
    await node.mapper.flush(NAME, true, PORT);
    await write(2, 9);
    await node.mapper.flush(NAME, true, PORT);
    expect(await asStored()).toEqual(filled(0, 0, 9, 0, 0, 8));
  });
});

it('an object is not taken for lost where the look at the lock that its flush needs fails', async () => {
  await write(2, 7);
  await write(5, 8);
  // Too late for the lock as it was known.
  node.blocks.before = (operation) => {
    if (operation === 'flush') throw new SystemError(errnos.ETIME, 'too late');
  };
  node.maps.before = (operation) => {
    if (operation === 'check') throw new SystemError(errnos.EIO, 'the disk of the locks');
  };
  await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO', 'the disk of the locks'));
  node.blocks.before = () => {};
  node.maps.before = () => {};
  await node.mapper.flush(NAME, true, PORT);
  expect(await asStored()).toEqual(filled(0, 0, 7, 0, 0, 8));
});
