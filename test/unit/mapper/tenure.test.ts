/** Notes of blocks that are provisional or were trimmed, and locks that others have had since: what was noted under one tenure is no word of another's. */
import { beforeEach, expect, it } from 'vitest';
import { SimulatedNotes } from '../../sim/notes.js';
import { B, startNode, type TestClock } from './nodes.js';
import {
  BLOCK,
  endOf,
  filled,
  kill,
  NAME,
  PORT,
  SIZE,
  startScene,
  storedIn,
  successorOf,
  writeBlock,
} from './provisional-rig.js';
import { failure, type Node, readVolume, type Stores } from './support.js';

let clock: TestClock;
let stores: Stores;
let notes: SimulatedNotes;
let node: Node;

const done = <T>(promise: Promise<T>): Promise<T> => endOf(clock, promise);
const successor = (): Node => successorOf({ clock, stores, notes, node });

/** The other node breaks the lock, writes to the blocks of which the first has notes, and gives the lock back. */
async function useElsewhere(): Promise<void> {
  const other = startNode(stores, clock, B, { notes: new SimulatedNotes() });
  other.holders.set(PORT, async () => {});
  await done(other.mapper.unlock(NAME, true));
  await done(other.mapper.lease(NAME, { write: true }, PORT));
  for (const [block, byte] of [2, 5].entries()) await done(writeBlock(other, byte, 40 + block));
  await done(other.mapper.flush(NAME, true, PORT));
  await done(other.mapper.close(NAME));
  expect(await other.maps.lockHolder(NAME)).toBeNull();
}

beforeEach(async () => {
  ({ clock, stores, notes, node } = await startScene());
  await writeBlock(node, 5, 8);
  await node.mapper.flush(NAME, true, PORT);
  await writeBlock(node, 2, 7);
  await node.mapper.mapZero(NAME, 5 * BLOCK, BLOCK, PORT);
  expect(notes.load().size).toBe(1);
  kill(node);
});

it('of a node whose lock was broken while its mapper was down count for nothing when that starts', async () => {
  await useElsewhere();
  node = successor();
  await expect(done(node.mapper.flush(NAME, true, PORT))).rejects.toEqual(failure('EIO', 'was taken'));
  await done(node.mapper.close(NAME));
  expect(notes.load().size).toBe(0);
  await done(node.mapper.lease(NAME, { write: true }, PORT));
  expect(await readVolume(node, NAME, 0, SIZE)).toEqual(filled(0, 0, 40, 0, 0, 41));
});

it('nor do they when the lock has its name again by then, though no mapper that knew of the notes took it: it counts as lost', async () => {
  await useElsewhere();
  // As a server does that answers late what a process asked of it that is gone, or whoever restores a store with its locks.
  await node.maps.driver.acquire(NAME);
  node = successor();
  await expect(done(readVolume(node, NAME, 0, SIZE))).rejects.toEqual(failure('EIO', 'was taken'));
  expect(node.warnings.join()).toContain('was taken again');
  expect(await node.maps.lockHolder(NAME)).toBeNull();
  expect(notes.load().size).toBe(0);
  await done(node.mapper.close(NAME));
  await done(node.mapper.lease(NAME, { write: true }, PORT));
  expect(await readVolume(node, NAME, 0, SIZE)).toEqual(filled(0, 0, 40, 0, 0, 41));
});

it('nor when nothing of the volume is asked for: what is due unasked finds it out', async () => {
  await useElsewhere();
  await node.maps.driver.acquire(NAME);
  node = successor();
  await clock.pass(2000);
  expect(await node.maps.lockHolder(NAME)).toBeNull();
  expect(await storedIn(stores)).toEqual(filled(0, 0, 40, 0, 0, 41));
});

it('count when nobody has had the lock in between, for as many mappers as are killed', async () => {
  for (const byte of [7, 6]) {
    node = successor();
    node.holders.set(PORT, async () => {});
    await done(node.mapper.lease(NAME, { write: true }, PORT));
    expect(await readVolume(node, NAME, 0, SIZE)).toEqual(filled(0, 0, byte === 7 ? 7 : 6));
    await done(writeBlock(node, 2, 6));
  }
  await done(node.mapper.flush(NAME, true, PORT));
  expect(await storedIn(stores)).toEqual(filled(0, 0, 6));
});
