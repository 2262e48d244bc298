/** Which part starts which type of role. Parts are loaded when a role of theirs is started, not before. */
import type { RoleSettings, RoleType } from '../config/types.js';
import { errnos, SystemError } from '../sys/errno.js';
import type { RoleStarter } from './role.js';

/** How a type's part is loaded; null: this version is built without it. */
type Loaders = {
  readonly [T in RoleType]: (() => Promise<{ start: RoleStarter<Extract<RoleSettings, { type: T }>> }>) | null;
};

const loaders: Loaders = {
  file_blocker: () => import('../blockers/peer.js'),
  rados_blocker: () => import('../blockers/rados/peer.js'),
  mapperd: () => import('../mapper/peer.js'),
  vlmcd: async () => {
    const [{ start }, { lockLookOf }] = await Promise.all([
      import('../composer/peer.js'),
      import('../blockers/lock-look.js'),
    ]);
    return { start: (context) => start(context, lockLookOf(context.config, context.settings.mapperPort)) };
  },
  nbd: () => import('../endpoint/peer.js'),
  poold: null,
};

/**
 * The starter of a type of role. It must be given settings of that type.
 * @throws SystemError EOPNOTSUPP for a type that this version is built without
 */
export async function loadStarter(type: RoleType): Promise<RoleStarter> {
  const load = loaders[type];
  if (load === null) {
    throw new SystemError(
      errnos.EOPNOTSUPP,
      `roles of type ${type} are not built in this version; take them out of ROLES`,
    );
  }
  return (await load()).start as RoleStarter;
}
