/**
 * The node as a provider's call sees it: over the bridge, because a call that joins the segment takes too long for what runs before nearly every
 * operation of Ganeti; only what must be done once joins it. A role that is just being started again is waited for, since Ganeti takes a call that
 * fails for the loss of the disk.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { requirePeer } from '../../bridge/ask.js';
import { BridgeClient } from '../../bridge/client.js';
import { type BridgeCall, BridgeRefusal } from '../../bridge/protocol.js';
import { findPeer, type Peer } from '../../config/peers.js';
import type { Config } from '../../config/types.js';
import { XsegObjectClient } from '../../requests/object-client.js';
import { Op, opName } from '../../requests/ops.js';
import { decodeVolumeInfo, VOLUME_INFO_SIZE, type VolumeInfo } from '../../requests/structs.js';
import { errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';
import type { NodeClient } from '../common/client.js';

/** How long a node that is there, and does not answer yet, is waited for. */
const RESTART_MS = 10_000;
const LOOK_MS = 50;
/** Ganeti gives a call 15 minutes in all: it should hear why, rather than nothing. */
const ANSWER_MS = 60_000;
const LONG_ANSWER_MS = 600_000;
const LONG: ReadonlySet<Op> = new Set([Op.CLONE, Op.DELETE, Op.SNAPSHOT, Op.TRUNCATE, Op.CLOSE]);

/** Nothing was done: the peer, or the whole node, was not there. */
const ABSENT: ReadonlySet<number> = new Set([errnos.ENOENT, errnos.ECONNREFUSED, errnos.ETIMEDOUT]);
/** With these the bridge turns a request away, unasked, when its role is just being stopped or has much to do. */
const TURNED_AWAY: ReadonlySet<number> = new Set([errnos.EAGAIN, errnos.ESHUTDOWN, errnos.ENOSPC]);

type Reply = Awaited<ReturnType<BridgeClient['call']>>;

export interface NodeOptions {
  /** How long a node that is being started again is waited for, in ms. */
  readonly restartMs?: number;
  /** How long an answer may take, in ms. */
  readonly answerMs?: number;
}

export class Node {
  readonly config: Config;
  #bridge: Promise<BridgeClient> | null = null;
  #segment: Promise<NodeClient> | null = null;
  readonly #options: NodeOptions;
  readonly #deadline: number;

  constructor(config: Config, options: NodeOptions = {}) {
    this.config = config;
    this.#options = options;
    this.#deadline = performance.now() + (options.restartMs ?? RESTART_MS);
  }

  /**
   * Asks a peer. One that is being started again is asked as soon as it is there.
   * @param repeatable to ask twice does no harm: then it is asked again also when it went away with the first request
   * @throws SystemError of the peer; ECONNREFUSED the node does not run; ETIMEDOUT no answer
   */
  async call(peer: Peer, request: BridgeCall, { repeatable = false } = {}): Promise<Reply> {
    return await this.#again(
      repeatable,
      () => this.#overBridge(),
      (client) => this.#inTime(peer, request.op as Op, client.call(peer, request)),
    );
  }

  /** A JSON operation that may be asked twice. */
  async json<T>(peer: Peer, op: Op, target: string, body: object): Promise<T> {
    return await this.#again(
      true,
      () => this.#overBridge(),
      (client) => this.#inTime(peer, op, client.json<T>(peer, op, target, body)),
    );
  }

  /** What is under a name; null when there is no volume. @param v0 how a map without a header is read */
  async info(name: string, v0: Pick<BridgeCall, 'flags' | 'v0Size'> = {}): Promise<VolumeInfo | null> {
    try {
      const request = { op: Op.INFO, target: name, capacity: VOLUME_INFO_SIZE, ...v0 };
      return decodeVolumeInfo((await this.call('mapper', request, { repeatable: true })).data);
    } catch (error) {
      if (errnoOf(error) === errnos.ENOENT) return null;
      throw error;
    }
  }

  /**
   * Asks for a change that must be made once. Over the segment, where it outlives a peer that dies with it: the successor tells.
   * @throws SystemError as of call; ECONNRESET no successor came: whether it was done is not known
   */
  async change(peer: Peer, request: BridgeCall): Promise<Reply> {
    return await this.#again(
      false,
      () => this.#overSegment(),
      (client) => this.#inTime(peer, request.op as Op, client.call(peer, request)),
    );
  }

  /** The objects of the maps store. What is done with them may be done twice. */
  maps(): XsegObjectClient {
    const call = (_port: number, request: BridgeCall): Promise<Reply> =>
      this.call('maps', request, { repeatable: true });
    return new XsegObjectClient({ call }, requirePeer(this.config, 'maps').port);
  }

  close(): void {
    for (const reached of [this.#bridge, this.#segment]) {
      reached?.then(
        (client) => client.close(),
        () => {},
      );
    }
    this.#bridge = this.#segment = null;
  }

  #overBridge(): Promise<BridgeClient> {
    this.#bridge ??= BridgeClient.connect(this.config);
    return this.#bridge;
  }

  #overSegment(): Promise<NodeClient> {
    this.#segment ??= joined(this.config);
    return this.#segment;
  }

  async #again<C, T>(repeatable: boolean, reach: () => Promise<C>, work: (client: C) => Promise<T>): Promise<T> {
    for (;;) {
      const reaching = reach();
      let reached = false;
      try {
        const client = await reaching;
        reached = true;
        return await work(client);
      } catch (error) {
        if (performance.now() >= this.#deadline || !(await this.#isPassing(error, reached, repeatable))) {
          throw reached ? error : unreachable(error);
        }
        // It may be over; another costs a millisecond. What others ask at the same time may have made it already.
        if (reaching === this.#bridge || reaching === this.#segment) this.close();
        await sleep(LOOK_MS);
      }
    }
  }

  /** Will it be well in a moment, and may it be tried again? */
  async #isPassing(error: unknown, reached: boolean, repeatable: boolean): Promise<boolean> {
    const errno = errnoOf(error);
    const gone = errno === errnos.ECONNRESET && (repeatable || !reached);
    const absent = reached ? errno === errnos.ECONNREFUSED : ABSENT.has(errno);
    const turnedAway = error instanceof BridgeRefusal && TURNED_AWAY.has(errno);
    return (gone || absent || turnedAway) && (await import('../common/supervised.js')).isSupervised(this.config);
  }

  async #inTime<T>(peer: Peer, op: Op, answer: Promise<T>): Promise<T> {
    const ms = this.#options.answerMs ?? (LONG.has(op) ? LONG_ANSWER_MS : ANSWER_MS);
    const role = findPeer(this.config, peer)?.role ?? peer;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      const why = `${role} has not answered ${opName(op)} for ${Math.round(ms / 1000)} s; see archipelago status: a store may be down`;
      timer = setTimeout(() => reject(new SystemError(errnos.ETIMEDOUT, why)), ms);
    });
    try {
      return await Promise.race([answer, late]);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** That there is no socket must not be taken for that there is no volume. */
function unreachable(error: unknown): SystemError {
  const errno = errnoOf(error);
  const why = messageOf(error);
  return new SystemError(errno === errnos.ENOENT ? errnos.ECONNREFUSED : errno, why, { cause: error });
}

/** A client with a port on the segment: loaded by calls that need it. */
async function joined(config: Config): Promise<NodeClient> {
  const { NodeClient } = await import('../common/client.js');
  const client = NodeClient.connect(config, 'ganeti');
  await client.join();
  return client;
}
