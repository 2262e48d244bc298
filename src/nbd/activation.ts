/**
 * Sockets that another program opened and handed over, as systemd does for socket units (sd_listen_fds(3)) and libnbd's
 * nbd_connect_systemd_socket_activation for one unix socket: LISTEN_PID names the process they are for, LISTEN_FDS says how many there
 * are from descriptor 3 on, LISTEN_FDNAMES what they are called.
 */
import { errnos, SystemError } from '../sys/errno.js';
import { localAddress, type SocketKind, socketKind } from './sockets.js';

/** The first descriptor that is handed over. */
export const FIRST_PASSED = 3;
/** A socket without a name is called so, as sd_listen_fds_with_names(3) has it. */
const NO_NAME = 'unknown';

/** A stream socket that was handed over. */
export interface PassedSocket extends SocketKind {
  readonly fd: number;
  /** From LISTEN_FDNAMES. */
  readonly name: string;
  /** Where it is bound. */
  readonly address: { readonly path: string } | { readonly host: string; readonly port: number };
}

/**
 * The sockets handed over to this process; none when there are none. The variables are taken out of `env`: a program that this
 * one starts must not think that they are for it.
 * @throws SystemError EINVAL or ENOTSOCK for variables or descriptors that cannot be used
 */
export function passedSockets(env: NodeJS.ProcessEnv = process.env, pid = process.pid): PassedSocket[] {
  const { LISTEN_PID: owner, LISTEN_FDS: number, LISTEN_FDNAMES: names = '' } = env;
  for (const name of ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES', 'LISTEN_PIDFDID']) delete env[name];
  if (owner === undefined || number === undefined || Number(owner) !== pid) return [];
  if (!/^\d{1,4}$/.test(number)) {
    throw new SystemError(errnos.EINVAL, `LISTEN_FDS is "${number}": it must be a number of descriptors`);
  }
  const called = names === '' ? [] : names.split(':');
  return Array.from({ length: Number(number) }, (_, i) => describeSocket(FIRST_PASSED + i, called[i] || NO_NAME));
}

/** @throws SystemError ENOTSOCK when the descriptor is no stream socket */
export function describeSocket(fd: number, name: string): PassedSocket {
  const kind = socketKind(fd);
  if (kind === null) {
    throw new SystemError(
      errnos.ENOTSOCK,
      `descriptor ${fd} (${name}), which was handed over, is no unix or TCP stream socket; a socket unit needs ListenStream=`,
    );
  }
  return { fd, name, ...kind, address: localAddress(fd) };
}
