/** TLS for the client: takes an open connection into TLS and makes sure that it is the server it should be. */
import net from 'node:net';
import type { Duplex } from 'node:stream';
import tls from 'node:tls';
import { errnos, SystemError } from '../sys/errno.js';

/** A pre-shared key. */
export interface PskCredentials {
  readonly identity: string;
  readonly key: Uint8Array;
}

/** How a client authenticates in TLS, and the server to it. PEM texts. */
export interface TlsClientOptions {
  /**
   * `require`: no connection without TLS. `allow`: plaintext where the server has no TLS, which whoever controls the network can feign.
   * `disable`: plaintext. Default: `require` for `nbds:` URIs and wherever these options are given, else `disable`.
   */
  readonly mode?: 'require' | 'allow' | 'disable';
  /** Authorities that the server's certificate may come from; default: those Node trusts. */
  readonly ca?: string | Buffer;
  /** The client's own certificate and its key. */
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
  /** A pre-shared key instead of certificates. */
  readonly psk?: PskCredentials;
  /** Name the server's certificate must have; default: the host that was connected to; for a unix socket none. */
  readonly hostname?: string;
  /** false: take any server. Default true. */
  readonly verifyPeer?: boolean;
  /** Default TLSv1.2, the oldest that the protocol document wants. */
  readonly minVersion?: 'TLSv1.2' | 'TLSv1.3';
  /** Default TLSv1.3. */
  readonly maxVersion?: 'TLSv1.2' | 'TLSv1.3';
}

/** What TLS told of the server. */
export interface ServerTls {
  /** e.g. `TLSv1.3`. */
  readonly protocol: string;
  readonly cipher: string;
  /** The server has proven who it is, by a certificate or a pre-shared key. */
  readonly verified: boolean;
}

/** With a pre-shared key no other way is open: a server that chose certificates could be anybody's. */
const PSK_CIPHERS = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-PSK-CHACHA20-POLY1305',
  'ECDHE-PSK-AES256-CBC-SHA384',
  'ECDHE-PSK-AES128-CBC-SHA256',
  'DHE-PSK-AES256-GCM-SHA384',
  'DHE-PSK-AES128-GCM-SHA256',
  'DHE-PSK-CHACHA20-POLY1305',
].join(':');

/**
 * The client's side of a TLS handshake on a stream that nobody reads. Destroying the stream ends it.
 * @param host what was connected to; null: a unix socket or an open stream
 * @throws SystemError EACCES saying why there is no TLS; EINVAL for credentials that cannot be used. The stream is destroyed then
 */
export async function secureStream(
  stream: Duplex,
  options: TlsClientOptions,
  host: string | null,
): Promise<{ stream: Duplex; tls: ServerTls }> {
  const { psk, verifyPeer = true } = options;
  const name = options.hostname ?? host;
  if (verifyPeer && psk === undefined && name === null && options.ca === undefined) {
    stream.destroy();
    // Everybody with a certificate of the public web would pass.
    throw new SystemError(
      errnos.EINVAL,
      'to verify the server at a unix socket give its authority (ca, tls-certificates) or its name (hostname, tls-hostname)',
    );
  }
  let socket: tls.TLSSocket;
  try {
    socket = tls.connect({
      socket: stream,
      minVersion: options.minVersion ?? 'TLSv1.2',
      maxVersion: options.maxVersion ?? 'TLSv1.3',
      rejectUnauthorized: verifyPeer,
      host: name ?? undefined,
      // The name goes to the server too, so that it can choose its certificate. An address must not.
      servername: name === null || net.isIP(name) !== 0 ? '' : name,
      checkServerIdentity: (_, certificate) =>
        name === null || psk !== undefined ? undefined : tls.checkServerIdentity(name, certificate),
      ...(psk === undefined ? certificateOptions(options) : pskOptions(psk)),
    });
  } catch (error) {
    stream.destroy();
    throw new SystemError(errnos.EINVAL, `the TLS credentials cannot be used: ${(error as Error).message}`, {
      cause: error,
    });
  }
  stream.on('error', (error) => socket.destroy(error));
  await new Promise<void>((resolve, reject) => {
    const closed = (): void => failed(new Error('the connection was closed'));
    const failed = (error: Error): void => {
      socket.destroy();
      stream.destroy();
      reject(new SystemError(errnos.EACCES, `no TLS with the server: ${error.message}`, { cause: error }));
    };
    socket.once('error', failed);
    socket.once('close', closed);
    socket.once('secureConnect', () => {
      socket.off('close', closed);
      socket.off('error', failed);
      resolve();
    });
  });
  const verified = psk === undefined ? socket.authorized : usesPsk(socket);
  if (psk !== undefined && !verified) {
    socket.destroy();
    throw new SystemError(errnos.EACCES, 'no TLS with the server: it did not use the pre-shared key');
  }
  const { name: cipher } = socket.getCipher();
  return { stream: socket, tls: { protocol: socket.getProtocol() ?? 'TLS', cipher, verified } };
}

const certificateOptions = ({ ca, cert, key }: TlsClientOptions): tls.ConnectionOptions => ({ ca, cert, key });

const pskOptions = (psk: PskCredentials): tls.ConnectionOptions => ({
  // No authority: a certificate, should the server send one after all, verifies for nobody.
  ca: [],
  rejectUnauthorized: true,
  ciphers: PSK_CIPHERS,
  pskCallback: () => ({ identity: psk.identity, psk: psk.key }),
});

/** TLS 1.2 names it in the cipher; in 1.3 a key in use looks like a resumed session, and no session is offered here. */
function usesPsk(socket: tls.TLSSocket): boolean {
  const certificate = socket.getPeerCertificate();
  const anonymous = certificate === null || Object.keys(certificate).length === 0;
  return anonymous && (socket.getCipher().name.includes('PSK') || socket.isSessionReused());
}
