/**
 * How long a command waits for a store that does not answer. Clients' I/O waits for as long as that takes, as on any disk; a person at a
 * terminal, or a script, is told instead. Work that merely takes long is waited for: what counts is that a store answers nothing.
 */
import { decodeJson } from '../../requests/json.js';
import { Op } from '../../requests/ops.js';
import { monotonicMs } from '../../sys/clock.js';
import { errnoOf, errnos, SystemError } from '../../sys/errno.js';
import type { CallInit, CallReply } from '../../xseg/call.js';

export const DEFAULT_PATIENCE_MS = 30_000;
/** How many times as long a page of a listing may take: it may be thousands of reads of a slow disk. */
const LISTING = 10;
const TICK_MS = 500;
/** From when on it is looked whether the stores answer, as a part of the patience. */
const DOUBT = 0.1;
/** Asked of a store to see whether it answers: who holds the lock of that name. Nobody ever does. */
const PROBE = 'archipelago-does-this-store-answer';

/** A store has answered nothing for long. */
export class StoreSilent extends SystemError {
  constructor(message: string) {
    super(errnos.ETIMEDOUT, message);
    this.name = 'StoreSilent';
  }
}

/** Nothing can be asked just now, whatever it is: not a fault of what was asked for. */
export const isOutage = (error: unknown): boolean =>
  error instanceof StoreSilent || errnoOf(error) === errnos.ECONNREFUSED || errnoOf(error) === errnos.ECONNRESET;

export type StoreName = 'maps' | 'blocks';

export interface PatienceOptions {
  /** Asks a peer. */
  readonly ask: (peer: StoreName | 'mapper', request: CallInit) => Promise<CallReply>;
  /** The blockers; null: there is none. */
  readonly stores: Readonly<Record<StoreName, { readonly role: string } | null>>;
  /** There is a mapper. */
  readonly mapper: boolean;
  readonly patienceMs: number;
}

interface Waiting {
  readonly since: number;
  /** It is asked of this store itself. */
  readonly store: StoreName | null;
  /** How long the answer itself may take, in ms. */
  readonly limitMs: number;
  readonly giveUp: (error: StoreSilent) => void;
}

export class Patience {
  readonly #options: PatienceOptions;
  readonly #waiting = new Set<Waiting>();
  /** Since when each store has had a probe that it did not answer. */
  readonly #probed = new Map<StoreName, number>();
  /** For how long each has had a request of the mapper that it did not answer, ms. */
  #mapperWaits: Record<StoreName, number> = { maps: 0, blocks: 0 };
  #asking = false;
  #timer: NodeJS.Timeout | null = null;

  constructor(options: PatienceOptions) {
    this.#options = options;
  }

  close(): void {
    if (this.#timer) clearInterval(this.#timer);
    this.#timer = null;
    this.#waiting.clear();
  }

  /**
   * Waits for an answer. @param store the one that is asked, null: another peer
   * @throws StoreSilent when a store has answered nothing for long: what was asked may still be done
   */
  during(op: number, store: StoreName | null, work: Promise<CallReply>): Promise<CallReply> {
    const { patienceMs } = this.#options;
    const unlimited = op === Op.FLUSH || (store === null && op !== Op.LIST);
    const limitMs = unlimited ? Number.POSITIVE_INFINITY : op === Op.LIST ? LISTING * patienceMs : patienceMs;
    this.#timer ??= setInterval(() => this.#tick(), Math.min(TICK_MS, patienceMs / 4)).unref();
    return new Promise((resolve, reject) => {
      const waiting: Waiting = {
        since: monotonicMs(),
        store,
        limitMs,
        giveUp: (error) => {
          this.#waiting.delete(waiting);
          reject(error);
        },
      };
      this.#waiting.add(waiting);
      work.then(resolve, reject).finally(() => this.#waiting.delete(waiting));
    });
  }

  #tick(): void {
    const now = monotonicMs();
    const { patienceMs } = this.#options;
    const [oldest] = this.#waiting;
    if (!oldest || now - oldest.since < patienceMs * DOUBT) return;
    this.#ask(now);
    for (const waiting of [...this.#waiting]) {
      const waited = now - waiting.since;
      if (waited < patienceMs) continue;
      for (const store of waiting.store ? [waiting.store] : (['maps', 'blocks'] as const)) {
        const silent = Math.max(now - (this.#probed.get(store) ?? now), this.#mapperWaits[store]);
        if (silent >= patienceMs) waiting.giveUp(this.#silence(store, silent));
      }
      if (waited >= waiting.limitMs) waiting.giveUp(this.#silence(waiting.store ?? 'maps', waited));
    }
  }

  /** Asks the stores, one question each at a time, and the mapper how long it waits for them. */
  #ask(now: number): void {
    const { ask, stores, mapper } = this.#options;
    for (const name of ['maps', 'blocks'] as const) {
      if (!stores[name] || this.#probed.has(name)) continue;
      this.#probed.set(name, now);
      // Any answer is one; a blocker that does not run is what the command itself comes upon, or the mapper waits for.
      const answered = (): void => void this.#probed.delete(name);
      ask(name, { op: Op.LOCKINFO, target: PROBE, capacity: 4096 }).then(answered, answered);
    }
    if (!mapper || this.#asking) return;
    this.#asking = true;
    ask('mapper', { op: Op.STATUS, capacity: 64 << 10 })
      .then(({ data, serviced }) => {
        const answer = decodeJson(data.subarray(0, serviced), 'STATUS reply') as MapperAnswer | null;
        const oldest = (name: StoreName): number => answer?.stores?.[name]?.oldestMs ?? 0;
        this.#mapperWaits = { maps: oldest('maps'), blocks: oldest('blocks') };
      })
      .catch(() => {
        this.#mapperWaits = { maps: 0, blocks: 0 };
      })
      .finally(() => {
        this.#asking = false;
      });
  }

  #silence(store: StoreName, ms: number): StoreSilent {
    const role = this.#options.stores[store]?.role;
    return new StoreSilent(
      `the ${store} store${role ? ` (${role})` : ''} has not answered for ${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s; what was asked may still be done ` +
        'once it answers: look, then try again; archipelago status, and the log of that role, tell more',
    );
  }
}

interface MapperAnswer {
  readonly stores?: Partial<Record<StoreName, { readonly oldestMs?: number }>>;
}
