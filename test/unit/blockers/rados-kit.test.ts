/** The exported kit on the rados driver and a real cluster. */
import { describe, expect, it } from 'vitest';
import type { Driver } from '../../../src/blockers/driver.js';
import { driverKit, type KitStore } from '../../../src/blockers/kit.js';
import { RadosDriver } from '../../../src/blockers/rados/index.js';
import { cephCluster, hasCeph, makeNamespace, Namespace } from '../../support/ceph.js';

async function radosStore(owner: string): Promise<KitStore> {
  const ceph = new Namespace(await cephCluster(), makeNamespace());
  const { conf, user, namespace } = ceph;
  const drivers: Driver[] = [];
  const another = async (uniqueStr: string): Promise<Driver> => {
    // The pool of the maps: the kit looks at locks, too.
    const driver = new RadosDriver({ pool: 'maps', namespace, conf, cephxId: user, uniqueStr });
    await driver.open();
    drivers.push(driver);
    return driver;
  };
  return {
    driver: await another(owner),
    another,
    async dispose() {
      await Promise.all(drivers.map((driver) => driver.close()));
      await ceph.empty();
    },
  };
}

if (hasCeph()) driverKit({ name: 'rados', make: radosStore }, { describe, expect, it });
else describe.skip('driver rados: SKIPPED, Ceph is not installed', () => {});
