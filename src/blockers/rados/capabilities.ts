/** What Ceph must allow the user of a blocker: asked for at its start, and named where it is missing. */
import type { Pool, WriteStep } from '../../rados/index.js';
import { errnos, SystemError } from '../../sys/errno.js';
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

/**
 * Asks for what the blocker will ask for, and changes nothing: a pool or a user that cannot do it is found at the start, not by the first guest
 * that writes.
 * @throws SystemError EPERM, EOPNOTSUPP with the way out
 */
export async function requirePool(pool: Pool, locks: boolean): Promise<void> {
  try {
    await attempt(pool, [
      { do: 'create', exclusive: false },
      { do: 'write', data: Buffer.alloc(1), offset: 1 },
      ...(locks ? [{ do: 'setOmap', entries: new Map([['probe', Buffer.alloc(0)]]) } as const] : []),
      { do: 'remove' },
    ]);
  } catch (error) {
    if (!isErrno(error, errnos.EOPNOTSUPP)) throw error;
    const why = locks
      ? 'maps and locks need a replicated pool'
      : `blocks need ceph osd pool set ${pool.name} allow_ec_overwrites true`;
    throw new SystemError(errnos.EOPNOTSUPP, `the pool is erasure coded: ${why}`, { cause: error });
  }
  // Unlocks what nobody has locked.
  const input = encodeUnlock('probe', '');
  if (locks) await attempt(pool, [{ do: 'exec', class: CLASS, method: 'unlock', input }]);
}

/** A pool that is full takes neither; that is no reason not to serve what is in it. */
async function attempt(pool: Pool, steps: readonly WriteStep[]): Promise<void> {
  try {
    await pool.operate(NOBODYS, steps);
  } catch (error) {
    if (!isErrno(error, errnos.ENOENT, errnos.ENOSPC, errnos.EDQUOT)) throw error;
  }
}
