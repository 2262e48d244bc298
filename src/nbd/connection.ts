/** One client's life: handshake under a deadline, transmission, and an end that leaves nothing behind. */
import type { Duplex } from 'node:stream';
import { errnos, messageOf, SystemError } from '../sys/errno.js';
import { type Counters, noCounters } from './counters.js';
import type { ClientTls, ExportProvider } from './device.js';
import { DisconnectedError } from './errors.js';
import type { NameDecoder } from './handshake-codec.js';
import { HandshakeReader } from './handshake-reader.js';
import { AbortedError, type HandshakeChannel, Negotiation } from './negotiation.js';
import type { Poller } from './poller.js';
import type { Session } from './session.js';
import type { TlsAcceptor, TlsMode } from './tls.js';
import { type Shared, Transmission } from './transmission.js';
import type { Transport, TransportEvents } from './transport.js';
import { StreamTransport } from './transport-stream.js';

/** How long a handshake goes on when the server shuts down: enough for an option on its way to get its answer. */
const HANDSHAKE_GRACE_MS = 200;

/** A connection as status shows it. */
export interface ConnectionInfo {
  readonly id: number;
  /** `unix` or `address:port`. */
  readonly peer: string;
  /** What TLS told of the client; null: it is in plaintext. */
  readonly tls: ClientTls | null;
  /** As the client named it; null before negotiation has ended. */
  readonly exportName: string | null;
  /** The export's own name (DeviceInfo.name); null before negotiation has ended. */
  readonly canonicalName: string | null;
  /** When it was accepted, ms since the epoch. */
  readonly since: number;
  readonly inFlight: number;
  readonly counters: Counters;
}

/** What a connection has of the listener it came through. */
export interface Entrance {
  readonly provider: ExportProvider;
  readonly tls: TlsMode;
  /** Reads export names that need not be protocol strings. */
  readonly exportName?: NameDecoder;
}

/** What the server tells a connection. */
export interface ConnectionContext extends Shared {
  /** Of now; asked for when a client starts TLS. @throws when there is none */
  readonly tlsAcceptor: () => TlsAcceptor;
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
  readonly #context: ConnectionContext;
  readonly #entrance: Entrance;
  #transport: Transport;
  #reader: HandshakeReader;
  /** While the TLS handshake runs: no transport has the stream then. */
  #upgrading: Duplex | null = null;
  #tls: ClientTls | null = null;
  #session: Session | null = null;
  #transmission: Transmission | null = null;
  #sent: { resolve(): void; reject(error: Error): void } | null = null;
  #markClosed!: () => void;
  readonly #closed: Promise<void>;
  #isClosed = false;

  constructor(id: number, transport: Transport, entrance: Entrance, context: ConnectionContext) {
    this.id = id;
    this.peer = transport.peer;
    this.#transport = transport;
    this.#entrance = entrance;
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
      tls: this.#tls,
      exportName: this.#session?.exportName ?? null,
      canonicalName: this.#session?.device.info.name ?? this.#session?.exportName ?? null,
      since: this.since,
      inFlight: this.#transmission?.inFlight ?? 0,
      counters: { ...(this.#transmission?.counters ?? noCounters()) },
    };
  }

  /** Its export is not open yet. */
  get negotiating(): boolean {
    return this.#session === null;
  }

  /**
   * In-flight requests are finished and answered, then the connection ends. In a handshake the options of the next moment are answered
   * with ERR_SHUTDOWN.
   */
  shutDown(): void {
    if (this.#transmission !== null) {
      this.#transmission.shutDown();
      return;
    }
    const moment = setTimeout(() => {
      if (this.#transmission === null) {
        this.destroy(new SystemError(errnos.ECONNABORTED, 'the server is shutting down'));
      }
    }, HANDSHAKE_GRACE_MS);
    void this.#closed.then(() => clearTimeout(moment));
  }

  /** Looks whether a client is gone that is not read. */
  look(): void {
    this.#transmission?.look();
  }

  /** Closes now. What is in the device is awaited, its answers are dropped. */
  destroy(error?: Error): void {
    if (this.#upgrading === null) this.#transport.destroy(error);
    else this.#upgrading.destroy(error);
  }

  async #run(): Promise<void> {
    const { log } = this.#context;
    try {
      this.#session = await this.#negotiate();
      if (this.#session !== null) await this.#transmit(this.#session);
    } catch (error) {
      log.info(`${this.peer}: ${messageOf(error)}`);
      this.destroy();
    }
    await this.#closed;
    try {
      await this.#session?.device.close();
    } catch (error) {
      log.error(`${this.peer}: closing ${this.#session?.exportName} failed: ${messageOf(error)}`);
    }
  }

  async #negotiate(): Promise<Session | null> {
    const { limits, stopping } = this.#context;
    const seconds = limits.handshakeMs / 1000;
    // It covers everything: the client's silence, answers that it does not take, the TLS handshake, a slow export.
    const deadline = setTimeout(() => {
      this.destroy(new SystemError(errnos.ETIMEDOUT, `the handshake was not done within ${seconds} s`));
    }, limits.handshakeMs);
    deadline.unref();
    const channel = this.#channel();
    const client = { peer: this.peer, tls: null };
    try {
      return await new Negotiation({ ...this.#entrance, channel, client, limits, stopping }).run();
    } catch (error) {
      if (!(error instanceof AbortedError)) throw error;
      this.#end();
      return null;
    } finally {
      clearTimeout(deadline);
    }
  }

  #channel(): HandshakeChannel {
    // TLS brings another reader.
    const reader = (): HandshakeReader => this.#reader;
    return {
      read: (length) => reader().read(length),
      skip: (length) => reader().skip(length),
      write: (bytes) => this.#write(bytes),
      hasMore: () => reader().rest.start !== reader().rest.end || this.#transport.hasUnread(),
      startTls: () => this.#startTls(),
      get rest() {
        return reader().rest;
      },
    };
  }

  /** From here on a transport over TLS takes the place of the one there was. */
  async #startTls(): Promise<ClientTls> {
    if (this.#isClosed) throw new DisconnectedError();
    const acceptor = this.#context.tlsAcceptor();
    const plain = this.#transport.detach();
    this.#upgrading = plain;
    // The end of the stream is told to nobody else now.
    plain.once('close', () => {
      if (this.#upgrading !== null) this.closed(this.#upgrading.errored);
    });
    if (plain.destroyed) throw new DisconnectedError();
    const { stream, client } = await acceptor.accept(plain);
    if (stream.destroyed) throw new DisconnectedError('the connection broke off right behind the TLS handshake');
    this.#upgrading = null;
    this.#transport = new StreamTransport(stream, this.peer);
    this.#reader = new HandshakeReader(this.#transport);
    this.#transport.events = this;
    this.#tls = client;
    return client;
  }

  /** Ends the connection in an orderly way; a client that does not take part in it for the time of a handshake is dropped. */
  #end(): void {
    const deadline = setTimeout(() => this.destroy(), this.#context.limits.handshakeMs);
    deadline.unref();
    void this.#closed.then(() => clearTimeout(deadline));
    this.#transport.end();
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
    if (!this.#isClosed) this.#end();
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
    if (this.#isClosed) return;
    this.#isClosed = true;
    const reason = error ?? new DisconnectedError();
    this.#reader.fail(reason);
    this.#sent?.reject(reason);
    this.#sent = null;
    this.#transmission?.closed();
    this.#markClosed();
  }
}
