/**
 * TLS for the server: credentials, and taking a connection that is open already into TLS. The handshake runs through a real tls.Server
 * object: only that refuses clients whose certificate does not verify (a bare TLSSocket with the same options merely notes it).
 */
import crypto from 'node:crypto';
import type { Duplex } from 'node:stream';
import tls from 'node:tls';
import { errnos, messageOf, SystemError } from '../sys/errno.js';
import type { ClientTls } from './device.js';
import { distinguishedName } from './tls-subject.js';

/**
 * What a listener does about TLS (protocol document, "TLS support"): `off` NOTLS; `selective` the client may choose, and the export
 * provider may insist; `required` FORCEDTLS, nothing goes on without.
 */
export type TlsMode = 'off' | 'selective' | 'required';

/** The server's side of TLS. A certificate with its key, or pre-shared keys, or both. PEM texts. */
export interface TlsOptions {
  /** The server's certificate, and the intermediate ones behind it. */
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
  /** Authorities whose client certificates are accepted. */
  readonly ca?: string | Buffer;
  /** Revocation lists of these authorities; when given there must be one of each. */
  readonly crl?: string | Buffer;
  /** The key of a pre-shared key's identity; null: nobody's. Must not throw. */
  readonly psk?: (identity: string) => Uint8Array | null;
  /** Clients must prove who they are, by a certificate or a pre-shared key. Default: when there is `ca` or `psk`. */
  readonly verifyPeer?: boolean;
  /** Default TLSv1.2, the oldest that the protocol document wants. */
  readonly minVersion?: 'TLSv1.2' | 'TLSv1.3';
}

/** A connection that is in TLS now. */
export interface Secured {
  readonly stream: tls.TLSSocket;
  readonly client: ClientTls;
}

/**
 * Ciphers for a server with pre-shared keys. TLS 1.3: OpenSSL takes such a key for one of SHA-256, so these come first, or a server that
 * has a certificate too would choose another cipher and then find that the key does not fit. TLS 1.2: Node's default list forbids
 * pre-shared keys; those with forward secrecy are let in.
 */
function pskCiphers(): string {
  const others = tls.DEFAULT_CIPHERS.split(':').filter((name) => name !== '!PSK' && !name.startsWith('TLS_'));
  return [
    'TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384',
    'ECDHE-PSK-CHACHA20-POLY1305:ECDHE-PSK-AES256-CBC-SHA384:ECDHE-PSK-AES128-CBC-SHA256',
    ...others,
    '!kPSK:!kRSAPSK',
  ].join(':');
}

/**
 * No resumption: a resumed session would skip the look-up of its key or certificate, which may have been withdrawn since. No
 * renegotiation: who a client is does not change.
 */
const SECURE_OPTIONS = crypto.constants.SSL_OP_NO_TICKET | crypto.constants.SSL_OP_NO_RENEGOTIATION;

/** Servers kept for later handshakes; each serves one at a time. Making one costs as much as a handshake. */
const KEPT = 8;

/** Credentials that stay the same: a change makes a new one, which affects later handshakes only. */
export class TlsAcceptor {
  readonly #options: tls.TlsOptions;
  readonly #psk: TlsOptions['psk'];
  readonly #verifyPeer: boolean;
  readonly #idle: Handshaker[] = [];

  /** @throws SystemError EINVAL: nothing to authenticate with, or what OpenSSL has against it */
  constructor(options: TlsOptions) {
    const { cert, key, ca, crl, psk } = options;
    if ((cert === undefined) !== (key === undefined)) {
      throw new SystemError(errnos.EINVAL, 'TLS needs a certificate and its key; only one of them is given');
    }
    if (cert === undefined && psk === undefined) {
      throw new SystemError(errnos.EINVAL, 'TLS needs a certificate with its key, or pre-shared keys');
    }
    this.#verifyPeer = options.verifyPeer ?? (ca !== undefined || psk !== undefined);
    if (this.#verifyPeer && ca === undefined && psk === undefined) {
      // Without own authorities Node would take those of the public web.
      throw new SystemError(errnos.EINVAL, 'verifying clients needs their authority (ca) or pre-shared keys');
    }
    this.#psk = psk;
    const ask = this.#verifyPeer && ca !== undefined;
    this.#options = {
      cert,
      key,
      ca: ask ? ca : undefined,
      crl: ask ? crl : undefined,
      requestCert: ask,
      // Node 24 refuses a client without certificate also when a key has proven who it is: with keys, accept() decides.
      rejectUnauthorized: ask && psk === undefined,
      minVersion: options.minVersion ?? 'TLSv1.2',
      ciphers: psk === undefined ? undefined : pskCiphers(),
      honorCipherOrder: true,
      secureOptions: SECURE_OPTIONS,
      // The server's own deadline ends handshakes; this one is as far away as Node allows.
      handshakeTimeout: 2 ** 31 - 1,
    };
    try {
      this.#idle.push(new Handshaker(this.#options, psk));
    } catch (error) {
      throw new SystemError(errnos.EINVAL, `the TLS credentials cannot be used: ${messageOf(error)}`, { cause: error });
    }
  }

  /**
   * The server's side of a TLS handshake on an open stream that nobody reads. Destroying the stream ends it.
   * @throws SystemError EACCES saying why there is no TLS; the stream is destroyed then
   */
  async accept(stream: Duplex): Promise<Secured> {
    const handshaker = this.#idle.pop() ?? new Handshaker(this.#options, this.#psk);
    const { socket, identity } = await handshaker.run(stream);
    // Its socket lives on without it. After a failure it is not used again: what else the stream tells must meet nobody else's.
    if (this.#idle.length < KEPT) this.#idle.push(handshaker);
    const client = this.#identify(socket, identity);
    if (this.#verifyPeer && client.subject === null && client.identity === null) {
      const refused = socket.getPeerX509Certificate() && socket.authorizationError;
      socket.destroy();
      const why = refused
        ? `the client's certificate is refused: ${messageOf(refused)}`
        : 'the client has neither a verified certificate nor a pre-shared key';
      throw new SystemError(errnos.EACCES, `TLS handshake: ${why}`);
    }
    return { stream: socket, client };
  }

  /** @param offered the last identity that had a key */
  #identify(socket: tls.TLSSocket, offered: string | null): ClientTls {
    const protocol = socket.getProtocol() ?? 'TLS';
    // The key of an identity may have been looked up and then not been used (TLS 1.3, when the cipher's hash does not fit): only a key in
    // use proves anything. To TLS 1.3 a key in use is a resumed session, and there is no other resumption here.
    const proven = protocol === 'TLSv1.3' ? socket.isSessionReused() : socket.getCipher().name.includes('PSK');
    if (proven) return { protocol, subject: null, identity: offered };
    const certificate = this.#options.requestCert && socket.authorized ? socket.getPeerX509Certificate() : undefined;
    return { protocol, subject: certificate ? distinguishedName(certificate.subject) : null, identity: null };
  }
}

interface Outcome {
  readonly socket: tls.TLSSocket;
  /** The identity whose key was looked up last, if it has one. */
  readonly identity: string | null;
}

/** A tls.Server that never listens: it is handed one connection at a time, so what it tells belongs to that one. */
class Handshaker {
  readonly #server: tls.Server;
  #resolve: ((outcome: Outcome) => void) | null = null;
  #reject: ((error: Error) => void) | null = null;
  #identity: string | null = null;

  constructor(options: tls.TlsOptions, psk: TlsOptions['psk']) {
    const lookUp = (_: tls.TLSSocket, identity: string): Uint8Array | null => {
      const key = psk?.(identity) ?? null;
      this.#identity = key === null ? null : identity;
      return key;
    };
    this.#server = tls.createServer(psk === undefined ? options : { ...options, pskCallback: lookUp });
    this.#server.on('secureConnection', (socket) => {
      // What is wrong right behind the handshake is told before anybody else listens.
      socket.on('error', () => socket.destroy());
      // Later a client may end its side and still wait for answers.
      socket.allowHalfOpen = true;
      const resolve = this.#resolve;
      this.#settle();
      resolve?.({ socket, identity: this.#identity });
    });
    this.#server.on('tlsClientError', (error, { authorizationError: refused }) =>
      this.#fail(refused ? new Error(`the client's certificate is refused: ${messageOf(refused)}`) : error),
    );
  }

  run(stream: Duplex): Promise<Outcome> {
    // Of a certificate that is refused Node tells after the end of the stream.
    const gone = (): void => {
      const reject = this.#reject;
      setImmediate(() => {
        if (this.#reject === reject) this.#fail(new Error('the connection ended'));
      });
    };
    stream.once('close', gone);
    // The socket that Node makes does the same: a client that ends during the handshake is gone.
    stream.allowHalfOpen = false;
    return new Promise<Outcome>((resolve, reject) => {
      this.#identity = null;
      this.#resolve = resolve;
      this.#reject = (error) => {
        stream.destroy();
        reject(new SystemError(errnos.EACCES, `TLS handshake: ${reason(error)}`, { cause: error }));
      };
      this.#server.emit('connection', stream);
    }).finally(() => stream.off('close', gone));
  }

  #fail(error: Error): void {
    const reject = this.#reject;
    this.#settle();
    reject?.(error);
  }

  #settle(): void {
    this.#resolve = null;
    this.#reject = null;
  }
}

/** OpenSSL's reason without its numbers and source lines. */
function reason(error: Error): string {
  const { reason: text } = error as { reason?: unknown };
  return typeof text === 'string' && text !== '' ? text : error.message;
}
