/** Ends connections that had no request for a while, where somebody wants that: a disk that nobody touches is no fault of its client. */
import type { ConnectionInfo } from './connection.js';
import type { Log } from './log.js';

/** How often a period is looked at: a connection ends a quarter of it late at most. */
const LOOKS = 4;
const MIN_LOOK_MS = 5;

/** What the watch needs of a connection. */
export interface Watched {
  readonly info: ConnectionInfo;
  shutDown(): void;
}

export class IdleWatch {
  readonly #idleMs: number;
  readonly #connections: () => Iterable<Watched>;
  readonly #log: Log;
  readonly #timer: NodeJS.Timeout | null;
  /** How many requests a connection had, and since when, by performance.now(): the clock of the wall may be set. */
  readonly #seen = new WeakMap<Watched, { requests: number; since: number }>();

  /** @param idleMs 0: nothing is ever idle */
  constructor(idleMs: number, connections: () => Iterable<Watched>, log: Log) {
    this.#idleMs = idleMs;
    this.#connections = connections;
    this.#log = log;
    this.#timer = idleMs > 0 ? setInterval(() => this.#look(), Math.max(MIN_LOOK_MS, idleMs / LOOKS)) : null;
    this.#timer?.unref();
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
  }

  #look(): void {
    const now = performance.now();
    for (const connection of this.#connections()) {
      const { exportName, inFlight, counters, peer } = connection.info;
      // Negotiation has a deadline of its own.
      if (exportName === null) continue;
      const { requests } = counters;
      const before = this.#seen.get(connection);
      if (before === undefined || before.requests !== requests || inFlight > 0) {
        this.#seen.set(connection, { requests, since: now });
      } else if (now - before.since >= this.#idleMs) {
        this.#log.info(`${peer}: disconnected from ${exportName} after ${this.#idleMs / 1000} s without a request`);
        connection.shutDown();
      }
    }
  }
}
