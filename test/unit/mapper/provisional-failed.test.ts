/** Commits of first writes that were asked for and failed: they are tried again, whoever is gone by then. */
import { beforeEach, describe, expect, it } from 'vitest';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import type { SimulatedNotes } from '../../sim/notes.js';
import { settle, type TestClock } from './nodes.js';
import { BLOCK, endOf, filled, NAME, PORT, SIZE, startScene, storedIn, watch, writeBlock } from './provisional-rig.js';
import { failure, type Node, type Stores } from './support.js';

let clock: TestClock;
let stores: Stores;
let notes: SimulatedNotes;
let node: Node;

const asStored = (): Promise<Buffer> => storedIn(stores);
const write = (block: number, byte: number): Promise<void> => writeBlock(node, block, byte);
const done = <T>(promise: Promise<T>): Promise<T> => endOf(clock, promise);

beforeEach(async () => {
  ({ clock, stores, notes, node } = await startScene());
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
