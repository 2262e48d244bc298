/** First writes that are not committed when their lock is lost or broken. */
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { LockRegistry } from '../../../src/mapper/locking/registry.js';
import { Volume } from '../../../src/mapper/volume.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import type { SimulatedNotes } from '../../sim/notes.js';
import { B, type NodeOptions, settle, startNode, type TestClock } from './nodes.js';
import {
  endOf,
  filled,
  NAME,
  PORT,
  SIZE,
  startScene,
  storedIn,
  successorOf,
  watch,
  writeBlock,
} from './provisional-rig.js';
import { failure, type Node, readVolume, type Stores } from './support.js';

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
