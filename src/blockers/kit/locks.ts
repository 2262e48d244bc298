/** Kit: locks. */
import type { LockMail } from '../../requests/locks.js';
import type { Driver } from '../driver.js';
import type { Kit } from './context.js';

/** All locks of a driver's owner, page by page. */
async function lockNames(driver: Driver, limit: number): Promise<string[]> {
  const names: string[] = [];
  for (let cursor: string | null = null; ; ) {
    const page = await driver.listLocks(cursor, limit);
    names.push(...page.locks.map(({ name }) => name));
    cursor = page.cursor;
    if (cursor === null) return names.sort();
  }
}

const letter = (kind: LockMail['kind'], id: string): LockMail => ({ kind, name: 'volume1', from: 'kit_1000', id });

export function lockTests({ expect, group, test }: Kit): void {
  group('locks', () => {
    test('a lock is taken once, again by its owner, and refused to others by name', async (driver, store) => {
      const other = await store.another('kit_10001');
      expect(await driver.lockHolder('volume1')).toBe(null);
      await driver.acquire('volume1');
      await driver.acquire('volume1');
      expect(await other.lockHolder('volume1')).toMatchObject({ owner: 'kit_1000' });
      await expect(other.acquire('volume1')).rejects.toMatchObject({ code: 'EBUSY' });
      await other.acquire('volume1').catch((error: Error) => expect(error.message).toMatch(/kit_1000\b/));
      await expect(other.release('volume1', false)).rejects.toMatchObject({ code: 'EPERM' });
      await driver.release('volume1', false);
      await other.acquire('volume1');
      await expect(driver.acquire('volume1')).rejects.toMatchObject({ code: 'EBUSY' });
    });

    test('an owner whose name begins like the holder’s is another owner', async (driver, store) => {
      const longer = await store.another('kit_10001');
      await longer.acquire('volume1');
      await expect(driver.acquire('volume1')).rejects.toMatchObject({ code: 'EBUSY' });
      await expect(driver.release('volume1', false)).rejects.toMatchObject({ code: 'EPERM' });
      expect(await driver.lockHolder('volume1')).toMatchObject({ owner: 'kit_10001' });
    });

    test('a forced release removes another owner’s lock; releasing no lock is ENOENT', async (driver, store) => {
      const other = await store.another('other_1000');
      await other.acquire('volume1');
      await driver.release('volume1', true);
      expect(await driver.lockHolder('volume1')).toBe(null);
      await expect(driver.release('volume1', true)).rejects.toMatchObject({ code: 'ENOENT' });
      await expect(driver.release('volume1', false)).rejects.toMatchObject({ code: 'ENOENT' });
    });

    test('the mark of a lock is the same for its owner’s processes while it is held, and another one each time it is taken', async (driver, store) => {
      const other = await store.another('other_1000');
      const mark = async (asked: Driver): Promise<string | undefined> => (await asked.lockHolder('volume1'))?.mark;
      await driver.acquire('volume1');
      const first = await mark(driver);
      // Not where the store cannot tell.
      if (first === undefined) return;
      const again = await store.another('kit_1000');
      expect(first.length > 0 && first.length <= 128).toBe(true);
      await again.acquire('volume1');
      expect([await mark(driver), await mark(again), await mark(other)]).toEqual([first, first, first]);
      const marks = new Set([first]);
      await driver.release('volume1', false);
      const takes = [
        () => driver.acquire('volume1'),
        () => other.breakLock('volume1'),
        () => driver.breakLock('volume1'),
      ];
      for (const take of takes) {
        // Times of files go by the kernel's tick, of at most 10 ms.
        await new Promise((resolve) => setTimeout(resolve, 20));
        await take();
        marks.add((await mark(driver)) ?? first);
      }
      expect(marks.size).toBe(4);
    });

    test('of many that want a lock at once, one gets it', async (driver, store) => {
      const drivers = [driver, ...(await Promise.all([1, 2, 3].map((i) => store.another(`node${i}_1000`))))];
      for (let round = 0; round < 10; round++) {
        const outcomes = await Promise.allSettled(drivers.map((one) => one.acquire('wanted')));
        const winners = drivers.filter((_, i) => outcomes[i].status === 'fulfilled');
        expect(winners.length).toBe(1);
        await winners[0].release('wanted', false);
      }
    });

    test('a broken lock is the breaker’s at once; whose it was is told, and its holder finds it lost', async (driver, store) => {
      const other = await store.another('other_1000');
      const third = await store.another('third_1000');
      await driver.acquire('volume1');
      await driver.acquire('volume2');
      expect(await driver.checkLocks(['volume1', 'volume2'])).toEqual({ lost: [], mail: [] });
      expect(await other.breakLock('volume1')).toMatchObject({ owner: 'kit_1000' });
      expect(await driver.lockHolder('volume1')).toMatchObject({ owner: 'other_1000' });
      const { lost } = await driver.checkLocks(['volume1', 'volume2']);
      expect(lost.length).toBe(1);
      expect(lost[0]).toMatchObject({ name: 'volume1', holder: { owner: 'other_1000' } });
      await expect(driver.release('volume1', false)).rejects.toMatchObject({ code: 'EPERM' });
      await expect(third.acquire('volume1')).rejects.toMatchObject({ code: 'EBUSY' });
      await other.acquire('volume1');
      await other.release('volume1', false);
      expect(await other.checkLocks(['volume1'])).toEqual({ lost: [{ name: 'volume1', holder: null }], mail: [] });
      await driver.acquire('volume1');
    });

    test('breaking a lock that nobody has takes it; one’s own stays one’s own', async (driver, store) => {
      const other = await store.another('other_1000');
      expect(await driver.breakLock('volume1')).toBe(null);
      expect(await driver.breakLock('volume1')).toMatchObject({ owner: 'kit_1000' });
      await expect(other.acquire('volume1')).rejects.toMatchObject({ code: 'EBUSY' });
      expect(await driver.checkLocks(['volume1'])).toEqual({ lost: [], mail: [] });
      await expect(driver.breakLock('a/b')).rejects.toMatchObject({ code: 'EINVAL' });
    });

    test('of many that break a lock at once, each hears of another holder, and the last one has it', async (driver, store) => {
      const others = await Promise.all([1, 2, 3].map((i) => store.another(`node${i}_1000`)));
      for (let round = 0; round < 5; round++) {
        await driver.acquire('wanted');
        const before = await Promise.all(others.map((one) => one.breakLock('wanted')));
        const holder = await driver.lockHolder('wanted');
        // Each of the four had it, and lost it to one other, but the last.
        const had = [...before.map((one) => one?.owner ?? ''), holder?.owner ?? ''].sort();
        expect(had).toEqual(['kit_1000', 'node1_1000', 'node2_1000', 'node3_1000']);
        await driver.release('wanted', true);
      }
    });

    test('a check of many locks tells of all that are lost', async (driver) => {
      const names = Array.from({ length: 40 }, (_, i) => `volume${i}`);
      for (const name of names) if (!name.endsWith('7')) await driver.acquire(name);
      const { lost } = await driver.checkLocks(names);
      expect(lost.map(({ name }) => name).sort()).toEqual(names.filter((name) => name.endsWith('7')).sort());
    });

    test('the locks of an owner are listed, page by page, and no others', async (driver, store) => {
      const other = await store.another('kit_10001');
      const names = Array.from({ length: 20 }, (_, i) => `volume${i + 10}`);
      for (const name of names) await driver.acquire(name);
      await other.acquire('volume5');
      await other.breakLock('volume10');
      expect(await lockNames(driver, 3)).toEqual(names.slice(1));
      expect(await lockNames(driver, 1000)).toEqual(names.slice(1));
      expect(await lockNames(other, 1)).toEqual(['volume10', 'volume5']);
    });

    test('mail arrives once, in order, at whom it is for', async (driver, store) => {
      const other = await store.another('other_1000');
      await driver.sendMail('other_1000', letter('want', '1'));
      await driver.sendMail('other_1000', letter('broken', '2'));
      expect((await driver.checkLocks([])).mail).toEqual([]);
      expect((await other.checkLocks([])).mail).toEqual([letter('want', '1'), letter('broken', '2')]);
      expect((await other.checkLocks([])).mail).toEqual([]);
      await driver.sendMail('other_1000', letter('gone', 'ü'));
      expect((await other.checkLocks([])).mail).toEqual([letter('gone', 'ü')]);
    });

    test('mail to nobody is fine, and what came before an owner begins is not delivered', async (driver, store) => {
      for (let i = 0; i < 10; i++) await driver.sendMail('late_1000', letter('want', `${i}`));
      const late = await store.another('late_1000');
      expect((await late.checkLocks([])).mail).toEqual([]);
      await driver.sendMail('late_1000', letter('want', 'new'));
      expect((await late.checkLocks([])).mail).toEqual([letter('want', 'new')]);
      for (const owner of ['', 'a/b', '..', 'x'.repeat(129)]) {
        await expect(driver.sendMail(owner, letter('want', '1'))).rejects.toMatchObject({ code: 'EINVAL' });
      }
    });

    test('a lock needs no object, and does not make one of its target', async (driver) => {
      await driver.acquire('nosuch');
      await expect(driver.info('nosuch')).rejects.toMatchObject({ code: 'ENOENT' });
    });

    test('the name of a lock is checked', async (driver) => {
      await expect(driver.acquire('')).rejects.toMatchObject({ code: 'EINVAL' });
      await expect(driver.acquire('a/b')).rejects.toMatchObject({ code: 'EINVAL' });
      await expect(driver.acquire('x'.repeat(251))).rejects.toMatchObject({ code: 'ENAMETOOLONG' });
    });
  });
}
