/** What the clients of a bridge may take, one by one and together. Both sides know the limits of a connection: a client keeps to them. */

/** Connections. When there is no room, one that has had nothing under way for IDLE_MS makes it; else the new one is turned away with EAGAIN. */
export const MAX_CONNECTIONS = 64;
export const IDLE_MS = 1000;
/** Requests of a connection without an answer; more are refused with EAGAIN. */
export const MAX_IN_FLIGHT = 64;
/**
 * Bytes of a connection's requests, each from its reading until its answer is taken, and of those of all connections. What would be more is refused with
 * EAGAIN; a single request never is more than a connection may have.
 */
export const MAX_BYTES = 8 << 20;
export const MAX_TOTAL_BYTES = 64 << 20;
/** Answers that a client has not taken; who lets more lie about is disconnected, as who takes none of them for so many ms. */
export const MAX_UNTAKEN = 1024;
export const UNTAKEN_MS = 30_000;
/** How long requests in flight may take when the bridge is closed, ms. */
export const CLOSING_MS = 3000;

/** Bytes that are lent. */
export class Budget {
  readonly #limit: number;
  #taken = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get taken(): number {
    return this.#taken;
  }

  /** false: that would be too much; nothing is taken then. */
  take(bytes: number): boolean {
    if (this.#taken + bytes > this.#limit) return false;
    this.#taken += bytes;
    return true;
  }

  give(bytes: number): void {
    this.#taken -= bytes;
  }
}
