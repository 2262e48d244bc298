/** The short way to a client: an address or a URI; connect, TLS, negotiate, enter. */
import { errnos, SystemError } from '../sys/errno.js';
import type { ClientOptions, NbdClient } from './client.js';
import { uriCredentials } from './client-credentials.js';
import { NbdHandshake } from './client-handshake.js';
import { addressName, type NbdAddress } from './client-socket.js';
import type { TlsClientOptions } from './client-tls.js';
import { BASE_ALLOCATION, Reply } from './constants.js';
import { DisconnectedError, NbdError, ProtocolError } from './errors.js';
import { parseNbdUri } from './uri.js';

/** Milliseconds until a server that does not answer is given up. */
const TIMEOUT_MS = 30_000;

/** How to get to a handshake. */
export interface OpenOptions {
  /** Over what a URI says of it. */
  readonly tls?: TlsClientOptions;
  /** Ends the attempt; the rejection is its reason. */
  readonly signal?: AbortSignal;
  /** Milliseconds for everything until the export is entered, default 30 s; 0: no limit. The rejection is ETIMEDOUT. */
  readonly timeoutMs?: number;
}

/** How to get into an export. */
export interface ConnectOptions extends OpenOptions, ClientOptions {
  /** Default: the URI's, else "", the server's default export. */
  readonly exportName?: string;
  /**
   * The best kind of replies to ask for: what the server does not have falls back to the next, in the order extended headers, structured,
   * simple. Default `extended`.
   */
  readonly replies?: 'extended' | 'structured' | 'simple';
  /** Older form of `replies`: true `structured`, false `simple`. */
  readonly structured?: boolean;
  /** Default base:allocation. Contexts the server does not have are left out. */
  readonly metaContexts?: readonly string[];
}

/** Where to, and what a URI adds. */
interface Target {
  readonly address: NbdAddress;
  readonly exportName: string;
  readonly tls: TlsClientOptions;
}

async function resolveTarget(target: string | NbdAddress): Promise<Target> {
  if (typeof target !== 'string') return { address: target, exportName: '', tls: {} };
  const uri = parseNbdUri(target);
  const address = uri.socket === null ? { host: uri.host as string, port: uri.port } : { path: uri.socket };
  return { address, exportName: uri.exportName, tls: await uriCredentials(uri) };
}

/**
 * Connects and, as the URI or the options want it, takes the connection into TLS. The handshake is the caller's to go on with.
 * @param target a URI (its export name is not used here) or an address
 * @throws SystemError when nobody listens, EINVAL for a URI, EACCES without the TLS that is required; ProtocolError
 */
export async function openNbd(target: string | NbdAddress, options: OpenOptions = {}): Promise<NbdHandshake> {
  const resolved = await resolveTarget(target);
  return within(resolved, options, (signal) => open(resolved, options, signal, async (handshake) => handshake));
}

/**
 * Connects and enters an export.
 * @param target a URI (`nbd://host/name`, `nbds+unix:///name?socket=PATH` …) or an address
 * @throws NbdError when the server refuses (ENOENT: no such export); SystemError when nobody listens, EINVAL for a URI, EACCES without the
 *   TLS that is required, ETIMEDOUT; ProtocolError
 */
export async function connectNbd(target: string | NbdAddress, options: ConnectOptions = {}): Promise<NbdClient> {
  const resolved = await resolveTarget(target);
  const exportName = options.exportName ?? resolved.exportName;
  return within(resolved, options, (signal) =>
    open(resolved, options, signal, (handshake) => enter(handshake, exportName, options)),
  );
}

async function enter(handshake: NbdHandshake, exportName: string, options: ConnectOptions): Promise<NbdClient> {
  const { metaContexts = [BASE_ALLOCATION] } = options;
  const replies =
    options.replies ?? (options.structured === undefined ? 'extended' : options.structured ? 'structured' : 'simple');
  const extended = replies === 'extended' && (await handshake.extendedHeaders());
  const structured = extended || (replies !== 'simple' && (await handshake.structuredReply()));
  if (structured && metaContexts.length > 0) await chooseContexts(handshake, exportName, metaContexts);
  try {
    return await handshake.go(exportName, options);
  } catch (error) {
    // Servers of before 2017: the older option can only be refused by closing the connection.
    if (!(error instanceof NbdError && error.wire === Reply.ERR_UNSUP)) throw error;
    if (extended) throw new ProtocolError('the server agreed to extended headers and lacks GO, which belongs to them');
    return handshake.exportName(exportName, options);
  }
}

/** A server that has structured replies need not know meta contexts. @throws NbdError for any other refusal */
async function chooseContexts(handshake: NbdHandshake, name: string, queries: readonly string[]): Promise<void> {
  try {
    await handshake.setMetaContexts(name, queries);
  } catch (error) {
    if (!(error instanceof NbdError && error.wire === Reply.ERR_UNSUP)) throw error;
  }
}

/** Runs the handshake's steps; whatever goes wrong in them ends the connection. */
async function open<T>(
  target: Target,
  options: OpenOptions,
  signal: AbortSignal | undefined,
  then: (handshake: NbdHandshake) => Promise<T>,
): Promise<T> {
  const handshake = await NbdHandshake.connect(target.address, { signal });
  const abort = (): void => handshake.destroy();
  signal?.addEventListener('abort', abort, { once: true });
  try {
    await secure(handshake, tlsOf(target, options), target.address);
    return await then(handshake);
  } catch (error) {
    const lost = signal?.aborted || error instanceof ProtocolError || error instanceof DisconnectedError;
    // Where words are still exchanged, a client has to say that it goes.
    if (lost) handshake.destroy();
    else handshake.leave();
    throw signal?.aborted ? signal.reason : error;
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}

/** The URI's word and the options' together. `nbds:` stays what it is; options for TLS mean TLS. */
function tlsOf({ tls }: Target, options: OpenOptions): TlsClientOptions {
  if (options.tls === undefined) return { ...tls, mode: tls.mode ?? 'disable' };
  const mode = tls.mode === 'require' ? 'require' : (options.tls.mode ?? 'require');
  return { ...tls, ...options.tls, mode };
}

async function secure(handshake: NbdHandshake, tls: TlsClientOptions, address: NbdAddress): Promise<void> {
  if (tls.mode === 'disable') return;
  const refusal = await handshake.startTls(tls);
  if (refusal === null || tls.mode === 'allow') return;
  throw new SystemError(
    errnos.EACCES,
    `${addressName(address)} has no TLS, which is required here (${refusal.message}); ` +
      'turn it on at the server, or use nbd: where plaintext will do',
    { cause: refusal },
  );
}

/** Gives a handshake its time-out, and the caller's signal. */
async function within<T>(
  target: Target,
  options: OpenOptions,
  run: (signal: AbortSignal | undefined) => Promise<T>,
): Promise<T> {
  const { signal, timeoutMs = TIMEOUT_MS } = options;
  if (timeoutMs === 0) return run(signal);
  const late = new AbortController();
  const name = addressName(target.address);
  const timer = setTimeout(() => {
    late.abort(new SystemError(errnos.ETIMEDOUT, `${name} did not answer within ${timeoutMs} ms`));
  }, timeoutMs);
  try {
    return await run(signal === undefined ? late.signal : AbortSignal.any([signal, late.signal]));
  } finally {
    clearTimeout(timer);
  }
}
