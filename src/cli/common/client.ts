/**
 * A node as the command-line tools see it: its peers, asked over the bridge, or from a dynamic port on its segment where there is no bridge or
 * a command needs more. The tools ask the peers like every other peer does; they know nothing of how those work.
 */
import { askJson, explained, requirePeer } from '../../bridge/ask.js';
import { BridgeClient, BridgeLost } from '../../bridge/client.js';
import { BridgeRefusal } from '../../bridge/protocol.js';
import { findPeer, lockOwnerOf, type Peer } from '../../config/peers.js';
import type { Config } from '../../config/types.js';
import { XsegObjectClient } from '../../requests/object-client.js';
import { Op } from '../../requests/ops.js';
import { SystemError } from '../../sys/errno.js';
import type { CallInit, CallOptions, CallReply } from '../../xseg/call.js';
import type { Port, Segment } from '../../xseg/index.js';
import { CliError } from './exit.js';
import { DEFAULT_PATIENCE_MS, Patience } from './patience.js';

export type { Peer };

/**
 * What goes over the bridge: what a command asks once, or a few times, and what may be asked twice. Long work of a peer should not depend on the
 * process with the bridge, nor much data go through it.
 */
const BRIDGED: ReadonlySet<number> = new Set([
  Op.PING,
  Op.STATUS,
  Op.STAT,
  Op.INFO,
  Op.LIST,
  Op.LOCKINFO,
  Op.OPEN,
  Op.CLOSE,
  Op.ACQUIRE,
  Op.MAP,
  Op.UNMAP,
  Op.SHOWMAPPED,
  Op.LIMIT,
]);
/** Of these, what may be asked twice: only looks. */
const LOOKS: ReadonlySet<number> = new Set([Op.PING, Op.STATUS, Op.STAT, Op.LIST, Op.LOCKINFO, Op.SHOWMAPPED]);
/**
 * What must be done once. It is asked over the segment, where the request outlives the peer that works on it: its successor knows what was done
 * of it (requests/once.ts), finishes it, and answers.
 */
const CHANGES: ReadonlySet<number> = new Set([Op.CREATE, Op.CLONE, Op.SNAPSHOT, Op.TRUNCATE, Op.RENAME, Op.DELETE]);
/** What waits for the successor of a peer that died with it: changes, and the looks of commands that make them, as rename's at what is mapped. */
const LASTING: ReadonlySet<number> = new Set([...CHANGES, Op.STAT, Op.LIST, Op.LOCKINFO, Op.SHOWMAPPED]);
/** How long: more than a role that keeps dying is left alone, and the start of one. */
const SUCCESSOR_MS = 30_000;

/** A port of its own on the segment. */
interface Joined {
  readonly segment: Segment;
  readonly port: Port;
}

export class NodeClient {
  readonly config: Config;
  readonly #name: string;
  readonly #patience: Patience;
  #bridge: BridgeClient | null = null;
  #joined: Joined | null = null;
  /** Resolves when one of the two is there. */
  #reached: Promise<void> | null = null;
  #joining: Promise<void> | null = null;
  #closed = false;
  /** Will a peer that died have a successor? */
  #hopes: CallOptions['hopes'];

  private constructor(config: Config, name: string, patienceMs: number) {
    this.config = config;
    this.#name = name;
    const stores = { maps: this.find('maps'), blocks: this.find('blocks') };
    const ask = (peer: Peer, request: CallInit): Promise<CallReply> => this.#ask(peer, request);
    this.#patience = new Patience({ ask, stores, mapper: this.find('mapper') !== null, patienceMs });
  }

  /**
   * A client of the node, which it reaches with the first request.
   * @param name what reports call its port, e.g. `vlmc`
   * @param patienceMs how long a store may answer nothing
   */
  static connect(config: Config, name: string, patienceMs = DEFAULT_PATIENCE_MS): NodeClient {
    return new NodeClient(config, name, patienceMs);
  }

  /**
   * Joins the segment: for work that needs a port, or takes long. From then on everything is asked from there.
   * @param name what the port is called, where that is not what reports call it otherwise
   * @throws CliError saying what to do when the node does not run
   */
  async join(name = this.#name): Promise<Joined> {
    this.#joining ??= this.#join(name);
    await this.#joining;
    return this.#needJoined();
  }

  /** The port on the segment. @throws Error unless join was called */
  get port(): Port {
    return this.#needJoined().port;
  }

  /** The role behind a peer and its port, or null when the configuration has no such role. */
  find(peer: Peer): { role: string; port: number } | null {
    return findPeer(this.config, peer);
  }

  /** What this node's blocker of the maps writes into locks; null when it is not one of this configuration, or has no such name. */
  get lockOwner(): string | null {
    return lockOwnerOf(this.config);
  }

  /**
   * @throws CliError when the node does not run; SystemError with the peer's errno and message; ETIMEDOUT when a store does not answer
   */
  async call(peer: Peer, request: CallInit): Promise<CallReply> {
    const role = this.#require(peer);
    const store = peer === 'maps' || peer === 'blocks' ? peer : null;
    try {
      await this.#prepare(request);
      return await this.#patience.during(request.op, store, this.#ask(peer, request));
    } catch (error) {
      throw error instanceof CliError || error instanceof BridgeLost ? error : explained(error, role);
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
    const { role } = this.#require(peer);
    return askJson<T>((request) => this.call(peer, request), role, { op, target, ...more }, body);
  }

  /** The objects of a store. */
  objects(store: 'blocks' | 'maps'): XsegObjectClient {
    const call = (_port: number, request: CallInit): Promise<CallReply> => this.call(store, request);
    return new XsegObjectClient({ call }, this.#require(store).port);
  }

  /** Leaves the node. */
  close(): void {
    this.#closed = true;
    this.#patience.close();
    this.#bridge?.close();
    this.#joined?.port.close();
    this.#joined?.segment.close();
  }

  /** Reaches the node in the way that the request needs. */
  async #prepare({ op, deadline = 0, note = '' }: CallInit): Promise<void> {
    if (!BRIDGED.has(op) || deadline > 0 || note !== '') {
      await this.join();
      return;
    }
    this.#reached ??= this.#reach();
    await this.#reached;
  }

  async #ask(peer: Peer, request: CallInit): Promise<CallReply> {
    if (this.#joined === null && this.#bridge !== null) {
      try {
        return await this.#bridge.exchange(peer, request);
      } catch (error) {
        const again = error instanceof BridgeRefusal || (error instanceof BridgeLost && LOOKS.has(request.op));
        if (!again || this.#closed) throw error;
      }
      await this.join();
    }
    const hopes = LASTING.has(request.op) ? this.#hopes : undefined;
    return this.#needJoined().port.call(this.#require(peer).port, request, { hopes });
  }

  /** By the bridge; by the segment where there is none, or it is not for us: then the segment's word is the one that counts. */
  async #reach(): Promise<void> {
    if (this.#joining) return this.#joining;
    try {
      const bridge = await BridgeClient.connect(this.config);
      if (this.#closed) bridge.close();
      this.#bridge = bridge;
    } catch (error) {
      if (!(error instanceof BridgeRefusal)) throw error;
      await this.join();
    }
  }

  async #join(name: string): Promise<void> {
    const [{ joinSegment }, { isSupervised }] = await Promise.all([
      import('./segment-access.js'),
      import('./supervised.js'),
    ]);
    if (this.#closed) throw new CliError('the command was ended');
    this.#hopes = (awayMs) => awayMs < SUCCESSOR_MS && isSupervised(this.config);
    this.#joined = joinSegment(this.config, name);
  }

  #needJoined(): Joined {
    if (this.#joined) return this.#joined;
    throw new Error('the segment was not joined');
  }

  #require(peer: Peer): { role: string; port: number } {
    try {
      return requirePeer(this.config, peer);
    } catch (error) {
      throw error instanceof SystemError ? new CliError(error.message, error.errno) : error;
    }
  }
}
