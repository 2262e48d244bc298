/**
 * The node as a provider's call sees it: over the bridge, because a call that joins the segment takes too long for what runs before nearly every
 * operation of Ganeti. A role that is just being started again is waited for, since Ganeti takes a call that fails for the loss of the disk.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { BridgeClient } from '../../bridge/client.js';
import { type BridgeCall, BridgeRefusal } from '../../bridge/protocol.js';
import type { Config } from '../../config/types.js';
import { Op, opName } from '../../requests/ops.js';
import { decodeVolumeInfo, VOLUME_INFO_SIZE, type VolumeInfo } from '../../requests/structs.js';
import { errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';

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
  #client: BridgeClient | null = null;
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
    return await this.#again(repeatable, (client) => this.#inTime(peer, request.op as Op, client.call(peer, request)));
  }

  /** A JSON operation that may be asked twice. */
  async json<T>(peer: Peer, op: Op, target: string, body: object): Promise<T> {
    return await this.#again(true, (client) => this.#inTime(peer, op, client.json<T>(peer, op, target, body)));
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

  /** The objects of the maps store. */
  async maps(): Promise<ReturnType<BridgeClient['objects']>> {
    return await this.#again(true, async (client) => client.objects('maps'));
  }

  close(): void {
    this.#client?.close();
    this.#client = null;
  }

  async #again<T>(repeatable: boolean, work: (client: BridgeClient) => Promise<T>): Promise<T> {
    for (;;) {
      let connected = false;
      try {
        this.#client ??= await BridgeClient.connect(this.config);
        connected = true;
        return await work(this.#client);
      } catch (error) {
        if (performance.now() >= this.#deadline || !(await this.#isPassing(error, connected, repeatable))) {
          throw connected ? error : unreachable(error);
        }
        // Its connection may be over; another costs a millisecond.
        this.close();
        await sleep(LOOK_MS);
      }
    }
  }

  /** Will it be well in a moment, and may it be tried again? */
  async #isPassing(error: unknown, connected: boolean, repeatable: boolean): Promise<boolean> {
    const errno = errnoOf(error);
    const gone = errno === errnos.ECONNRESET && (repeatable || !connected);
    const absent = connected ? errno === errnos.ECONNREFUSED : ABSENT.has(errno);
    const turnedAway = error instanceof BridgeRefusal && TURNED_AWAY.has(errno);
    return (gone || absent || turnedAway) && (await nodeRuns(this.config));
  }

  async #inTime<T>(peer: Peer, op: Op, answer: Promise<T>): Promise<T> {
    const ms = this.#options.answerMs ?? (LONG.has(op) ? LONG_ANSWER_MS : ANSWER_MS);
    const role = this.#client?.find(peer)?.role ?? peer;
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

type Peer = Parameters<BridgeClient['call']>[0];

/** Is there a supervisor, which starts again what died? */
async function nodeRuns(config: Config): Promise<boolean> {
  const { isSupervisor, supervisorPidfile } = await import('../../peer/paths.js');
  const { livingPid } = await import('../../peer/pidfile.js');
  return livingPid(supervisorPidfile(config), (pid) => isSupervisor(pid, config)) !== null;
}
