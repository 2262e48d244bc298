/** Sockets that accept clients: made here, or handed over by somebody who made them. */
import fs from 'node:fs';
import net from 'node:net';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import { listenWithMode } from '../sys/socket-mode.js';
import type { PassedSocket } from './activation.js';
import { duplicate } from './sockets.js';

/** Mode of a unix socket: owner and group. */
const DEFAULT_MODE = 0o660;
/**
 * Clients that may wait to be accepted: all disks of a host that comes back. Whoever finds the queue of a unix socket full is refused at once.
 * The system allows less where net.core.somaxconn says so.
 */
const BACKLOG = 4096;

/** Where to listen: a unix socket and its mode (default 0660), or an address. Port 0 is any free one; host `::` is every address, IPv4 too. */
export type ListenAddress =
  | { readonly path: string; readonly mode?: number }
  | { readonly host: string; readonly port: number };

/** A socket that accepts, and where it is bound. */
export interface Listening {
  readonly listener: net.Server;
  readonly bound: ListenAddress;
}

/** As people write an address. */
export function addressText(address: ListenAddress): string {
  if ('path' in address) return address.path || 'a unix socket without a name';
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

export function isSameAddress(a: ListenAddress, b: ListenAddress): boolean {
  return addressText(a) === addressText(b) && 'path' in a === 'path' in b;
}

/**
 * Listens. A unix socket's file that nobody serves any more is replaced; a socket that was handed over is duplicated, and stays open
 * when the listener is closed: whoever accepts from it next meets the clients that came meanwhile.
 * @param accept called with each connection, paused
 * @throws SystemError EADDRINUSE when somebody else listens there, or what the system says; the message names the address
 */
export async function startListening(
  where: ListenAddress | PassedSocket,
  accept: (socket: net.Socket) => void,
): Promise<Listening> {
  const address: ListenAddress = 'fd' in where ? where.address : where;
  if ('path' in where) await removeStaleSocket(where.path);
  const listener = net.createServer({ pauseOnConnect: true, allowHalfOpen: true });
  listener.on('connection', accept);
  await new Promise<void>((resolve, reject) => {
    listener.once('error', (error) => reject(explain(error, address)));
    if ('fd' in where) listenOnPassed(listener, where, resolve);
    else if ('path' in where) {
      listenWithMode(listener, { path: where.path, backlog: BACKLOG }, where.mode ?? DEFAULT_MODE, resolve);
    } else listener.listen({ host: where.host, port: where.port, backlog: BACKLOG }, resolve);
  });
  if ('path' in address) return { listener, bound: address };
  const at = listener.address() as net.AddressInfo;
  return { listener, bound: { host: at.address, port: at.port } };
}

function explain(error: Error, address: ListenAddress): SystemError {
  const errno = errnoOf(error);
  const why =
    {
      [errnos.EADDRINUSE]: 'another program does; stop it, or choose another address',
      [errnos.EADDRNOTAVAIL]: 'this host has no such address',
      [errnos.EACCES]: 'not permitted; ports below 1024 are for root',
    }[errno] ?? messageOf(error);
  return new SystemError(errno, `cannot listen on ${addressText(address)}: ${why}`, { cause: error });
}

function listenOnPassed(listener: net.Server, { fd, name, listening }: PassedSocket, done: () => void): void {
  if (!listening) {
    throw new SystemError(errnos.EINVAL, `descriptor ${fd} (${name}) is a connection, not a socket that listens`);
  }
  const copy = duplicate(fd);
  listener.once('error', () => fs.closeSync(copy));
  listener.listen({ fd: copy, backlog: BACKLOG }, done);
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
