/** What the server grants a client, in one place, each with its reason. */

/** Every limit of a server. */
export interface Limits {
  /** Connections of the whole server; one more is closed at once. Bounds descriptors and memory (qemu CVE-2024-7409). */
  readonly connections: number;
  /** Milliseconds from accept to the end of negotiation; a client that does nothing is dropped (qemu CVE-2024-7409). */
  readonly handshakeMs: number;
  /** Milliseconds without a request after which a client is disconnected; 0: never. A disk that nobody touches is no reason to. */
  readonly idleMs: number;
  /** Options of one handshake; real clients need fewer than 10, nbdkit allows 32. */
  readonly options: number;
  /** Options more for each export that LIST named; nbdinfo --list uses 3 (contexts of the export, INFO). */
  readonly optionsPerExport: number;
  /** Meta contexts that one connection may choose. */
  readonly metaContexts: number;
  /** Queries of one LIST_META_CONTEXT or SET_META_CONTEXT: each may cost the provider a look. */
  readonly metaQueries: number;
  /** Bytes of one option's data that are kept; longer ones are skipped and answered with ERR_TOO_BIG. */
  readonly optionLength: number;
  /** Bytes of one option's data that are skipped; a longer one ends the connection. */
  readonly optionSkip: number;
  /** Bytes of one read or write request. Clients send up to 64 MiB whatever was advertised (nbd.md). */
  readonly payload: number;
  /** Requests of one connection without an answer; then its socket is not read until some are answered. */
  readonly inFlight: number;
  /** Requests of all connections without an answer; GRANTED_REQUESTS of each connection are always taken, whatever others do. */
  readonly totalInFlight: number;
  /** Bytes of buffers one connection holds at a time (at least one piece is always granted). */
  readonly inFlightBytes: number;
  /** Bytes of buffers all connections hold; one piece is always granted to each, the rest is lent in turn. */
  readonly totalInFlightBytes: number;
  /**
   * Bytes of buffers a connection may hold while its client takes no replies: reading ahead for it would only keep memory from
   * others.
   */
  readonly blockedBytes: number;
  /**
   * Bytes of all reads together that must be whole before their header is sent (simple replies and DF, over maxIo). Beyond, such reads are
   * streamed: one at a time on a connection, and a failure in the middle ends the connection where replies are simple.
   */
  readonly gatherBytes: number;
}

export const MiB = 1024 * 1024;

/** Requests that a connection may always have in flight. */
export const GRANTED_REQUESTS = 16;

/** What holds where nothing else is said. */
export const DEFAULT_LIMITS: Limits = {
  connections: 1024,
  handshakeMs: 10_000,
  idleMs: 0,
  options: 32,
  optionsPerExport: 8,
  metaContexts: 64,
  metaQueries: 256,
  optionLength: 64 * 1024,
  optionSkip: 64 * MiB,
  payload: 64 * MiB,
  inFlight: 256,
  totalInFlight: 8192,
  inFlightBytes: 32 * MiB,
  totalInFlightBytes: 512 * MiB,
  blockedBytes: 16 * MiB,
  gatherBytes: 128 * MiB,
};

/** The data of a read, and 8 bytes of its offset, are counted by 32 bits. */
const MAX_PAYLOAD = 2 ** 31;

/**
 * Fills in the defaults.
 * @throws RangeError naming a limit that is not a positive integer (idleMs may be 0), a payload over 2 GiB, or a gatherBytes smaller than payload (the longest read would always be streamed)
 */
export function resolveLimits(limits: Partial<Limits> = {}): Limits {
  const all: Limits = { ...DEFAULT_LIMITS, ...limits };
  for (const [name, value] of Object.entries(all)) {
    if (!Number.isSafeInteger(value) || value < (name === 'idleMs' ? 0 : 1))
      throw new RangeError(`limit ${name} is ${value}: give a positive integer`);
  }
  if (all.payload > MAX_PAYLOAD)
    throw new RangeError(`limit payload is ${all.payload}: at most ${MAX_PAYLOAD} can be told`);
  if (all.gatherBytes < all.payload) {
    throw new RangeError(`limit gatherBytes (${all.gatherBytes}) must be at least payload (${all.payload})`);
  }
  return all;
}
