/** Kit: locks. */
import type { Kit } from './context.js';

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

    test('of many that want a lock at once, one gets it', async (driver, store) => {
      const drivers = [driver, ...(await Promise.all([1, 2, 3].map((i) => store.another(`node${i}_1000`))))];
      for (let round = 0; round < 10; round++) {
        const outcomes = await Promise.allSettled(drivers.map((one) => one.acquire('wanted')));
        const winners = drivers.filter((_, i) => outcomes[i].status === 'fulfilled');
        expect(winners.length).toBe(1);
        await winners[0].release('wanted', false);
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
