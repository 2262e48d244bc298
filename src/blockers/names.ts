/** Which names an object or a lock may have, in any store. The limits are those of a file name and of a request's target. */
import { errnos, SystemError } from '../sys/errno.js';

/** Longest name of an object, in bytes (a file name's limit on Linux). */
export const MAX_NAME = 255;

/** What the lock of `target` is called in a store. */
export const LOCK_SUFFIX = '_lock';

/** The error of an unusable object name, or null when the name is fine. Does not throw: the hot path asks. */
export function nameError(name: string, limit: number = MAX_NAME): SystemError | null {
  const length = Buffer.byteLength(name, 'utf8');
  if (length > limit) {
    return new SystemError(errnos.ENAMETOOLONG, `object name ${name} is ${length} bytes long; the limit is ${limit}`);
  }
  if (length === 0) return new SystemError(errnos.EINVAL, 'an object needs a name: the one given is empty');
  // Newlines separate the names of a FLUSH: an object with one in its name could never be flushed by name.
  const unusable = name === '.' || name === '..' || ['/', '\0', '\n'].some((character) => name.includes(character));
  if (unusable) {
    return new SystemError(
      errnos.EINVAL,
      `object name ${JSON.stringify(name)} is not usable: it must not be "." or "..", nor hold "/", NUL or a newline`,
    );
  }
  return null;
}

/** @throws SystemError EINVAL or ENAMETOOLONG, naming the name */
export function checkName(name: string): void {
  const error = nameError(name);
  if (error) throw error;
}

/** Checks the target of a lock, whose stored name is LOCK_SUFFIX longer. @throws SystemError EINVAL or ENAMETOOLONG */
export function checkLockTarget(target: string): void {
  const error = nameError(target, MAX_NAME - LOCK_SUFFIX.length);
  if (error) throw error;
}

/** Longest owner string of a lock, in bytes (the original's limit). */
export const MAX_OWNER = 128;

/** Checks the owner string of a driver's locks. @throws SystemError EINVAL */
export function checkOwner(owner: string): void {
  const length = Buffer.byteLength(owner, 'utf8');
  if (length === 0 || length > MAX_OWNER || owner.includes('\0')) {
    throw new SystemError(
      errnos.EINVAL,
      `lock owner ${JSON.stringify(owner)} is not usable: 1 to ${MAX_OWNER} bytes without NUL`,
    );
  }
}

/** @throws SystemError ENOENT */
export function missing(name: string): SystemError {
  return new SystemError(errnos.ENOENT, `object ${name} does not exist`);
}

/** The refusal that another owner's lock causes. */
export function lockedError(target: string, owner: string, since: number | null): SystemError {
  const when = since === null ? '' : ` since ${new Date(since).toISOString()}`;
  return new SystemError(errnos.EBUSY, `${target} is locked by ${owner || 'an unknown owner (empty lock)'}${when}`);
}

/** The refusal to release what another owner holds. */
export function notOwnerError(target: string, owner: string): SystemError {
  return new SystemError(
    errnos.EPERM,
    `${target} is locked by ${owner || 'an unknown owner (empty lock)'}, not by this node: only a forced release removes it`,
  );
}

/** @throws SystemError ENOENT */
export function notLockedError(target: string): SystemError {
  return new SystemError(errnos.ENOENT, `${target} is not locked`);
}
