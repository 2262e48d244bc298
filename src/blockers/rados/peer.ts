/** The rados blocker as a role of a node: its pool, its port, its start and its end. */
import type { RadosBlockerSettings } from '../../config/types.js';
import type { RoleStarter } from '../../peer/role.js';
import { Blocker } from '../server.js';
import { RadosDriver } from './driver.js';

export const start: RoleStarter<RadosBlockerSettings> = async ({ segment, config, settings, ports, name, log }) => {
  const { pool, namespace, conf, cephxId, uniqueStr, nrOps } = settings;
  const locks = config.roles.some((role) => role.type === 'mapperd' && role.blockermPort === ports.first);
  const driver = new RadosDriver({ pool, namespace, conf, cephxId, uniqueStr, locks, log });
  await driver.open();
  try {
    const blocker = new Blocker({ port: segment.bind(ports.first, { name }), driver, nrOps, log });
    blocker.start();
    return { stop: () => blocker.stop(), status: () => blocker.status() };
  } catch (error) {
    await driver.close();
    throw error;
  }
};
