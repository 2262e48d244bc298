/** Who holds a volume's lock, and what this node has to do with it: for lock --show, info and list. */
import type { LockInfo, VolumeStat } from '../../requests/json.js';
import { Op } from '../../requests/ops.js';
import { errnoOf, errnos } from '../../sys/errno.js';
import type { Session } from '../common/session.js';

/** How this node has a volume open: by vlmc open, or kept by hand (vlmc lock). */
export type OpenHere = 'exclusive' | 'shared' | null;

/** This node's mapper lost the lock to another node: the volume fails everything until it is closed or opened again. */
export interface LostLock {
  /** Who took it, an owner string; null when nobody held it when that was seen. */
  readonly holder: string | null;
  /** ms since the epoch. */
  readonly at: number;
}

/** What the mapper's STAT tells of a volume's use on this node, beside its lock. */
export interface UseHere {
  readonly open?: OpenHere;
  /** The lock is kept here because of vlmc lock. */
  readonly byHand?: boolean;
  readonly lost?: LostLock | null;
}

export interface HolderInfo extends LockInfo {
  /** The owner string without its port number: the node's host name. */
  readonly host: string;
  /** How long it has been held, ms; null where the store does not tell since when. */
  readonly ageMs: number | null;
  /** It is this node's. */
  readonly here: boolean;
}

export interface LockState {
  readonly lock: HolderInfo | null;
  /** null: not open here, or the mapper could not be asked. */
  readonly open: OpenHere;
  readonly byHand: boolean;
  readonly lost: LostLock | null;
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
 * Asks blockerm for the holder, and the mapper, if it runs and knows the volume, for the rest.
 * @throws SystemError when blockerm cannot tell
 */
export async function lockState(session: Session, name: string): Promise<LockState> {
  const lock = holderInfo(session, await session.client.objects('maps').lockHolder(name));
  const { open = null, byHand = false, lost = null } = await useHere(session, name);
  return { lock, open, byHand, lost };
}

async function useHere(session: Session, name: string): Promise<UseHere> {
  // A lock needs no volume, and its holder can be told without a mapper.
  const harmless = new Set([errnos.ENOENT, errnos.ECONNREFUSED, errnos.EINVAL, errnos.EOPNOTSUPP, errnos.EIO]);
  try {
    return await session.client.json<VolumeStat & UseHere>('mapper', Op.STAT, name, { allocated: false });
  } catch (error) {
    if (harmless.has(errnoOf(error))) return {};
    throw error;
  }
}

/** `locked by node1_1002 since 2024-05-01T10:04:00.000Z`, or `not locked`. */
export function formatLock(lock: LockInfo | null): string {
  if (!lock) return 'not locked';
  const since = lock.since === null ? '' : ` since ${new Date(lock.since).toISOString()}`;
  return `locked by ${lock.owner || 'an unknown owner (empty lock)'}${since}`;
}

/** All of it: one line, and more where this node has something to do with the volume. */
export function formatState(name: string, { lock, open, byHand, lost }: LockState): string {
  const lines = [formatLock(lock)];
  if (lock) {
    const age = lock.ageMs === null ? '' : `, for ${formatAge(lock.ageMs)}`;
    lines.push(`  host:  ${lock.host}${lock.here ? ' (this node)' : ''}${age}`);
  }
  const here = [open && `open ${open}`, byHand && 'locked by hand'].filter(Boolean).join(', ');
  if (here !== '') lines.push(`  here:  ${here}`);
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
