/**
 * Who has a volume open. Nobody keeps count of that: each endpoint knows its own clients, and is asked when it matters. So nothing has to
 * survive the restart of whoever would count.
 */
import { ATTACHED_ENDPOINT } from '../requests/endpoints.js';
import { Op } from '../requests/ops.js';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import type { Port } from '../xseg/index.js';

/** How long an endpoint may take to answer, in ms. */
const PATIENCE_MS = 2000;

/** It is no more, and its clients with it; or it is of a version that counts for itself alone. */
const NONE: ReadonlySet<number> = new Set([errnos.ECONNREFUSED, errnos.ECONNRESET, errnos.ENXIO, errnos.EOPNOTSUPP]);

export class VolumeUsers {
  readonly #port: Port;
  readonly #endpoints: readonly number[];

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
