/** What Ceph must allow the user of a blocker: asked for at its start, and named where it is missing. */
import type { Pool } from '../../rados/index.js';
import { errnos } from '../../sys/errno.js';
import { isErrno } from '../errors.js';
import { CLASS, encodeUnlock } from './cls-lock.js';

/** No volume has such a name, so nobody has locked it. */
const NOBODYS = '.archipelago-probe';

export interface Needs {
  readonly pool: string;
  /** '' is the pool's own. */
  readonly namespace: string;
  /** The pool has maps: locks are taken there. */
  readonly locks: boolean;
}

/** The least that is enough, as `ceph auth caps` takes it. */
export function neededCapabilities({ pool, namespace, locks }: Needs): string {
  const where = namespace === '' ? `pool=${pool}` : `pool=${pool} namespace=${namespace}`;
  return `mon 'profile rbd' osd 'allow ${locks ? 'rwx' : 'rw'} ${where}'`;
}

/** Unlocks what nobody has locked: changes nothing, and asks for the rights that locks take. @throws RadosError EPERM without them */
export async function requireLocks(pool: Pool): Promise<void> {
  const input = encodeUnlock('probe', '');
  try {
    await pool.operate(NOBODYS, [{ do: 'exec', class: CLASS, method: 'unlock', input }]);
  } catch (error) {
    if (!isErrno(error, errnos.ENOENT)) throw error;
  }
}
