/** Clients that write, zero, trim, flush and read a volume as fast as it goes, check what they read, and tell of each request how it ended. */
import type { NbdClient } from '../../../src/nbd/index.js';
import { type Ledger, SECTOR } from './ledger.js';

export type Kind = 'write' | 'fua' | 'zero' | 'trim' | 'flush' | 'read';

/** How one request ended. Times in ms of performance.now(). */
export interface Ending {
  readonly kind: Kind;
  readonly began: number;
  readonly ended: number;
  /** null: it was done. */
  readonly error: Error | null;
}

export interface LoadOptions {
  /** Requests in flight on each connection. */
  readonly depth?: number;
  /** How often each kind is chosen, as weights. */
  readonly mix?: Readonly<Partial<Record<Kind, number>>>;
  /** Most sectors of a request. */
  readonly sectors?: number;
  /** Errors of requests are endings like others, and the load goes on; otherwise the first ends it. */
  readonly persistent?: boolean;
  /** Only this range is used, in sectors. Default: all. */
  readonly range?: readonly [first: number, end: number];
  readonly seed?: number;
}

const usual = { write: 50, zero: 4, trim: 4, flush: 4, read: 20 } as const;

/** Reads that came back with wrong bytes: never a thing to go on after. */
export class WrongBytesError extends Error {}

export class Load {
  readonly endings: Ending[] = [];
  readonly #clients: readonly NbdClient[];
  readonly #ledger: Ledger;
  readonly #options: LoadOptions;
  readonly #kinds: Kind[];
  readonly #random: () => number;
  readonly #range: readonly [number, number];
  #stopping = false;
  #over: Promise<void> = Promise.resolve();
  #failed: Error | null = null;

  constructor(clients: readonly NbdClient[], ledger: Ledger, options: LoadOptions = {}) {
    this.#clients = clients;
    this.#ledger = ledger;
    this.#options = options;
    this.#range = options.range ?? [0, ledger.sectors];
    this.#random = randomNumbers(options.seed ?? 1);
    this.#kinds = Object.entries(options.mix ?? usual).flatMap(([kind, n]) => Array<Kind>(n).fill(kind as Kind));
  }

  start(): this {
    this.#stopping = false;
    const { depth = 32 } = this.#options;
    const workers = this.#clients.flatMap((client) => Array.from({ length: depth }, () => this.#work(client)));
    this.#over = Promise.all(workers).then(() => {});
    return this;
  }

  /** Sends nothing more and resolves when all that is in flight has ended. @throws what was wrong with a read, or ended the load */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#over;
    if (this.#failed) throw this.#failed;
  }

  /** Resolves when so many requests have ended (of a kind, if told), or the load is over. */
  async reached(count: number, kind?: Kind): Promise<void> {
    let seen = this.endings.length;
    let found = 0;
    const enough = (): boolean => {
      for (; seen < this.endings.length; seen++) if (!kind || this.endings[seen].kind === kind) found++;
      return found >= count;
    };
    while (!enough() && !this.#stopping) await new Promise((resolve) => setTimeout(resolve, 5));
    if (this.#failed) throw this.#failed;
  }

  /** Requests that began after a moment, done or failed. */
  after(moment: number): { done: Ending[]; failed: Ending[] } {
    const later = this.endings.filter(({ began }) => began > moment);
    return { done: later.filter(({ error }) => !error), failed: later.filter(({ error }) => error) };
  }

  async #work(client: NbdClient): Promise<void> {
    while (!this.#stopping) {
      const kind = this.#kinds[Math.floor(this.#random() * this.#kinds.length)];
      const [low, end] = this.#range;
      const first = low + Math.floor(this.#random() * (end - low));
      const count = Math.min(end - first, 1 + Math.floor(this.#random() * (this.#options.sectors ?? 16)));
      const changes = kind !== 'read' && kind !== 'flush';
      if (changes && !this.#ledger.claim(first, count)) {
        await new Promise((resolve) => setImmediate(resolve));
        continue;
      }
      const began = performance.now();
      let error: Error | null = null;
      try {
        await this.#request(client, kind, first, count);
        if (changes && kind !== 'trim') this.#ledger.answer(first, count);
        else if (changes) this.#ledger.release(first, count);
      } catch (reason) {
        error = reason as Error;
        if (changes) this.#ledger.release(first, count);
        if (!this.#options.persistent || error instanceof WrongBytesError) this.#fail(error);
      }
      this.endings.push({ kind, began, ended: performance.now(), error });
      // A refusal comes at once; a client that only repeats needs no core of its own.
      if (error) await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }

  async #request(client: NbdClient, kind: Kind, first: number, count: number): Promise<void> {
    const [offset, length] = [first * SECTOR, count * SECTOR];
    switch (kind) {
      case 'flush':
        return flush(client, this.#ledger);
      case 'write':
      case 'fua':
        return client.write(offset, this.#ledger.write(first, count), { fua: kind === 'fua' });
      case 'zero':
        this.#ledger.zero(first, count);
        return client.writeZeroes(offset, length);
      case 'trim':
        this.#ledger.zero(first, count);
        return client.trim(offset, length);
      case 'read':
        return verify(client, this.#ledger, first, count);
    }
  }

  #fail(error: Error): void {
    this.#stopping = true;
    this.#failed ??= error;
  }
}

/** Reads sectors and checks them. @throws WrongBytesError, and what the read fails with */
export async function verify(client: NbdClient, ledger: Ledger, first: number, count: number): Promise<void> {
  const since = ledger.since(first, count);
  const bytes = await client.read(first * SECTOR, count * SECTOR);
  try {
    ledger.check(since, bytes);
  } catch (error) {
    throw new WrongBytesError((error as Error).message);
  }
}

/** Flushes; all that was answered before must survive then. */
export async function flush(client: NbdClient, ledger: Ledger): Promise<void> {
  const durable = ledger.flush();
  await client.flush();
  durable();
}

/** Reads and checks a whole volume. */
export async function verifyAll(client: NbdClient, ledger: Ledger): Promise<void> {
  const step = 256;
  for (let first = 0; first < ledger.sectors; first += step) {
    await verify(client, ledger, first, Math.min(step, ledger.sectors - first));
  }
}

/**
 * As verifyAll, after a writer was cut off: what it had flushed must be there, of the rest any of what each sector was sent. What is found
 * is what the volume holds from then on.
 */
export async function settleAll(client: NbdClient, ledger: Ledger): Promise<void> {
  ledger.cut();
  const step = 256;
  for (let first = 0; first < ledger.sectors; first += step) {
    const count = Math.min(step, ledger.sectors - first);
    const since = ledger.since(first, count);
    ledger.settle(since, await client.read(first * SECTOR, count * SECTOR));
  }
}

/** Writes every sector of a volume, in requests of `sectors`. */
export async function fill(client: NbdClient, ledger: Ledger, sectors = 512): Promise<void> {
  for (let first = 0; first < ledger.sectors; first += sectors) {
    const count = Math.min(sectors, ledger.sectors - first);
    ledger.claim(first, count);
    await client.write(first * SECTOR, ledger.write(first, count));
    ledger.answer(first, count);
  }
}

/** Numbers from 0 to 1 by a seed (mulberry32). */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
