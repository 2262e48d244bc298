/** Where an endpoint listens, what clients meet there, and the URIs that lead to it. */
import type { NbdSettings, NbdTlsMode } from '../config/types.js';
import type { ListenAddress, PassedSocket } from '../nbd/index.js';
import { errnos, SystemError } from '../sys/errno.js';
import { isExposed } from './tls.js';

/** Where clients can come. */
export interface Listening {
  readonly address: ListenAddress;
  readonly tls: NbdTlsMode;
}

/**
 * Where to listen, unix sockets first. A socket that the node was given takes the place of what the configuration says for its kind: with
 * a unix socket of systemd there is no `socket`, with a TCP one no `listen`.
 * @throws SystemError EINVAL for a handed over TCP socket that other machines reach without TLS
 */
export function listeners(
  settings: NbdSettings,
  passed: readonly PassedSocket[],
): { where: ListenAddress | PassedSocket; tls: NbdTlsMode }[] {
  const given = (family: PassedSocket['family']): PassedSocket[] => passed.filter((socket) => socket.family === family);
  const [unix, tcp] = [given('unix'), given('tcp')];
  const { tls } = settings;
  for (const { name, address } of tcp) {
    if (!('host' in address) || !isExposed(address.host, tls)) continue;
    throw new SystemError(
      errnos.EINVAL,
      `the socket ${name} that was handed over is bound to ${address.host}:${address.port}, which other machines reach: ` +
        'set tls = required, or insecure_tcp = True',
    );
  }
  const own = settings.socket === null ? [] : [{ path: settings.socket, mode: 0o660 }];
  return [
    ...(unix.length > 0 ? unix : own).map((where) => ({ where, tls: tls.socket })),
    ...(tcp.length > 0 ? tcp : settings.listen).map((where) => ({ where, tls: tls.tcp })),
  ];
}

/** The export of a volume at an address, as NBD URIs are written (doc/uri.md of the protocol). */
export function uriOf({ address, tls }: Listening, volume: string): string {
  const name = encodeURIComponent(volume);
  const scheme = tls === 'required' ? 'nbds' : 'nbd';
  if ('path' in address) return `${scheme}+unix:///${name}?socket=${encodeURI(address.path)}`;
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  return `${scheme}://${host}:${address.port}/${name}`;
}
