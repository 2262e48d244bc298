/** What the guest of scripts/rigs/guest/ganeti.sh says of its disk, followed from node to node and from one life to the next. */
import { existsSync } from 'node:fs';
import { expect } from 'vitest';
import type { Cluster, Node } from './cluster.js';
import { Console } from './console.js';

/** MiB of a disk that the guest has enough room on. */
export const LEAST = 32;
/** Milliseconds until a guest under emulation has started and written a round, on a loaded machine. */
const LIMIT = 240_000;
// With the end of the line: what is heard of a line so far is no line.
const ROUND = /^RIG-ROUND (\d+) low (\d+) high (\d+) size (\d+)\n/m;

/** One round that the guest wrote, flushed and compared. */
export interface Round {
  readonly round: number;
  /** The lowest and the highest round that the disk held when this life began. */
  readonly low: number;
  readonly high: number;
  /** Bytes of the disk, as the guest sees it. */
  readonly size: number;
}

export class Life {
  readonly #cluster: Cluster;
  /** Name of the instance. */
  instance: string;
  #console: Console | undefined;
  #last: Round = { round: 0, low: 0, high: 0, size: 0 };

  constructor(cluster: Cluster, instance: string) {
    this.#cluster = cluster;
    this.instance = instance;
  }

  /** The last round that the guest said it had flushed. */
  get flushed(): number {
    return this.#last.round;
  }

  get low(): number {
    return this.#last.low;
  }

  get high(): number {
    return this.#last.high;
  }

  /** The end of what was heard, for a person. */
  get heard(): string {
    return this.#console?.text.slice(-3000) ?? '';
  }

  /** Listens to the guest on a node. */
  async listen(node: Node): Promise<void> {
    this.close();
    const socket = this.#cluster.path(node, `/run/ganeti/kvm-hypervisor/ctrl/${this.instance}.serial`);
    await expect.poll(() => existsSync(socket)).toBe(true);
    this.#console = await Console.open(socket);
  }

  /** A round that ends from now on. @throws when the guest found something wrong, or says nothing */
  async round(): Promise<Round> {
    this.#heard().skip();
    const [, round, low, high, size] = (await this.#heard().expect(ROUND, LIMIT)).map(Number);
    this.#last = { round, low, high, size };
    return this.#last;
  }

  /**
   * Listens to a life that has just begun on a node, until its first round. What the last life said it had flushed must have been there, and what it did not
   * flush is one round at most.
   */
  async begins(node: Node): Promise<void> {
    const { round: flushed, size } = this.#last;
    await this.listen(node);
    const { low, high } = await this.round();
    // A place of a disk that has grown may be empty.
    if (this.#last.size === size) expect(low).toBeGreaterThanOrEqual(flushed);
    expect(high).toBeGreaterThanOrEqual(flushed);
  }

  /** Tells the guest to end and waits until it has; then the disk holds nothing but its last round. */
  async ends(): Promise<void> {
    const console = this.#heard();
    console.type('stop');
    for (;;) {
      const [said, ...numbers] = await console.expect(
        /^RIG-OK\n|^RIG-ROUND (\d+) low (\d+) high (\d+) size (\d+)\n/m,
        LIMIT,
      );
      if (said === 'RIG-OK\n') break;
      const [round, low, high, size] = numbers.map(Number);
      this.#last = { round, low, high, size };
    }
    this.close();
  }

  close(): void {
    this.#console?.close();
    this.#console = undefined;
  }

  #heard(): Console {
    if (!this.#console) throw new Error('nobody listens to the guest');
    return this.#console;
  }
}
