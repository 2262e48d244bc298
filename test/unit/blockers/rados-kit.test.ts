/** The exported kit on the rados driver and a real cluster. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Driver } from '../../../src/blockers/driver.js';
import { driverKit, type KitStore } from '../../../src/blockers/kit.js';
import { RadosDriver } from '../../../src/blockers/rados/index.js';
import { type Cluster, connect } from '../../../src/rados/index.js';
import { cephCluster, hasCeph, makeNamespace, USER } from '../../support/ceph.js';

let conf = '';
/** Removes what tests leave. */
let cleaner: Cluster;

async function empty(namespace: string): Promise<void> {
  const pool = await cleaner.pool('maps', namespace);
  for (let cursor: string | null = null; ; ) {
    const page = await pool.list(cursor, 1000);
    await Promise.all(page.names.map((name) => pool.operate(name, [{ do: 'remove' }])));
    cursor = page.cursor;
    if (cursor === null) return;
  }
}

async function radosStore(owner: string): Promise<KitStore> {
  const namespace = makeNamespace();
  const drivers: Driver[] = [];
  const another = async (uniqueStr: string): Promise<Driver> => {
    // The pool of the maps: the kit looks at locks, too.
    const driver = new RadosDriver({ pool: 'maps', namespace, conf, cephxId: USER, uniqueStr });
    await driver.open();
    drivers.push(driver);
    return driver;
  };
  return {
    driver: await another(owner),
    another,
    async dispose() {
      await Promise.all(drivers.map((driver) => driver.close()));
      await empty(namespace);
    },
  };
}

if (hasCeph()) {
  beforeAll(async () => {
    conf = await cephCluster();
    cleaner = await connect({ conf, id: USER });
  }, 120_000);
  afterAll(() => cleaner.close());
  driverKit({ name: 'rados', make: radosStore }, { describe, expect, it });
} else describe.skip('driver rados: SKIPPED, Ceph is not installed', () => {});
