/** A node whose name another has: which of the two may go on, whoever was stopped, cloned, fenced or started again. */
import { describe, expect, it } from 'vitest';
import type { RadosDriver } from '../../../src/blockers/rados/index.js';
import { hasCeph, useCeph } from '../../support/ceph.js';
import { driverProcess } from './rados-child.js';
import { radosDriver } from './rados-support.js';

interface Status {
  readonly client: string;
  readonly blocklisted: number;
  readonly reconnecting: boolean;
}

describe.runIf(hasCeph())('nodes with one name on RADOS', () => {
  const ceph = useCeph();
  const open = (owner: string): Promise<RadosDriver> => radosDriver(ceph, { pool: 'maps', uniqueStr: owner });
  const listOf = async (node: string): Promise<{ instance: string }[]> =>
    JSON.parse(await ceph.rados('maps', 'getxattr', `.archipelago-clients-${node}`, 'clients'));
  const holderOf = async (target: string): Promise<string> => {
    const info = JSON.parse(await ceph.rados('maps', 'lock', 'info', `${target}_lock`, 'RadosLock'));
    return (info as { lockers: { name: string }[] }).lockers[0].name;
  };

  it('one that stood still, was replaced and goes on stays out while the other lives, and has lost its locks then', async () => {
    const stopped = await driverProcess(ceph, 'clone_1002');
    await stopped.call('acquire', 'cloned');
    // As if it were of another machine: a virtual one that was paused.
    const stored = JSON.stringify(await listOf('clone'));
    await ceph.rados(
      'maps',
      'setxattr',
      '.archipelago-clients-clone',
      'clients',
      stored.replace(/"boot":"[^"]*"/, '"boot":"other"'),
    );
    stopped.stop();
    const driver = await open('clone_1002');
    expect(await driver.checkLocks(['cloned'])).toEqual({ lost: [], mail: [] });
    const { client } = driver.status() as Status;
    stopped.goOn();
    const status = async (): Promise<Status> => (await stopped.call('status')) as Status;
    let looked = false;
    const looking = stopped.call('checkLocks', ['cloned']).finally(() => {
      looked = true;
    });
    await expect.poll(status, { timeout: 10_000 }).toMatchObject({ blocklisted: 1, reconnecting: true });
    // It has tried to come back more than once.
    const first = (await status()).client;
    await expect.poll(async () => (await status()).client, { timeout: 10_000 }).not.toBe(first);
    expect(looked).toBe(false);
    expect(await driver.checkLocks(['cloned'])).toEqual({ lost: [], mail: [] });
    expect(await holderOf('cloned')).toBe(client);
    expect((await listOf('clone')).map(({ instance }) => instance)).toContain(client);
    expect(driver.status()).toMatchObject({ client, blocklisted: 0 });
    await driver.close();
    expect(await looking).toMatchObject({ lost: [{ name: 'cloned', holder: { owner: 'clone_1002' } }] });
    await expect(stopped.call('release', 'cloned', false)).rejects.toMatchObject({ code: 'EPERM' });
    await expect(stopped.call('acquire', 'cloned')).rejects.toMatchObject({ code: 'EBUSY' });
    expect(await stopped.call('listLocks', null, 10)).toMatchObject({ locks: [] });
    expect(await holderOf('cloned')).toBe(client);
  });

  it('a process that is started after its predecessor was fenced does nothing by leases from before', async () => {
    const before = await driverProcess(ceph, 'again_1002');
    await before.call('write', 'leased', 'before', 0);
    await before.kill();
    const driver = await open('node2_1002');
    await driver.fence('again_1002');
    const after = await driverProcess(ceph, 'again_1002');
    // Its clock says that there is time left: as that of a machine which was suspended.
    await expect(after.call('write', 'leased', 'late', 1500)).rejects.toMatchObject({ code: 'ETIME' });
    expect((await ceph.read('maps', 'leased'))?.toString()).toBe('before');
    await after.call('write', 'leased', 'after!', 3500);
    await after.kill();
    // One that nobody fenced has a successor that goes on at once.
    const third = await driverProcess(ceph, 'again_1002');
    await third.call('write', 'leased', 'third!', 1500);
    expect((await ceph.read('maps', 'leased'))?.toString()).toBe('third!');
  });

  it('who was fenced is refused for a week', async () => {
    const [driver, other] = [await open('node2_1002'), await open('long_1002')];
    const { addresses } = other.status() as { addresses: string[] };
    await driver.fence('long_1002');
    // ADDRESS DATE-AND-TIME
    const entry = (await ceph.ceph('osd', 'blocklist', 'ls')).split('\n').find((line) => line.startsWith(addresses[0]));
    const until = entry?.split(' ')[1].replace(/([+-]\d\d)(\d\d)$/, '$1:$2') ?? '';
    const days = (Date.parse(until) - Date.now()) / 86_400_000;
    expect(days).toBeGreaterThan(6.9);
    expect(days).toBeLessThan(7.1);
  });
});
