/**
 * Which names volumes may have, and how stored names relate to them (ondisk 1, 6.4). A name that breaks the rules can still be
 * opened when such a map exists, but none is made.
 */
import { errnos, SystemError } from '../sys/errno.js';

export const MIN_NAME = 6;
/** 123 bytes of a map entry minus `_<epoch>_<index>`, minus the `archip_` of old times. */
export const MAX_NAME = 82;
/** Put before the names of volumes by versions up to 0.3. */
export const LEGACY_PREFIX = 'archip_';
export const LOCK_SUFFIX = '_lock';

const MAP_DATA_LIKE = /_[0-9a-f]{16}/;
const MAP_DATA_SUFFIX = /_[0-9a-f]{16}$/;
const HASH_NAME = /^[0-9a-f]{64}$/;

const invalid = (message: string): SystemError => new SystemError(errnos.EINVAL, message);

/**
 * Checks the name of a volume or snapshot that is to be made.
 * @throws SystemError EINVAL, ENAMETOOLONG with the rule that it breaks
 */
export function checkNewName(name: string): void {
  checkTarget(name);
  const length = Buffer.byteLength(name, 'utf8');
  if (length < MIN_NAME) throw invalid(`name ${name} is too short: at least ${MIN_NAME} bytes`);
  if (length > MAX_NAME) {
    throw new SystemError(errnos.ENAMETOOLONG, `name ${name} has ${length} bytes: at most ${MAX_NAME}`);
  }
  if (name.startsWith(LEGACY_PREFIX)) throw invalid(`name ${name} is reserved: it starts with ${LEGACY_PREFIX}`);
  if (name.endsWith(LOCK_SUFFIX)) throw invalid(`name ${name} is reserved: it ends in ${LOCK_SUFFIX}`);
  if (MAP_DATA_LIKE.test(name)) {
    throw invalid(`name ${name} is reserved: it has "_" followed by 16 lower-case hex digits`);
  }
}

/** Checks a name that a request uses for something that should exist. @throws SystemError EINVAL */
export function checkTarget(name: string): void {
  if (name.length === 0) throw invalid('the request names no volume');
  if (name.includes('/') || name.includes('\0')) throw invalid(`name ${JSON.stringify(name)} has a slash or a NUL`);
  if (Buffer.byteLength(name, 'utf8') > 255 - MIN_NAME) throw invalid(`name ${name.slice(0, 40)}… is too long`);
}

/** The volume's name whichever of its two stored names is given. */
export const plainName = (name: string): string =>
  name.startsWith(LEGACY_PREFIX) && name.length > LEGACY_PREFIX.length ? name.slice(LEGACY_PREFIX.length) : name;

/** Whether an object of the maps store can be the header of a map, by its name. */
export const mayBeHeader = (object: string): boolean => !object.endsWith(LOCK_SUFFIX) && !MAP_DATA_SUFFIX.test(object);

/** Whether a map without any signature may be listed as a v0 map. */
export const mayBeV0 = (object: string): boolean => HASH_NAME.test(object);
