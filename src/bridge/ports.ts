/**
 * The ports that the bridge's clients ask from: one each, as a tool that joins the segment has, so that none can take another's records and
 * buffers, nor the endpoint's. A port that nothing is under way of when its client leaves serves the next one.
 */
import type { Port, Segment } from '../xseg/index.js';

/** Ports that wait for clients. To bind one takes a look at every port, to free one a look at every request record. */
const SPARE = 2;

export class PortPool {
  readonly #segment: Segment;
  readonly #spare: Port[] = [];
  readonly #used = new Set<Port>();

  constructor(segment: Segment) {
    this.#segment = segment;
  }

  /** @throws SystemError ENOSPC when all dynamic ports are taken */
  take(): Port {
    const port = this.#spare.pop() ?? this.#segment.bind('dynamic', { name: 'bridge' });
    this.#used.add(port);
    return port;
  }

  /** @param idle nothing is under way; else what is ends like that of a tool that was killed */
  give(port: Port, idle: boolean): void {
    if (!this.#used.delete(port)) return;
    if (idle && this.#spare.length < SPARE) {
      port.giveBackSpare();
      this.#spare.push(port);
    } else {
      port.close();
    }
  }

  close(): void {
    for (const port of [...this.#spare.splice(0), ...this.#used]) port.close();
    this.#used.clear();
  }
}
