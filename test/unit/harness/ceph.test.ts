import { readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { connect } from '../../../src/rados/index.js';
import { allocateMemory, freeMemory } from '../../../src/sys/libc.js';
import { clusterCommand, hasCeph, Namespace, useCeph, useOwnCluster } from '../../support/ceph.js';
import { clusterReport } from '../../support/ceph-report.js';

describe.runIf(hasCeph())('a Ceph cluster for tests', () => {
  const ceph = useCeph();

  it('keeps objects in a namespace that others do not see', async () => {
    const content = Buffer.from([0, 255, 10, 61]);
    await ceph.write('blocks', 'an object with bytes', content);
    expect(await ceph.read('blocks', 'an object with bytes')).toEqual(content);
    expect(await ceph.read('maps', 'an object with bytes')).toBeNull();
    expect(await ceph.list('blocks')).toMatchObject([{ name: 'an object with bytes', size: 4 }]);
    expect(await new Namespace(ceph.conf, 'another').list('blocks')).toEqual([]);
  });

  it('is emptied', async () => {
    await ceph.write('maps', 'name with\nnewline', Buffer.alloc(0));
    await ceph.empty();
    expect(await ceph.list('maps')).toEqual([]);
    expect(await ceph.list('blocks')).toEqual([]);
  });

  it('lets the user of the documentation lock, and blocklist a client', async () => {
    await ceph.rados('maps', '--id', ceph.user, 'lock', 'get', 'a', 'RadosLock');
    expect(JSON.parse(await ceph.rados('maps', 'lock', 'info', 'a', 'RadosLock'))).toMatchObject({ type: 'exclusive' });
    expect(await ceph.ceph('--id', ceph.user, 'osd', 'blocklist', 'add', '127.0.0.1:0/4711', '1')).toBe('');
  });
});

describe.runIf(hasCeph())('a cluster whose OSD died', () => {
  const cluster = useOwnCluster('--pools', 'maps');

  it('is started again, empty, by the next test that needs it', async () => {
    const ceph = new Namespace(cluster.conf, 'a');
    await ceph.rados('maps', 'create', 'before');
    process.kill(Number(readFileSync(path.join(cluster.directory, 'run/osd.0.pid'), 'utf8')), 'SIGKILL');
    await clusterCommand('start', cluster.directory);
    expect(await ceph.rados('maps', 'ls')).toBe('');
    await ceph.rados('maps', 'create', 'after');
  });
});

describe.runIf(hasCeph())('a cluster whose OSD stood still', () => {
  // Ceph's own lease would be 1.6 s.
  const cluster = useOwnCluster('--pools', 'maps', '--set', 'osd heartbeat grace = 2');
  const osd = (): number => Number(readFileSync(path.join(cluster.directory, 'run/osd.0.pid'), 'utf8'));

  it('goes on with all that is asked of it', async () => {
    const client = await connect({ conf: cluster.conf, id: null });
    const pool = await client.pool('maps');
    const bytes = allocateMemory(4096);
    const answered: number[] = Array(256).fill(0);
    let asking = true;
    const ask = (i: number): void =>
      pool.write(`object ${i}`, bytes.address, 4096, 0, (result) => {
        expect(result).toBe(0);
        answered[i]++;
        if (asking) ask(i);
      });
    const more = async (): Promise<void> => {
      const until = answered.map((count) => count + 2);
      await expect.poll(() => answered.filter((count, i) => count < until[i]), { timeout: 30_000 }).toEqual([]);
    };
    for (let i = 0; i < answered.length; i++) ask(i);
    for (let round = 0; round < 3; round++) {
      await more();
      try {
        process.kill(osd(), 'SIGSTOP');
        // Longer than that lease: nothing but time ends it.
        await delay(2500);
      } finally {
        process.kill(osd(), 'SIGCONT');
      }
      await more();
    }
    asking = false;
    await client.close(30_000);
    freeMemory(bytes);
  });

  it('is told of: that it goes on, or stands', async () => {
    expect(await clusterReport(cluster.conf)).toMatch(/osd\.0 up .*osd\.0: process \d+, S.*requests in osd\.0\nnone/s);
    process.kill(osd(), 'SIGSTOP');
    try {
      expect(await clusterReport(cluster.conf, 2000)).toMatch(
        /osd\.0: process \d+, T \(stopped\).*requests in osd\.0: not told/s,
      );
    } finally {
      process.kill(osd(), 'SIGCONT');
    }
  });
});
