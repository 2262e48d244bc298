/** Removal of a volume that has first writes which are not committed, cut short anywhere. */
import { beforeEach, describe, expect, it } from 'vitest';
import { decodeHeader, encodeHeader } from '../../../src/mapper/formats/v2.js';
import { errnoName, errnoOf } from '../../../src/sys/errno.js';
import type { SimulatedNotes } from '../../sim/notes.js';
import { checkInvariants } from './invariants.js';
import { type NodeOptions, settle, type TestClock } from './nodes.js';
import { BLOCK, endOf, NAME, PORT, SIZE, startScene, successorOf, watch, writeBlock } from './provisional-rig.js';
import { createSmall, failure, type Node, readVolume, type Stores } from './support.js';

let clock: TestClock;
let stores: Stores;
let notes: SimulatedNotes;
let node: Node;

const successor = (options: NodeOptions = {}): Node => successorOf({ clock, stores, notes, node }, options);
const write = (block: number, byte: number): Promise<void> => writeBlock(node, block, byte);
const done = <T>(promise: Promise<T>): Promise<T> => endOf(clock, promise);

beforeEach(async () => {
  ({ clock, stores, notes, node } = await startScene());
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
