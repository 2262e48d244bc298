/** Fencing on a real cluster: what a node still sends after it was fenced is refused by Ceph, whoever wakes up when. */
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import type { RadosDriver } from '../../../src/blockers/rados/index.js';
import { hasCeph, useCeph } from '../../support/ceph.js';
import { type DriverProcess, driverProcess } from './rados-child.js';
import { radosDriver } from './rados-support.js';
import { temporaryDirectory } from './support.js';

interface Raw {
  acknowledged: number;
  errors: string[];
}

describe.runIf(hasCeph())('fencing on RADOS', () => {
  const ceph = useCeph();
  const open = (owner: string): Promise<RadosDriver> => radosDriver(ceph, { pool: 'maps', uniqueStr: owner });
  const outcome = (child: DriverProcess): Promise<Raw> => child.call('outcome') as Promise<Raw>;
  const value = async (name: string): Promise<number> => ((await ceph.read('maps', name)) as Buffer).readDoubleLE(0);

  it('not one write of a stopped node is done after it was fenced, though it goes on', async () => {
    const child = await driverProcess(ceph, 'node1_1002');
    const driver = await open('node2_1002');
    await child.call('acquire', 'web1');
    const { address, instance } = (await child.call('writeOnAndOn', 'data')) as { address: string; instance: string };
    // The client with the writes is another one than the driver's: as of blockers with one owner string each.
    await ceph.rados('maps', 'setxattr', '.archipelago-clients-node1', 'clients', await withClient(address, instance));
    await expect.poll(async () => (await outcome(child)).acknowledged).toBeGreaterThan(1000);
    child.stop();
    expect(await driver.breakLock('web1')).toMatchObject({ owner: 'node1_1002' });
    const { clients } = await driver.fence('node1_1002');
    expect(clients.length).toBe(2);
    expect(clients.join()).toContain(`${instance} ${address}`);
    const before = await value('data');
    // By whatever client the next one writes: what comes later of the stopped node must not undo it.
    const mine = Buffer.alloc(8);
    mine.writeDoubleLE(-1);
    await ceph.write('maps', 'data', mine);
    child.goOn();
    await expect.poll(async () => (await outcome(child)).errors.length).toBe(16);
    const { acknowledged, errors } = await outcome(child);
    expect([...new Set(errors)]).toEqual(['ESHUTDOWN']);
    expect(acknowledged).toBeLessThanOrEqual(before + 16);
    expect(await value('data')).toBe(-1);
  });

  async function withClient(address: string, instance: string): Promise<string> {
    const stored = JSON.parse(await ceph.rados('maps', 'getxattr', '.archipelago-clients-node1', 'clients'));
    return JSON.stringify([...stored, { owner: 'node1_1001', address, instance, since: 1 }]);
  }

  it('a fenced node goes on as another client, keeps its other locks, and knows which it lost', async () => {
    const child = await driverProcess(ceph, 'node3_1002');
    const driver = await open('node2_1002');
    for (const name of ['lost', 'kept']) await child.call('acquire', name);
    const before = (await child.call('status')) as { client: string };
    await driver.breakLock('lost');
    const { clients } = await driver.fence('node3_1002');
    expect(clients).toEqual([expect.stringContaining(before.client)]);
    // A second time: it may have been forgotten whether it was done.
    expect(await driver.fence('node3_1002')).toEqual({ clients });
    const { lost } = (await child.call('checkLocks', ['lost', 'kept'], true)) as {
      lost: { name: string; holder: { owner: string } }[];
    };
    expect(lost).toMatchObject([{ name: 'lost', holder: { owner: 'node2_1002' } }]);
    const after = (await child.call('status')) as { client: string };
    expect(after.client).not.toBe(before.client);
    await child.call('write', 'object', 'written', 0);
    expect((await ceph.read('maps', 'object'))?.toString()).toBe('written');
    await expect(driver.acquire('kept')).rejects.toMatchObject({ code: 'EBUSY' });
    expect(await child.call('listLocks', null, 10)).toMatchObject({ locks: [{ name: 'kept' }] });
    // It is found under its new address, and gets mail.
    const letter = { kind: 'want', name: 'kept', from: 'node2_1002', id: '1' } as const;
    await driver.sendMail('node3_1002', letter);
    expect(await child.call('checkLocks', [])).toEqual({ lost: [], mail: [letter] });
    expect((await driver.fence('node3_1002')).clients).toEqual([expect.stringContaining(after.client)]);
    await child.call('release', 'kept', false);
    await driver.acquire('kept');
  });

  it('a write under a lease from before is not sent again by the new client', async () => {
    const child = await driverProcess(ceph, 'node4_1002');
    const driver = await open('node2_1002');
    await child.call('write', 'leased', 'before', 0);
    await driver.fence('node4_1002');
    // Its clock says that there is time left: as that of a machine which was suspended.
    await expect(child.call('write', 'leased', 'late', 1500)).rejects.toMatchObject({ code: 'ETIME' });
    await expect(child.call('write', 'leased', 'late', 500)).rejects.toMatchObject({ code: 'ETIME' });
    expect((await ceph.read('maps', 'leased'))?.toString()).toBe('before');
    await child.call('write', 'leased', 'after!', 3500);
    expect((await ceph.read('maps', 'leased'))?.toString()).toBe('after!');
  });

  it('the client of an original’s lock is refused, by the address in the lock', async () => {
    const driver = await open('node2_1002');
    await ceph.rados('maps', 'lock', 'get', 'theirs_lock', 'RadosLock', '--lock-cookie', 'foo', '--lock-tag', '');
    const holder = await driver.breakLock('theirs');
    const owner = holder?.owner ?? '';
    expect(owner).toMatch(/^client\.\d+$/);
    const { clients } = await driver.fence(owner);
    expect(clients).toEqual([expect.stringMatching(new RegExp(`^${owner.replace('.', '\\.')} \\S+:0/\\d+$`))]);
    expect(await ceph.ceph('osd', 'blocklist', 'ls')).toContain(clients[0].split(' ')[1]);
  });

  it('whom the store does not know, and this node itself, it does not refuse', async () => {
    const driver = await open('node2_1002');
    await expect(driver.fence('stranger_1002')).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(driver.fence('node2_1001')).rejects.toMatchObject({ code: 'EINVAL' });
  });

  it('without the capability to refuse others, the error says which is missing', async () => {
    const key = await ceph.ceph('auth', 'get-or-create', 'client.nofence', 'mon', 'allow r', 'osd', 'allow rwx');
    const directory = temporaryDirectory();
    const keyring = path.join(directory, 'keyring');
    writeFileSync(keyring, key, { mode: 0o600 });
    const conf = path.join(directory, 'ceph.conf');
    copyFileSync(ceph.conf, conf);
    writeFileSync(conf, readFileSync(conf, 'utf8').replace(/^keyring\s*=.*$/m, `keyring = ${keyring}`));
    await open('node5_1002');
    const driver = await radosDriver(ceph, { pool: 'maps', uniqueStr: 'node2_1002', conf, cephxId: 'nofence' });
    const refused = driver.fence('node5_1002');
    await expect(refused).rejects.toMatchObject({ code: 'EACCES' });
    await expect(refused).rejects.toThrow(/mon 'profile rbd'.*osd blocklist/);
  });
});
