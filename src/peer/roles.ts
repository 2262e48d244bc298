/** Which part starts which type of role. Parts are loaded when a role of theirs is started, not before. */
import type { RoleType } from '../config/types.js';
import { errnos, SystemError } from '../sys/errno.js';
import type { RoleStarter } from './role.js';

/** What a part's peer.ts exports. */
interface RoleModule {
  readonly start: RoleStarter;
}

const modules: Record<RoleType, string | null> = {
  file_blocker: '../blockers/peer.js',
  rados_blocker: null,
  mapperd: '../mapper/peer.js',
  vlmcd: '../composer/peer.js',
  nbd: '../endpoint/peer.js',
  poold: null,
};

/**
 * The starter of a type of role.
 * @throws SystemError EOPNOTSUPP for a type that this version is built without
 */
export async function loadStarter(type: RoleType): Promise<RoleStarter> {
  const module = modules[type];
  if (module === null) {
    throw new SystemError(
      errnos.EOPNOTSUPP,
      `roles of type ${type} are not built in this version; take them out of ROLES`,
    );
  }
  const { start } = (await import(module)) as RoleModule;
  return start;
}
