/**
 * Who gets in when the server is full. A connection that is still negotiating after a second is most likely one of a flood (qemu
 * CVE-2024-7409) and makes room for the next; a client that has its export open never does.
 */
import { errnos, SystemError } from '../sys/errno.js';
import type { Log } from './log.js';

/** Real clients negotiate in some milliseconds. */
const YIELD_MS = 1000;
/** Refusals are told at most so often: a flood must not fill the log. */
const LOG_MS = 1000;

/** What the decision needs of a connection. */
export interface Admitted {
  /** When it was accepted, ms since the epoch. */
  readonly since: number;
  readonly negotiating: boolean;
  readonly over: Promise<void>;
  destroy(error: Error): void;
}

export class Admission {
  readonly #limit: number;
  readonly #log: Log;
  readonly #yieldMs: number;
  /** Told to make room, and not gone yet. */
  readonly #leaving = new Set<Admitted>();
  #refused = 0;
  #timer: NodeJS.Timeout | null = null;

  /** @param yieldMs how long a negotiation is left alone */
  constructor(limit: number, log: Log, yieldMs = YIELD_MS) {
    this.#limit = limit;
    this.#log = log;
    this.#yieldMs = yieldMs;
  }

  /**
   * Whether one more may come in.
   * @param connections those there are, in the order they came
   */
  admits(connections: ReadonlyMap<number, Admitted>): boolean {
    if (connections.size - this.#leaving.size < this.#limit) return true;
    // Those that leave may wait for a store that does not answer: what they hold is bounded too.
    if (this.#leaving.size >= this.#limit) {
      this.#refuse();
      return false;
    }
    const latest = Date.now() - this.#yieldMs;
    for (const connection of connections.values()) {
      if (connection.since > latest) break;
      if (!connection.negotiating || this.#leaving.has(connection)) continue;
      this.#leaving.add(connection);
      void connection.over.then(() => this.#leaving.delete(connection));
      connection.destroy(
        new SystemError(
          errnos.ETIMEDOUT,
          'it was still negotiating, and made room for another client of a full server',
        ),
      );
      return true;
    }
    this.#refuse();
    return false;
  }

  #refuse(): void {
    this.#refused++;
    if (this.#timer !== null) return;
    this.#tell();
    this.#timer = setTimeout(() => {
      this.#timer = null;
      if (this.#refused > 0) this.#tell();
    }, LOG_MS);
    this.#timer.unref();
  }

  #tell(): void {
    const who = this.#refused === 1 ? 'a client was' : `${this.#refused} clients were`;
    this.#log.warn(`${who} turned away: ${this.#limit} connections are all that are allowed`);
    this.#refused = 0;
  }
}
