/** First writes that are acknowledged before they are durable: what a flush, a snapshot, a dead mapper, a power cut, a lost lock make of them. */
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { decodeHeader, ENTRY_SIZE, encodeHeader, encodeNamedEntry, entryRuns } from '../../../src/mapper/formats/v2.js';
import { zeroBytes } from '../../../src/mapper/formats/v2-bytes.js';
import { LockRegistry } from '../../../src/mapper/locking/registry.js';
import { Volume } from '../../../src/mapper/volume.js';
import { errnoName, errnoOf, errnos, SystemError } from '../../../src/sys/errno.js';
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
import { createSmall, failure, memoryNode, type Node, readVolume, type Stores, writeVolume } from './support.js';

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

describe('a first write', () => {
  it('waits for its object and the note alone; a flush makes the object durable, looks at the lock, writes the entry, flushes it', async () => {
    const order = watch(node, true);
    await write(2, 7);
    expect(order).toEqual([`blocks reset ${OBJECT(2)}`, `blocks write ${OBJECT(2)}`]);
    expect(await readVolume(node, NAME, 0, SIZE)).toEqual(filled(0, 0, 7));
    expect(await asStored()).toEqual(filled());
    expect(node.mapper.status().provisional).toBe(1);
    order.length = 0;
    await node.mapper.flush(NAME, true, PORT);
    const steps = [`blocks flush ${OBJECT(2)}`, `maps write ${ENTRY(2)}`, `maps flush ${ENTRY(2)}`];
    const places = steps.map((what) => order.indexOf(what));
    expect(places).toEqual([...places].sort((a, b) => a - b));
    expect(places).not.toContain(-1);
    const looks = order.flatMap((what, i) => (what === `maps check ${NAME}` ? [i] : []));
    expect(Math.min(...looks)).toBeLessThan(places[1]);
    expect(Math.max(...looks)).toBeGreaterThan(places[2]);
    expect(await asStored()).toEqual(filled(0, 0, 7));
    expect(node.mapper.status().provisional).toBe(0);
  });

  it('is in the stored map soon without being asked for', async () => {
    await write(2, 7);
    await clock.pass(600);
    expect(await asStored()).toEqual(filled(0, 0, 7));
  });

  it('of a shared block copies it, and a power cut before the flush leaves the shared one', async () => {
    await write(1, 9);
    await done(node.mapper.snapshot(NAME, 'snapshot'));
    await node.mapper.lease(NAME, { write: true }, PORT);
    await writeVolume(node, NAME, BLOCK, Buffer.alloc(10, 3), PORT);
    const expected = filled(0, 9);
    expect(await asStored()).toEqual(expected);
    expected.fill(3, BLOCK, BLOCK + 10);
    expect(await readVolume(node, NAME, 0, SIZE)).toEqual(expected);
  });

  describe('where the file system may be mounted anew', () => {
    let mount: string | null;
    beforeEach(async () => {
      mount = '1';
      node = successor({ mount: () => mount });
      node.holders.set(PORT, async () => {});
      await done(node.mapper.lease(NAME, { write: true }, PORT));
    });

    it('is not committed when it was meanwhile: who syncs it then may know nothing of what was not written; later mappers tell, too', async () => {
      await done(write(2, 7));
      await done(write(5, 8));
      mount = '2';
      await expect(done(node.mapper.flush(NAME, true, PORT))).rejects.toEqual(failure('EIO', 'mounted anew'));
      // Beside these, what comes is noted as ever.
      await done(write(3, 9));
      expect(node.mapper.status().provisional).toBe(3);
      await expect(done(node.mapper.flush(NAME, true, PORT))).rejects.toEqual(failure('EIO', 'mounted anew'));
      expect(await asStored()).toEqual(filled(0, 0, 0, 9));
      node = successor({ mount: () => mount });
      await expect(done(node.mapper.flush(NAME, false))).rejects.toEqual(failure('EIO', 'may be lost'));
    });

    it('is owed by a mapper that starts after that', async () => {
      await done(write(2, 7));
      mount = '2';
      node = successor({ mount: () => mount });
      await expect(done(node.mapper.flush(NAME, false))).rejects.toEqual(failure('EIO', 'block 2'));
      expect(await readVolume(node, NAME, 0, SIZE)).toEqual(filled());
    });

    it('waits for its commit while it is not mounted', async () => {
      await done(write(2, 7));
      mount = null;
      await expect(done(node.mapper.flush(NAME, true, PORT))).rejects.toEqual(failure('EIO', 'not mounted as it was'));
      await clock.pass(5000);
      expect(await asStored()).toEqual(filled());
      mount = '1';
      await done(node.mapper.flush(NAME, true, PORT));
      expect(await asStored()).toEqual(filled(0, 0, 7));
    });

    it.each(['2', null])(
      'fails when that is so (%s) while its object is made, and no entry names it',
      async (other) => {
        node.blocks.before = (operation) => {
          if (operation === 'reset') mount = other;
        };
        await expect(done(write(2, 7))).rejects.toEqual(failure('EIO', 'mounted anew'));
        expect(await asStored()).toEqual(filled());
        mount = '1';
        node.blocks.before = () => {};
        await done(write(2, 7));
        await done(node.mapper.flush(NAME, true, PORT));
        expect(await asStored()).toEqual(filled(0, 0, 7));
      },
    );
  });

  it('is refused where no entry has room for the name of its object: nothing of it could be committed', async () => {
    const long = 'a'.repeat(95);
    for (const [name, object] of [...stores.maps.objects]) {
      if (name.startsWith(NAME)) stores.maps.objects.set(name.replace(NAME, long), object);
    }
    await node.mapper.lease(long, { write: true }, PORT);
    const writing = writeVolume(node, long, 0, Buffer.alloc(BLOCK, 7), PORT);
    await expect(writing).rejects.toEqual(failure('ENAMETOOLONG', long));
    expect(node.mapper.status().provisional).toBe(0);
    await node.mapper.flush(long, true, PORT);
  });

  it('is durable before its answer where it cannot be noted', async () => {
    notes.write = () => {
      throw new SystemError(errnos.ENOSPC, 'no space is left');
    };
    const order = watch(node, true);
    await write(2, 7);
    expect(order[0]).toBe(`blocks reset ${OBJECT(2)}`);
    expect(order.indexOf(`blocks flush ${OBJECT(2)}`)).toBe(1);
    expect(order.indexOf(`maps check ${NAME}`)).toBeLessThan(order.indexOf(`maps write ${ENTRY(2)}`));
    expect(await asStored()).toEqual(filled(0, 0, 7));
    expect(node.warnings.join()).toContain('first writes and trims cannot be noted');
    expect(node.mapper.status().provisional).toBe(0);
  });

  it('is in the stored map before its answer where the stores are durable on their answer, and what a predecessor noted follows', async () => {
    await write(1, 5);
    const next = successor({ isDurableOnAck: true });
    next.holders.set(PORT, async () => {});
    await done(next.mapper.lease(NAME, { write: true }, PORT));
    await done(writeVolume(next, NAME, 2 * BLOCK, Buffer.alloc(BLOCK, 7), PORT));
    expect((await asStored()).subarray(2 * BLOCK, 3 * BLOCK)).toEqual(Buffer.alloc(BLOCK, 7));
    await clock.pass(1000);
    expect(await asStored()).toEqual(filled(0, 5, 7));
    expect(next.mapper.status().provisional).toBe(0);
  });

  it('to a block that a failed trim may have made zero in the store gets its entry again', async () => {
    await write(0, 4);
    await write(6, 5);
    await node.mapper.flush(NAME, true, PORT);
    const [run] = entryRuns(NAME, BLOCK, 0, 4, 4);
    node.maps.before = async (operation, name) => {
      if (operation !== 'write' || name !== run.object) return;
      await memoryNode(stores, 'disk').maps.write(name, run.offset, zeroBytes(run.count));
      throw new SystemError(errnos.ENOSPC, 'no space is left');
    };
    const { write: note } = notes;
    notes.write = () => {
      throw new SystemError(errnos.ENOSPC, 'no space is left');
    };
    await expect(node.mapper.mapZero(NAME, 0, SIZE, PORT)).rejects.toEqual(failure('ENOSPC'));
    notes.write = note;
    node.maps.before = () => {};
    const found = await readVolume(node, NAME, 0, SIZE);
    expect(found).toEqual(await asStored());
    await write(0, 9);
    await node.mapper.flush(NAME, true, PORT);
    expect(await asStored()).toEqual(filled(9, 0, 0, 0, 0, 0, 5));
  });

  it.each([true, false])(
    'that a failed trim may have made zero is what it was or zero for good, also where nobody can look: %s',
    async (stored) => {
      await write(0, 4);
      await write(6, 5);
      await node.mapper.flush(NAME, true, PORT);
      // Of this one only a note tells.
      await write(2, 7);
      const [run] = entryRuns(NAME, BLOCK, 0, 4, 4);
      let works = false;
      node.maps.before = async (operation, name) => {
        if (works || name !== run.object) return;
        if (operation === 'write' && stored) {
          await memoryNode(stores, 'disk').maps.write(name, run.offset, zeroBytes(run.count));
        }
        throw new SystemError(errnos.EIO, 'the store is in trouble');
      };
      const { write: note } = notes;
      notes.write = () => {
        throw new SystemError(errnos.ENOSPC, 'no space is left');
      };
      await expect(node.mapper.mapZero(NAME, 0, SIZE, PORT)).rejects.toEqual(failure('EIO'));
      notes.write = note;
      // Nobody is told one thing now and another later.
      await expect(node.mapper.mapRead(NAME, 0, SIZE)).rejects.toEqual(failure('EIO', 'in trouble'));
      await expect(node.mapper.mapWrite(NAME, 0, BLOCK, PORT)).rejects.toEqual(failure('EIO', 'in trouble'));
      works = true;
      const found = await readVolume(node, NAME, 0, SIZE);
      expect(found).toEqual(stored ? filled(0, 0, 7, 0, 0, 0, 5) : filled(4, 0, 7, 0, 0, 0, 5));
      await write(1, 3);
      await node.mapper.flush(NAME, true, PORT);
      const after = Buffer.from(found).fill(3, BLOCK, 2 * BLOCK);
      expect(await asStored()).toEqual(after);
      expect(await readVolume(node, NAME, 0, SIZE)).toEqual(after);
    },
  );

  it('to a block that waits for a trim which fails goes by what is stored then', async () => {
    await write(0, 4);
    await done(node.mapper.snapshot(NAME, 'snapshot'));
    await done(node.mapper.lease(NAME, { write: true }, PORT));
    const [run] = entryRuns(NAME, BLOCK, 0, 1, 1);
    let fail = (): void => {};
    const failing = new Promise<void>((_, reject) => {
      fail = () => reject(new SystemError(errnos.EIO, 'the store is in trouble'));
    });
    node.maps.before = async (operation, name) => {
      if (operation !== 'write' || name !== run.object) return;
      await memoryNode(stores, 'disk').maps.write(name, run.offset, zeroBytes(1));
      await failing;
    };
    const { write: note } = notes;
    notes.write = () => {
      throw new SystemError(errnos.ENOSPC, 'no space is left');
    };
    const trim = node.mapper.mapZero(NAME, 0, BLOCK, PORT);
    trim.catch(() => {});
    await settle();
    notes.write = note;
    const writing = node.mapper.mapWrite(NAME, 0, BLOCK, PORT);
    fail();
    await expect(trim).rejects.toEqual(failure('EIO'));
    node.maps.before = () => {};
    const [segment] = await writing;
    await node.blocks.write(segment.target, 0, Buffer.alloc(BLOCK, 9));
    await node.mapper.flush(NAME, true, PORT);
    expect(await asStored()).toEqual(filled(9));
  });

  it('is in the stored map when the volume was opened for sharing', async () => {
    await write(2, 7);
    await done(node.mapper.open(NAME, undefined, true));
    expect(await asStored()).toEqual(filled(0, 0, 7));
  });

  it('to a volume that is open shared is in the stored map before its answer: another node is meant to see it', async () => {
    await done(node.mapper.open(NAME, undefined, true));
    await write(2, 7);
    expect(await asStored()).toEqual(filled(0, 0, 7));
  });
});

describe('after the mapper was killed', () => {
  it('what was acknowledged is there, and is committed by its successor', async () => {
    await write(2, 7);
    await write(5, 8);
    const next = successor();
    expect(await readVolume(next, NAME, 0, SIZE)).toEqual(filled(0, 0, 7, 0, 0, 8));
    await done(next.mapper.flush(NAME, false));
    await clock.pass(1000);
    expect(await asStored()).toEqual(filled(0, 0, 7, 0, 0, 8));
    // Nobody used it: the lock is given back, and with it the note goes.
    expect(await next.maps.lockHolder(NAME)).toBeNull();
    expect(notes.load().size).toBe(0);
    await checkInvariants(next, []);
  });

  it('and the machine started anew, the block is what it was before', async () => {
    await write(2, 7);
    const next = successor({ boot: 'the next start' });
    expect(await readVolume(next, NAME, 0, SIZE)).toEqual(filled());
    expect(notes.load().size).toBe(0);
    await clock.pass(1000);
    expect(await asStored()).toEqual(filled());
  });

  it('and another node has had the lock since, nothing of the note counts, also when this node takes the lock again', async () => {
    await write(2, 7);
    const before = notes.clone();
    kill(node);
    const other = startNode(stores, clock, B);
    await done(other.mapper.unlock(NAME, true));
    await writeVolume(other, NAME, 2 * BLOCK, Buffer.alloc(BLOCK, 66), PORT);
    await done(other.mapper.snapshot(NAME, 'theirs'));
    await done(other.mapper.close(NAME));
    for (const opens of [false, true]) {
      notes = before.clone();
      const next = startNode(stores, clock, A, { notes });
      if (opens) {
        // Before it has looked at anything by itself.
        await done(next.mapper.close(NAME));
        await done(next.mapper.open(NAME));
      } else await clock.pass(1000);
      expect(notes.load().size).toBe(0);
      expect(await asStored()).toEqual(filled(0, 0, 66));
      if (opens) {
        expect(await readVolume(next, NAME, 0, SIZE)).toEqual(filled(0, 0, 66));
        await done(next.mapper.close(NAME));
      }
      await checkInvariants(other, []);
      kill(next);
    }
  });

  it('and the name stands for another map since, under the same lock, nothing of the note counts', async () => {
    await write(2, 7);
    const before = notes.clone();
    kill(node);
    // Another store, a restored one, a version of the program that knows no notes: whatever made it so, the lock is this node's as before.
    const older = startNode(stores, clock, A);
    await done(older.mapper.remove(NAME));
    await createSmall(older, NAME, SIZE, BLOCK);
    await writeVolume(older, NAME, 3 * BLOCK, Buffer.alloc(BLOCK, 3), PORT);
    await done(older.mapper.close(NAME));
    stores.maps.locks.set(NAME, { owner: A, since: 0 });
    notes = before;
    const next = startNode(stores, clock, A, { notes });
    expect(await readVolume(next, NAME, 0, SIZE)).toEqual(filled(0, 0, 0, 3));
    expect(notes.load().size).toBe(0);
    await clock.pass(1000);
    expect(await asStored()).toEqual(filled(0, 0, 0, 3));
  });

  it('and a snapshot was taken by who knows no notes, nothing is written to what that shares', async () => {
    await write(2, 7);
    const before = notes.clone();
    await node.mapper.flush(NAME, true, PORT);
    kill(node);
    const older = startNode(stores, clock, A);
    await done(older.mapper.snapshot(NAME, 'snapshot'));
    stores.maps.locks.set(NAME, { owner: A, since: 0 });
    notes = before;
    const next = startNode(stores, clock, A, { notes });
    next.holders.set(PORT, async () => {});
    await done(next.mapper.lease(NAME, { write: true }, PORT));
    await writeVolume(next, NAME, 2 * BLOCK, Buffer.alloc(BLOCK, 9), PORT);
    await next.mapper.flush(NAME, true, PORT);
    expect(await readVolume(memoryNode(stores, 'reader_1'), 'snapshot', 0, SIZE)).toEqual(filled(0, 0, 7));
    expect(await asStored()).toEqual(filled(0, 0, 9));
    await checkInvariants(next, [NAME]);
  });

  it('and the volume is gone, the note goes, and its lock is given back', async () => {
    await write(2, 7);
    const before = notes.clone();
    kill(node);
    const older = startNode(stores, clock, A);
    await done(older.mapper.remove(NAME));
    stores.maps.locks.set(NAME, { owner: A, since: 0 });
    notes = before;
    const next = startNode(stores, clock, A, { notes });
    await clock.pass(1000);
    expect(notes.load().size).toBe(0);
    expect(await next.maps.lockHolder(NAME)).toBeNull();
  });

  it.each([false, true])(
    'and a map that the original grew got its next epoch (%s) under what is noted, that counts',
    async (complete) => {
      await write(4, 1);
      await done(node.mapper.close(NAME));
      // The original's grow: WRITABLE is gone, the epoch is the same (defect D3).
      const entry = Buffer.alloc(ENTRY_SIZE);
      encodeNamedEntry(entry, 0, 2, OBJECT(4));
      const { object, offset } = entryRuns(NAME, BLOCK, 4, 1, 1).next().value!;
      await node.maps.write(object, offset, entry);
      await node.mapper.lease(NAME, { write: true }, PORT);
      await write(2, 7);
      node.maps.before = (operation, name) =>
        !complete && operation === 'write' && name === NAME ? new Promise(() => {}) : undefined;
      const second = write(4, 8);
      if (complete) await second;
      else await settle();
      const next = successor();
      const expected = filled(0, 0, 7, 0, complete ? 8 : 1);
      expect(await readVolume(next, NAME, 0, SIZE)).toEqual(expected);
      await clock.pass(1000);
      expect(await asStored()).toEqual(expected);
    },
  );

  it('between the zeros and the end of the note of a trimmed block, the block is what was acknowledged', async () => {
    await write(1, 9);
    await done(node.mapper.snapshot(NAME, 'snapshot'));
    await node.mapper.lease(NAME, { write: true }, PORT);
    await write(1, 5);
    // The trim stops right before the zeros are stored, and the note goes: nothing of it may have counted.
    const order: string[] = [];
    node.maps.before = (operation) => {
      order.push(operation);
      return operation === 'write' ? new Promise(() => {}) : undefined;
    };
    void node.mapper.mapZero(NAME, BLOCK, BLOCK, PORT);
    await settle();
    expect(order).toContain('write');
    const next = successor();
    expect(await readVolume(next, NAME, 0, SIZE)).toEqual(filled(0, 5));
  });
});

describe('a lock that is lost', () => {
  it('takes the note with it; a commit that was under way writes nothing, and nothing is left when the lock is taken again', async () => {
    await write(2, 7);
    let go = (): void => {};
    const held = new Promise<void>((resolve) => (go = resolve));
    node.blocks.before = (operation) => (operation === 'flush' ? held : undefined);
    const flush = node.mapper.flush(NAME, true, PORT);
    const refused = expect(flush).rejects.toEqual(failure('EIO', 'may be lost'));
    await settle();
    stores.maps.locks.set(NAME, { owner: 'old_1002', since: 0 });
    const order = watch(node, true);
    await clock.pass(1000);
    expect(notes.load().size).toBe(0);
    go();
    await refused;
    await clock.pass(2000);
    expect(order.filter((what) => !what.startsWith('maps check'))).toEqual([]);
    expect(await asStored()).toEqual(filled());
    stores.maps.locks.delete(NAME);
    node.holders.delete(PORT);
    await done(node.mapper.close(NAME));
    await done(node.mapper.open(NAME));
    expect(await readVolume(node, NAME, 0, SIZE)).toEqual(filled());
  });
});

describe('a lock of which a commit is the first to notice that it was lost', () => {
  const restarted = (): void => {
    node = successor();
    node.holders.set(PORT, async () => {});
  };
  it.each([
    ['the last client goes', true, () => {}],
    ['it is closed by hand', false, () => {}],
    ['the last client goes after a restart of the mapper', true, restarted],
  ])('leaves nothing behind when %s', async (_what, implicit, before) => {
    await write(2, 7);
    stores.maps.locks.set(NAME, { owner: B, since: 0 });
    before();
    node.holders.delete(PORT);
    await done(node.mapper.close(NAME, implicit));
    stores.maps.locks.delete(NAME);
    node.holders.set(PORT, async () => {});
    expect((await done(node.mapper.lease(NAME, { write: true }, PORT))).granted).toBe('exclusive');
    expect(await readVolume(node, NAME, 0, SIZE)).toEqual(filled());
  });
});

it('a note that cannot be removed does not end the mapper of a volume whose lock was lost', async () => {
  await write(2, 7);
  const registry = LockRegistry.volatile();
  const left = new Volume(NAME);
  left.lost = { holder: B, at: 0 };
  await registry.note(left);
  const unhandled: unknown[] = [];
  const listen = (error: unknown): number => unhandled.push(error);
  process.on('unhandledRejection', listen);
  onTestFinished(() => void process.off('unhandledRejection', listen));
  notes.remove = () => {
    throw new SystemError(errnos.EROFS, 'read-only');
  };
  node = successor({ registry });
  await settle();
  expect(unhandled).toEqual([]);
  expect(node.warnings.join()).toContain('stays: read-only');
  await expect(done(node.mapper.lease(NAME, { write: true }, PORT))).rejects.toEqual(failure('EIO'));
});

describe('a lock that is broken', () => {
  it('is confirmed only when the entries that a commit was sending have come or not', async () => {
    await write(2, 7);
    let go = (): void => {};
    const held = new Promise<void>((resolve) => (go = resolve));
    node.maps.before = (operation) => (operation === 'write' ? held : undefined);
    const flush = expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('EIO', 'may be lost'));
    await settle();
    const other = startNode(stores, clock, B);
    let over = false;
    const broken = other.mapper.unlock(NAME, true).then((reply) => {
      over = true;
      return reply;
    });
    await clock.pass(2000);
    expect(over).toBe(false);
    go();
    await flush;
    expect((await done(broken)).confirmed).toBe(true);
  });
});

describe('what must see the whole map commits first', () => {
  const operations: Record<string, () => Promise<unknown>> = {
    snapshot: () => node.mapper.snapshot(NAME, 'another'),
    rename: () => node.mapper.rename(NAME, 'another'),
    grow: () => node.mapper.resize(NAME, SIZE + BLOCK, false),
    close: () => node.mapper.close(NAME),
    'give the lock back': () => node.mapper.unlock(NAME, false),
    stop: () => node.mapper.stop(),
  };
  it.each(Object.keys(operations))('%s', async (what) => {
    await write(2, 7);
    node.holders.delete(PORT);
    await done(operations[what]());
    const name = what === 'rename' ? 'another' : NAME;
    const reader = memoryNode(stores, 'reader_1');
    expect((await readVolume(reader, name, 0, SIZE)).equals(filled(0, 0, 7))).toBe(true);
    if (what === 'snapshot') expect(await readVolume(reader, 'another', 0, SIZE)).toEqual(filled(0, 0, 7));
    if (what !== 'snapshot' && what !== 'grow') expect(notes.load().size).toBe(0);
    await checkInvariants(reader);
  });

  it('and is refused when that fails, with everything as it was', async () => {
    await write(2, 7);
    node.maps.before = (operation) => {
      if (operation === 'write') throw new SystemError(errnos.ENOSPC, 'no space is left');
    };
    await expect(done(node.mapper.snapshot(NAME, 'another'))).rejects.toEqual(failure('ENOSPC'));
    await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('ENOSPC'));
    node.maps.before = () => {};
    expect(await readVolume(node, NAME, 0, SIZE)).toEqual(filled(0, 0, 7));
    await node.mapper.flush(NAME, true, PORT);
    expect(await asStored()).toEqual(filled(0, 0, 7));
  });
});

describe('a commit that was asked for and failed', () => {
  beforeEach(async () => {
    await write(2, 7);
    node.maps.before = (operation) => {
      if (operation === 'write') throw new SystemError(errnos.ENOSPC, 'no space is left');
    };
  });
  const spaceComes = async (): Promise<void> => {
    await clock.pass(5000);
    expect(await asStored()).toEqual(filled());
    node.maps.before = () => {};
    await clock.pass(2000);
  };

  it('for a flush is done soon after there is space again, though nobody asks again', async () => {
    await expect(node.mapper.flush(NAME, true, PORT)).rejects.toEqual(failure('ENOSPC'));
    await spaceComes();
    expect(await asStored()).toEqual(filled(0, 0, 7));
    expect(await node.maps.lockHolder(NAME)).not.toBeNull();
  });

  it('for the end of the last client gives the lock back when there is space again', async () => {
    node.holders.delete(PORT);
    await expect(done(node.mapper.close(NAME, true))).rejects.toEqual(failure('ENOSPC'));
    await spaceComes();
    expect(await asStored()).toEqual(filled(0, 0, 7));
    expect(await node.maps.lockHolder(NAME)).toBeNull();
    expect(notes.load().size).toBe(0);
  });

  it('for the end of the last client leaves the lock to a client that has come since', async () => {
    await expect(done(node.mapper.close(NAME, true))).rejects.toEqual(failure('ENOSPC'));
    await done(node.mapper.lease(NAME, { write: true }, PORT));
    await spaceComes();
    expect(await asStored()).toEqual(filled(0, 0, 7));
    expect(await node.maps.lockHolder(NAME)).not.toBeNull();
  });

  it('for the end of the last client leaves the lock to a client that came since, and whose lease is just taken back', async () => {
    await expect(done(node.mapper.close(NAME, true))).rejects.toEqual(failure('ENOSPC'));
    await done(node.mapper.lease(NAME, { write: true }, PORT));
    node.maps.before = () => {};
    const order = watch(node, true);
    await done(node.mapper.resize(NAME, SIZE + BLOCK, false));
    await clock.pass(2000);
    expect(order.filter((what) => what.includes('write'))).not.toEqual([]);
    expect(await node.maps.lockHolder(NAME)).not.toBeNull();
  });

  it('for the end of the last client leaves the lock to a client that comes when it is about to be given back', async () => {
    await expect(done(node.mapper.close(NAME, true))).rejects.toEqual(failure('ENOSPC'));
    // Behind an operation that waits for its store, the lease stands before the giving back.
    let go = (): void => {};
    const held = new Promise<void>((resolve) => (go = resolve));
    node.maps.before = (operation) => (operation === 'write' ? held : undefined);
    const growing = node.mapper.resize(NAME, SIZE + BLOCK, false);
    await settle();
    const lease = node.mapper.lease(NAME, { write: true }, PORT);
    let revoked = 0;
    node.holders.set(PORT, async () => void revoked++);
    go();
    await done(Promise.all([growing, lease]));
    await clock.pass(2000);
    expect(revoked).toBe(0);
    expect(await node.maps.lockHolder(NAME)).not.toBeNull();
  });

  it('for a close that was asked for leaves the volume open: who asked was told so', async () => {
    await done(node.mapper.open(NAME));
    await expect(done(node.mapper.close(NAME))).rejects.toEqual(failure('ENOSPC'));
    await spaceComes();
    expect(await asStored()).toEqual(filled(0, 0, 7));
    expect(await node.maps.lockHolder(NAME)).not.toBeNull();
  });
});

describe('a volume that is removed with provisional blocks', () => {
  it('is so where no entry can be durable first, and a commit that was under way writes nothing of it', async () => {
    await write(2, 7);
    await write(5, 8);
    let go = (): void => {};
    const held = new Promise<void>((resolve) => (go = resolve));
    node.blocks.before = (operation) => (operation === 'flush' ? held : undefined);
    await clock.pass(600);
    await done(node.mapper.remove(NAME));
    const order = watch(node, true);
    go();
    await clock.pass(2000);
    expect(order.filter((what) => !what.startsWith('maps check'))).toEqual([]);
    expect(notes.load().size).toBe(0);
    await checkInvariants(node, []);
  });

  /** The header as the original writes it: the volume gets its id when it is removed. */
  const forgetLineage = async (): Promise<void> => {
    const header = decodeHeader(NAME, await node.maps.read(NAME, 0, 512));
    await node.maps.write(NAME, 0, encodeHeader({ ...header, lineage: null }));
  };

  /** Begins to remove the volume, and stops for ever before this change of a store. @returns whether it was removed */
  async function removeUntil(dying: Node, point: number): Promise<boolean> {
    let left = point;
    const one = (operation: string): void | Promise<void> => {
      if (['write', 'delete', 'flush'].includes(operation) && left-- <= 0) return new Promise(() => {});
    };
    dying.maps.before = one;
    dying.blocks.before = one;
    let over = false;
    dying.mapper.remove(NAME).then(
      () => (over = true),
      () => {},
    );
    await settle();
    return over;
  }

  /** What was written to a block is there, or an error says that it is being deleted, or was. */
  async function expectWholeOrGone(of: Node, block: number, byte: number): Promise<void> {
    const found = await readVolume(of, NAME, block * BLOCK, BLOCK).catch((error) => {
      expect(['EIO', 'ENOENT']).toContain(errnoName(errnoOf(error)));
      return null;
    });
    if (found) expect(found).toEqual(Buffer.alloc(BLOCK, byte));
  }

  /** The removal comes before any commit: the composer of an earlier mapper's leases is asked first. */
  const waiting: NodeOptions = {
    inherited: [PORT],
    prepare: (next) => void next.holders.set(PORT, async () => {}),
  };
  const ids = ['with', 'without'];
  it.each(ids.flatMap((id) => [null, 0, 1, 2, 3, 4].map((more) => [id, more] as const)))(
    'and of a map %s an id goes on being so after the mapper was killed at any point of it, its successor %s steps later',
    async (id, more) => {
      for (let point = 0; ; point++) {
        if (id === 'without') {
          await done(node.mapper.close(NAME));
          await forgetLineage();
          await node.mapper.lease(NAME, { write: true }, PORT);
        }
        await write(2, 7);
        await write(5, 8);
        if (await removeUntil(node, point)) break;
        let next = successor(waiting);
        if (more !== null) {
          // Which has read nothing before.
          await removeUntil(next, point + more);
          node = next;
          next = successor();
        }
        await expectWholeOrGone(next, 2, 7);
        await expectWholeOrGone(next, 5, 8);
        await done(next.mapper.remove(NAME)).catch((error) => expect(error).toEqual(failure('ENOENT')));
        await clock.pass(20_000);
        expect(notes.load().size).toBe(0);
        expect(await next.maps.lockHolder(NAME)).toBeNull();
        await checkInvariants(next, []);
        node = next;
        node.holders.set(PORT, async () => {});
        await createSmall(node, NAME, SIZE, BLOCK);
        await node.mapper.lease(NAME, { write: true }, PORT);
        expect(point).toBeLessThan(20);
      }
    },
  );
});

describe('a block that becomes zero while it is provisional', () => {
  it('is zero in the stored map before its note goes, and its object goes last', async () => {
    await write(1, 9);
    await done(node.mapper.snapshot(NAME, 'snapshot'));
    await node.mapper.lease(NAME, { write: true }, PORT);
    await write(1, 5);
    const order = watch(node, true);
    notes.changed = () => order.push('note');
    await node.mapper.mapZero(NAME, BLOCK, BLOCK, PORT);
    expect(order.filter((what) => what !== `maps check ${NAME}`)).toEqual([
      `maps write ${ENTRY(1)}`,
      'note',
      `maps flush ${ENTRY(1)}`,
      `blocks delete ${OBJECT(1, 2)}`,
    ]);
    await clock.pass(1000);
    expect(await asStored()).toEqual(filled());
    await checkInvariants(node);
  });

  it('while a commit waits for its object, and is written again: the commit leaves the new object to the next', async () => {
    await write(2, 7);
    let go = (): void => {};
    const held = new Promise<void>((resolve) => (go = resolve));
    const flushed: string[] = [];
    node.blocks.before = (operation, name) => {
      if (operation !== 'flush') return;
      flushed.push(name);
      if (flushed.length === 1) return held;
    };
    const flush = node.mapper.flush(NAME, true, PORT);
    await settle();
    expect(flushed).toEqual([OBJECT(2)]);
    await node.mapper.mapZero(NAME, 2 * BLOCK, BLOCK, PORT);
    await write(2, 9);
    go();
    await flush;
    expect(await asStored()).toEqual(filled());
    await node.mapper.flush(NAME, true, PORT);
    expect(flushed).toEqual([OBJECT(2), OBJECT(2)]);
    expect(await asStored()).toEqual(filled(0, 0, 9));
  });
});
