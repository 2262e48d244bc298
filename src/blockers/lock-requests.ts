/** The requests about locks between nodes: what their data says, and their answers. */
import { decodeJson, encodeJson } from '../requests/json.js';
import { errnos, SystemError } from '../sys/errno.js';
import type { Request } from '../xseg/index.js';
import { answer } from './answer.js';
import type { Driver } from './driver.js';
import { toMail } from './mail.js';
import type { NewsRequests } from './news-requests.js';

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

/**
 * NEWS: waits until the store has something to tell, as many ms as the request's offset says. Resolves to what was serviced.
 * @throws SystemError EOPNOTSUPP for a store that tells nothing
 */
export async function newsRequest(driver: Driver, waiting: NewsRequests, request: Request): Promise<number> {
  if (!driver.nextNews) throw new SystemError(errnos.EOPNOTSUPP, 'this store tells nothing by itself');
  return answer(
    request,
    encodeJson(
      await waiting.wait(
        request.offset,
        (ms) => driver.nextNews!(ms),
        () => request.orphaned,
      ),
    ),
  );
}

/** FENCE: has the store refuse the node of this owner. @throws SystemError EOPNOTSUPP for a store that cannot */
export async function fenceNode(driver: Driver, owner: string): Promise<Buffer> {
  if (!driver.fence) throw new SystemError(errnos.EOPNOTSUPP, 'this store cannot refuse anybody');
  return encodeJson(await driver.fence(owner));
}
