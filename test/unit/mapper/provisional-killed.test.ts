/** First writes that are not committed when the mapper is killed, and perhaps the machine: what its successor makes of their note. */
import { beforeEach, describe, expect, it } from 'vitest';
import { ENTRY_SIZE, encodeNamedEntry, entryRuns } from '../../../src/mapper/formats/v2.js';
import type { SimulatedNotes } from '../../sim/notes.js';
import { checkInvariants } from './invariants.js';
import { A, B, type NodeOptions, settle, startNode, type TestClock } from './nodes.js';
import {
  BLOCK,
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
  writeBlock,
} from './provisional-rig.js';
import { createSmall, memoryNode, type Node, readVolume, type Stores, writeVolume } from './support.js';

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
