/** What a mapper does when a lock is taken away from it: nothing more. */
import { describe, expect, it } from 'vitest';
import { forOnce } from '../../../src/requests/once.js';
import { Flag } from '../../../src/requests/ops.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { A, B, settle, type TwoNodes, twoNodes } from './nodes.js';
import { createSmall, failure, readVolume, type Stores, writeVolume } from './support.js';

const BLOCK = 256;
const LOST = failure('EIO', 'what was written here since the last flush may be lost; close it');

/** All that the stores hold, for comparison. */
const content = ({ maps, blocks }: Stores): string =>
  JSON.stringify(
    [maps, blocks].map(({ objects }) => [...objects].map(([name, bytes]) => [name, bytes.toString('hex')])),
  );

/** A volume that port 500 of the first node writes. */
async function inUse(nodes: TwoNodes, name = 'volume'): Promise<{ flags: number[] }> {
  const { a } = nodes;
  const flags: number[] = [];
  await createSmall(a, name, 4 * BLOCK, BLOCK);
  a.holders.set(500, async (_volume, given) => void flags.push(given));
  await a.mapper.lease(name, { write: true }, 500);
  await writeVolume(a, name, 0, Buffer.from('first'));
  return { flags };
}

/** Takes the lock as a node does that knows nothing of messages: the file goes, another comes. */
function steal({ stores }: TwoNodes, name = 'volume', owner: string | null = 'old_1002'): void {
  stores.maps.locks.delete(name);
  if (owner !== null) stores.maps.locks.set(name, { owner, since: 0 });
}

describe('a lock that was taken away', () => {
  it('is missed within a second, and then everything of the volume fails until it is closed', async () => {
    const nodes = twoNodes();
    const { a, clock, stores } = nodes;
    const { flags } = await inUse(nodes);
    steal(nodes);
    const before = content(stores);
    await clock.pass(1000);
    expect(flags).toEqual([Flag.LOST]);
    expect(a.mapper.status()).toMatchObject({ locked: 0, lost: 1 });
    expect(a.warnings.join()).toContain('old_1002 holds it now');
    const { mapper } = a;
    const refused = [
      mapper.lease('volume', { write: false }, 500),
      mapper.lease('volume', { write: true }, 500),
      mapper.mapRead('volume', 0, 1),
      mapper.mapWrite('volume', BLOCK, 1, 500),
      mapper.mapZero('volume', 0, BLOCK, 500),
      mapper.mapFetch('volume', 0, 1, 4096),
      mapper.mapStatus('volume', { what: 'depth' }, 0, BLOCK, 4096),
      mapper.flush('volume'),
      mapper.flush('volume', true),
      mapper.snapshot('volume', 'the-snapshot'),
      mapper.rename('volume', 'renamed'),
      mapper.resize('volume', 8 * BLOCK, false),
      mapper.remove('volume'),
      mapper.lock('volume'),
    ];
    for (const each of refused) await expect(each).rejects.toEqual(LOST);
    await expect(mapper.lease('volume', { write: true }, 500)).rejects.toThrow(/was taken by old_1002 at \d{4}-/);
    expect((await mapper.stat('volume')).lost).toMatchObject({ holder: 'old_1002' });
    expect(content(stores)).toBe(before);
    // Closed by a node that does not hold it: nothing of the new holder is touched.
    await mapper.close('volume', true);
    expect(stores.maps.locks.get('volume')?.owner).toBe('old_1002');
    expect(await mapper.lease('volume', { write: false }, 500)).toMatchObject({ granted: 'none' });
    stores.maps.locks.clear();
    expect(await mapper.lease('volume', { write: true }, 500)).toMatchObject({ granted: 'exclusive' });
  });

  it('keeps a flush from being acknowledged, and any entry from being written, however short ago it was', async () => {
    for (const attempt of ['flush', 'copy-up', 'zero', 'lease', 'snapshot', 'resize'] as const) {
      const nodes = twoNodes();
      const { mapper } = nodes.a;
      await inUse(nodes);
      steal(nodes);
      const { objects } = nodes.stores.maps;
      const maps = JSON.stringify([...objects].map(([name, bytes]) => [name, bytes.toString('hex')]));
      const attempts = {
        flush: () => mapper.flush('volume', true),
        'copy-up': () => mapper.mapWrite('volume', 2 * BLOCK, 1, 500),
        zero: () => mapper.mapZero('volume', 0, BLOCK, 500),
        lease: () => mapper.lease('volume', { write: true }, 500),
        snapshot: () => mapper.snapshot('volume', 'the-snapshot'),
        resize: () => mapper.resize('volume', 8 * BLOCK, false),
      };
      await expect(attempts[attempt](), attempt).rejects.toEqual(LOST);
      expect(JSON.stringify([...objects].map(([name, bytes]) => [name, bytes.toString('hex')]))).toBe(maps);
    }
  });

  it('ends an operation at its next step, also when somebody opens the volume anew meanwhile', async () => {
    const nodes = twoNodes();
    const { a, clock, stores } = nodes;
    await inUse(nodes);
    let go = (): void => {};
    const copying = new Promise<void>((resolve) => (go = resolve));
    a.blocks.before = (operation) => (operation === 'reset' ? copying : undefined);
    const write = a.mapper.mapWrite('volume', BLOCK, 1, 500);
    write.catch(() => {});
    await settle();
    steal(nodes, 'volume', null);
    await clock.pass(1000);
    const reopened = a.mapper.open('volume');
    await settle();
    expect(stores.maps.locks.size).toBe(0);
    go();
    await expect(write).rejects.toEqual(LOST);
    await reopened;
    expect(stores.maps.locks.get('volume')?.owner).toBe(A);
    expect((await a.mapper.mapRead('volume', BLOCK, 1))[0].zero).toBe(true);
  });

  it('does not concern other volumes', async () => {
    const nodes = twoNodes();
    const { a, clock } = nodes;
    await inUse(nodes);
    await inUse(nodes, 'second');
    steal(nodes);
    await clock.pass(1000);
    await writeVolume(a, 'second', BLOCK, Buffer.from('goes on'));
    await a.mapper.flush('second', true);
    expect((await readVolume(a, 'second', BLOCK, 7)).toString()).toBe('goes on');
  });

  it('is no loss when it is just being released', async () => {
    const nodes = twoNodes();
    const { a, clock } = nodes;
    await inUse(nodes);
    let go = (): void => {};
    const checking = new Promise<void>((resolve) => (go = resolve));
    let looks = 0;
    a.locks.before = (operation) => (operation === 'check' && looks++ === 0 ? checking : undefined);
    await clock.pass(500);
    await a.mapper.close('volume');
    go();
    await clock.pass(500);
    expect(a.mapper.status()).toMatchObject({ lost: 0, locked: 0 });
    expect(a.warnings).toEqual([]);
  });

  it('is no loss when a look finds the lock gone before its release is answered', async () => {
    const nodes = twoNodes();
    const { a, clock, stores } = nodes;
    await inUse(nodes);
    let go = (): void => {};
    const answering = new Promise<void>((resolve) => (go = resolve));
    const { driver } = a.maps;
    const release = driver.release.bind(driver);
    driver.release = async (...args) => {
      await release(...args);
      await answering;
    };
    let look = (): void => {};
    const looking = new Promise<void>((resolve) => (look = resolve));
    let looks = 0;
    a.locks.before = (operation) => (operation === 'check' && looks++ === 0 ? looking : undefined);
    await clock.pass(500);
    const closing = a.mapper.close('volume');
    await settle();
    expect(stores.maps.locks.size).toBe(0);
    look();
    await settle();
    expect(a.mapper.status()).toMatchObject({ lost: 0 });
    go();
    await closing;
    expect(a.mapper.status()).toMatchObject({ lost: 0, locked: 0 });
    expect(a.warnings).toEqual([]);
  });
});

describe('a store that does not answer', () => {
  it('lets leases run out, and requests wait instead of failing', async () => {
    const nodes = twoNodes();
    const { a, clock } = nodes;
    await inUse(nodes);
    await clock.pass(1000);
    const renewed = a.renewed.get(500)!;
    expect(renewed - clock.now()).toBeGreaterThan(2500);
    expect(renewed - clock.now()).toBeLessThanOrEqual(3000);
    let broken = true;
    a.locks.before = (operation) => {
      if (operation === 'check' && broken) throw new SystemError(errnos.EIO, 'the server does not answer');
    };
    await clock.pass(5000);
    expect(a.renewed.get(500)!).toBeLessThan(clock.now());
    expect(a.warnings.filter((line) => line.includes('the server does not answer'))).toHaveLength(1);
    // Nothing is known, so nothing is changed; the lock is not lost either.
    await expect(a.mapper.mapWrite('volume', 2 * BLOCK, 1, 500)).rejects.toEqual(failure('EIO', 'does not answer'));
    broken = false;
    await clock.pass(1000);
    expect(a.renewed.get(500)!).toBeGreaterThan(clock.now());
    await writeVolume(a, 'volume', 2 * BLOCK, Buffer.from('again'));
    expect(a.mapper.status()).toMatchObject({ lost: 0, locked: 1 });
  });

  it('comes to a request of the mapper too late: the lock is looked at, and the request sent again', async () => {
    const nodes = twoNodes();
    const { a, clock } = nodes;
    await inUse(nodes);
    let late = 0;
    a.blocks.before = async (operation) => {
      if (operation === 'reset' && late++ === 0) await clock.pass(4000);
    };
    const times: string[] = [];
    a.locks.before = (operation) => void times.push(operation);
    await writeVolume(a, 'volume', 3 * BLOCK, Buffer.from('late'));
    expect(late).toBe(2);
    expect(times).toContain('check');
    expect((await readVolume(a, 'volume', 3 * BLOCK, 4)).toString()).toBe('late');
  });
});

describe('unlock', () => {
  it('of what nobody had locked does not take the lock from a client that comes at the same time', async () => {
    const { a, clock, stores } = twoNodes();
    await createSmall(a, 'volume', 4 * BLOCK, BLOCK);
    await clock.until(a.mapper.close('volume'), 1000);
    a.holders.set(500, async () => {});
    let lease: Promise<unknown> = Promise.resolve();
    a.locks.before = async (operation) => {
      if (operation !== 'release') return;
      a.locks.before = () => {};
      lease = a.mapper.lease('volume', { write: true }, 500);
      await settle();
    };
    await expect(a.mapper.unlock('volume', false)).rejects.toEqual(failure('ENOENT'));
    expect(await lease).toMatchObject({ granted: 'exclusive' });
    await clock.pass(1000);
    expect(stores.maps.locks.get('volume')?.owner).toBe(A);
    expect(a.mapper.status()).toMatchObject({ locked: 1, lost: 0 });
  });
});

describe('unlock -f', () => {
  it('returns when the old holder says that it has ended, after its composer and its operations', async () => {
    const nodes = twoNodes();
    const { a, b, clock, stores } = nodes;
    await inUse(nodes);
    let drained = (): void => {};
    const draining = new Promise<void>((resolve) => (drained = resolve));
    a.holders.set(500, () => draining);
    const unlock = b.mapper.unlock('volume', true);
    await clock.pass(1000);
    expect(a.mapper.status().lost).toBe(1);
    expect(stores.maps.locks.get('volume')?.owner).toBe(B);
    drained();
    expect(await clock.until(unlock, 1000)).toBeLessThan(500);
    expect(await unlock).toMatchObject({ holder: A, confirmed: true });
    expect(stores.maps.locks.size).toBe(0);
  });

  it('waits for an old holder that had just got the lock and was about to use it', async () => {
    const nodes = twoNodes();
    const { a, b, clock } = nodes;
    await inUse(nodes, 'second');
    await createSmall(a, 'volume', BLOCK, BLOCK);
    let go = (): void => {};
    const slow = new Promise<void>((resolve) => (go = resolve));
    a.blocks.before = (operation) => (operation === 'forget' ? slow : undefined);
    const lease = a.mapper.lease('volume', { write: true }, 500);
    await settle();
    let over = false;
    const unlock = b.mapper.unlock('volume', true).then(() => (over = true));
    await clock.pass(2000);
    expect(over).toBe(false);
    go();
    // What is granted now was good when the lock was taken: it must end before the other node goes on.
    await lease.catch(() => {});
    const writing = a.mapper.mapWrite('volume', 0, 1, 500).then(
      () => expect(over).toBe(false),
      () => {},
    );
    await clock.until(unlock, 1000);
    await writing;
    await expect(a.mapper.mapWrite('volume', 0, 1, 500)).rejects.toEqual(LOST);
  });

  it('takes half a second when all is well', async () => {
    const nodes = twoNodes();
    await inUse(nodes);
    expect(await nodes.clock.until(nodes.b.mapper.unlock('volume', true), 5000)).toBeLessThanOrEqual(500);
  });

  it('waits five seconds for a holder that does not answer, and nobody uses the lock meanwhile', async () => {
    const nodes = twoNodes();
    const { b, clock, stores } = nodes;
    await createSmall(b, 'volume', BLOCK, BLOCK);
    steal(nodes);
    const unlock = b.mapper.unlock('volume', true);
    await clock.pass(4900);
    await expect(b.mapper.open('volume')).rejects.toEqual(failure('EBUSY', 'is just being broken'));
    expect(await b.mapper.lease('volume', { write: false }, 500)).toMatchObject({ granted: 'none' });
    expect(stores.maps.locks.get('volume')?.owner).toBe(B);
    // Who asks as well gets the same answer.
    const again = b.mapper.unlock('volume', true);
    await clock.pass(200);
    expect(await unlock).toMatchObject({ holder: 'old_1002', confirmed: false, waitedMs: 5000 });
    expect(await again).toEqual(await unlock);
    expect(stores.maps.locks.size).toBe(0);
    await b.mapper.open('volume');
  });

  it('waits for the old holder also when somebody asks again while the lock is just being taken', async () => {
    for (const force of [true, false]) {
      const nodes = twoNodes();
      const { a, b, clock, stores } = nodes;
      await inUse(nodes);
      // The old holder stands still, and may have writes under way.
      a.locks.before = () => new Promise(() => {});
      const unlock = b.mapper.unlock('volume', true);
      let again: Promise<unknown> | null = null;
      b.locks.before = (operation) => {
        if (operation !== 'holder') return;
        b.locks.before = async (next) => {
          // With force: when this is answered the lock is this node's.
          if (force && next === 'check') while (stores.maps.locks.get('volume')?.owner !== B) await settle();
        };
        again = b.mapper.unlock('volume', force);
      };
      await clock.pass(4900);
      expect(stores.maps.locks.get('volume')?.owner, `force: ${force}`).toBe(B);
      await clock.until(unlock, 1000);
      expect(await unlock).toMatchObject({ holder: A, confirmed: false });
      expect(await again).toEqual(await unlock);
    }
  });

  it('waits for the old holder also when the blocker died before its answer and found the lock taken the second time', async () => {
    const nodes = twoNodes();
    const { b, clock, stores } = nodes;
    await createSmall(b, 'volume', BLOCK, BLOCK);
    steal(nodes);
    b.locks.before = (operation) => {
      if (operation === 'break') stores.maps.locks.set('volume', { owner: B, since: 0 });
    };
    const unlock = b.mapper.unlock('volume', true);
    await clock.pass(4900);
    expect(stores.maps.locks.get('volume')?.owner).toBe(B);
    await clock.pass(200);
    expect(await unlock).toMatchObject({ holder: 'old_1002', confirmed: false, waitedMs: 5000 });
  });

  it('waits for the old holder also when breaking failed half-way, whoever asks again', async () => {
    const nodes = twoNodes();
    const { b, clock, stores } = nodes;
    await createSmall(b, 'volume', BLOCK, BLOCK);
    steal(nodes);
    let reachable = true;
    b.locks.before = (operation) => {
      if (operation === 'break') {
        stores.maps.locks.set('volume', { owner: B, since: 0 });
        reachable = false;
      }
      if (!reachable) throw new SystemError(errnos.EIO, 'the server does not answer');
    };
    await expect(b.mapper.unlock('volume', true)).rejects.toEqual(failure('EIO', 'does not answer'));
    reachable = true;
    b.locks.before = () => {};
    await expect(b.mapper.open('volume')).rejects.toEqual(failure('EBUSY', 'is just being broken'));
    const again = b.mapper.unlock('volume', true);
    await clock.pass(4900);
    expect(stores.maps.locks.get('volume')?.owner).toBe(B);
    await clock.until(again, 6000);
    expect(await again).toMatchObject({ holder: 'old_1002', confirmed: false });
    expect(stores.maps.locks.size).toBe(0);
  });

  it("that is delivered again after it was done breaks nobody else's lock", async () => {
    const nodes = twoNodes();
    const { a, b, clock, stores } = nodes;
    await createSmall(b, 'volume', BLOCK, BLOCK);
    steal(nodes);
    const once = forOnce();
    await clock.until(b.mapper.unlock('volume', true, once), 6000);
    await a.mapper.open('volume');
    expect(await b.mapper.unlock('volume', true, once)).toMatchObject({ waitedMs: 0 });
    await a.mapper.flush('volume', true);
    // The same for one that gave up its own lock.
    const own = forOnce();
    await a.mapper.unlock('volume', true, own);
    await b.mapper.open('volume');
    await a.mapper.unlock('volume', true, own);
    expect(stores.maps.locks.get('volume')?.owner).toBe(B);
    // One that is new breaks it.
    const other = a.mapper.unlock('volume', true);
    await clock.until(other, 6000);
    expect(await other).toMatchObject({ holder: B });
  });

  it('of a lock that is itself being broken waits for the first holder, too', async () => {
    const nodes = twoNodes();
    const { a, b, clock } = nodes;
    await createSmall(a, 'volume', BLOCK, BLOCK);
    steal(nodes);
    const first = a.mapper.unlock('volume', true);
    await clock.pass(1000);
    const second = b.mapper.unlock('volume', true);
    expect(await clock.until(second, 6000)).toBeGreaterThan(4000 - 50);
    await clock.until(first, 6000);
  });

  it('of an own lock closes the volume here, of none says so; without force another node keeps its own', async () => {
    const nodes = twoNodes();
    const { a, b, stores } = nodes;
    await inUse(nodes);
    await expect(b.mapper.unlock('volume', false)).rejects.toEqual(failure('EPERM', A));
    expect(await a.mapper.unlock('volume', true)).toEqual({ holder: null, confirmed: true, waitedMs: 0, fenced: null });
    expect(stores.maps.locks.size).toBe(0);
    for (const force of [true, false]) {
      await expect(b.mapper.unlock('volume', force)).rejects.toEqual(failure('ENOENT', 'not locked'));
    }
    await b.mapper.lock('no-volume');
    expect(stores.maps.locks.get('no-volume')?.owner).toBe(B);
    await b.mapper.close('no-volume', true);
    expect(stores.maps.locks.size).toBe(1);
    await b.mapper.unlock('no-volume', false);
    expect(stores.maps.locks.size).toBe(0);
  });
});
