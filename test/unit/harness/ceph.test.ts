import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { clusterCommand, hasCeph, Namespace, useCeph, useOwnCluster } from '../../support/ceph.js';

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
