/** What stands in the way of stopping a node: volumes that are mapped or have clients. */
import type { Config } from '../config/index.js';
import { findRole } from '../config/index.js';
import { Op } from '../requests/ops.js';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import { type Port, ReplyError } from '../xseg/index.js';

/** How long an endpoint may take to say what it has mapped, in ms. */
const ANSWER_LIMIT_MS = 5_000;
const FIRST_CAPACITY = 64 << 10;

/** What SHOWMAPPED answers, as far as it matters here: with `exports = all` clients can open what nobody mapped. */
interface MappedReply {
  readonly mapped: readonly { name: string }[];
  readonly connections?: readonly { name: string }[];
}

/** Waits for a promise, but not longer than `limitMs`. @throws SystemError ETIMEDOUT */
export async function within<T>(limitMs: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new SystemError(errnos.ETIMEDOUT, `${what}: no answer within ${limitMs / 1000} s`)),
      limitMs,
    );
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/**
 * Names of the volumes that an endpoint of this node has mapped or has clients on; none when no endpoint runs.
 * @throws SystemError when an endpoint runs but does not tell
 */
export async function mappedVolumes(config: Config, port: Port): Promise<string[]> {
  const endpoint = findRole(config, 'nbd');
  if (!endpoint || !port.segment.portOwner(endpoint.portnoStart)?.alive) return [];
  const ask = async (capacity: number): Promise<string[]> => {
    const reply = await port.call(endpoint.portnoStart, { op: Op.SHOWMAPPED, capacity, size: 0 });
    const { mapped, connections = [] } = JSON.parse(reply.data.toString('utf8', 0, reply.serviced)) as MappedReply;
    return [...new Set([...mapped, ...connections].map(({ name }) => name))];
  };
  const asking = ask(FIRST_CAPACITY).catch((error: unknown) => {
    if (error instanceof ReplyError && error.errno === errnos.ERANGE) return ask(error.serviced);
    throw error;
  });
  try {
    return await within(ANSWER_LIMIT_MS, endpoint.name, asking);
  } catch (error) {
    if (errnoOf(error) === errnos.ECONNREFUSED || errnoOf(error) === errnos.ECONNRESET) return [];
    throw new SystemError(
      errnos.EBUSY,
      `cannot tell whether volumes are mapped (${messageOf(error)}); -f stops all the same`,
    );
  }
}

/** @throws SystemError EBUSY naming what is mapped */
export async function requireNoneMapped(config: Config, port: Port): Promise<void> {
  const names = await mappedVolumes(config, port);
  if (names.length === 0) return;
  const shown = names.length > 5 ? `${names.slice(0, 5).join(', ')} and ${names.length - 5} more` : names.join(', ');
  throw new SystemError(
    errnos.EBUSY,
    `Cannot stop: volumes are mapped or have clients (${shown}); unmap them first, or use -f`,
  );
}
