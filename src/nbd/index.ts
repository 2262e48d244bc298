/** nbd-ts: an NBD server and client. What is exported here is the library's public face. */
export { type PassedSocket, passedSockets } from './activation.js';
export { BufferPool } from './buffer-pool.js';
export { type Abilities, type ClientOptions, NbdClient } from './client.js';
export type { ClientLimits } from './client-channel.js';
export { type ConnectOptions, connectNbd, type OpenOptions, openNbd } from './client-connect.js';
export { readCertificates, readPsk } from './client-credentials.js';
export type { ExtentAt } from './client-extents.js';
export { type ExportInfo, type HandshakeOptions, NbdHandshake, type OptionReply } from './client-handshake.js';
export type { NbdAddress } from './client-socket.js';
export type { PskCredentials, ServerTls, TlsClientOptions } from './client-tls.js';
export type { ConnectionInfo } from './connection.js';
export * as constants from './constants.js';
export { BASE_ALLOCATION, STATE_HOLE, STATE_ZERO } from './constants.js';
export type { Counters } from './counters.js';
export * from './device.js';
export { DisconnectedError, NbdError, ProtocolError, TlsRequiredError, wireError } from './errors.js';
export { DEFAULT_LIMITS, type Limits } from './limits.js';
export { addressText, type ListenAddress } from './listening.js';
export type { Log } from './log.js';
export { MemoryDisk, type MemoryDiskOptions, MemoryProvider } from './memory-device.js';
export {
  type ListenOptions,
  NbdServer,
  type NbdServerEvents,
  type NbdServerOptions,
} from './server.js';
export type { MetaContext } from './session.js';
export type { Keepalive } from './sockets.js';
export { stdioConnection } from './stdio.js';
export { TlsAcceptor, type TlsMode, type TlsOptions } from './tls.js';
export { formatNbdUri, NBD_PORT, type NbdUri, type NbdUriParts, parseNbdUri } from './uri.js';
