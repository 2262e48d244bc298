/** The server: listeners, the connections that come through them, and an orderly end. */
import { EventEmitter } from 'node:events';
import net from 'node:net';
import type { Duplex } from 'node:stream';
import { errnos, messageOf, SystemError } from '../sys/errno.js';
import type { PassedSocket } from './activation.js';
import { Admission } from './admission.js';
import { Connection, type ConnectionContext, type ConnectionInfo, type Entrance } from './connection.js';
import type { ExportProvider } from './device.js';
import { GatherBudget } from './gather.js';
import type { NameDecoder } from './handshake-codec.js';
import { makeBudgets } from './holdings.js';
import { IdleWatch } from './idle.js';
import { type Limits, resolveLimits } from './limits.js';
import { addressText, isSameAddress, type ListenAddress, startListening } from './listening.js';
import { type Log, silent } from './log.js';
import { Poller } from './poller.js';
import { DEFAULT_KEEPALIVE, descriptorOf, type Keepalive, setKeepalive, socketKind } from './sockets.js';
import { TlsAcceptor, type TlsMode, type TlsOptions } from './tls.js';
import type { Transmission } from './transmission.js';
import type { Transport } from './transport.js';
import { hasDescriptor, RawTransport } from './transport-raw.js';
import { StreamTransport } from './transport-stream.js';

/** How often it is looked whether clients are gone that are not read, in ms. */
const LOOK_MS = 1000;

/** How a server behaves. */
export interface NbdServerOptions {
  /** Over DEFAULT_LIMITS. */
  readonly limits?: Partial<Limits>;
  /** Microseconds of busy-polling after requests; 0 = off. Default 200. */
  readonly busyPollUs?: number;
  readonly log?: Log;
  /** `raw` (default): system calls on the descriptor; `stream`: node streams. */
  readonly transport?: 'raw' | 'stream';
  /** Of TCP connections. Default: after 30 s of silence, every 10 s, 6 times. */
  readonly keepalive?: Keepalive;
  /** Credentials, for listeners with TLS. */
  readonly tls?: TlsOptions;
}

/** How one listener differs from others. */
export interface ListenOptions {
  /** Default `off`. */
  readonly tls?: TlsMode;
  /** What is exported here; default: what the server was made with. */
  readonly provider?: ExportProvider;
  /** Reads the names of exports where clients send something else than the protocol's strings. */
  readonly exportName?: NameDecoder;
}

/** Events of a server, and what their listeners get. */
export interface NbdServerEvents {
  /** A client has chosen its export. */
  open: [ConnectionInfo];
  /** A connection is over; its device is closed. */
  close: [ConnectionInfo];
}

/** Serves the exports of a provider to whoever connects: `listen` (several times), `serve` for connections that are there, `close`. */
export class NbdServer extends EventEmitter<NbdServerEvents> {
  readonly #limits: Limits;
  readonly #log: Log;
  readonly #raw: boolean;
  readonly #context: ConnectionContext;
  readonly #provider: ExportProvider;
  /** By where they listen. */
  readonly #listeners = new Map<net.Server, ListenAddress>();
  readonly #connections = new Map<number, Connection>();
  readonly #admission: Admission;
  readonly #idleWatch: IdleWatch;
  readonly #look: NodeJS.Timeout;
  readonly #keepalive: Keepalive;
  #nextId = 1;
  #tls: TlsAcceptor | null = null;
  #stopping = false;
  #scheduled: Transmission[] = [];

  /** @throws RangeError for limits that make no sense, SystemError for credentials that cannot be used */
  constructor(provider: ExportProvider, options: NbdServerOptions = {}) {
    super();
    this.#limits = resolveLimits(options.limits);
    this.#log = options.log ?? silent;
    this.#raw = (options.transport ?? 'raw') === 'raw';
    this.#provider = provider;
    this.#keepalive = options.keepalive ?? DEFAULT_KEEPALIVE;
    this.#admission = new Admission(this.#limits.connections, this.#log);
    this.#idleWatch = new IdleWatch(this.#limits.idleMs, () => this.#connections.values(), this.#log);
    this.#look = setInterval(() => {
      for (const connection of this.#connections.values()) connection.look();
    }, LOOK_MS).unref();
    if (options.tls !== undefined) this.setTls(options.tls);
    const poller = new Poller(options.busyPollUs ?? 200);
    this.#context = {
      limits: this.#limits,
      log: this.#log,
      gather: new GatherBudget(this.#limits.gatherBytes),
      budgets: makeBudgets(this.#limits),
      poller,
      stopping: () => this.#stopping,
      tlsAcceptor: () => {
        if (this.#tls === null) throw new SystemError(errnos.EINVAL, 'the server has no TLS credentials');
        return this.#tls;
      },
      opened: (connection) => {
        // Before a client that comes back does anything, what its former connection has not read yet counts as left behind.
        for (const other of this.#connections.values()) if (other !== connection) other.look();
        this.emit('open', connection.info);
      },
      schedule: (transmission) => {
        if (this.#scheduled.push(transmission) === 1) setImmediate(this.#turn);
      },
    };
  }

  /** Everything that completed in this turn of the event loop is answered together. */
  readonly #turn = (): void => {
    const scheduled = this.#scheduled;
    this.#scheduled = [];
    for (const transmission of scheduled) {
      transmission.turn();
      this.#context.poller.touched(transmission);
    }
  };

  /**
   * Listens; may be called several times. A socket file that nobody serves any more is replaced. A socket that was handed over
   * (passedSockets) stays open when the server is closed.
   * @returns where it listens (the port chosen for port 0)
   * @throws SystemError EADDRINUSE when somebody serves it, or what the system says, naming the address
   */
  async listen(where: ListenAddress | PassedSocket, options: ListenOptions = {}): Promise<ListenAddress> {
    if (this.#stopping) throw new SystemError(errnos.EINVAL, 'the server is closed; make another one');
    const entrance = this.#entrance(options);
    const { listener, bound } = await startListening(where, (socket) => this.#accept(socket, entrance));
    if (this.#stopping) {
      listener.close();
      throw new SystemError(errnos.EINVAL, 'the server was closed meanwhile');
    }
    listener.on('error', (error) => this.#log.error(`${addressText(bound)}: ${messageOf(error)}`));
    this.#listeners.set(listener, bound);
    return bound;
  }

  /** Stops listening where listen() said; its connections go on. A unix socket's file goes. False when it did not listen there. */
  unlisten(address: ListenAddress): boolean {
    for (const [listener, bound] of this.#listeners) {
      if (!isSameAddress(bound, address)) continue;
      this.#listeners.delete(listener);
      listener.close();
      return true;
    }
    return false;
  }

  #entrance(options: ListenOptions): Entrance {
    const { tls = 'off', provider = this.#provider, exportName } = options;
    if (tls !== 'off' && this.#tls === null) {
      throw new SystemError(errnos.EINVAL, `TLS is ${tls}, but there are no credentials; give the server some`);
    }
    return { tls, provider, exportName };
  }

  /**
   * Sets or replaces the TLS credentials: those who start TLS from now on meet the new ones, others go on.
   * @throws SystemError EINVAL when they cannot be used; the old ones stay then
   */
  setTls(options: TlsOptions): void {
    this.#tls = new TlsAcceptor(options);
  }

  /** Serves a connection that is there already (inetd, a test's pair): a socket, or any stream of both directions. */
  serve(stream: Duplex, options: ListenOptions = {}): void {
    const entrance = this.#entrance(options);
    stream.pause();
    this.#accept(stream, entrance);
  }

  #accept(stream: Duplex, entrance: Entrance): void {
    if (this.#stopping || !this.#admission.admits(this.#connections)) {
      stream.destroy();
      return;
    }
    let transport: Transport;
    try {
      transport = this.#transportOf(stream);
    } catch (error) {
      this.#log.error(`a client is turned away: ${messageOf(error)}`);
      stream.destroy();
      return;
    }
    const connection = new Connection(this.#nextId++, transport, entrance, this.#context);
    this.#connections.set(connection.id, connection);
    connection.over.then(() => {
      this.#connections.delete(connection.id);
      this.emit('close', connection.info);
    });
  }

  #transportOf(stream: Duplex): Transport {
    if (!(stream instanceof net.Socket)) return new StreamTransport(stream, 'stream');
    const { remoteAddress, remotePort } = stream;
    const hasFd = hasDescriptor(stream);
    // A client that has reset its connection has no address any more: it must not pass for a local one.
    if (remoteAddress === undefined && hasFd && socketKind(descriptorOf(stream))?.family === 'tcp') {
      throw new SystemError(errnos.ENOTCONN, 'it is gone already');
    }
    if (remoteAddress !== undefined) {
      stream.setNoDelay(true);
      if (hasFd) setKeepalive(descriptorOf(stream), this.#keepalive);
    }
    const peer = remoteAddress === undefined ? 'unix' : `${remoteAddress}:${remotePort}`;
    return this.#raw && hasFd ? new RawTransport(stream, peer) : new StreamTransport(stream, peer);
  }

  /** What is connected now. */
  connections(): ConnectionInfo[] {
    return [...this.#connections.values()].map((connection) => connection.info);
  }

  /**
   * Drops the clients of an export, or those that `which` picks. Resolves to their number when their devices are closed.
   * @param which the export's name, as clients called it or its canonical one; or what says of each connection whether it goes
   */
  async closeExport(which: string | ((connection: ConnectionInfo) => boolean)): Promise<number> {
    const goes =
      typeof which === 'function'
        ? which
        : ({ exportName, canonicalName }: ConnectionInfo) => exportName === which || canonicalName === which;
    const clients = [...this.#connections.values()].filter((connection) => goes(connection.info));
    for (const connection of clients) {
      const name = connection.info.exportName;
      connection.destroy(new SystemError(errnos.ECONNABORTED, `export ${name} was withdrawn`));
    }
    await Promise.all(clients.map((connection) => connection.over));
    return clients.length;
  }

  /**
   * Stops listening and ends all connections: with `graceful` what is in flight is finished and answered first, for at most
   * `timeoutMs` (default 10 s). Resolves when every device is closed.
   */
  async close(options: { graceful?: boolean; timeoutMs?: number } = {}): Promise<void> {
    this.#stopping = true;
    this.#idleWatch.stop();
    clearInterval(this.#look);
    for (const listener of this.#listeners.keys()) listener.close();
    this.#listeners.clear();
    const connections = [...this.#connections.values()];
    const destroyAll = () => {
      for (const connection of connections) connection.destroy();
    };
    const timer = options.graceful ? setTimeout(destroyAll, options.timeoutMs ?? 10_000) : null;
    for (const connection of connections) {
      if (options.graceful) connection.shutDown();
      else connection.destroy();
    }
    await Promise.all(connections.map((connection) => connection.over));
    if (timer !== null) clearTimeout(timer);
  }
}
