/** The requests about locks between nodes: what their data says, and their answers. */
import { decodeJson, encodeJson } from '../requests/json.js';
import { errnos, SystemError } from '../sys/errno.js';
import type { Driver } from './driver.js';
import { toMail } from './mail.js';

/** Most locks of one page, and of one check, whatever is asked for. */
const MOST = 4096;

/** LOCKCHECK: the names to look at. @throws SystemError EINVAL */
export function parseCheck(bytes: Uint8Array): readonly string[] {
  const { names } = decodeJson(bytes, 'LOCKCHECK') ?? {};
  if (!Array.isArray(names) || !names.every((name): name is string => typeof name === 'string')) {
    throw new SystemError(errnos.EINVAL, 'LOCKCHECK: names is not a list of strings');
  }
  if (names.length > MOST) {
    throw new SystemError(errnos.EINVAL, `LOCKCHECK: ${names.length} names; the limit of one request is ${MOST}`);
  }
  return names;
}

/** LOCKMAIL: leaves the letter. @throws SystemError EINVAL */
export async function sendMail(driver: Driver, to: string, bytes: Uint8Array): Promise<void> {
  const mail = toMail(decodeJson(bytes, 'LOCKMAIL'));
  if (mail === null) throw new SystemError(errnos.EINVAL, 'LOCKMAIL: the data is not a message about a lock');
  await driver.sendMail(to, mail);
}

/** LOCKS: a page that fits `room` bytes. @throws SystemError EINVAL */
export async function locksPage(driver: Driver, bytes: Uint8Array, room: number): Promise<Buffer> {
  const { cursor = null, limit = 256 } = (bytes.length === 0 ? {} : decodeJson(bytes, 'LOCKS')) ?? {};
  if (cursor !== null && typeof cursor !== 'string') {
    throw new SystemError(errnos.EINVAL, 'LOCKS: cursor is not a string');
  }
  if (typeof limit !== 'number' || !Number.isInteger(limit) || limit < 1) {
    throw new SystemError(errnos.EINVAL, 'LOCKS: limit is not a positive integer');
  }
  for (let most = Math.min(limit, MOST); ; most = Math.max(1, most >> 1)) {
    const page = encodeJson(await driver.listLocks(cursor, most));
    // A page that is too long for the buffer is made again with fewer locks.
    if (page.length <= room || most === 1) return page;
  }
}
