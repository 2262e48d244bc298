/** How the locks of a node's blocker can be looked at without asking it. */
import path from 'node:path';
import type { Config } from '../config/types.js';
import type { LockLook } from '../requests/lock-look.js';
import { FileLockLook } from './file/lock-look.js';

/** For the locks that the mapper on this port takes; null: the blocker has to be asked. */
export function lockLookOf({ roles }: Config, mapperPort: number): LockLook | null {
  const mapper = roles.find((role) => role.type === 'mapperd' && role.portnoStart === mapperPort);
  if (mapper?.type !== 'mapperd') return null;
  const blocker = roles.find((role) => role.portnoStart === mapper.blockermPort);
  if (blocker?.type !== 'file_blocker') return null;
  const root = path.resolve(blocker.archipDir);
  const directory = blocker.lockDir ? path.resolve(blocker.lockDir) : null;
  return new FileLockLook({ root, directory: directory === root ? null : directory, owner: blocker.uniqueStr });
}
