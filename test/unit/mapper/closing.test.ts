/** When volumes are closed: what other clients use stays as it is, and what could not be closed is tried again. */
import { beforeEach, describe, expect, it } from 'vitest';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { A, B, startNode, type TwoNodes, twoNodes } from './nodes.js';
import { createSmall, failure, writeVolume } from './support.js';

const BLOCK = 256;
const PORT = 500;
const VOLUME = 'volume';

let nodes: TwoNodes;
let revoked: number;

const holder = (): string | undefined => nodes.stores.maps.locks.get(VOLUME)?.owner;
const lease = (): Promise<unknown> => nodes.a.mapper.lease(VOLUME, { write: true }, PORT);
const leave = (): Promise<void> => nodes.a.mapper.close(VOLUME, true);
const unclosed = async (): Promise<unknown> => (await nodes.a.mapper.lockState(VOLUME)).unclosed;

beforeEach(async () => {
  nodes = twoNodes();
  const { a } = nodes;
  revoked = 0;
  await createSmall(a, VOLUME, 4 * BLOCK, BLOCK);
  a.holders.set(PORT, async () => void revoked++);
  await lease();
  await writeVolume(a, VOLUME, 0, Buffer.from('first'));
});

describe('a volume that clients of two endpoints have open', () => {
  beforeEach(() => void nodes.a.used.add(VOLUME));

  it('keeps its lock until the last of them leaves, whose endpoint asks last', async () => {
    const { a, stores } = nodes;
    const lock = stores.maps.locks.get(VOLUME);
    await expect(leave()).rejects.toEqual(failure('EBUSY', 'other clients'));
    expect(stores.maps.locks.get(VOLUME)).toBe(lock);
    expect(revoked).toBe(0);
    expect(await unclosed()).toBeNull();
    a.used.clear();
    await leave();
    expect(holder()).toBeUndefined();
  });

  it('keeps it also when the second comes while it is being closed', async () => {
    const { a, stores } = nodes;
    a.used.clear();
    const lock = stores.maps.locks.get(VOLUME);
    // It has read by the lease that is just taken back.
    a.holders.set(PORT, async () => void a.used.add(VOLUME));
    await expect(leave()).rejects.toEqual(failure('EBUSY', 'other clients'));
    expect(stores.maps.locks.get(VOLUME)).toBe(lock);
  });

  it('stays lost for those who are still there: they go on by what they have cached', async () => {
    const { a, stores, clock } = nodes;
    stores.maps.locks.set(VOLUME, { owner: B, since: 0 });
    await clock.pass(1000);
    await expect(leave()).rejects.toEqual(failure('EBUSY'));
    stores.maps.locks.clear();
    await expect(lease()).rejects.toEqual(failure('EIO', 'may be lost'));
    a.used.clear();
    await leave();
    expect(await lease()).toMatchObject({ granted: 'exclusive' });
  });

  it('is closed all the same for who asks for that', async () => {
    await nodes.a.mapper.close(VOLUME);
    expect(holder()).toBeUndefined();
  });

  it('keeps its lock over a restart of the mapper', async () => {
    const { a, b, clock, stores } = nodes;
    for (const client of [a.maps, a.blocks]) client.before = () => new Promise(() => {});
    // Neither a registry nor a living composer tells it that.
    const next = startNode(stores, clock, A, { prepare: (node) => void node.used.add(VOLUME) });
    await clock.pass(1000);
    expect(holder()).toBe(A);
    await expect(b.mapper.open(VOLUME)).rejects.toEqual(failure('EBUSY', A));
    next.used.clear();
    await next.mapper.close(VOLUME, true);
    expect(holder()).toBeUndefined();
  });
});

describe('a lock that cannot be given back when the last client leaves', () => {
  let tries: number;
  let works: boolean;

  beforeEach(async () => {
    tries = 0;
    works = false;
    nodes.a.locks.before = (operation) => {
      if (operation !== 'release') return;
      tries++;
      if (!works) throw new SystemError(errnos.EACCES, 'the directory belongs to somebody else');
    };
    await expect(leave()).rejects.toEqual(failure('EACCES'));
  });

  it('is given back as soon as that works again, and lock --show tells until then', async () => {
    const { a, clock } = nodes;
    expect(await unclosed()).toMatchObject({ why: expect.stringContaining('somebody else') });
    await clock.pass(5000);
    expect(holder()).toBe(A);
    expect(tries).toBeGreaterThan(2);
    works = true;
    await clock.pass(5000);
    expect(holder()).toBeUndefined();
    expect(await unclosed()).toBeNull();
    expect(a.warnings).toEqual([]);
    // Nothing more is tried then.
    const done = tries;
    await clock.pass(600_000);
    expect(tries).toBe(done);
  });

  it('is tried ever less often, but each minute at least', async () => {
    await nodes.clock.pass(600_000);
    expect(tries).toBeGreaterThan(12);
    expect(tries).toBeLessThan(20);
    works = true;
    await nodes.clock.pass(61_000);
    expect(holder()).toBeUndefined();
  });

  it('stays with a client that comes before', async () => {
    await lease();
    works = true;
    await nodes.clock.pass(600_000);
    expect(holder()).toBe(A);
    expect(await unclosed()).toBeNull();
    await leave();
    expect(holder()).toBeUndefined();
  });

  it('stays with a client that has the volume open and asked for nothing yet', async () => {
    nodes.a.used.add(VOLUME);
    works = true;
    await nodes.clock.pass(600_000);
    expect(holder()).toBe(A);
    nodes.a.used.clear();
    await leave();
    expect(holder()).toBeUndefined();
  });

  it('is left alone by a mapper that stops', async () => {
    const stopped = nodes.a.mapper.stop();
    await nodes.clock.until(stopped, 5000);
    const done = tries;
    await nodes.clock.pass(600_000);
    expect(tries).toBe(done);
  });
});

describe('an endpoint that does not tell whether it has clients', () => {
  it('keeps the lock where it is until it does', async () => {
    const { a, clock } = nodes;
    let answers = false;
    a.used.has = () => {
      if (!answers) throw new SystemError(errnos.ETIMEDOUT, 'the endpoint at port 1030 does not tell');
      return false;
    };
    await expect(leave()).rejects.toEqual(failure('ETIMEDOUT', 'does not tell'));
    expect(revoked).toBe(0);
    await clock.pass(10_000);
    expect(holder()).toBe(A);
    expect(await unclosed()).toMatchObject({ why: expect.stringContaining('does not tell') });
    answers = true;
    await clock.pass(10_000);
    expect(holder()).toBeUndefined();
  });
});
