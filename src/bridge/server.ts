/**
 * The bridge of a node: a unix socket where short programs ask the peers without joining the segment. Whoever may write to it may do what `vlmc`
 * may, as with the segment itself.
 */
import fs from 'node:fs';
import net from 'node:net';
import type { Config } from '../config/types.js';
import { monotonicMs } from '../sys/clock.js';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import { listenWithMode } from '../sys/socket-mode.js';
import type { Segment } from '../xseg/index.js';
import { Connection } from './connection.js';
import { Budget, CLOSING_MS, IDLE_MS, MAX_CONNECTIONS, MAX_TOTAL_BYTES } from './limits.js';
import { PortPool } from './ports.js';
import { BRIDGE_VERSION, bridgeSocketOf, type Greeting } from './protocol.js';

/** sun_path has 108 bytes, the last is NUL. */
const MAX_PATH = 107;

export class BridgeServer {
  readonly path: string;
  readonly #listener: net.Server;
  readonly #connections = new Set<Connection>();
  readonly #ports: PortPool;
  readonly #total = new Budget(MAX_TOTAL_BYTES);
  #alone = (): void => {};

  private constructor(config: Config, segment: Segment) {
    this.path = bridgeSocketOf(config);
    this.#ports = new PortPool(segment);
    const greeting: Greeting = { bridge: BRIDGE_VERSION, segment: config.xseg.name };
    this.#listener = net.createServer((socket) => this.#accept(socket, config, greeting));
  }

  /**
   * Listens, mode 0660. A socket file that is there is replaced: only one process of a node has the role.
   * @throws SystemError
   */
  static async listen(config: Config, segment: Segment): Promise<BridgeServer> {
    const bridge = new BridgeServer(config, segment);
    const { path } = bridge;
    if (Buffer.byteLength(path) > MAX_PATH) {
      throw new SystemError(
        errnos.ENAMETOOLONG,
        `${path} is too long for a socket (${MAX_PATH} bytes); shorten RUN_DIR`,
      );
    }
    fs.rmSync(path, { force: true });
    await new Promise<void>((resolve, reject) => {
      bridge.#listener.once('error', (error) => {
        reject(new SystemError(errnoOf(error), `cannot listen on ${path}: ${messageOf(error)}`, { cause: error }));
      });
      listenWithMode(bridge.#listener, { path }, 0o660, resolve);
    });
    bridge.#listener.on('error', () => {});
    return bridge;
  }

  /** Clients, what they have under way, and the bytes of it. */
  get load(): { connections: number; inFlight: number; bytes: number } {
    let inFlight = 0;
    for (const connection of this.#connections) inFlight += connection.inFlight;
    return { connections: this.#connections.size, inFlight, bytes: this.#total.taken };
  }

  #accept(socket: net.Socket, config: Config, greeting: Greeting): void {
    if (this.#connections.size >= MAX_CONNECTIONS && !this.#makeRoom()) {
      socket.on('error', () => socket.destroy());
      const message = `the bridge has ${MAX_CONNECTIONS} clients already`;
      socket.end(`${JSON.stringify({ errno: errnos.EAGAIN, message })}\n`, () => socket.destroy());
      return;
    }
    const connection = new Connection({
      config,
      socket,
      ports: this.#ports,
      total: this.#total,
      onGone: () => {
        this.#connections.delete(connection);
        if (this.#connections.size === 0) this.#alone();
      },
    });
    this.#connections.add(connection);
    socket.write(`${JSON.stringify(greeting)}\n`);
  }

  /** Ends the connection that has been idle for longest. */
  #makeRoom(): boolean {
    let longest: Connection | null = null;
    for (const connection of this.#connections) {
      if (connection.idleSince < (longest?.idleSince ?? monotonicMs() - IDLE_MS)) longest = connection;
    }
    if (!longest) return false;
    this.#connections.delete(longest);
    longest.finish(errnos.EAGAIN, 'the bridge needs the room for others');
    return true;
  }

  /** Ends: what is under way is finished, for a few seconds; what was not begun is refused. The socket is removed first. */
  async close(limitMs = CLOSING_MS): Promise<void> {
    this.#listener.close();
    fs.rmSync(this.path, { force: true });
    for (const connection of this.#connections) connection.finish(errnos.ESHUTDOWN, 'the bridge is closed');
    if (this.#connections.size > 0) {
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, limitMs);
      });
      const over = new Promise<void>((resolve) => {
        this.#alone = resolve;
      });
      await Promise.race([over, late]);
      clearTimeout(timer);
    }
    for (const connection of this.#connections) connection.destroy();
    this.#ports.close();
  }
}
