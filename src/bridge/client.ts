/**
 * A node as a short program sees it: over the bridge, without joining the segment. Nothing that this file loads loads a native library, so that
 * a command that asks one thing is there and gone again in the time that Node itself takes.
 */
import net from 'node:net';
import { findPeer, lockOwnerOf, type Peer } from '../config/peers.js';
import type { Config } from '../config/types.js';
import { XsegObjectClient } from '../requests/object-client.js';
import type { Op } from '../requests/ops.js';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import type { CallReply } from '../xseg/call.js';
import { askJson, explained, requirePeer } from './ask.js';
import { MAX_BYTES, MAX_IN_FLIGHT } from './limits.js';
import { LineReader } from './lines.js';
import {
  BRIDGE_VERSION,
  type BridgeAnswer,
  type BridgeCall,
  BridgeRefusal,
  bridgeSocketOf,
  bytesOf,
  encodeRequest,
  MAX_ANSWER_LINE,
  parseObject,
  resultOf,
} from './protocol.js';

/** A node that is alive greets at once; one that hangs is better asked over the segment, whose other peers may be well. */
const GREETING_MS = 1000;

interface Pending {
  readonly id: number;
  readonly line: string;
  readonly call: BridgeCall;
  readonly resolve: (reply: CallReply) => void;
  readonly reject: (error: unknown) => void;
}

export interface BridgeOptions {
  /** How long the bridge may take to greet, ms; default 1000. */
  readonly greetingMs?: number;
}

export class BridgeClient {
  readonly config: Config;
  readonly #socket: net.Socket;
  readonly #lines = new LineReader(MAX_ANSWER_LINE);
  /** What was sent, by id. */
  readonly #pending = new Map<number, Pending>();
  #bytes = 0;
  /** What is sent when there is room for it. */
  readonly #waiting: Pending[] = [];
  #greeted: ((error: SystemError | null) => void) | null;
  #nextId = 1;
  /** Why nothing can be asked any more. */
  #over: SystemError | null = null;

  private constructor(config: Config, socket: net.Socket, greeted: (error: SystemError | null) => void) {
    this.config = config;
    this.#socket = socket;
    this.#greeted = greeted;
    const path = bridgeSocketOf(config);
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', (error) => {
      this.#end(this.#greeted ? unreachable(error, path) : lost(error));
    });
    socket.on('close', () => this.#end(this.#greeted ? refused(errnos.ECONNRESET, `${path} does not answer`) : lost()));
  }

  /**
   * Connects to the bridge of a node.
   * @throws BridgeRefusal saying what to do: ENOENT, ECONNREFUSED the node (or its nbd role) is not running; EACCES; ETIMEDOUT it hangs;
   * EPROTO it is the bridge of another version, or of another segment
   */
  static connect(config: Config, { greetingMs = GREETING_MS }: BridgeOptions = {}): Promise<BridgeClient> {
    return new Promise((resolve, reject) => {
      const path = bridgeSocketOf(config);
      const client = new BridgeClient(config, net.connect(path), (error) => {
        clearTimeout(timer);
        if (error === null) resolve(client);
        else reject(error);
      });
      const late = `the node hangs: nothing comes from ${path}; see archipelago status`;
      const timer = setTimeout(() => client.#end(refused(errnos.ETIMEDOUT, late)), greetingMs);
    });
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
   * Asks a peer, as Port.call does.
   * @throws ReplyError its refusal; BridgeRefusal the peer was not asked (ECONNREFUSED: the bridge had gone away before); SystemError
   * ECONNREFUSED the peer does not run, ECONNRESET it, or the bridge, went away, and whether the request was done is not known
   */
  async call(peer: Peer, request: BridgeCall): Promise<CallReply> {
    const role = requirePeer(this.config, peer);
    try {
      return await this.exchange(peer, request);
    } catch (error) {
      throw error instanceof BridgeLost || error instanceof BridgeRefusal ? error : explained(error, role);
    }
  }

  /** A JSON operation: sends `body`, resolves to the parsed answer. */
  json<T>(
    peer: Peer,
    op: Op,
    target: string,
    body: object,
    more: Pick<BridgeCall, 'flags' | 'v0Size'> = {},
  ): Promise<T> {
    const call = (request: BridgeCall): Promise<CallReply> => this.call(peer, request);
    return askJson<T>(call, this.find(peer)?.role ?? peer, { op, target, ...more }, body);
  }

  /** The objects of a store. */
  objects(store: 'blocks' | 'maps'): XsegObjectClient {
    // Deadlines are those of the daemons.
    const call = (
      _port: number,
      { deadline = 0, ...request }: BridgeCall & { deadline?: number },
    ): Promise<CallReply> =>
      deadline === 0
        ? this.call(store, request)
        : Promise.reject(refused(errnos.EOPNOTSUPP, 'the bridge passes no requests with a deadline on'));
    return new XsegObjectClient({ call }, requirePeer(this.config, store).port);
  }

  /** call without the words for people. */
  exchange(peer: Peer, call: BridgeCall): Promise<CallReply> {
    return new Promise((resolve, reject) => {
      if (this.#over) throw notAsked(this.#over);
      const id = this.#nextId++;
      this.#waiting.push({ id, line: encodeRequest(id, peer, call), call, resolve, reject });
      this.#send();
    });
  }

  /** Ends the connection. What is asked and not answered fails with ECONNRESET, done or not. */
  close(): void {
    this.#end(lost());
  }

  /** Sends what the server takes at once. */
  #send(): void {
    for (let next = this.#waiting[0]; next; next = this.#waiting[0]) {
      const bytes = bytesOf(next.call);
      const room = this.#pending.size < MAX_IN_FLIGHT && this.#bytes + bytes <= MAX_BYTES;
      if (!room && this.#pending.size > 0) return;
      this.#waiting.shift();
      this.#bytes += bytes;
      this.#pending.set(next.id, next);
      this.#socket.write(next.line);
    }
  }

  #receive(chunk: Buffer): void {
    try {
      for (const line of this.#lines.push(chunk)) this.#take(parseObject(line));
      if (this.#lines.overlong) throw new SystemError(errnos.EPROTO, 'a line without an end');
    } catch (error) {
      this.#end(this.#greeted ? notOurs(this.config, messageOf(error)) : lost(error));
    }
  }

  #take(message: Record<string, unknown>): void {
    if (this.#greeted) {
      this.#greet(message);
      return;
    }
    const answer = message as unknown as BridgeAnswer;
    if (answer.id === null) {
      // Everything that has no answer by now was not passed on.
      this.#end(refused(answer.errno ?? errnos.EPROTO, String(answer.message)));
      return;
    }
    const pending = this.#pending.get(answer.id);
    if (!pending) return;
    this.#pending.delete(answer.id);
    this.#bytes -= bytesOf(pending.call);
    this.#send();
    try {
      pending.resolve(resultOf(answer, pending.call));
    } catch (error) {
      pending.reject(error);
    }
  }

  #greet({ bridge, segment, errno, message }: Record<string, unknown>): void {
    if (typeof errno === 'number') {
      this.#end(refused(errno, String(message)));
    } else if (bridge !== BRIDGE_VERSION) {
      this.#end(notOurs(this.config, `version ${String(bridge)} instead of ${BRIDGE_VERSION}: restart the node`));
    } else if (segment !== this.config.xseg.name) {
      this.#end(notOurs(this.config, `the bridge of segment ${String(segment)}, not of ${this.config.xseg.name}`));
    } else {
      const greeted = this.#greeted;
      this.#greeted = null;
      greeted?.(null);
    }
  }

  #end(error: SystemError): void {
    if (this.#over) return;
    this.#over = error;
    this.#socket.destroy();
    const greeted = this.#greeted;
    this.#greeted = null;
    greeted?.(error);
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
    for (const { reject } of this.#waiting.splice(0)) reject(notAsked(error));
  }
}

/** The bridge went away: what was asked may have been done. */
export class BridgeLost extends SystemError {
  constructor(cause?: unknown) {
    const why = cause === undefined ? '' : ` (${messageOf(cause)})`;
    super(
      errnos.ECONNRESET,
      `the node went away during the request${why}; whether it was done is not known: look, then try again`,
      { cause },
    );
    this.name = 'BridgeLost';
  }
}

const lost = (cause?: unknown): BridgeLost => new BridgeLost(cause);
const refused = (errno: number, message: string, cause?: unknown): BridgeRefusal =>
  new BridgeRefusal(errno, message, { cause });
/** What a request fails with that was never sent, because the connection had ended. */
const notAsked = (over: SystemError): BridgeRefusal =>
  over instanceof BridgeRefusal
    ? over
    : refused(errnos.ECONNREFUSED, 'the node went away before it was asked this; try again', over);
const notOurs = (config: Config, problem: string): BridgeRefusal =>
  refused(errnos.EPROTO, `${bridgeSocketOf(config)}: ${problem}`);

function unreachable(error: Error, path: string): BridgeRefusal {
  const errno = errnoOf(error);
  if (errno === errnos.ENOENT || errno === errnos.ECONNREFUSED) {
    return refused(errno, `the node is not running: nobody listens on ${path}; start it with archipelago start`, error);
  }
  if (errno === errnos.EACCES) {
    return refused(errno, `no leave to use ${path}: it is for the node's USER and GROUP`, error);
  }
  return refused(errno, `cannot reach the node by ${path}: ${messageOf(error)}`, error);
}
