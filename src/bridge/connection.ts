/** One client of the bridge: reads its lines, asks the peers, writes the answers. */
import type net from 'node:net';
import { findPeer, ROLE_OF } from '../config/peers.js';
import type { Config } from '../config/types.js';
import { monotonicMs } from '../sys/clock.js';
import { errnoOf, errnos, messageOf } from '../sys/errno.js';
import { ReplyError } from '../xseg/call.js';
import type { Port } from '../xseg/index.js';
import { Budget, MAX_BYTES, MAX_IN_FLIGHT, MAX_UNTAKEN, UNTAKEN_MS } from './limits.js';
import { LineReader } from './lines.js';
import type { PortPool } from './ports.js';
import {
  answerOf,
  BadLine,
  type BridgeAnswer,
  type BridgeRequest,
  bytesOf,
  decodeRequest,
  MAX_LINE,
  RefusedRequest,
} from './protocol.js';

export interface ConnectionOptions {
  readonly config: Config;
  readonly socket: net.Socket;
  readonly ports: PortPool;
  /** Of all connections. */
  readonly total: Budget;
  /** Called once, when nothing of the client is left. */
  readonly onGone: () => void;
}

export class Connection {
  readonly #options: ConnectionOptions;
  readonly #lines = new LineReader(MAX_LINE);
  /** Ids of the requests that peers work on. */
  readonly #asked = new Set<number>();
  readonly #own = new Budget(MAX_BYTES);
  #port: Port | null = null;
  #untaken = 0;
  #idleSince = monotonicMs();
  /** The last line, for when nothing is under way any more; no request is taken meanwhile. */
  #farewell: BridgeAnswer | null = null;
  /** Nothing more is read or written. */
  #over = false;

  constructor(options: ConnectionOptions) {
    this.#options = options;
    const { socket } = options;
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.#leave());
    socket.on('timeout', () => {
      if (this.#untaken > 0) socket.destroy();
    });
    socket.setTimeout(UNTAKEN_MS);
  }

  /** Requests without an answer. */
  get inFlight(): number {
    return this.#asked.size;
  }

  /** Since when nothing is under way, ms of the monotonic clock; infinity: something is. */
  get idleSince(): number {
    return this.#asked.size > 0 || this.#untaken > 0 ? Number.POSITIVE_INFINITY : this.#idleSince;
  }

  /** Finishes what is under way, says that nothing else was begun, and ends. */
  finish(errno: number, message: string): void {
    this.#farewell ??= { id: null, errno, message, refused: true };
    this.#endWhenDone();
  }

  destroy(): void {
    this.#options.socket.destroy();
  }

  #receive(chunk: Buffer): void {
    try {
      for (const line of this.#lines.push(chunk)) {
        if (this.#farewell || this.#over) return;
        this.#handle(line);
      }
      if (this.#lines.overlong) throw new BadLine(`it is longer than ${MAX_LINE} bytes`);
    } catch (error) {
      // What follows cannot be trusted.
      this.finish(errnoOf(error), messageOf(error));
    }
  }

  /** @throws BadLine */
  #handle(line: Buffer): void {
    try {
      this.#ask(decodeRequest(line));
    } catch (error) {
      if (!(error instanceof RefusedRequest)) throw error;
      const { id, errno, message } = error;
      this.#write({ id, errno, message, refused: true });
    }
  }

  /** @throws BadLine, RefusedRequest */
  #ask({ id, peer, call }: BridgeRequest): void {
    const { config, ports, total } = this.#options;
    if (this.#asked.has(id)) throw new BadLine(`another one with the id ${id} is under way`);
    const destination = findPeer(config, peer);
    if (!destination) throw new RefusedRequest(id, errnos.ENXIO, `the node has no role of type ${ROLE_OF[peer]}`);
    if (this.#asked.size >= MAX_IN_FLIGHT) {
      throw new RefusedRequest(id, errnos.EAGAIN, `${MAX_IN_FLIGHT} of this connection are under way`);
    }
    const bytes = bytesOf(call);
    if (!this.#own.take(bytes)) {
      throw new RefusedRequest(id, errnos.EAGAIN, 'this connection has too much data under way');
    }
    if (!total.take(bytes)) {
      this.#own.give(bytes);
      throw new RefusedRequest(id, errnos.EAGAIN, 'all connections together have too much data under way');
    }
    try {
      this.#port ??= ports.take();
    } catch (error) {
      this.#release(bytes);
      throw new RefusedRequest(id, errnoOf(error), messageOf(error));
    }
    this.#asked.add(id);
    this.#port.call(destination.port, call).then(
      (reply) => this.#answer(answerOf(id, reply), bytes),
      (error: unknown) => {
        const serviced = error instanceof ReplyError ? { serviced: error.serviced } : {};
        this.#answer({ id, errno: errnoOf(error), message: messageOf(error), ...serviced }, bytes);
      },
    );
  }

  #answer(answer: BridgeAnswer, bytes: number): void {
    this.#asked.delete(answer.id as number);
    this.#idleSince = monotonicMs();
    this.#write(answer, bytes);
    this.#endWhenDone();
  }

  /** @param bytes that are free again when the client has taken the answer */
  #write(answer: BridgeAnswer, bytes = 0): void {
    const { socket } = this.#options;
    if (this.#over || this.#untaken >= MAX_UNTAKEN) {
      this.#release(bytes);
      socket.destroy();
      return;
    }
    this.#untaken++;
    socket.write(`${JSON.stringify(answer)}\n`, () => {
      this.#untaken--;
      this.#release(bytes);
    });
  }

  #release(bytes: number): void {
    this.#own.give(bytes);
    this.#options.total.give(bytes);
  }

  #endWhenDone(): void {
    const { socket } = this.#options;
    if (!this.#farewell || this.#asked.size > 0 || this.#over) return;
    this.#write(this.#farewell);
    this.#over = true;
    socket.end(() => socket.destroy());
  }

  /** The client is gone: what it asked ends like what a tool asked that was killed. */
  #leave(): void {
    const { ports, onGone } = this.#options;
    this.#over = true;
    // Closing the port ends the calls, which gives their bytes back.
    if (this.#port) ports.give(this.#port, this.#asked.size === 0);
    this.#port = null;
    onGone();
  }
}
