/** One client's life: handshake under a deadline, transmission, and an end that leaves nothing behind. */
import { errnos, messageOf, SystemError } from '../sys/errno.js';
import { type Counters, noCounters } from './counters.js';
import type { ExportProvider } from './device.js';
import { DisconnectedError } from './errors.js';
import { HandshakeReader } from './handshake-reader.js';
import { AbortedError, type HandshakeChannel, Negotiation } from './negotiation.js';
import type { Poller } from './poller.js';
import type { Session } from './session.js';
import { type Shared, Transmission } from './transmission.js';
import type { Transport, TransportEvents } from './transport.js';

/** A connection as status shows it. */
export interface ConnectionInfo {
  readonly id: number;
  /** `unix` or `address:port`. */
  readonly peer: string;
  /** null before negotiation has ended. */
  readonly exportName: string | null;
  /** When it was accepted, ms since the epoch. */
  readonly since: number;
  readonly inFlight: number;
  readonly counters: Counters;
}

/** What the server tells a connection. */
export interface ConnectionContext extends Shared {
  readonly provider: ExportProvider;
  readonly poller: Poller;
  readonly stopping: () => boolean;
  /** Negotiation has ended well. */
  readonly opened: (connection: Connection) => void;
}

export class Connection implements TransportEvents {
  readonly id: number;
  readonly peer: string;
  readonly since = Date.now();
  /** Resolves when the transport is closed and the device too. Never rejects. */
  readonly over: Promise<void>;
  readonly #transport: Transport;
  readonly #context: ConnectionContext;
  readonly #reader: HandshakeReader;
  #session: Session | null = null;
  #transmission: Transmission | null = null;
  #sent: { resolve(): void; reject(error: Error): void } | null = null;
  #markClosed!: () => void;
  readonly #closed: Promise<void>;
  #isClosed = false;

  constructor(id: number, transport: Transport, context: ConnectionContext) {
    this.id = id;
    this.peer = transport.peer;
    this.#transport = transport;
    this.#context = context;
    this.#reader = new HandshakeReader(transport);
    this.#closed = new Promise((resolve) => {
      this.#markClosed = resolve;
    });
    transport.events = this;
    this.over = this.#run();
  }

  get info(): ConnectionInfo {
    return {
      id: this.id,
      peer: this.peer,
      exportName: this.#session?.exportName ?? null,
      since: this.since,
      inFlight: this.#transmission?.inFlight ?? 0,
      counters: { ...(this.#transmission?.counters ?? noCounters()) },
    };
  }

  /** In-flight requests are finished and answered, then the connection ends; a handshake ends at once. */
  shutDown(): void {
    if (this.#transmission !== null) this.#transmission.shutDown();
    else this.destroy(new SystemError(errnos.ECONNABORTED, 'the server is shutting down'));
  }

  /** Closes now. What is in the device is awaited, its answers are dropped. */
  destroy(error?: Error): void {
    this.#transport.destroy(error);
  }

  async #run(): Promise<void> {
    const { log } = this.#context;
    try {
      this.#session = await this.#negotiate();
      if (this.#session !== null) await this.#transmit(this.#session);
    } catch (error) {
      log.info(`${this.peer}: ${messageOf(error)}`);
      this.#transport.destroy();
    }
    await this.#closed;
    try {
      await this.#session?.device.close();
    } catch (error) {
      log.error(`${this.peer}: closing ${this.#session?.exportName} failed: ${messageOf(error)}`);
    }
  }

  async #negotiate(): Promise<Session | null> {
    const { provider, limits, stopping } = this.#context;
    const seconds = limits.handshakeMs / 1000;
    const deadline = setTimeout(() => {
      this.destroy(new SystemError(errnos.ETIMEDOUT, `the handshake was not done within ${seconds} s`));
    }, limits.handshakeMs);
    deadline.unref();
    const reader = this.#reader;
    const channel: HandshakeChannel = {
      read: (length) => reader.read(length),
      skip: (length) => reader.skip(length),
      write: (bytes) => this.#write(bytes),
      get rest() {
        return reader.rest;
      },
    };
    try {
      return await new Negotiation(channel, { peer: this.peer, tls: null }, provider, limits, stopping).run();
    } catch (error) {
      if (!(error instanceof AbortedError)) throw error;
      this.#transport.end();
      return null;
    } finally {
      clearTimeout(deadline);
    }
  }

  /** Sends handshake bytes; resolves when they are gone. */
  #write(bytes: Buffer): Promise<void> {
    if (this.#isClosed) return Promise.reject(new DisconnectedError());
    this.#transport.appendBytes(bytes);
    if (this.#transport.send()) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#sent = { resolve, reject };
    });
  }

  async #transmit(session: Session): Promise<void> {
    const { poller } = this.#context;
    await new Promise<void>((finished) => {
      const transmission = new Transmission(this.#transport, session, this.#context, finished);
      this.#transmission = transmission;
      this.#context.opened(this);
      if (this.#isClosed) transmission.closed();
      else if (this.#context.stopping()) transmission.shutDown();
      transmission.start();
    });
    if (this.#transmission !== null) poller.forget(this.#transmission);
    if (!this.#isClosed) this.#transport.end();
  }

  // What the transport tells

  readable(staged: number): void {
    if (this.#transmission === null) {
      this.#reader.readable(staged);
      return;
    }
    this.#transmission.readable(staged);
    this.#context.poller.touched(this.#transmission);
  }

  ended(): void {
    if (this.#transmission === null) this.#reader.fail();
    else this.#transmission.ended();
  }

  drained(): void {
    if (this.#sent !== null) {
      const { resolve } = this.#sent;
      this.#sent = null;
      resolve();
    } else {
      this.#transmission?.drained();
    }
  }

  closed(error: Error | null): void {
    this.#isClosed = true;
    const reason = error ?? new DisconnectedError();
    this.#reader.fail(reason);
    this.#sent?.reject(reason);
    this.#sent = null;
    this.#transmission?.closed();
    this.#markClosed();
  }
}
