/**
 * Making the stores refuse a node that did not say that it has ended (vlmc unlock -f): what it sent, or still sends, is refused by the
 * store itself, whatever its clock and its processes do. Files cannot: there its time is all there is.
 */
import type { LockClient } from '../../requests/lock-client.js';
import type { StoreFenced } from '../../requests/locks.js';
import { errnoOf, errnos, messageOf, SystemError } from '../../sys/errno.js';
import type { Clock } from '../clock.js';
import type { MapperLog } from '../context.js';

/** How long a store may take for it, in ms: a monitor that does not answer is given up by the store's client after 30 s. */
const PATIENCE_MS = 40_000;

/** A store that is asked to refuse a node. */
export interface FenceTarget {
  readonly store: 'maps' | 'blocks';
  readonly client: Pick<LockClient, 'fence'>;
}

export class Fencing {
  readonly #targets: readonly FenceTarget[];
  readonly #clock: Clock;
  readonly #log: MapperLog;

  constructor(targets: readonly FenceTarget[], clock: Clock, log: MapperLog) {
    this.#targets = targets;
    this.#clock = clock;
    this.#log = log;
  }

  /** Fences the nodes whose owner strings these are. What fails is told, here and in the log. */
  async run(owners: readonly string[]): Promise<readonly StoreFenced[]> {
    const results = await Promise.all(owners.map((owner) => this.#fence(owner)));
    return this.#targets.map((_, i) => together(results.map((stores) => stores[i])));
  }

  async #fence(owner: string): Promise<readonly StoreFenced[]> {
    const results = await Promise.all(this.#targets.map((target) => this.#one(target, owner)));
    for (const { store, clients, failed, able } of results) {
      if (failed === null) this.#log.info(`the ${store} store refuses ${owner} from now on: ${clients.join(', ')}`);
      else if (able) this.#log.warn(`the ${store} store could not be made to refuse ${owner}: ${failed}`);
    }
    return results;
  }

  async #one({ store, client }: FenceTarget, owner: string): Promise<StoreFenced> {
    try {
      const { clients } = await this.#within(client.fence(owner));
      return { store, clients, failed: null, able: true };
    } catch (error) {
      const able = errnoOf(error) !== errnos.EOPNOTSUPP;
      return { store, clients: [], failed: able ? plain(error) : 'it cannot refuse a node', able };
    }
  }

  async #within<T>(work: Promise<T>): Promise<T> {
    let cancel = (): void => {};
    const late = new Promise<never>((_, reject) => {
      cancel = this.#clock.after(PATIENCE_MS, () =>
        reject(new SystemError(errnos.ETIMEDOUT, `it has not answered for ${PATIENCE_MS / 1000} s`)),
      );
    });
    try {
      return await Promise.race([work, late]);
    } finally {
      cancel();
    }
  }
}

/** What became of several nodes in one store: it refuses all of them, or that failed. */
function together(results: readonly StoreFenced[]): StoreFenced {
  const failed = results.find((result) => result.failed !== null);
  const clients = [...new Set(results.flatMap((result) => result.clients))];
  return { ...(failed ?? results[0]), clients };
}

/** Without the name of the request, which is of no use to people. */
const plain = (error: unknown): string => messageOf(error).replace(/^FENCE: /, '');
