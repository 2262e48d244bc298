/**
 * `archipelago nbd`: serves volumes of the running node to whoever started it: over sockets that were handed over, or one client over
 * standard input and output. Standard output belongs to the client; messages go to standard error.
 */
import fs from 'node:fs';
import net from 'node:net';
import type { Logger } from 'pino';
import { type AttachedServer, attachedServer } from '../../endpoint/attached.js';
import { type NbdServer, type PassedSocket, passedSockets, stdioConnection } from '../../nbd/index.js';
import { isSameSocket } from '../../nbd/stdio.js';
import { LeveledLogger } from '../../peer/log.js';
import { StderrSink } from '../../peer/log-sinks.js';
import { ATTACHED_ENDPOINT } from '../../requests/endpoints.js';
import { dup2 } from '../../sys/libc.js';
import type { Session } from '../common/session.js';

const WARNINGS = 1;
const EVERYTHING = 3;
/** How long requests in flight may take after the word to end. */
const SHUTDOWN_MS = 10_000;

export interface NbdOptions {
  /** The default export; null only with all. */
  readonly volume: string | null;
  /** Other volumes too. */
  readonly all: boolean;
  /** Seconds without a client after which a server of sockets ends; null: never. */
  readonly exitIdle: number | null;
  readonly verbose: boolean;
}

/** Serves until the client is gone, or a signal comes. @throws SystemError */
export async function serveNbd(session: Session, options: NbdOptions): Promise<void> {
  const { volume, all, verbose } = options;
  const sockets = passedSockets();
  const { logger: log } = new LeveledLogger('archipelago', verbose ? EVERYTHING : WARNINGS, new StderrSink());
  const { config } = session;
  const { port } = await session.client.join(ATTACHED_ENDPOINT);
  const attached = attachedServer({ config, port, volume, all, log });
  const { server } = attached;
  const ended = new AbortController();
  const end = (): void => ended.abort();
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.once(signal, end);
  // A client that is not read from for now, with all its requests at the node, is nothing that keeps Node itself from ending.
  const alive = setInterval(() => {}, 2 ** 30);
  try {
    const listening = sockets.some((socket) => socket.listening);
    if (sockets.length > 0) await serveSockets(attached, sockets, log);
    else serveStdio(attached);
    await over(server, listening, options.exitIdle, ended.signal);
  } finally {
    await server.close({ graceful: true, timeoutMs: SHUTDOWN_MS });
    clearInterval(alive);
  }
}

/** inetd gives the connection as standard error too: what is written there would be taken for the protocol. */
export function spareTheClient(): void {
  if (!isSameSocket(1, 2)) return;
  const nowhere = fs.openSync('/dev/null', 'w');
  dup2(nowhere, 2);
  fs.closeSync(nowhere);
}

function serveStdio({ server, overTcp }: AttachedServer): void {
  const stream = stdioConnection();
  const address = stream instanceof net.Socket ? stream.localAddress : undefined;
  try {
    server.serve(stream, address === undefined ? {} : overTcp(address));
  } catch (error) {
    stream.destroy();
    throw error;
  }
}

async function serveSockets(
  { server, overTcp }: AttachedServer,
  sockets: readonly PassedSocket[],
  log: Logger,
): Promise<void> {
  for (const socket of sockets) {
    const { name, fd, address, listening } = socket;
    log.info(`was given the socket ${name}: ${JSON.stringify(address)}`);
    const options = 'host' in address ? overTcp(address.host) : {};
    if (listening) await server.listen(socket, options);
    else server.serve(new net.Socket({ fd, readable: true, writable: true, allowHalfOpen: true } as object), options);
  }
}

/** Resolves when nothing more is to be served. */
function over(server: NbdServer, listening: boolean, exitIdle: number | null, ended: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    let timer: NodeJS.Timeout | undefined;
    const look = (): void => {
      clearTimeout(timer);
      if (server.connections().length > 0) return;
      if (!listening) resolve();
      else if (exitIdle !== null)
        timer = setTimeout(() => (server.connections().length > 0 ? look() : resolve()), exitIdle * 1000);
    };
    server.on('close', look);
    ended.addEventListener('abort', () => {
      clearTimeout(timer);
      resolve();
    });
    look();
  });
}
