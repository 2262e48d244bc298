/**
 * Who has a volume open. Nobody keeps count of that: each endpoint knows its own clients, and is asked when it matters. So nothing has to
 * survive the restart of whoever would count.
 */
import { ATTACHED_ENDPOINT } from '../requests/endpoints.js';
import { Op } from '../requests/ops.js';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import type { Port, PortOwner } from '../xseg/index.js';
import type { EndpointsSeen } from './leases.js';

/** How long an endpoint may take to answer, in ms. */
const PATIENCE_MS = 2000;

/** It is no more, and its clients with it; or it is of a version that counts for itself alone. */
const NONE: ReadonlySet<number> = new Set([errnos.ECONNREFUSED, errnos.ECONNRESET, errnos.ENXIO, errnos.EOPNOTSUPP]);

export class VolumeUsers {
  readonly #port: Port;
  readonly #endpoints: readonly number[];

  /** The endpoints of the configuration, and the others, as they were seen last, by port. */
  readonly #own = new Map<number, PortOwner>();
  #others = new Map<number, PortOwner>();

  /** @param port asks @param endpoints ports of the node's endpoints; those that commands are (`archipelago nbd`) are found by their name */
  constructor(port: Port, endpoints: readonly number[]) {
    this.#port = port;
    this.#endpoints = endpoints;
  }

  /** Whether a client of any endpoint has the volume open. @throws SystemError ETIMEDOUT when one that lives does not tell */
  async isUsed(volume: string): Promise<boolean> {
    const asked = [...this.#endpoints, ...this.#attached()].map((endpoint) => this.#hasClients(endpoint, volume));
    const results = await Promise.allSettled(asked);
    if (results.some((result) => result.status === 'fulfilled' && result.value)) return true;
    for (const result of results) if (result.status === 'rejected') throw result.reason;
    return false;
  }

  /** See LeaseHolders.lookAtEndpoints. */
  look(): EndpointsSeen {
    const { segment } = this.#port;
    let replaced = false;
    for (const number of this.#endpoints) {
      const owner = segment.portOwner(number);
      const before = this.#own.get(number);
      if (owner === null) {
        // Its port was cleaned up before this look: its clients come back.
        replaced = this.#own.delete(number) || replaced;
        continue;
      }
      replaced ||= before !== undefined && !isSame(owner, before);
      this.#own.set(number, owner);
    }
    // The port of one that was killed is its own until somebody cleans it up, and then free as if it had been closed.
    const others = new Map<number, PortOwner>();
    for (const number of this.#attached()) {
      const owner = segment.portOwner(number);
      if (owner !== null) others.set(number, owner);
    }
    const isNews = (a: Map<number, PortOwner>, b: Map<number, PortOwner>, alive: boolean): boolean =>
      [...a].some(([number, owner]) => owner.alive === alive && !isSame(owner, b.get(number)));
    const gone = isNews(this.#others, others, true) || isNews(others, this.#others, false);
    this.#others = others;
    return { replaced, gone };
  }

  #attached(): number[] {
    const { segment } = this.#port;
    const { ports, firstDynamic } = segment.geometry;
    const found: number[] = [];
    for (let number = firstDynamic; number < ports; number++) {
      if (segment.portOwner(number)?.name === ATTACHED_ENDPOINT) found.push(number);
    }
    return found;
  }

  async #hasClients(endpoint: number, volume: string): Promise<boolean> {
    try {
      const { serviced } = await this.#port.call(
        endpoint,
        { op: Op.CLIENTS, target: volume, silent: true },
        { timeout: PATIENCE_MS },
      );
      return serviced > 0;
    } catch (error) {
      const errno = errnoOf(error);
      if (NONE.has(errno)) return false;
      const why = `the endpoint at port ${endpoint} does not tell whether it has clients of volume ${volume}`;
      throw new SystemError(errno, `${why}: ${messageOf(error)}`, { cause: error });
    }
  }
}

const isSame = (one: PortOwner, other: PortOwner | undefined): boolean =>
  one.pid === other?.pid && one.alive === other.alive;
