/** What the server grants a client, in one place, each with its reason. */

export interface Limits {
  /** Connections of the whole server; one more is closed at once. Bounds descriptors and memory (qemu CVE-2024-7409). */
  readonly connections: number;
  /** Milliseconds from accept to the end of negotiation; a client that does nothing is dropped (qemu CVE-2024-7409). */
  readonly handshakeMs: number;
  /** Options of one handshake; real clients need fewer than 10, nbdkit allows 32. */
  readonly options: number;
  /** Options more for each export that LIST named; nbdinfo --list uses 3 (contexts of the export, INFO). */
  readonly optionsPerExport: number;
  /** Bytes of one option's data that are kept; longer ones are skipped and answered with ERR_TOO_BIG. */
  readonly optionLength: number;
  /** Bytes of one option's data that are skipped; a longer one ends the connection. */
  readonly optionSkip: number;
  /** Bytes of one read or write request. Clients send up to 64 MiB whatever was advertised (nbd.md). */
  readonly payload: number;
  /** Requests of one connection without an answer; then its socket is not read until some are answered. */
  readonly inFlight: number;
  /** Bytes of buffers one connection holds at a time (at least one piece is always granted). */
  readonly inFlightBytes: number;
  /** Bytes of all reads together that must be whole before their header is sent (simple replies and DF, over maxIo). */
  readonly gatherBytes: number;
}

export const MiB = 1024 * 1024;

export const DEFAULT_LIMITS: Limits = {
  connections: 1024,
  handshakeMs: 10_000,
  options: 32,
  optionsPerExport: 8,
  optionLength: 64 * 1024,
  optionSkip: 64 * MiB,
  payload: 64 * MiB,
  inFlight: 256,
  inFlightBytes: 32 * MiB,
  gatherBytes: 128 * MiB,
};

/**
 * Fills in the defaults.
 * @throws RangeError naming a limit that is not a positive integer, or a gatherBytes smaller than payload (such a read could never run)
 */
export function resolveLimits(limits: Partial<Limits> = {}): Limits {
  const all: Limits = { ...DEFAULT_LIMITS, ...limits };
  for (const [name, value] of Object.entries(all)) {
    if (!Number.isSafeInteger(value) || value <= 0)
      throw new RangeError(`limit ${name} is ${value}: give a positive integer`);
  }
  if (all.gatherBytes < all.payload) {
    throw new RangeError(`limit gatherBytes (${all.gatherBytes}) must be at least payload (${all.payload})`);
  }
  return all;
}
