/** Who holds a volume's lock, and what this node has to do with it: for lock --show, info and list. */
import { decodeJson, type LockInfo, type LockState as StoredState } from '../../requests/json.js';
import { Op } from '../../requests/ops.js';
import { errnoOf, errnos } from '../../sys/errno.js';
import type { Session } from '../common/session.js';

/** Room for the answer of LOCKINFO. */
const CAPACITY = 4096;

export interface HolderInfo extends LockInfo {
  /** The owner string without its port number: the node's host name. */
  readonly host: string;
  /** How long it has been held, ms; null where the store does not tell since when. */
  readonly ageMs: number | null;
  /** It is this node's. */
  readonly here: boolean;
}

/** How this node's mapper lost a lock. */
type LostLock = NonNullable<StoredState['lost']>;

/** The lock of a name, and what this node has to do with it. */
export interface LockState extends Omit<StoredState, 'lock'> {
  readonly lock: HolderInfo | null;
}

/** The host in an owner string `<host>_<port>`. */
export const hostOf = (owner: string): string => owner.replace(/_\d+$/, '') || 'an unknown host';

/** A lock with what people and scripts want to know of it. */
export function holderInfo(session: Session, lock: LockInfo | null): HolderInfo | null {
  if (!lock) return null;
  const { owner, since } = lock;
  const ageMs = since === null ? null : Math.max(0, Date.now() - since);
  return { owner, since, host: hostOf(owner), ageMs, here: owner === session.client.lockOwner };
}

/**
 * Asks the mapper; while it does not run, blockerm, which knows the holder alone.
 * @throws SystemError when neither can tell
 */
export async function lockState(session: Session, name: string): Promise<LockState> {
  const { client } = session;
  let state: StoredState;
  try {
    const reply = await client.call('mapper', { op: Op.LOCKINFO, target: name, capacity: CAPACITY });
    state = decodeJson(reply.data.subarray(0, reply.serviced), 'LOCKINFO reply') as unknown as StoredState;
  } catch (error) {
    if (errnoOf(error) !== errnos.ECONNREFUSED) throw error;
    state = {
      lock: await client.objects('maps').lockHolder(name),
      open: null,
      byHand: false,
      lost: null,
      unclosed: null,
    };
  }
  return { ...state, lock: holderInfo(session, state.lock) };
}

/** `locked by node1_1002 since 2024-05-01T10:04:00.000Z`, or `not locked`. */
export function formatLock(lock: LockInfo | null): string {
  if (!lock) return 'not locked';
  const since = lock.since === null ? '' : ` since ${new Date(lock.since).toISOString()}`;
  return `locked by ${lock.owner || 'an unknown owner (empty lock)'}${since}`;
}

/** All of it: one line, and more where this node has something to do with the volume. */
export function formatState(name: string, { lock, open, byHand, lost, unclosed }: LockState): string {
  const lines = [formatLock(lock)];
  if (lock) {
    const age = lock.ageMs === null ? '' : `, for ${formatAge(lock.ageMs)}`;
    lines.push(`  host:  ${lock.host}${lock.here ? ' (this node)' : ''}${age}`);
  }
  const here = [open && `open ${open}`, byHand && 'locked by hand'].filter(Boolean).join(', ');
  if (here !== '') lines.push(`  here:  ${here}`);
  if (unclosed) {
    const since = new Date(unclosed.since).toISOString();
    lines.push(`  kept:  since its last client left at ${since}, and tried again: ${unclosed.why}`);
  }
  if (lost) lines.push(`  lost:  ${formatLost(name, lost)}`);
  return lines.join('\n');
}

/** What became of a lock that was taken away, and the way out. */
export function formatLost(name: string, { holder, at }: LostLock): string {
  const who = holder === null ? 'taken away' : `taken by ${holder}`;
  return (
    `the lock was ${who} at ${new Date(at).toISOString()}: what was written here since the last flush may be lost, and everything ` +
    `fails until clients disconnect, or vlmc close ${name}`
  );
}

/** The two largest units: `3 days 4 h`. @param ms milliseconds */
export function formatAge(ms: number): string {
  const units: readonly [string, number][] = [
    ['days', 86_400],
    ['h', 3600],
    ['min', 60],
    ['s', 1],
  ];
  let seconds = Math.floor(ms / 1000);
  const parts: string[] = [];
  for (const [unit, length] of units) {
    const count = Math.floor(seconds / length);
    seconds -= count * length;
    if (count > 0) parts.push(`${count} ${count === 1 && unit === 'days' ? 'day' : unit}`);
  }
  return parts.slice(0, 2).join(' ') || '0 s';
}
