/** Volumes that this node has lost: their lock was taken by another node, and they refuse everything here until somebody acts. */
import { decodeJson, type LockState, type VolumeListEntry } from '../../../requests/json.js';
import { Op } from '../../../requests/ops.js';
import { errnoOf, errnos } from '../../../sys/errno.js';
import type { Session } from '../../common/session.js';
import { formatLost } from '../lock-state.js';
import type { Findings } from './findings.js';

const STATUS_CAPACITY = 64 << 10;
const STATE_CAPACITY = 4096;

/** Tells of lost locks. Costs one request when there are none. */
export async function tellLost(
  session: Session,
  findings: Findings,
  volumes: readonly VolumeListEntry[],
): Promise<void> {
  const { data, serviced } = await session.client.call('mapper', {
    op: Op.STATUS,
    target: '',
    capacity: STATUS_CAPACITY,
  });
  if (serviced === 0 || !decodeJson(data.subarray(0, serviced), 'status of the mapper')?.lost) return;
  for (const { name, deleted } of volumes) {
    const lost = deleted ? null : await lostLock(session, name);
    if (lost) await findings.note('lock-lost', formatLost(name, lost), name);
  }
}

/** How this node lost the lock of the volume; null when it did not. */
export async function lostLock(session: Session, name: string): Promise<LockState['lost']> {
  try {
    const request = { op: Op.LOCKINFO, target: name, capacity: STATE_CAPACITY };
    const { data, serviced } = await session.client.call('mapper', request);
    return (decodeJson(data.subarray(0, serviced), 'LOCKINFO reply') as LockState | null)?.lost ?? null;
  } catch (error) {
    if (errnoOf(error) !== errnos.EOPNOTSUPP) throw error;
    return null;
  }
}
