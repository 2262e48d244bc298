/** The server: listeners, the connections that come through them, and an orderly end. */
import { EventEmitter } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import { errnos, messageOf, SystemError } from '../sys/errno.js';
import { Connection, type ConnectionContext, type ConnectionInfo, type Entrance } from './connection.js';
import type { ExportProvider } from './device.js';
import { GatherBudget } from './gather.js';
import type { NameDecoder } from './handshake-codec.js';
import { makeBudgets } from './holdings.js';
import { type Limits, resolveLimits } from './limits.js';
import { type Log, silent } from './log.js';
import { Poller } from './poller.js';
import { TlsAcceptor, type TlsMode, type TlsOptions } from './tls.js';
import type { Transmission } from './transmission.js';
import type { Transport } from './transport.js';
import { hasDescriptor, RawTransport } from './transport-raw.js';
import { StreamTransport } from './transport-stream.js';

/** Seconds of silence after which the system asks a TCP peer whether it is still there. */
const KEEPALIVE_SECONDS = 30;
/** Mode of a unix socket: owner and group. */
const DEFAULT_MODE = 0o660;
/** Clients that may wait to be accepted. */
const BACKLOG = 511;

export interface NbdServerOptions {
  /** Over DEFAULT_LIMITS. */
  readonly limits?: Partial<Limits>;
  /** Microseconds of busy-polling after requests; 0 = off. Default 50. */
  readonly busyPollUs?: number;
  readonly log?: Log;
  /** `raw` (default): system calls on the descriptor; `stream`: node streams. */
  readonly transport?: 'raw' | 'stream';
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

/** Where to listen: a unix socket and its mode (default 0660), or an address. Port 0 is any free one. */
export type ListenAddress =
  | { readonly path: string; readonly mode?: number }
  | { readonly host: string; readonly port: number };

export interface NbdServerEvents {
  /** A client has chosen its export. */
  open: [ConnectionInfo];
  /** A connection is over; its device is closed. */
  close: [ConnectionInfo];
}

export class NbdServer extends EventEmitter<NbdServerEvents> {
  readonly #limits: Limits;
  readonly #log: Log;
  readonly #raw: boolean;
  readonly #context: ConnectionContext;
  readonly #provider: ExportProvider;
  /** By where they listen. */
  readonly #listeners = new Map<net.Server, ListenAddress>();
  readonly #connections = new Map<number, Connection>();
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
    if (options.tls !== undefined) this.setTls(options.tls);
    const poller = new Poller(options.busyPollUs ?? 50);
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
      opened: (connection) => this.emit('open', connection.info),
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
   * Listens; may be called several times. A socket file that nobody serves any more is replaced.
   * @returns where it listens (the port chosen for port 0)
   * @throws SystemError EADDRINUSE when somebody serves it, or what the system says, naming the address
   */
  async listen(address: ListenAddress, options: ListenOptions = {}): Promise<ListenAddress> {
    if (this.#stopping) throw new SystemError(errnos.EINVAL, 'the server is closed; make another one');
    const entrance = this.#entrance(options);
    const name = 'path' in address ? address.path : `${address.host}:${address.port}`;
    if ('path' in address) await removeStaleSocket(address.path);
    const listener = net.createServer({
      pauseOnConnect: true,
      allowHalfOpen: true,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: KEEPALIVE_SECONDS * 1000,
    });
    listener.on('connection', (socket) => this.#accept(socket, entrance));
    await new Promise<void>((resolve, reject) => {
      listener.once('error', (error: NodeJS.ErrnoException) => {
        reject(
          new SystemError(Math.abs(error.errno ?? errnos.EIO), `cannot listen on ${name}: ${error.message}`, {
            cause: error,
          }),
        );
      });
      if ('path' in address) listenOnPath(listener, address.path, address.mode ?? DEFAULT_MODE, resolve);
      else listener.listen({ host: address.host, port: address.port, backlog: BACKLOG }, resolve);
    });
    listener.on('error', (error) => this.#log.error(`${name}: ${messageOf(error)}`));
    let bound = address;
    if (!('path' in address)) {
      const at = listener.address() as net.AddressInfo;
      bound = { host: at.address, port: at.port };
    }
    this.#listeners.set(listener, bound);
    return bound;
  }

  /** Stops listening where listen() said; its connections go on. A unix socket's file goes. False when it did not listen there. */
  unlisten(address: ListenAddress): boolean {
    for (const [listener, bound] of this.#listeners) {
      if (!isSame(bound, address)) continue;
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

  /** Serves an already connected socket (socket activation, inetd, a test's pair). */
  serve(socket: net.Socket, options: ListenOptions = {}): void {
    const entrance = this.#entrance(options);
    socket.pause();
    this.#accept(socket, entrance);
  }

  #accept(socket: net.Socket, entrance: Entrance): void {
    if (this.#stopping || this.#connections.size >= this.#limits.connections) {
      this.#log.warn(`a client is turned away: there are ${this.#connections.size} connections already`);
      socket.destroy();
      return;
    }
    let transport: Transport;
    try {
      const peer = socket.remoteAddress === undefined ? 'unix' : `${socket.remoteAddress}:${socket.remotePort}`;
      transport =
        this.#raw && hasDescriptor(socket) ? new RawTransport(socket, peer) : new StreamTransport(socket, peer);
    } catch (error) {
      this.#log.error(`a client is turned away: ${messageOf(error)}`);
      socket.destroy();
      return;
    }
    const connection = new Connection(this.#nextId++, transport, entrance, this.#context);
    this.#connections.set(connection.id, connection);
    connection.over.then(() => {
      this.#connections.delete(connection.id);
      this.emit('close', connection.info);
    });
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

function isSame(a: ListenAddress, b: ListenAddress): boolean {
  if ('path' in a) return 'path' in b && a.path === b.path;
  return !('path' in b) && a.host === b.host && a.port === b.port;
}

/** Binds with the mode in force from the first moment: nobody else gets in between bind and a chmod. */
function listenOnPath(listener: net.Server, path: string, mode: number, listening: () => void): void {
  const before = process.umask(0o777 & ~mode);
  try {
    listener.listen({ path, backlog: BACKLOG }, listening);
  } finally {
    process.umask(before);
  }
}

/** Removes a socket file that nobody answers on. @throws SystemError EADDRINUSE when somebody does, or when it is no socket */
async function removeStaleSocket(path: string): Promise<void> {
  const stat = fs.lstatSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return;
  if (!stat.isSocket())
    throw new SystemError(errnos.EADDRINUSE, `cannot listen on ${path}: it is there and is no socket`);
  const answered = await new Promise<boolean>((resolve) => {
    const probe = net.connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    // Only a refusal says that nobody listens; a full backlog or a lack of rights does not.
    probe.once('error', (error: NodeJS.ErrnoException) =>
      resolve(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT'),
    );
  });
  if (answered) throw new SystemError(errnos.EADDRINUSE, `cannot listen on ${path}: another server does`);
  fs.rmSync(path, { force: true });
}
