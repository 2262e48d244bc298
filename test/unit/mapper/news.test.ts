/** A store that tells of changes by itself: nobody waits for the next look, and there are fewer of them. */
import { describe, expect, it } from 'vitest';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { A, B, settle, type TwoNodes, twoNodes } from './nodes.js';
import { createSmall, type Node, writeVolume } from './support.js';
import { type Bell, tellNews } from './telling.js';

const BLOCK = 256;

/** Two nodes that are told, and a volume. */
async function told(): Promise<TwoNodes & { bells: Record<string, Bell> }> {
  const nodes = twoNodes();
  const { a, b, clock } = nodes;
  for (const node of [a, b]) node.holders.set(500, async () => {});
  const bells = tellNews(clock, { [A]: a, [B]: b });
  await createSmall(a, 'volume', 4 * BLOCK, BLOCK);
  return { ...nodes, bells };
}

/** The first node writes, and its mapper knows by now that it is told. */
async function inUse({ a, clock }: TwoNodes): Promise<void> {
  await a.mapper.lease('volume', { write: true }, 500);
  await writeVolume(a, 'volume', 0, Buffer.from('first'));
  await clock.pass(350);
}

/** Counts what is asked about locks from now on. */
function count({ locks }: Node): Record<string, number> {
  const counts: Record<string, number> = {};
  locks.before = (operation) => {
    counts[operation] = (counts[operation] ?? 0) + 1;
  };
  return counts;
}

describe('what the store tells', () => {
  it('makes a loss known at once', async () => {
    const nodes = await told();
    const { a, bells, clock, stores } = nodes;
    await inUse(nodes);
    const at = clock.now();
    stores.maps.locks.set('volume', { owner: 'old_1002', since: 0 });
    bells[A].ring({ changed: ['volume'] });
    await settle();
    expect(a.mapper.status().lost).toBe(1);
    expect(clock.now()).toBe(at);
  });

  it('that comes while a look goes on is looked at right after it', async () => {
    const nodes = await told();
    const { a, bells, clock, stores } = nodes;
    await inUse(nodes);
    let go = (): void => {};
    const slow = new Promise<void>((resolve) => (go = resolve));
    let looks = 0;
    const { driver } = a.maps;
    const check = driver.checkLocks.bind(driver);
    driver.checkLocks = async (names, poll) => {
      const result = await check(names, poll);
      if (looks++ === 0) await slow;
      return result;
    };
    bells[A].ring({ changed: ['volume'] });
    await settle();
    stores.maps.locks.set('volume', { owner: 'old_1002', since: 0 });
    bells[A].ring({ changed: ['volume'] });
    await settle();
    expect(a.mapper.status().lost).toBe(0);
    const at = clock.now();
    go();
    await settle();
    expect(a.mapper.status().lost).toBe(1);
    expect(clock.now()).toBe(at);
  });

  it('wakes whoever waits for a lock, also when it comes while the lock is just being tried', async () => {
    for (const busy of [false, true]) {
      const nodes = await told();
      const { a, b, clock } = nodes;
      await inUse(nodes);
      const lease = b.mapper.lease('volume', { write: true }, 500);
      await clock.pass(3000);
      let go = (): void => {};
      if (busy) {
        const slow = new Promise<void>((resolve) => (go = resolve));
        b.locks.before = (operation) => (operation === 'holder' ? slow : undefined);
        await clock.pass(1000);
      }
      const at = clock.now();
      await a.mapper.close('volume');
      await settle();
      go();
      await settle();
      expect(await lease).toMatchObject({ granted: 'exclusive' });
      expect(clock.now()).toBe(at);
    }
  });

  it('lets unlock -f end as soon as the old holder has', async () => {
    const nodes = await told();
    const { a, b, clock } = nodes;
    await inUse(nodes);
    expect(await clock.until(b.mapper.unlock('volume', true), 5000)).toBeLessThanOrEqual(10);
    expect(a.mapper.status().lost).toBe(1);
  });

  it('hands a volume that is open shared over at once', async () => {
    const nodes = await told();
    const { a, b, clock } = nodes;
    await inUse(nodes);
    for (const node of [a, b]) await node.mapper.open('volume', undefined, true);
    await clock.pass(500);
    expect(await clock.until(b.mapper.lease('volume', { write: true }, 500), 5000)).toBeLessThanOrEqual(10);
  });
});

describe('how often the store is asked', () => {
  it('one question at a time while a lock is held, none without', async () => {
    const nodes = await told();
    const { a, bells, clock } = nodes;
    await clock.pass(10_000);
    expect(bells[B].questions).toEqual([]);
    await inUse(nodes);
    await a.mapper.open('volume', undefined, true);
    const counts = count(a);
    await clock.pass(12_000);
    expect(counts.news).toBeLessThanOrEqual(7);
    // Mail is not looked for: the store tells of it.
    expect(counts.check).toBeLessThanOrEqual(41);
    expect(counts.check).toBeGreaterThanOrEqual(38);
    expect(counts.poll).toBeUndefined();
    await a.mapper.close('volume');
    await clock.pass(2500);
    const { questions } = bells[A];
    const asked = questions.length;
    await clock.pass(10_000);
    expect(questions).toHaveLength(asked);
  });

  it('many locks may be as old as the answer to a poll, and a change of the map looks itself', async () => {
    const nodes = await told();
    const { a, clock } = nodes;
    await inUse(nodes);
    await clock.pass(3000);
    expect(a.renewed.get(500)! - clock.now()).toBeGreaterThan(2500);
    for (let i = 0; i < 64; i++) {
      await createSmall(a, `volume-${i}`, BLOCK, BLOCK);
      await a.mapper.open(`volume-${i}`);
    }
    await clock.pass(3000);
    expect(a.renewed.get(500)! - clock.now()).toBeGreaterThan(2000);
    expect(a.renewed.get(500)! - clock.now()).toBeLessThanOrEqual(2500);
    const counts = count(a);
    await writeVolume(a, 'volume', 2 * BLOCK, Buffer.from('checked'));
    expect(counts).toEqual({ check: 1 });
  });

  it('hardly ever where it tells nothing, and looks go on as they were', async () => {
    const nodes = twoNodes();
    const { a, clock } = nodes;
    await createSmall(a, 'volume', BLOCK, BLOCK);
    await a.mapper.open('volume');
    const counts = count(a);
    await clock.pass(59_000);
    expect(counts.news ?? 0).toBeLessThanOrEqual(1);
    expect(counts.poll).toBeUndefined();
    expect(counts.check).toBeGreaterThan(500);
  });

  it('once a second while asking fails, and again as before when it no longer does', async () => {
    const nodes = await told();
    const { a, bells, clock, stores } = nodes;
    await inUse(nodes);
    let failed = 0;
    a.locks.before = (operation) => {
      if (operation !== 'news') return;
      failed++;
      throw new SystemError(errnos.EIO, 'the blocker is in trouble');
    };
    await clock.pass(10_000);
    expect(failed).toBeGreaterThanOrEqual(7);
    expect(failed).toBeLessThanOrEqual(11);
    expect(a.warnings).toEqual([]);
    a.locks.before = () => {};
    await clock.pass(1500);
    stores.maps.locks.set('volume', { owner: 'old_1002', since: 0 });
    bells[A].ring({ changed: ['volume'] });
    await settle();
    expect(a.mapper.status().lost).toBe(1);
  });

  it('at most ten times a second when it answers at once and has nothing to say', async () => {
    const nodes = await told();
    const { a, bells, clock } = nodes;
    await inUse(nodes);
    bells[A].hasty = true;
    bells[A].ring({ mail: true });
    await settle();
    const counts = count(a);
    await clock.pass(5000);
    expect(counts.news).toBeLessThanOrEqual(51);
    expect(counts.news).toBeGreaterThan(40);
  });
});

it('a store that does not answer at all is in the log once, and so is that it does again', async () => {
  const nodes = await told();
  const { a, clock } = nodes;
  await inUse(nodes);
  let answers = (): void => {};
  const hung = new Promise<void>((resolve) => (answers = resolve));
  a.maps.before = () => hung;
  await clock.pass(20_000);
  expect(a.warnings).toEqual([
    'the locks cannot be looked at, so nothing is written until they can: no answer for 3 s',
  ]);
  // What is asked meanwhile waits, and fails for nobody.
  const write = a.mapper.mapWrite('volume', 3 * BLOCK, 1, 500);
  await clock.pass(60_000);
  expect(a.mapper.status()).toMatchObject({ lost: 0, locked: 1 });
  answers();
  await clock.until(write, 1000);
  await write;
  await clock.pass(400);
  expect(a.renewed.get(500)!).toBeGreaterThan(clock.now());
  expect(a.warnings).toHaveLength(1);
});
