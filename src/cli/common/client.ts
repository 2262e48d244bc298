/**
 * A node as the command-line tools see it: its segment, a dynamic port on it, and the roles' ports from the configuration.
 * The tools ask the peers like every other peer does; they know nothing of how those work.
 */
import { findRole } from '../../config/index.js';
import type { Config, RoleType } from '../../config/types.js';
import { encodeJson } from '../../requests/json.js';
import { XsegObjectClient } from '../../requests/object-client.js';
import type { Op } from '../../requests/ops.js';
import { errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';
import { type CallInit, type CallReply, MAX_ALLOCATION, type Port, ReplyError, Segment } from '../../xseg/index.js';
import { CliError } from './exit.js';
import { DEFAULT_PATIENCE_MS, Patience } from './patience.js';

/** Whom a request goes to. */
export type Peer = 'mapper' | 'composer' | 'endpoint' | 'blocks' | 'maps';

/** Room for the answer of a JSON operation; a peer that needs more says so, and is asked again. */
const JSON_CAPACITY = 64 << 10;

export class NodeClient {
  readonly config: Config;
  readonly segment: Segment;
  readonly port: Port;

  readonly #patience: Patience;

  private constructor(config: Config, segment: Segment, port: Port, patienceMs: number) {
    this.config = config;
    this.segment = segment;
    this.port = port;
    const stores = { maps: this.find('maps'), blocks: this.find('blocks') };
    this.#patience = new Patience({ port, stores, mapper: this.find('mapper')?.port ?? null, patienceMs });
  }

  /**
   * Joins the node's segment and binds a dynamic port.
   * @param name what reports call the port, e.g. `vlmc`
   * @param patienceMs how long a store may answer nothing
   * @throws CliError saying what to do when the node does not run
   */
  static connect(config: Config, name: string, patienceMs = DEFAULT_PATIENCE_MS): NodeClient {
    let segment: Segment;
    try {
      segment = Segment.join(config.xseg.spec);
    } catch (error) {
      const errno = errnoOf(error);
      const why =
        errno === errnos.ENOENT
          ? `the node is not running: there is no segment ${config.xseg.name}; start it with archipelago start`
          : `cannot reach the node: ${messageOf(error)}`;
      throw new CliError(why, errno, { cause: error });
    }
    try {
      return new NodeClient(config, segment, segment.bind('dynamic', { name }), patienceMs);
    } catch (error) {
      segment.close();
      throw new CliError(`cannot reach the node: ${messageOf(error)}`, errnoOf(error), { cause: error });
    }
  }

  /** The role behind a peer and its port, or null when the configuration has no such role. */
  find(peer: Peer): { role: string; port: number } | null {
    const first = (type: RoleType): { role: string; port: number } | null => {
      const role = findRole(this.config, type);
      return role ? { role: role.name, port: role.portnoStart } : null;
    };
    if (peer === 'mapper') return first('mapperd');
    if (peer === 'composer') return first('vlmcd');
    if (peer === 'endpoint') return first('nbd');
    const mapper = findRole(this.config, 'mapperd');
    if (!mapper) return null;
    const port = peer === 'blocks' ? mapper.blockerbPort : mapper.blockermPort;
    const role = this.config.roles.find((r) => r.portnoStart <= port && port <= r.portnoEnd);
    return { role: role?.name ?? `the blocker of port ${port}`, port };
  }

  /** What this node's blocker of the maps writes into locks; null when it is not one of this configuration, or has no such name. */
  get lockOwner(): string | null {
    const port = this.find('maps')?.port;
    const role = this.config.roles.find((r) => r.portnoStart === port);
    return role?.type === 'file_blocker' || role?.type === 'rados_blocker' ? role.uniqueStr : null;
  }

  /** @throws SystemError with the peer's errno and message; ETIMEDOUT when a store does not answer */
  async call(peer: Peer, request: CallInit): Promise<CallReply> {
    const { role, port } = this.#require(peer);
    try {
      const store = peer === 'maps' || peer === 'blocks' ? peer : null;
      return await this.#patience.during(request.op, store, this.port.call(port, request));
    } catch (error) {
      const errno = errnoOf(error);
      if (error instanceof ReplyError) throw error;
      if (errno === errnos.ECONNREFUSED) {
        throw new SystemError(errno, `${role} is not running (port ${port}); see archipelago status`, { cause: error });
      }
      if (errno === errnos.ECONNRESET) {
        throw new SystemError(
          errno,
          `${role} went away during the request; whether it was done is not known: look, then try again`,
          { cause: error },
        );
      }
      throw error;
    }
  }

  /** A JSON operation: sends `body`, resolves to the parsed answer. */
  async json<T>(
    peer: Peer,
    op: Op,
    target: string,
    body: object,
    more: Pick<CallInit, 'flags' | 'v0Size'> = {},
  ): Promise<T> {
    const data = encodeJson(body);
    let capacity = Math.max(JSON_CAPACITY, data.length);
    for (;;) {
      try {
        const reply = await this.call(peer, { op, target, data, size: data.length, capacity, ...more });
        return parse<T>(reply, this.#require(peer).role);
      } catch (error) {
        const needed = error instanceof ReplyError && error.errno === errnos.ERANGE ? error.serviced : 0;
        if (needed <= capacity || needed > MAX_ALLOCATION) throw error;
        capacity = needed;
      }
    }
  }

  /** The objects of a store. */
  objects(store: 'blocks' | 'maps'): XsegObjectClient {
    const call = (_port: number, request: CallInit): Promise<CallReply> => this.call(store, request);
    return new XsegObjectClient({ call }, this.#require(store).port);
  }

  /** Leaves the segment. */
  close(): void {
    this.#patience.close();
    this.port.close();
    this.segment.close();
  }

  #require(peer: Peer): { role: string; port: number } {
    const found = this.find(peer);
    if (found) return found;
    const type = { mapper: 'mapperd', composer: 'vlmcd', endpoint: 'nbd', blocks: 'mapperd', maps: 'mapperd' }[peer];
    throw new CliError(`the configuration has no role of type ${type}: add one to ROLES in [PEERS]`);
  }
}

function parse<T>(reply: CallReply, role: string): T {
  try {
    return JSON.parse(reply.data.toString('utf8', 0, reply.serviced)) as T;
  } catch (error) {
    throw new SystemError(errnos.EPROTO, `the answer of ${role} is not JSON`, { cause: error });
  }
}
