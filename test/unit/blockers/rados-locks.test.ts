/** Locks on a real cluster: beside Ceph's own tools and the original's way, after crashes, and how their loss is noticed. */
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { randoms } from '../../../src/blockers/kit/context.js';
import type { RadosDriver } from '../../../src/blockers/rados/index.js';
import { type LockConnection, RadosLocks } from '../../../src/blockers/rados/locks.js';
import { connect } from '../../../src/rados/index.js';
import type { WriteStep } from '../../../src/rados/types.js';
import type { LockMail } from '../../../src/requests/locks.js';
import { monotonicMs } from '../../../src/sys/clock.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { hasCeph, useCeph } from '../../support/ceph.js';
import { driverProcess } from './rados-child.js';
import { radosDriver } from './rados-support.js';

const letter = (kind: LockMail['kind'], id: string): LockMail => ({ kind, name: 'web1', from: 'node2_1002', id });

/** The original's way to take a lock, from another client. */
const ORIGINAL = ['RadosLock', '--lock-cookie', 'foo', '--lock-tag', ''];

interface Info {
  name: string;
  type: string;
  tag: string;
  lockers: { name: string; cookie: string; description: string; expiration: string; addr: string }[];
}

describe.runIf(hasCeph())('locks on RADOS', () => {
  const ceph = useCeph();
  const open = (owner: string): Promise<RadosDriver> => radosDriver(ceph, { pool: 'maps', uniqueStr: owner });
  const rados = (...args: string[]): Promise<string> => ceph.rados('maps', ...args);
  const info = async (target: string): Promise<Info> =>
    JSON.parse(await rados('lock', 'info', `${target}_lock`, 'RadosLock'));

  it('a lock that the original took is respected, named after its client, and broken', async () => {
    const driver = await open('node1_1002');
    await rados('lock', 'get', 'theirs_lock', ...ORIGINAL);
    const [{ name }] = (await info('theirs')).lockers;
    expect(name).toMatch(/^client\.\d+$/);
    await expect(driver.acquire('theirs')).rejects.toMatchObject({ code: 'EBUSY' });
    await expect(driver.acquire('theirs')).rejects.toThrow(`theirs is locked by ${name}`);
    expect(await driver.lockHolder('theirs')).toEqual({ owner: name, since: null });
    await expect(driver.release('theirs', false)).rejects.toMatchObject({ code: 'EPERM' });
    expect((await driver.checkLocks(['theirs'])).lost).toEqual([
      { name: 'theirs', holder: { owner: name, since: null } },
    ]);
    expect(await driver.breakLock('theirs')).toEqual({ owner: name, since: null });
    expect((await info('theirs')).lockers).toMatchObject([{ cookie: 'foo', description: /^node1_1002 / }]);
    await driver.release('theirs', false);
    await rados('lock', 'get', 'theirs_lock', ...ORIGINAL);
    await driver.release('theirs', true);
    expect(await driver.lockHolder('theirs')).toBe(null);
  });

  it('ours is what Ceph’s tools see as the original’s, taken or broken; they break it', async () => {
    const driver = await open('node1_1002');
    const other = await open('node2_1002');
    const began = Date.now();
    await driver.acquire('ours');
    const stored = async (owner: string, client: RadosDriver): Promise<void> => {
      const { client: instance, addresses } = client.status() as { client: string; addresses: string[] };
      const { lockers, ...lock } = await info('ours');
      expect(lock).toEqual({ name: 'RadosLock', type: 'exclusive', tag: '' });
      const [{ description, ...locker }] = lockers;
      expect(lockers.length).toBe(1);
      expect(locker).toEqual({ name: instance, cookie: 'foo', expiration: '0.000000', addr: addresses[0] });
      const [name, since] = description.split(' ');
      expect(name).toBe(owner);
      expect(Date.parse(since)).toBeGreaterThanOrEqual(began);
    };
    await stored('node1_1002', driver);
    await other.breakLock('ours');
    await stored('node2_1002', other);
    expect(JSON.parse(await rados('lock', 'list', 'ours_lock')).locks).toEqual([{ name: 'RadosLock' }]);
    const busy = await ceph.tryRados('maps', ['lock', 'get', 'ours_lock', ...ORIGINAL]);
    expect(busy.stderr).toMatch(/16|busy/i);
    const [{ name }] = (await info('ours')).lockers;
    await rados('lock', 'break', 'ours_lock', 'RadosLock', name, '--lock-cookie', 'foo');
    expect(await other.lockHolder('ours')).toBe(null);
    expect((await other.checkLocks(['ours'])).lost).toEqual([{ name: 'ours', holder: null }]);
    await expect(other.release('ours', false)).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('a lock that was taken by force says from whom, until it is given up: whoever breaks it in turn must be sure of them all', async () => {
    const [first, second, third] = [
      await open('node1_1002'),
      await driverProcess(ceph, 'node6_1002'),
      await open('node7_1002'),
    ];
    await first.acquire('chain');
    expect(await second.call('breakLock', 'chain')).toEqual({ owner: 'node1_1002', since: expect.any(Number) });
    const broken = { owner: 'node6_1002', since: expect.any(Number), after: ['node1_1002'] };
    expect(await first.lockHolder('chain')).toEqual(broken);
    // Its successor knows it, too, and so does who takes it from that one.
    await second.kill();
    const successor = await driverProcess(ceph, 'node6_1002');
    expect(await successor.call('checkLocks', ['chain'])).toMatchObject({ lost: [] });
    expect(await successor.call('listLocks', null, 10)).toMatchObject({ locks: [{ ...broken, name: 'chain' }] });
    // It does not hand it to whoever comes: what was begun is gone on with first.
    await expect(successor.call('acquire', 'chain')).rejects.toThrow(/from node1_1002 by force/);
    expect(await third.breakLock('chain')).toEqual(broken);
    await third.acquire('chain');
    expect(await third.lockHolder('chain')).toMatchObject({ owner: 'node7_1002', after: ['node6_1002', 'node1_1002'] });
    // Who gets it back is sure of himself.
    await first.breakLock('chain');
    expect(await third.lockHolder('chain')).toMatchObject({ after: ['node7_1002', 'node6_1002'] });
    await first.release('chain', false);
    await first.acquire('chain');
    expect(await first.lockHolder('chain')).toEqual({ owner: 'node1_1002', since: expect.any(Number) });
  });

  it('a lock that several share, or that says nothing understandable, is respected, and broken', async () => {
    const driver = await open('node1_1002');
    for (const cookie of ['a', 'b']) {
      await rados('lock', 'get', 'odd_lock', 'RadosLock', '--lock-type', 'shared', '--lock-cookie', cookie);
    }
    await expect(driver.acquire('odd')).rejects.toMatchObject({ code: 'EBUSY' });
    await driver.breakLock('odd');
    expect((await info('odd')).lockers).toMatchObject([{ description: /^node1_1002 / }]);
    await rados('setxattr', 'odd_lock', 'lock.RadosLock', 'rubbish');
    await expect(driver.checkLocks(['odd'])).rejects.toThrow();
    await expect(driver.breakLock('odd')).rejects.toMatchObject({ code: 'EBADMSG' });
  });

  it('who waits for a lock hears of its release at once, ours or the original’s, and in time that there is none', async () => {
    const [driver, other] = [await open('node1_1002'), await open('node2_1002')];
    await driver.acquire('wanted');
    await expect(other.acquire('wanted')).rejects.toMatchObject({ code: 'EBUSY' });
    // That it is watched from now on: what happened before was not heard.
    expect(await other.nextNews(20_000)).toEqual({ changed: ['wanted'], mail: false });
    expect(await other.nextNews(1)).toEqual({ changed: [], mail: false });
    const news = other.nextNews(20_000);
    const began = monotonicMs();
    await driver.release('wanted', false);
    expect(await news).toEqual({ changed: ['wanted'], mail: false });
    console.log(`heard of a release ${(monotonicMs() - began).toFixed(1)} ms after it began`);
    await rados('lock', 'get', 'wanted_lock', ...ORIGINAL);
    await expect(other.acquire('wanted')).rejects.toMatchObject({ code: 'EBUSY' });
    const [{ name }] = (await info('wanted')).lockers;
    await rados('lock', 'break', 'wanted_lock', 'RadosLock', name, '--lock-cookie', 'foo');
    const more = other.nextNews(20_000);
    await rados('notify', 'wanted_lock', '');
    expect(await more).toEqual({ changed: ['wanted'], mail: false });
    await other.acquire('wanted');
  });

  it('a holder hears at once that its lock was broken, and its next poll says so', async () => {
    const [driver, other] = [await open('node1_1002'), await open('node2_1002')];
    await driver.acquire('mine');
    expect(await driver.checkLocks(['mine'], true)).toEqual({ lost: [], mail: [] });
    const began = monotonicMs();
    const news = driver.nextNews(20_000);
    await other.breakLock('mine');
    expect((await news).changed).toEqual(['mine']);
    expect((await driver.checkLocks(['mine'], true)).lost).toMatchObject([{ holder: { owner: 'node2_1002' } }]);
    const took = monotonicMs() - began;
    console.log(`loss known ${took.toFixed(1)} ms after the breaking began`);
    // By a look at the lock it would be known as well, but `news` would not be there: it waits for 20 s.
    expect(took).toBeLessThan(10_000);
  });

  it('a lock that is removed by hand, without a word to anybody, is missed by polls', async () => {
    const driver = await open('node1_1002');
    await driver.acquire('removed');
    await driver.checkLocks(['removed'], true);
    const [{ name }] = (await info('removed')).lockers;
    await rados('lock', 'break', 'removed_lock', 'RadosLock', name, '--lock-cookie', 'foo');
    const began = monotonicMs();
    while ((await driver.checkLocks(['removed'], true)).lost.length === 0) await delay(50);
    const took = monotonicMs() - began;
    console.log(`missed ${took.toFixed(0)} ms after it was removed`);
    // A second on a machine that does nothing else.
    expect(took).toBeLessThan(5000);
    await driver.acquire('removed');
    await rados('rm', 'removed_lock');
    expect((await driver.checkLocks(['removed'])).lost).toEqual([{ name: 'removed', holder: null }]);
  });

  it('a store that is full does not keep a node from starting, to delete something: it is on the list when there is space', async () => {
    const cluster = await connect({ conf: ceph.conf, id: ceph.user });
    onTestFinished(() => cluster.close());
    const pool = await cluster.pool('maps', ceph.namespace);
    let full = true;
    await rados('create', 'known_lock');
    // As Ceph does it: what is there can be changed, nothing is made.
    const narrow = new Proxy(pool, {
      get: (of, name) => {
        if (name === 'operate' && full) {
          return (object: string, steps: readonly WriteStep[]) =>
            object === 'known_lock'
              ? of.operate(object, steps)
              : Promise.reject(new SystemError(errnos.ENOSPC, 'full'));
        }
        return Reflect.get(of, name, of).bind?.(of) ?? Reflect.get(of, name, of);
      },
    });
    const connection: LockConnection = { cluster, pool: narrow, attempt: (work) => work(narrow) };
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    onTestFinished(() => void vi.useRealTimers());
    const locks = new RadosLocks({ owner: 'full_1002', connection, log: null });
    await locks.open();
    expect(await locks.lockHolder('any')).toBe(null);
    await expect(locks.acquire('any')).rejects.toMatchObject({ code: 'ENOSPC' });
    await locks.acquire('known');
    expect(await locks.lockHolder('known')).toMatchObject({ owner: 'full_1002' });
    full = false;
    vi.advanceTimersByTime(60_000);
    vi.useRealTimers();
    const other = await open('node2_1002');
    await expect
      .poll(() => other.fence('full_1002').catch(() => null))
      .toMatchObject({ clients: [expect.any(String)] });
    await locks.close();
  });

  it('without watches all is found by looking', async () => {
    const cluster = await connect({ conf: ceph.conf, id: ceph.user });
    onTestFinished(() => cluster.close());
    const pool = await cluster.pool('maps', ceph.namespace);
    let watches = 0;
    const deaf = new Proxy(pool, {
      get: (of, name) => {
        if (name !== 'watch') return Reflect.get(of, name, of).bind?.(of) ?? Reflect.get(of, name, of);
        return async () => {
          watches++;
          return { age: () => -107, end: async () => undefined };
        };
      },
    });
    const connection: LockConnection = { cluster, pool: deaf, attempt: (work) => work(deaf) };
    const locks = new RadosLocks({ owner: 'node1_1002', connection, log: null });
    await locks.open();
    const other = await open('node2_1002');
    await locks.acquire('mine-too');
    expect(await locks.checkLocks(['mine-too'], true)).toEqual({ lost: [], mail: [] });
    await other.breakLock('mine-too');
    expect((await locks.checkLocks(['mine-too'], true)).lost).toMatchObject([{ holder: { owner: 'node2_1002' } }]);
    await expect(locks.acquire('mine-too')).rejects.toMatchObject({ code: 'EBUSY' });
    await other.release('mine-too', false);
    await locks.acquire('mine-too');
    expect(watches).toBeGreaterThan(1);
    await locks.close();
  });

  it('a successor after kill -9 finds its locks, has them, and Ceph refuses what the dead one had under way', async () => {
    const child = await driverProcess(ceph, 'node3_1002');
    await child.call('acquire', 'kept');
    await child.call('acquire', 'broken');
    const before = (await child.call('status')) as { client: string; addresses: string[] };
    await child.kill();
    const other = await open('node2_1002');
    await expect(other.acquire('kept')).rejects.toThrow(/node3_1002/);
    await other.breakLock('broken');
    const driver = await open('node3_1002');
    const { locks } = await driver.listLocks(null, 10);
    expect(locks).toMatchObject([{ name: 'kept', owner: 'node3_1002' }]);
    expect((await driver.checkLocks(['kept', 'broken'])).lost).toMatchObject([
      { name: 'broken', holder: { owner: 'node2_1002' } },
    ]);
    const [{ name }] = (await info('kept')).lockers;
    expect(name).not.toBe(before.client);
    expect(name).toBe((driver.status() as { client: string }).client);
    expect(await ceph.ceph('osd', 'blocklist', 'ls')).toContain(before.addresses[0]);
    await driver.release('kept', false);
    await other.acquire('kept');
  });

  it('a client that was closed left its locks to its successor, and nobody is refused', async () => {
    const first = await open('node4_1002');
    await first.acquire('web1');
    const { addresses } = first.status() as { addresses: string[] };
    await first.close();
    const second = await open('node4_1002');
    await second.acquire('web1');
    expect((await second.listLocks(null, 10)).locks.map(({ name }) => name)).toEqual(['web1']);
    expect(await ceph.ceph('osd', 'blocklist', 'ls')).not.toContain(addresses[0]);
    // Another client may break and release it: it was really taken over.
    await second.release('web1', false);
  });

  it('a second node with the name of one that lives does not start; one that only looks alive is no hindrance', async () => {
    const child = await driverProcess(ceph, 'twin_1002');
    await child.call('acquire', 'twins');
    await expect(open('twin_1002')).rejects.toMatchObject({ code: 'EBUSY' });
    const { client } = (await child.call('status')) as { client: string };
    await expect(open('twin_1002')).rejects.toThrow(`in use by ${client} at `);
    // It was left alone, and only it is on the list.
    expect((await child.call('checkLocks', ['twins'])) as object).toEqual({ lost: [], mail: [] });
    expect((await child.call('status')) as object).toMatchObject({ client, blocklisted: 0 });
    const stored = await rados('getxattr', '.archipelago-clients-twin', 'clients');
    expect(JSON.parse(stored)).toMatchObject([{ instance: client, owner: 'twin_1002' }]);
    // As if it were of another machine: one that hangs does not answer.
    await rados('setxattr', '.archipelago-clients-twin', 'clients', stored.replace(/"boot":"[^"]*"/, '"boot":"other"'));
    child.stop();
    const began = monotonicMs();
    const driver = await open('twin_1002');
    console.log(`a predecessor on another machine was waited for: ${(monotonicMs() - began).toFixed(0)} ms`);
    expect(await driver.checkLocks(['twins'])).toEqual({ lost: [], mail: [] });
  });

  it('a lock that is broken to and fro is never free for a third', async () => {
    const [one, two, third] = [await open('node1_1002'), await open('node2_1002'), await open('node5_1002')];
    await one.acquire('contested');
    let done = false;
    let tries = 0;
    const wanting = (async () => {
      for (; !done; tries++) {
        await expect(third.acquire('contested')).rejects.toMatchObject({ code: 'EBUSY' });
      }
    })();
    for (let round = 0; round < 50; round++) {
      await two.breakLock('contested');
      await one.breakLock('contested');
    }
    done = true;
    await wanting;
    expect(tries).toBeGreaterThan(10);
    // Whoever wins each of these races, somebody else had it before, and it is one who has it then.
    const owners = new Set<string | undefined>();
    for (let round = 0; round < 10; round++) {
      await Promise.all([one, two, third].map((driver) => driver.breakLock('contested')));
      const holder = await one.lockHolder('contested');
      owners.add(holder?.owner);
      const lost = await Promise.all([one, two, third].map((driver) => driver.checkLocks(['contested'])));
      expect(lost.filter((check) => check.lost.length === 0).length).toBe(1);
    }
    expect(owners.has(undefined)).toBe(false);
  });

  it('200 random operations of three nodes, and of the original, end as a model says', async () => {
    const seed = Number(process.env.ARCHIPELAGO_TEST_SEED ?? Date.now() % 1_000_000);
    console.log(`seed ${seed} (ARCHIPELAGO_TEST_SEED)`);
    const next = randoms(seed);
    const owners = ['model1_1002', 'model2_1002', 'model3_1002'];
    const drivers = await Promise.all(owners.map(open));
    const locks = ['la', 'lb', 'lc', 'ld'];
    /** `unfinished`: taken by force by a process of the owner that has ended. `ours`: by the client that the owner is now. */
    const model = new Map<string, { owner: string; broken: boolean; unfinished: boolean; ours: boolean }>();
    const code = (work: Promise<unknown>): Promise<string> =>
      work.then(
        () => 'done',
        (error: { code: string }) => error.code,
      );
    for (let step = 0; step < 200; step++) {
      const [i, lock] = [next(3), locks[next(4)]];
      const [driver, owner, held] = [drivers[i], owners[i], model.get(lock)];
      const holder = held?.owner;
      const action = next(100);
      const what = `step ${step}: ${owner} ${action} ${lock} of ${holder}`;
      if (action < 30) {
        const wanted = !held || (holder === owner && !held.unfinished) ? 'done' : 'EBUSY';
        expect(await code(driver.acquire(lock)), what).toBe(wanted);
        if (!held) model.set(lock, { owner, broken: false, unfinished: false, ours: true });
        else if (wanted === 'done') held.ours = true;
      } else if (action < 55) {
        const wanted = !holder ? 'ENOENT' : holder === owner ? 'done' : 'EPERM';
        expect(await code(driver.release(lock, false)), what).toBe(wanted);
        if (wanted === 'done') model.delete(lock);
      } else if (action < 60) {
        expect(await code(driver.release(lock, true)), what).toBe(holder ? 'done' : 'ENOENT');
        model.delete(lock);
      } else if (action < 75) {
        expect((await driver.breakLock(lock))?.owner, what).toBe(holder);
        if (!held || holder !== owner)
          model.set(lock, { owner, broken: held !== undefined, unfinished: false, ours: true });
        else if (!held.ours) Object.assign(held, { unfinished: false, ours: true });
      } else if (action < 85) {
        const polled = (await driver.checkLocks(locks, true)).lost.map(({ name }) => name);
        const { lost } = await driver.checkLocks(locks);
        const wanted = locks.filter((name) => model.get(name)?.owner !== owner);
        for (const each of model.values()) if (each.owner === owner) each.ours = true;
        expect(lost.map(({ name }) => name).sort(), what).toEqual(wanted);
        for (const { name, holder: by } of lost) expect(by?.owner, what).toBe(model.get(name)?.owner);
        // What changed in the last half second a poll may not know yet; it makes nothing up.
        expect(wanted, what).toEqual(expect.arrayContaining(polled));
      } else if (action < 92) {
        const listed = (await driver.listLocks(null, 100)).locks.map(({ name }) => name);
        expect(listed, what).toEqual(locks.filter((name) => model.get(name)?.owner === owner));
      } else if (action < 97) {
        await driver.close();
        drivers[i] = await open(owner);
        for (const each of model.values()) {
          if (each.owner === owner) Object.assign(each, { unfinished: each.broken, ours: false });
        }
      } else if (!held) {
        await rados('lock', 'get', `${lock}_lock`, ...ORIGINAL);
        const [{ name }] = (await info(lock)).lockers;
        model.set(lock, { owner: name, broken: false, unfinished: false, ours: false });
      }
    }
  });

  it('mail to one who was killed holds nobody up, and what is repeated meanwhile does not pile up', async () => {
    const child = await driverProcess(ceph, 'node3_1002');
    const driver = await open('node2_1002');
    await driver.sendMail('node3_1002', letter('want', '1'));
    expect(await child.call('checkLocks', [])).toMatchObject({ mail: [letter('want', '1')] });
    await child.kill();
    const began = monotonicMs();
    for (let i = 0; i < 20; i++) await driver.sendMail('node3_1002', letter('broken', `${i}`));
    const took = monotonicMs() - began;
    console.log(`20 letters to a dead node took ${took.toFixed(0)} ms`);
    // Each would take a second if it were waited for.
    expect(took).toBeLessThan(10_000);
    // Another addressee is not behind them.
    const other = await open('node6_1002');
    await driver.sendMail('node6_1002', letter('gone', '1'));
    expect((await other.checkLocks([])).mail).toEqual([letter('gone', '1')]);
  });

  it('mail wakes its addressee; news are told once; rubbish is passed over', async () => {
    const [driver, other] = [await open('node1_1002'), await open('node2_1002')];
    const news = [other.nextNews(20_000), other.nextNews(20_000)];
    await driver.sendMail('node2_1002', letter('want', '1'));
    for (const each of news) expect(await each).toEqual({ changed: [], mail: true });
    expect(await other.nextNews(1)).toEqual({ changed: [], mail: false });
    expect((await other.checkLocks([], true)).mail).toEqual([letter('want', '1')]);
    for (const text of ['', 'null', '[]', '{"kind":"want"}', '{"changed":7}', '{'.repeat(99)]) {
      await rados('notify', '.archipelago-mail-node2_1002', text);
    }
    expect(await other.nextNews(1)).toEqual({ changed: [], mail: false });
    expect(await other.checkLocks([])).toEqual({ lost: [], mail: [] });
    const closing = other.nextNews(20_000);
    await other.close();
    expect(await closing).toEqual({ changed: [], mail: false });
  });
});
