/** What the system tells about a descriptor that somebody else made, and the options of TCP that Node does not set. */
import type net from 'node:net';
import { errnos, SystemError } from '../sys/errno.js';
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  allocateMemory,
  errno,
  F_DUPFD_CLOEXEC,
  fcntlInt,
  getsockname,
  getsockopt,
  IPPROTO_TCP,
  type Memory,
  POLLHUP,
  POLLRDHUP,
  poll,
  SO_ACCEPTCONN,
  SO_DOMAIN,
  SO_KEEPALIVE,
  SO_TYPE,
  SOCK_STREAM,
  SOL_SOCKET,
  setsockopt,
  TCP_KEEPCNT,
  TCP_KEEPIDLE,
  TCP_KEEPINTVL,
} from '../sys/libc.js';

/** Room for a struct sockaddr_un, and before it for a socklen_t. */
const ROOM = 8 + 128;
const ADDRESS = 8;
/** Copies of descriptors do not take the numbers that the standard streams have. */
const FIRST_COPY = 3;

let memory: Memory | null = null;
const scratch = (): Memory => {
  memory ??= allocateMemory(ROOM);
  return memory;
};

/** A socket option that is an int; -1 when the descriptor has none. */
function option(fd: number, name: number): number {
  const { address, bytes } = scratch();
  bytes.writeInt32LE(4, 0);
  return getsockopt(fd, SOL_SOCKET, name, address + ADDRESS, address) < 0 ? -1 : bytes.readInt32LE(ADDRESS);
}

/** What kind of socket a descriptor is. */
export interface SocketKind {
  readonly family: 'unix' | 'tcp';
  /** It accepts connections; otherwise it is one. */
  readonly listening: boolean;
}

/** null: the descriptor is no stream socket of a kind that clients of NBD use. */
export function socketKind(fd: number): SocketKind | null {
  if (option(fd, SO_TYPE) !== SOCK_STREAM) return null;
  const domain = option(fd, SO_DOMAIN);
  if (domain !== AF_UNIX && domain !== AF_INET && domain !== AF_INET6) return null;
  return { family: domain === AF_UNIX ? 'unix' : 'tcp', listening: option(fd, SO_ACCEPTCONN) === 1 };
}

/**
 * Where a socket is bound. A unix socket in the abstract name space has a path that starts with `@`, one without any name ''.
 * @throws SystemError what the system says
 */
export function localAddress(fd: number): { path: string } | { host: string; port: number } {
  const { address, bytes } = scratch();
  bytes.writeInt32LE(ROOM - ADDRESS, 0);
  if (getsockname(fd, address + ADDRESS, address) < 0) {
    throw new SystemError(errno(), `descriptor ${fd} is no socket with an address`);
  }
  const at = bytes.subarray(ADDRESS, ADDRESS + Math.min(bytes.readInt32LE(0), ROOM - ADDRESS));
  const family = at.readUInt16LE(0);
  if (family === AF_UNIX) return { path: unixPath(at.subarray(2)) };
  const port = at.readUInt16BE(2);
  if (family === AF_INET) return { host: [...at.subarray(4, 8)].join('.'), port };
  const groups = Array.from({ length: 8 }, (_, i) => at.readUInt16BE(8 + 2 * i).toString(16));
  // The URL parser shortens as RFC 5952 says.
  return { host: new URL(`http://[${groups.join(':')}]`).hostname.slice(1, -1), port };
}

function unixPath(bytes: Buffer): string {
  if (bytes.length === 0) return '';
  // Some programs bind all of sun_path, NULs included.
  if (bytes[0] === 0) return `@${bytes.toString('utf8', 1).replace(/\0+$/, '')}`;
  const end = bytes.indexOf(0);
  return bytes.toString('utf8', 0, end < 0 ? bytes.length : end);
}

/** Whether nothing can come from the peer of a connection or reach it any more: it was reset, or both sides have ended. */
export function isHungUp(fd: number): boolean {
  // This one is told without being asked for.
  return (polled(fd, 0) & POLLHUP) !== 0;
}

/** Whether the peer of a connection sends no more or is gone, whatever of it is not read yet. */
export function hasLeft(fd: number): boolean {
  return (polled(fd, POLLRDHUP) & (POLLRDHUP | POLLHUP)) !== 0;
}

/** What poll tells of a descriptor now. @param events asked for */
function polled(fd: number, events: number): number {
  const { address, bytes } = scratch();
  // A struct pollfd.
  bytes.writeInt32LE(fd, 0);
  bytes.writeInt16LE(events, 4);
  bytes.writeInt16LE(0, 6);
  return poll(address, 1, 0) > 0 ? bytes.readInt16LE(6) : 0;
}

/** A socket's descriptor; -1 when it has none that can be had. */
export function descriptorOf(socket: net.Socket): number {
  const { _handle: handle } = socket as net.Socket & { _handle?: { fd?: number } | null };
  return handle?.fd ?? -1;
}

/** A copy of a descriptor, which programs started by this one do not get. @throws SystemError */
export function duplicate(fd: number): number {
  const copy = fcntlInt(fd, F_DUPFD_CLOEXEC, 'int', FIRST_COPY);
  if (copy < 0) throw new SystemError(errno(), `cannot duplicate descriptor ${fd}`);
  return copy;
}

/** How a TCP connection without traffic is kept alive, or found dead. */
export interface Keepalive {
  /** Seconds of silence before the first probe; 0: no probes. */
  readonly time: number;
  /** Seconds between probes. */
  readonly interval: number;
  /** Probes without an answer after which the connection is dead. */
  readonly probes: number;
}

/** Half a minute of silence, then a minute of asking: a client whose host went away frees what it holds in 90 s. */
export const DEFAULT_KEEPALIVE: Keepalive = { time: 30, interval: 10, probes: 6 };

/** Sets them on a TCP socket. @throws SystemError EINVAL for values that the system does not take */
export function setKeepalive(fd: number, { time, interval, probes }: Keepalive): void {
  const settings: [level: number, name: number, value: number][] =
    time === 0
      ? [[SOL_SOCKET, SO_KEEPALIVE, 0]]
      : [
          [SOL_SOCKET, SO_KEEPALIVE, 1],
          [IPPROTO_TCP, TCP_KEEPIDLE, time],
          [IPPROTO_TCP, TCP_KEEPINTVL, interval],
          [IPPROTO_TCP, TCP_KEEPCNT, probes],
        ];
  const { address, bytes } = scratch();
  for (const [level, name, value] of settings) {
    bytes.writeInt32LE(value, 0);
    if (setsockopt(fd, level, name, address, 4) < 0) {
      const code = errno();
      const why = code === errnos.EINVAL ? 'a number is out of the range of the system' : 'the socket refuses';
      throw new SystemError(code, `cannot set keepalive (${time} s, every ${interval} s, ${probes} times): ${why}`);
    }
  }
}
