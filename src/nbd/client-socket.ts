/** Opens the stream to a server. */
import net from 'node:net';
import type { Duplex } from 'node:stream';
import { errnoOf, messageOf, SystemError } from '../sys/errno.js';

/** Where the server is: a unix socket, a TCP address, or an open stream. */
export type NbdAddress =
  | { readonly path: string }
  | { readonly host: string; readonly port: number }
  | { readonly stream: Duplex };

/** Seconds of silence after which the system asks a TCP peer whether it is still there. */
const KEEPALIVE_SECONDS = 30;

/** The address in words. */
export function addressName(address: NbdAddress): string {
  if ('stream' in address) return 'an open stream';
  if ('path' in address) return address.path.replace(/^\0/, '@');
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

/**
 * A connected stream. A stream that was open already is taken as it is.
 * @throws SystemError naming the address, with the system's errno; the signal's reason
 */
export function openStream(address: NbdAddress, signal?: AbortSignal): Promise<Duplex> {
  if (signal?.aborted) return Promise.reject(signal.reason);
  if ('stream' in address) return Promise.resolve(address.stream);
  return new Promise((resolve, reject) => {
    const keepAlive = { noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEPALIVE_SECONDS * 1000 };
    const socket = net.connect(
      'path' in address ? { path: address.path } : { host: address.host, port: address.port, ...keepAlive },
    );
    const settle = (): void => {
      socket.off('error', failed);
      signal?.removeEventListener('abort', aborted);
    };
    const failed = (error: Error): void => {
      settle();
      // A name with several addresses fails as a whole with an empty message of its own.
      const [cause] = error instanceof AggregateError ? error.errors : [error];
      const message = `cannot connect to ${addressName(address)}: ${messageOf(cause)}`;
      reject(new SystemError(errnoOf(cause), message, { cause: error }));
    };
    const aborted = (): void => {
      settle();
      socket.on('error', () => {});
      socket.destroy();
      reject(signal?.reason);
    };
    socket.once('error', failed);
    signal?.addEventListener('abort', aborted, { once: true });
    socket.once('connect', () => {
      settle();
      resolve(socket);
    });
  });
}
