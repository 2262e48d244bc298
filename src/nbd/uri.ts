/**
 * NBD URIs to their parts and back (the NBD project's URI document, and libnbd's query parameters for TLS). No I/O: files that a URI
 * names are read by client-credentials.ts.
 */
import { errnos, SystemError } from '../sys/errno.js';

/** IANA's port for NBD. */
export const NBD_PORT = 10809;

/** A URI's parts, decoded. */
export interface NbdUri {
  /** `nbds:` and `nbds+unix:`: the connection must be in TLS. */
  readonly tls: boolean;
  /** TCP: name or address, IPv6 without brackets. null: a unix socket. */
  readonly host: string | null;
  readonly port: number;
  /** Unix socket: its path; a leading NUL is the abstract namespace. null: TCP. */
  readonly socket: string | null;
  /** "": the server's default export. */
  readonly exportName: string;
  /** Identity for a pre-shared key. */
  readonly user: string | null;
  /** Directory of ca-cert.pem, client-cert.pem and client-key.pem. */
  readonly tlsCertificates: string | null;
  /** File of pre-shared keys, lines of `identity:hexadecimal key`. */
  readonly tlsPskFile: string | null;
  /** Name the server's certificate must have. */
  readonly tlsHostname: string | null;
  /** null: not said, which means to verify. */
  readonly tlsVerifyPeer: boolean | null;
}

/** What formatNbdUri needs: the parts that differ from nothing. */
export type NbdUriParts = Partial<NbdUri>;

const PARAMETERS = ['socket', 'tls-certificates', 'tls-psk-file', 'tls-hostname', 'tls-verify-peer', 'tls-type'];

/** scheme, authority, path, query, fragment (RFC 3986, appendix B). */
const PARTS = /^([A-Za-z][A-Za-z0-9+.-]*):(?:\/\/([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?$/s;

/** What is said in every error, without a password that somebody may have put there. */
const shown = (uri: string): string => JSON.stringify(uri.replace(/\/\/[^/?#@]*@/, '//…@'));

function invalid(uri: string, why: string): SystemError {
  return new SystemError(errnos.EINVAL, `${shown(uri)} is no NBD URI that can be used: ${why}`);
}

/** @throws SystemError EINVAL where a % is followed by no two hexadecimal digits, or the bytes are not UTF-8 */
function decode(uri: string, text: string, what: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw invalid(uri, `the percent-encoding of ${what} is broken`);
  }
}

/**
 * Takes a URI apart.
 * @throws SystemError EINVAL saying what is wrong with it; EOPNOTSUPP for transports this library does not have (vsock, ssh)
 */
export function parseNbdUri(uri: string): NbdUri {
  const match = PARTS.exec(uri);
  if (match === null) throw invalid(uri, 'it must begin with nbd://, nbds://, nbd+unix:// or nbds+unix://');
  const [, rawScheme, authority, path, query, fragment] = match;
  const scheme = rawScheme.toLowerCase();
  if (scheme === 'nbd+vsock' || scheme === 'nbds+vsock' || scheme === 'nbd+ssh' || scheme === 'nbds+ssh') {
    throw new SystemError(
      errnos.EOPNOTSUPP,
      `${shown(uri)}: this client has no ${scheme.split('+')[1]} transport; use TCP or a unix socket`,
    );
  }
  if (!['nbd', 'nbds', 'nbd+unix', 'nbds+unix'].includes(scheme)) throw invalid(uri, `${scheme}: is another scheme`);
  if (authority === undefined) throw invalid(uri, `"//" must follow ${scheme}:`);
  if (fragment !== undefined) throw invalid(uri, 'it has a fragment; write # as %23');

  const parameters = parseQuery(uri, query ?? '');
  const unix = scheme.endsWith('+unix');
  const { user, host, port } = parseAuthority(uri, authority);
  const socket = parameters.get('socket') ?? null;
  if (unix && !socket) throw invalid(uri, 'the parameter socket=PATH is missing');
  if (!unix && socket !== null) throw invalid(uri, `socket= belongs to ${scheme}+unix:`);
  if (unix && (host !== '' || port !== null)) throw invalid(uri, 'a unix socket has no host; write ///');
  if (!unix && host === '') throw invalid(uri, 'the host is missing');
  const exportName = decode(uri, path.replace(/^\//, ''), 'the export name');
  if (exportName.includes('\0')) throw invalid(uri, 'an export name cannot hold a NUL');
  return {
    tls: scheme.startsWith('nbds'),
    host: unix ? null : host,
    port: port ?? NBD_PORT,
    socket: unix ? socket : null,
    exportName,
    user,
    tlsCertificates: parameters.get('tls-certificates') ?? null,
    tlsPskFile: parameters.get('tls-psk-file') ?? null,
    tlsHostname: parameters.get('tls-hostname') ?? null,
    tlsVerifyPeer: parseVerify(uri, parameters),
  };
}

/** Pairs of the query, decoded. A plus sign is a plus sign: this is RFC 3986, not a form. */
function parseQuery(uri: string, query: string): Map<string, string> {
  const parameters = new Map<string, string>();
  for (const pair of query.split(/[&;]/)) {
    if (pair === '') continue;
    const equals = pair.indexOf('=');
    const key = decode(uri, equals < 0 ? pair : pair.slice(0, equals), 'a parameter');
    if (key.startsWith('x-')) continue;
    if (!PARAMETERS.includes(key)) throw invalid(uri, `the parameter ${JSON.stringify(key)} is not known`);
    if (equals < 0) throw invalid(uri, `the parameter ${key} has no value`);
    if (parameters.has(key)) throw invalid(uri, `the parameter ${key} is there twice`);
    parameters.set(key, decode(uri, pair.slice(equals + 1), key));
  }
  checkType(uri, parameters);
  return parameters;
}

/** `tls-type` says again what the files say; a contradiction must not go unnoticed. */
function checkType(uri: string, parameters: Map<string, string>): void {
  if (parameters.has('tls-psk-file') && parameters.has('tls-certificates')) {
    throw invalid(uri, 'tls-psk-file and tls-certificates exclude each other');
  }
  const type = parameters.get('tls-type');
  if (type === undefined) return;
  if (type === 'anon') throw invalid(uri, 'tls-type=anon protects from nobody and is not supported');
  if (type !== 'x509' && type !== 'psk') throw invalid(uri, `tls-type=${type} is not known`);
  if (type === 'psk' && !parameters.has('tls-psk-file')) throw invalid(uri, 'tls-type=psk needs tls-psk-file=PATH');
  if (type === 'x509' && parameters.has('tls-psk-file')) throw invalid(uri, 'tls-type=x509 has no tls-psk-file');
}

function parseVerify(uri: string, parameters: Map<string, string>): boolean | null {
  const verify = parameters.get('tls-verify-peer');
  if (verify === undefined) return null;
  if (verify !== '0' && verify !== '1') throw invalid(uri, 'tls-verify-peer is 0 or 1');
  return verify === '1';
}

function parseAuthority(uri: string, authority: string): { user: string | null; host: string; port: number | null } {
  const at = authority.lastIndexOf('@');
  const user = at < 0 ? null : decode(uri, authority.slice(0, at), 'the user');
  const match = /^(\[[^\]]*\]|[^:[\]]*)(?::([0-9]*))?$/.exec(authority.slice(at + 1));
  if (match === null) throw invalid(uri, 'the host and port are not understood (an IPv6 address stands in brackets)');
  const [, rawHost, digits] = match;
  const port = digits ? Number(digits) : null;
  if (port !== null && (port < 1 || port > 65535)) throw invalid(uri, `there is no port ${digits}`);
  // The name of an interface may follow an IPv6 address, as %25eth0.
  const host = decode(uri, rawHost.startsWith('[') ? rawHost.slice(1, -1) : rawHost, 'the host');
  if (rawHost.startsWith('[') && !host.includes(':')) throw invalid(uri, `${rawHost} is no IPv6 address`);
  if (host.includes('\0')) throw invalid(uri, 'a host cannot hold a NUL');
  return { user, host, port };
}

/** Escapes what is no unreserved character; `/` and `@` stay readable where they mean nothing else. */
const encode = (text: string): string =>
  encodeURIComponent(text)
    .replace(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`)
    .replaceAll('%2F', '/')
    .replaceAll('%40', '@');

/**
 * Puts a URI together; parseNbdUri of it gives the parts back.
 * @throws SystemError EINVAL without a host or a socket
 */
export function formatNbdUri(parts: NbdUriParts): string {
  const { socket = null, host = null, port = NBD_PORT, user = null, exportName = '' } = parts;
  if ((host === null) === (socket === null)) {
    throw new SystemError(errnos.EINVAL, 'an NBD URI needs either a host or a unix socket');
  }
  const scheme = `${parts.tls ? 'nbds' : 'nbd'}${socket === null ? '' : '+unix'}`;
  const name = host === null ? '' : host.includes(':') ? `[${host.replaceAll('%', '%25')}]` : encode(host);
  const authority = `${user === null ? '' : `${encodeURIComponent(user)}@`}${name}${host === null || port === NBD_PORT ? '' : `:${port}`}`;
  const query = [
    ['socket', socket],
    ['tls-certificates', parts.tlsCertificates],
    ['tls-psk-file', parts.tlsPskFile],
    ['tls-hostname', parts.tlsHostname],
    ['tls-verify-peer', parts.tlsVerifyPeer == null ? null : parts.tlsVerifyPeer ? '1' : '0'],
  ].flatMap(([key, value]) => (value == null ? [] : [`${key}=${encode(value)}`]));
  return `${scheme}://${authority}/${encode(exportName)}${query.length === 0 ? '' : `?${query.join('&')}`}`;
}
