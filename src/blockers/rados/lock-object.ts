/**
 * The lock of one target, as the original's blocker for RADOS has it: an exclusive lock of the lock class on the object `<target>_lock`.
 * The original leaves its description empty; here it says which node's it is and since when, because Ceph itself knows only the number of
 * a client instance, which is another one after each restart.
 *
 * To take a lock from somebody, its stored form is replaced by one's own if it is still what was read: one step, so that at no time is it
 * free, for whatever software wants it.
 */
import type { Pool } from '../../rados/types.js';
import { errnos } from '../../sys/errno.js';
import type { LockHolder } from '../driver.js';
import { isErrno } from '../errors.js';
import { LOCK_SUFFIX, MAX_OWNER } from '../names.js';
import {
  attributeOf,
  CLASS,
  clientLocker,
  decodeState,
  encodeBreak,
  encodeGetInfo,
  encodeLock,
  encodeState,
  encodeUnlock,
  type Locker,
  type LockState,
  LockType,
  lockerName,
  MAY_RENEW,
} from './cls-lock.js';

/** The original's names. */
const NAME = 'RadosLock';
const COOKIE = 'foo';
const TAG = '';

const ATTRIBUTE = attributeOf(NAME);
const GET_INFO = encodeGetInfo(NAME);
const UNLOCK = encodeUnlock(NAME, COOKIE);

const DESCRIPTION = /^([^\0]+) (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)(?: after (\[.*\]))?$/s;
/** Most former holders that are kept. */
const MOST_AFTER = 8;

export const lockObject = (target: string): string => target + LOCK_SUFFIX;

/** Who takes locks: a client instance, and the node that it belongs to. */
export interface Self {
  /** Owner string. */
  readonly owner: string;
  readonly instance: bigint;
  readonly address: string;
}

/** A lock that somebody has. */
export interface Held extends LockHolder {
  readonly lockers: readonly Locker[];
  /** This very client instance has it. */
  readonly isOurs: boolean;
  /** Number of the (first) client instance that has it. */
  readonly instance: bigint;
}

/** What is stored, to be replaced. */
export interface Stored {
  readonly held: Held | null;
  readonly bytes: Buffer;
}

function heldBy({ lockers, type }: LockState, self: Self): Held | null {
  if (lockers.length === 0) return null;
  const [locker] = lockers;
  const alone = lockers.length === 1 && type === LockType.EXCLUSIVE && locker.cookie === COOKIE;
  const [, owner, since, after] = DESCRIPTION.exec(locker.description) ?? [];
  const isOurs = alone && lockerName(locker) === `client.${self.instance}`;
  // Whoever holds it beside others, or under another cookie, is none of ours, whatever it says.
  if (!owner || !alone || Buffer.byteLength(owner) > MAX_OWNER)
    return { owner: lockerName(locker), since: null, lockers, isOurs, instance: locker.id };
  return { owner, since: Date.parse(since), after: ownersIn(after), lockers, isOurs, instance: locker.id };
}

/** Owner strings as a lock that was broken names them. */
function ownersIn(json: string | undefined): readonly string[] {
  if (json === undefined) return [];
  try {
    const owners = (JSON.parse(json) as unknown[]).filter((owner): owner is string => typeof owner === 'string');
    return owners.filter((owner) => owner !== '' && Buffer.byteLength(owner) <= MAX_OWNER).slice(0, MOST_AFTER);
  } catch {
    return [];
  }
}

function describe(owner: string, after: readonly string[] = []): string {
  const words = `${owner} ${new Date().toISOString()}`;
  return after.length === 0 ? words : `${words} after ${JSON.stringify(after)}`;
}

/** Whom somebody who takes this lock by force must be sure of: its holder, and those whom that one was not sure of yet. */
function followed(held: Held | null, owner: string): readonly string[] {
  if (!held) return [];
  const former = [held.owner, ...(held.after ?? [])].filter((each) => each !== owner);
  return [...new Set(former)].slice(0, MOST_AFTER);
}

/** Who has the lock, as the OSD sees it; null: nobody. */
export async function readLock(pool: Pool, target: string, self: Self): Promise<Held | null> {
  try {
    return heldBy(decodeState(await pool.exec(lockObject(target), CLASS, 'get_info', GET_INFO)), self);
  } catch (error) {
    if (isErrno(error, errnos.ENOENT)) return null;
    throw error;
  }
}

/** The lock in the form in which it is stored; null: there is none. */
export async function readStored(pool: Pool, target: string, self: Self): Promise<Stored | null> {
  try {
    const bytes = await pool.getXattr(lockObject(target), ATTRIBUTE);
    const state = decodeState(bytes);
    // Those that have run out count no more: the OSD drops them when it looks.
    const lockers = state.lockers.filter(({ expires }) => expires === 0 || expires > Date.now());
    return { bytes, held: heldBy({ ...state, lockers }, self) };
  } catch (error) {
    if (isErrno(error, errnos.ENOENT, errnos.ENODATA)) return null;
    throw error;
  }
}

/** Takes the lock if it is free or this client's own. Resolves to whether that was so. */
export async function takeLock(pool: Pool, target: string, self: Self): Promise<boolean> {
  const input = encodeLock({
    name: NAME,
    type: LockType.EXCLUSIVE,
    cookie: COOKIE,
    tag: TAG,
    description: describe(self.owner),
    flags: MAY_RENEW,
  });
  try {
    await pool.operate(lockObject(target), [{ do: 'exec', class: CLASS, method: 'lock', input }]);
    return true;
  } catch (error) {
    if (isErrno(error, errnos.EBUSY)) return false;
    throw error;
  }
}

/** Makes the lock this client's in the place of what was read. Resolves to false when it is not that any more. */
export async function replaceLock(pool: Pool, target: string, stored: Stored, self: Self): Promise<boolean> {
  const after = followed(stored.held, self.owner);
  const locker = clientLocker(self.instance, COOKIE, self.address, describe(self.owner, after));
  const value = encodeState({ type: LockType.EXCLUSIVE, tag: TAG, lockers: [locker] });
  try {
    await pool.operate(lockObject(target), [
      { do: 'compareXattr', name: ATTRIBUTE, value: stored.bytes },
      { do: 'setXattr', name: ATTRIBUTE, value },
    ]);
    return true;
  } catch (error) {
    // ENOENT: the object was removed, and the lock with it.
    if (isErrno(error, errnos.ECANCELED, errnos.ENOENT)) return false;
    throw error;
  }
}

/** Gives up the lock of this client. Resolves to whether it had it. */
export function giveUpLock(pool: Pool, target: string): Promise<boolean> {
  return remove(pool, target, 'unlock', UNLOCK);
}

/** Takes the lock from that one, and leaves it free. Resolves to whether that one had it. */
export function breakLocker(pool: Pool, target: string, locker: Locker): Promise<boolean> {
  return remove(pool, target, 'break_lock', encodeBreak(NAME, locker));
}

async function remove(pool: Pool, target: string, method: string, input: Buffer): Promise<boolean> {
  try {
    await pool.operate(lockObject(target), [{ do: 'assertExists' }, { do: 'exec', class: CLASS, method, input }]);
    return true;
  } catch (error) {
    if (isErrno(error, errnos.ENOENT)) return false;
    throw error;
  }
}
