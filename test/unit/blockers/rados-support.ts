/** What the tests of the rados driver share: opened drivers on a namespace of the run's cluster. */
import { onTestFinished } from 'vitest';
import { RadosDriver, type RadosDriverSettings } from '../../../src/blockers/rados/index.js';
import type { Namespace } from '../../support/ceph.js';

export async function radosDriver(ceph: Namespace, settings: Partial<RadosDriverSettings> = {}): Promise<RadosDriver> {
  const { conf, user, namespace } = ceph;
  const driver = new RadosDriver({
    pool: 'blocks',
    conf,
    cephxId: user,
    namespace,
    uniqueStr: 'test_1000',
    ...settings,
  });
  await driver.open();
  onTestFinished(() => driver.close());
  return driver;
}
