/** What every client of a node does with its calls, whether they go over the bridge or over the segment. */
import { findPeer, type Peer, ROLE_OF } from '../config/peers.js';
import type { Config } from '../config/types.js';
import { encodeJson } from '../requests/json.js';
import { errnoOf, errnos, SystemError } from '../sys/errno.js';
import { type CallReply, ReplyError } from '../xseg/call.js';
import { MAX_ALLOCATION } from '../xseg/layout.js';
import type { BridgeCall } from './protocol.js';

/** Room for the answer of a JSON operation; a peer that needs more says so, and is asked again. */
const JSON_CAPACITY = 64 << 10;

/** The role behind a peer. @throws SystemError EINVAL when the configuration has none */
export function requirePeer(config: Config, peer: Peer): { role: string; port: number } {
  const found = findPeer(config, peer);
  if (found) return found;
  throw new SystemError(
    errnos.EINVAL,
    `the configuration has no role of type ${ROLE_OF[peer]}: add one to ROLES in [PEERS]`,
  );
}

/** Makes the segment's word on a peer that is not there one that names its role; everything else stays as it is. */
export function explained(error: unknown, { role, port }: { role: string; port: number }): unknown {
  const errno = errnoOf(error);
  if (error instanceof ReplyError) return error;
  if (errno === errnos.ECONNREFUSED) {
    return new SystemError(errno, `${role} is not running (port ${port}); see archipelago status`, { cause: error });
  }
  if (errno === errnos.ECONNRESET) {
    return new SystemError(
      errno,
      `${role} went away during the request; whether it was done is not known: look, then try again`,
      { cause: error },
    );
  }
  return error;
}

/**
 * A JSON operation: sends `body`, resolves to the parsed answer, whatever its length.
 * @param role of the peer, for the error
 * @throws SystemError of the call; EPROTO when the answer is not JSON
 */
export async function askJson<T>(
  call: (request: BridgeCall) => Promise<CallReply>,
  role: string,
  request: BridgeCall,
  body: object,
): Promise<T> {
  const data = encodeJson(body);
  let capacity = Math.max(JSON_CAPACITY, data.length);
  for (;;) {
    try {
      return parse<T>(await call({ ...request, data, size: data.length, capacity }), role);
    } catch (error) {
      const needed = error instanceof ReplyError && error.errno === errnos.ERANGE ? error.serviced : 0;
      if (needed <= capacity || needed > MAX_ALLOCATION) throw error;
      capacity = needed;
    }
  }
}

function parse<T>({ data, serviced }: CallReply, role: string): T {
  try {
    return JSON.parse(data.toString('utf8', 0, serviced)) as T;
  } catch (error) {
    throw new SystemError(errnos.EPROTO, `the answer of ${role} is not JSON`, { cause: error });
  }
}
