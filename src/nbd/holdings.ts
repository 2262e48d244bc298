/**
 * What one connection holds of what is shared: requests without an answer, bytes of the device's buffers, and files that answers are sent from. It says when the
 * connection has its share of the first two; the socket is then not read until something comes back.
 */
import { close } from '../sys/libc.js';
import { Budget, type Share } from './budget.js';
import type { BlockDevice, IoBuffer } from './device.js';
import { GRANTED_REQUESTS, type Limits } from './limits.js';
import type { Piece } from './requests.js';

/** Bytes that each connection has in any case: a piece of the usual length. */
const GRANTED_BYTES = 1024 * 1024;

/** Shorter answers are not sent from files: that costs more than to copy them. */
const LEAST_FILE = 128 * 1024;
/**
 * Answers that may be sent from files, of one connection and of all in the process: each may hold a descriptor. Those of one are as many as nbdcopy asks for
 * at a time: what comes on top is copied, also for a client that is slow to take it.
 */
const MOST_FILES = 64;
const MOST_FILES_OF_ALL = 256;
let filesOfAll = 0;

/** What the connections of a server share. */
export interface Budgets {
  readonly requests: Budget;
  readonly bytes: Budget;
}

export function makeBudgets(limits: Limits): Budgets {
  const { connections, totalInFlight, totalInFlightBytes } = limits;
  return {
    requests: new Budget(totalInFlight, GRANTED_REQUESTS, connections),
    bytes: new Budget(totalInFlightBytes, GRANTED_BYTES, connections),
  };
}

export class Holdings {
  readonly #device: BlockDevice;
  readonly #limits: Limits;
  readonly #available: () => void;
  readonly #blocked: () => boolean;
  readonly #requests: Share;
  readonly #bytes: Share;
  /** What it may hold now: it grows with what the client takes, and shrinks when the client stops taking. */
  #allowance: number;
  #awaitingDevice = false;
  #files = 0;

  /**
   * @param available called, from anywhere, when what was refused is worth another try
   * @param blocked whether the client's socket takes no replies now
   */
  constructor(device: BlockDevice, limits: Limits, budgets: Budgets, available: () => void, blocked: () => boolean) {
    this.#device = device;
    this.#limits = limits;
    this.#available = available;
    this.#blocked = blocked;
    this.#requests = budgets.requests.join(available);
    this.#bytes = budgets.bytes.join(available);
    this.#allowance = Math.min(limits.blockedBytes, limits.inFlightBytes);
  }

  /** Requests that were taken and are not answered. */
  get requests(): number {
    return this.#requests.held;
  }

  /** Bytes of buffers. */
  get bytes(): number {
    return this.#bytes.held;
  }

  /** As many requests are in flight as may be; `available` is called when one more may, or a request's end tells. */
  get full(): boolean {
    return this.#requests.held >= this.#limits.inFlight || !this.#requests.reserve(1);
  }

  /** A request was taken; after `full` was false. */
  begin(): void {
    this.#requests.take(1);
  }

  /** A request is answered, or dropped. */
  end(): void {
    this.#requests.give(1);
  }

  /** A buffer, or null: the connection has its share, or there is none now. */
  allocate(length: number): IoBuffer | null {
    const { blockedBytes } = this.#limits;
    if (this.#allowance > blockedBytes && this.#blocked()) this.#allowance = blockedBytes;
    const held = this.#bytes.held;
    // One piece is always granted, however long: a limit below maxIo must not stop everything.
    if (held > 0 && (held + length > this.#allowance || !this.#bytes.reserve(length))) return null;
    if (this.#awaitingDevice) return null;
    const buffer = this.#device.allocate(length);
    if (buffer !== null) {
      this.#bytes.take(length);
      return buffer;
    }
    this.#awaitingDevice = true;
    this.#device.whenAvailable(() => {
      this.#awaitingDevice = false;
      this.#available();
    });
    return null;
  }

  /** Lets a READ be answered from a file, if that is worth it and no more of them than may be are. */
  allowFile(piece: Piece): void {
    if (piece.length < LEAST_FILE || this.#files >= MOST_FILES || filesOfAll >= MOST_FILES_OF_ALL) return;
    piece.mayBeFile = true;
    this.#files++;
    filesOfAll++;
  }

  /** Gives the piece's buffer back, and its file, if it has them. */
  release(piece: Piece): void {
    if (piece.mayBeFile) {
      piece.mayBeFile = false;
      this.#files--;
      filesOfAll--;
    }
    if (piece.file >= 0) {
      close(piece.file);
      piece.file = -1;
    }
    if (piece.buffer === null) return;
    const { length } = piece;
    this.#allowance = Math.min(this.#allowance + length, this.#limits.inFlightBytes);
    this.#bytes.give(length);
    this.#device.release(piece.buffer);
    piece.buffer = null;
  }

  /** Nothing more is taken: what was set aside for this connection goes to others. */
  stop(): void {
    this.#requests.stop();
    this.#bytes.stop();
  }

  /** The connection is over; every buffer is given back. */
  leave(): void {
    this.#requests.leave();
    this.#bytes.leave();
  }
}
