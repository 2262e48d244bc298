import { describe, expect, it } from 'vitest';
import { live, type Pool } from '../../../src/rados/index.js';
import { errnos } from '../../../src/sys/errno.js';
import { hasCeph, useCeph } from '../../support/ceph.js';
import { cleanUpAfterEach, connected, memory } from './support.js';

const AT_A_TIME = 64;

/** Runs `count` operations, AT_A_TIME at a time. Resolves to how many did not end as they should. */
function runMany(count: number, begin: (i: number, done: (right: boolean) => void) => void): Promise<number> {
  let begun = 0;
  let over = 0;
  let wrong = 0;
  return new Promise((resolve) => {
    const next = (): void => begin(begun++, done);
    const done = (right: boolean): void => {
      if (!right) wrong++;
      over++;
      if (over === count) resolve(wrong);
      else if (begun < count) next();
    };
    for (let i = 0; i < AT_A_TIME; i++) next();
  });
}

describe.runIf(hasCeph())('a hundred thousand operations', () => {
  const ceph = useCeph();
  cleanUpAfterEach();

  it('leave nothing behind', { timeout: 300_000 }, async () => {
    const cluster = await connected({ conf: ceph.conf, id: ceph.user });
    const pool: Pool = await cluster.pool('blocks', ceph.namespace);
    const { address } = memory(4096 * AT_A_TIME);
    await pool.operate('object', [
      { do: 'writeFull', data: Buffer.alloc(65536, 1) },
      { do: 'setXattr', name: 'attribute', value: Buffer.alloc(100) },
      { do: 'setOmap', entries: new Map([['key', Buffer.alloc(100)]]) },
    ]);
    const before = { ...live };
    const hot = (count: number): Promise<number> =>
      runMany(count, (i, done) => {
        const at = address + 4096 * (i % AT_A_TIME);
        if (i % 8 === 0) pool.write(`object ${i % 512}`, at, 4096, 0, (result) => done(result === 0));
        else if (i % 8 === 1) pool.read('missing', at, 4096, 0, (result) => done(result === -errnos.ENOENT));
        else pool.read('object', at, 4096, 4096 * (i % 16), (result) => done(result === 4096));
      });
    const failing = pool.operate.bind(pool, 'object', [{ do: 'create', exclusive: true }]);
    const kinds: (() => Promise<unknown>)[] = [
      () => pool.readBytes('object', 0, 4096),
      () => pool.stat('object'),
      () => pool.getXattr('object', 'attribute'),
      () => pool.omap('object', '', 10),
      () => pool.exec('object', 'lock', 'list_locks', Buffer.alloc(0)),
      () => pool.operate('object', [{ do: 'setOmap', entries: new Map([['key', Buffer.alloc(100)]]) }]),
      () => pool.readBytes('missing', 0, 4096).catch(() => {}),
      () => pool.stat('missing').catch(() => {}),
      () => pool.getXattr('object', 'missing').catch(() => {}),
      () => pool.omap('missing', '', 10).catch(() => {}),
      () => pool.exec('missing', 'lock', 'list_locks', Buffer.alloc(0)).catch(() => {}),
      () => failing().catch(() => {}),
    ];
    const cold = (count: number): Promise<number> =>
      runMany(count, (i, done) => {
        kinds[i % kinds.length]().then(
          () => done(true),
          () => done(false),
        );
      });

    // What librados, the allocator and the engine keep for good, they have after this.
    expect([await hot(20_000), await cold(5000)]).toEqual([0, 0]);
    expect(live).toEqual(before);
    const resident = process.memoryUsage.rss();
    expect([await hot(90_000), await cold(10_000)]).toEqual([0, 0]);
    expect(live).toEqual(before);
    const grown = (process.memoryUsage.rss() - resident) / 2 ** 20;
    console.log(`100,000 operations: the process has grown by ${grown.toFixed(1)} MiB`);
    // 100 bytes lost per operation would be 10 MiB, one buffer per operation 400 MiB; the heap of JavaScript breathes.
    expect(grown).toBeLessThan(64);
    expect(cluster.inFlight).toEqual({ count: 0, oldestSince: 0 });
  });
});
