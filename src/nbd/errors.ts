/** Errors: the device's errno to the wire's, and the classes this library throws. */
import { errnoName, errnos, SystemError } from '../sys/errno.js';
import { WireError } from './constants.js';

const wire = new Map<number, number>([
  [errnos.EPERM, WireError.EPERM],
  [errnos.EACCES, WireError.EPERM],
  [errnos.EROFS, WireError.EPERM],
  [errnos.EIO, WireError.EIO],
  [errnos.ENOMEM, WireError.ENOMEM],
  [errnos.EINVAL, WireError.EINVAL],
  [errnos.ENOSPC, WireError.ENOSPC],
  [errnos.EDQUOT, WireError.ENOSPC],
  [errnos.EFBIG, WireError.ENOSPC],
  [108, WireError.ESHUTDOWN],
]);

/**
 * The error value a client gets for a device's errno (protocol document, "Error values").
 * EOPNOTSUPP is told only to a WRITE_ZEROES with FAST_ZERO, where it has a meaning; anything without a value of its own is EIO.
 * @param errno positive Linux errno
 */
export function wireError(errno: number, fastZero = false): number {
  if (errno === errnos.EOPNOTSUPP) return fastZero ? WireError.ENOTSUP : WireError.EIO;
  return wire.get(errno) ?? WireError.EIO;
}

/** The peer broke the protocol in a way that leaves no framing to go on with: the connection ends. */
export class ProtocolError extends SystemError {
  constructor(message: string) {
    super(errnos.EPROTO, message);
    this.name = 'ProtocolError';
  }
}

/** An export provider's word that this client must use TLS: the answer is ERR_TLS_REQD. */
export class TlsRequiredError extends SystemError {
  constructor(message: string) {
    super(errnos.EACCES, message);
    this.name = 'TlsRequiredError';
  }
}

/** The connection ended before the answer. */
export class DisconnectedError extends SystemError {
  constructor(message = 'the peer closed the connection', options?: ErrorOptions) {
    super(errnos.ECONNRESET, message, options);
    this.name = 'DisconnectedError';
  }
}

/** What a server's error carries besides its errno. */
export interface NbdErrorDetails {
  /** The server's own words. */
  readonly text?: string;
  /** Byte of the export where it went wrong (ERROR_OFFSET). */
  readonly offset?: number | null;
  /** The number on the wire, where it is not the errno: of a failed option, the reply type. */
  readonly wire?: number;
}

/**
 * The server answered a command or an option with an error. `errno` is a Linux number: a command's error values are, an option's
 * reply type has an equivalent (ERR_UNKNOWN: ENOENT, ERR_POLICY and ERR_TLS_REQD: EACCES …).
 */
export class NbdError extends SystemError {
  /** The number on the wire: an error value, or an option's reply type. */
  readonly wire: number;
  /** The server's own words; "" when it gave none. */
  readonly text: string;
  /** Byte of the export where it went wrong, when the server told (ERROR_OFFSET); else null. */
  readonly offset: number | null;
  constructor(errno: number, what: string, details: NbdErrorDetails = {}) {
    super(errno, `${what}: ${details.text || errnoName(errno)}`);
    this.name = 'NbdError';
    this.wire = details.wire ?? errno;
    this.text = details.text ?? '';
    this.offset = details.offset ?? null;
  }
}
