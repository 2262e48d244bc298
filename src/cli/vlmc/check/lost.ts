/** Volumes that this node has lost: their lock was taken by another node, and they refuse everything here until somebody acts. */
import { decodeJson, type LockState, type VolumeListEntry } from '../../../requests/json.js';
import { Op } from '../../../requests/ops.js';
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
  const ask = async (op: Op, target: string, capacity: number): Promise<Record<string, unknown> | null> => {
    const { data, serviced } = await session.client.call('mapper', { op, target, capacity });
    return serviced > 0 ? decodeJson(data.subarray(0, serviced), 'answer of the mapper') : null;
  };
  const status = await ask(Op.STATUS, '', STATUS_CAPACITY);
  if (!status?.lost) return;
  for (const { name, deleted } of volumes) {
    if (deleted) continue;
    const state = (await ask(Op.LOCKINFO, name, STATE_CAPACITY)) as LockState | null;
    if (state?.lost) await findings.note('lock-lost', formatLost(name, state.lost), name);
  }
}
