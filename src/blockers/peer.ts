/** The file blocker as a role of a node: its directory, its port, its start and its end. */
import type { FileBlockerSettings } from '../config/types.js';
import type { RoleStarter } from '../peer/role.js';
import { FileDriver } from './file/index.js';
import { Blocker } from './server.js';

/**
 * Fewest files kept open, whatever fdcache says. The original's default (twice nr_ops) would open a file for nearly every random
 * read of a volume beyond 128 MiB; this many reach over 16 GiB of 4 MiB objects and cost some megabytes. The driver closes files
 * by itself when descriptors run out.
 */
const FEWEST_FILES = 4096;

export const start: RoleStarter<FileBlockerSettings> = async ({ segment, settings, ports, name, log }) => {
  const driver = new FileDriver({
    root: settings.archipDir,
    lockDir: settings.lockDir,
    uniqueStr: settings.uniqueStr,
    fdcache: Math.max(settings.fdcache, FEWEST_FILES),
    direct: settings.direct,
    pithosMigrate: settings.pithosMigrate,
    partialCopies: settings.partialCopies,
    umask: settings.umask,
  });
  await driver.open();
  try {
    const blocker = new Blocker({
      port: segment.bind(ports.first, { name }),
      driver,
      nrOps: settings.nrOps,
      log,
    });
    blocker.start();
    return { stop: () => blocker.stop(), status: () => blocker.status() };
  } catch (error) {
    await driver.close();
    throw error;
  }
};
