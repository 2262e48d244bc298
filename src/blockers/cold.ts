/** The operations of a blocker that are not on the data path: what their requests say, and what their answers are. */
import { encodeJson, parseListRequest } from '../requests/json.js';
import { Flag, Op, opName } from '../requests/ops.js';
import { decodeName, encodeInfo, encodeName } from '../requests/structs.js';
import { errnos, SystemError } from '../sys/errno.js';
import type { Request } from '../xseg/index.js';
import { answer, RangeTooSmall } from './answer.js';
import type { Driver } from './driver.js';
import { fenceNode, locksPage, parseCheck, sendMail } from './lock-requests.js';

/** Most names of one page, whatever is asked for: a page is made in memory. */
const MAX_PAGE = 4096;
/** Room that the JSON of any lock's holder fits. */
const HOLDER_ROOM = 8192;

/** A copy of the request's first `size` bytes of data. */
function body(request: Request): Buffer {
  return Buffer.from(request.data.subarray(0, Math.min(request.size, request.dataLength)));
}

async function info(driver: Driver, request: Request): Promise<number> {
  const { size, allocated, modified } = await driver.info(request.target);
  // The original's reply has the size alone; whoever brings room for more gets more.
  const room = request.dataLength;
  return answer(
    request,
    encodeInfo(room >= 24 ? { size, allocated, modified } : room >= 16 ? { size, allocated } : { size }),
  );
}

async function list(driver: Driver, request: Request): Promise<number> {
  const { cursor, limit } = parseListRequest(body(request));
  for (let most = Math.min(limit, MAX_PAGE); ; most = Math.max(1, most >> 1)) {
    const page = encodeJson(await driver.list(cursor, most));
    // A page that is too long for the buffer is made again with fewer names.
    if (page.length <= request.dataLength || most === 1) return answer(request, page);
  }
}

/** The answer says who had the lock, where the asker has room for it: the original's ACQUIRE has no data. */
async function breakLock(driver: Driver, request: Request): Promise<number> {
  const room = request.dataLength;
  // Asked before: who is told afterwards that the answer does not fit has no other way to hear whose the lock was.
  if (room > 0 && room < HOLDER_ROOM) throw new RangeTooSmall(HOLDER_ROOM, room);
  const before = await driver.breakLock(request.target);
  return room === 0 ? 0 : answer(request, encodeJson(before));
}

/** The objects that a request is for: its target, or, with none, those whose names are its data; null: neither. @throws SystemError EINVAL */
function objectsOf(request: Request): string[] | null {
  const { op, size, target } = request;
  if (size === 0) return target === '' ? null : [target];
  if (size > request.dataLength) {
    throw new SystemError(errnos.EINVAL, `${opName(op)}: ${size} bytes of names in a buffer of ${request.dataLength}`);
  }
  return body(request).toString('utf8').split('\n');
}

/** Fails once nothing of it runs any more, with the first error. */
async function reset(driver: Driver, request: Request): Promise<number> {
  // One that has a target is of that, whatever its size says.
  const names = request.target === '' ? objectsOf(request) : [request.target];
  if (names === null) throw new SystemError(errnos.EINVAL, 'RESET: of no object');
  const isDurable = (request.flags & Flag.FUA) !== 0;
  const { deadline } = request;
  const ended = await Promise.allSettled(names.map((name) => driver.reset(name, isDurable, deadline)));
  for (const outcome of ended) if (outcome.status === 'rejected') throw outcome.reason;
  return request.size;
}

async function flush(driver: Driver, request: Request): Promise<number> {
  await driver.flush(objectsOf(request), request.deadline);
  return request.size;
}

/** Runs a cold operation; resolves to what was serviced. @throws SystemError */
export async function runCold(driver: Driver, request: Request, status: () => object): Promise<number> {
  const { target, flags, size, deadline } = request;
  switch (request.op) {
    case Op.PING:
      return 0;
    case Op.INFO:
      return await info(driver, request);
    case Op.DELETE:
      await driver.delete(target, deadline);
      return 0;
    case Op.RESET:
      return await reset(driver, request);
    case Op.COPY: {
      const options = { durable: (flags & Flag.FUA) !== 0, exclusive: (flags & Flag.EXCL) !== 0, deadline };
      await driver.copy(decodeName(request.data, 'COPY'), target, size, options);
      return size;
    }
    case Op.TRUNCATE:
      await driver.truncate(target, request.offset, deadline);
      return 0;
    case Op.HASH:
      answer(request, encodeName(await driver.hash(target, size, deadline)));
      return size;
    case Op.LIST:
      return await list(driver, request);
    case Op.FLUSH:
      return await flush(driver, request);
    case Op.FORGET:
      driver.forget();
      return 0;
    case Op.ACQUIRE:
      if ((flags & Flag.FORCE) !== 0) return await breakLock(driver, request);
      await driver.acquire(target);
      return 0;
    case Op.RELEASE:
      await driver.release(target, (flags & Flag.FORCE) !== 0);
      return 0;
    case Op.LOCKINFO:
      return answer(request, encodeJson(await driver.lockHolder(target)));
    case Op.LOCKCHECK:
      return answer(
        request,
        encodeJson(await driver.checkLocks(parseCheck(body(request)), (flags & Flag.UNCACHED) === 0)),
      );
    case Op.LOCKMAIL:
      await sendMail(driver, target, body(request));
      return 0;
    case Op.LOCKS:
      return answer(request, await locksPage(driver, body(request), request.dataLength));
    case Op.FENCE:
      return answer(request, await fenceNode(driver, target));
    case Op.STATUS:
      return answer(request, encodeJson(status()));
    default:
      throw new SystemError(errnos.EOPNOTSUPP, 'not an operation of a blocker');
  }
}
