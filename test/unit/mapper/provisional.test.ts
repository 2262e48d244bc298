/** First writes that are acknowledged before they are durable: what a flush, a snapshot, a trim, an unmounted disk make of them. */
import { beforeEach, describe, expect, it } from 'vitest';
import { entryRuns } from '../../../src/mapper/formats/v2.js';
import { zeroBytes } from '../../../src/mapper/formats/v2-bytes.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import type { SimulatedNotes } from '../../sim/notes.js';
import { checkInvariants } from './invariants.js';
import { type NodeOptions, settle, type TestClock } from './nodes.js';
import {
  BLOCK,
  ENTRY,
  endOf,
  filled,
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
import { failure, memoryNode, type Node, readVolume, type Stores, writeVolume } from './support.js';

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
  it('that cannot look at the lock fails when no object is being made any more: the next one is not to be made beneath', async () => {
    let finish = (): void => {};
    const held = new Promise<void>((resolve) => (finish = resolve));
    node.blocks.before = (operation) => (operation === 'reset' ? held : undefined);
    node.maps.before = (operation) => {
      if (operation === 'holder') throw new SystemError(errnos.EIO, 'the store says no');
    };
    let isOver = false;
    const asked = node.mapper.mapOwn(NAME, [1, 2], PORT).finally(() => (isOver = true));
    asked.catch(() => {});
    await settle();
    expect(isOver).toBe(false);
    finish();
    await expect(asked).rejects.toEqual(failure('EIO'));
    node.maps.before = () => {};
    await write(1, 5);
    expect(await readVolume(node, NAME, 0, SIZE)).toEqual(filled(0, 5));
  });

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

    it('of a killed mapper waits likewise, though its object seems to be gone', async () => {
      await done(write(2, 7));
      const content = stores.blocks.objects.get(OBJECT(2))!;
      stores.blocks.objects.delete(OBJECT(2));
      mount = null;
      node = successor({ mount: () => mount });
      await expect(done(node.mapper.flush(NAME, false))).rejects.toEqual(failure('EIO', 'not mounted as it was'));
      stores.blocks.objects.set(OBJECT(2), content);
      mount = '1';
      await done(node.mapper.flush(NAME, false));
      expect(await asStored()).toEqual(filled(0, 0, 7));
    });

    it('fails while it is not mounted: its object would be made on the file system below', async () => {
      await done(write(2, 7));
      await done(node.mapper.flush(NAME, true, PORT));
      for (const later of [false, true]) {
        if (later) {
          mount = '1';
          await done(write(4, 4));
          mount = null;
          node = successor({ mount: () => mount });
          node.holders.set(PORT, async () => {});
          await done(node.mapper.lease(NAME, { write: true }, PORT));
        }
        mount = null;
        const order = watch(node);
        await expect(done(write(3, 9))).rejects.toEqual(failure('EIO', 'not mounted as it was'));
        expect(order).toEqual([]);
      }
      for (const again of ['1', '2']) {
        mount = again;
        await done(write(3, 9));
      }
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
