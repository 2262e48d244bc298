/** What the guest of scripts/rigs/guest/ganeti.sh says of its disk, followed from node to node and from one life to the next. */
import { expect } from 'vitest';
import { portrait } from '../e2e/harness/portrait.js';
import { Monitor } from '../e2e/harness/qmp.js';
import { type Cluster, type Node, nodes } from './cluster.js';
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

/** What is heard of one qemu. */
interface Ear {
  readonly node: Node;
  readonly console: Console;
  readonly monitor: Monitor;
}

function hush({ console, monitor }: Ear): void {
  console.close();
  monitor.close();
}

export class Life {
  readonly #cluster: Cluster;
  /** Name of the instance. */
  instance: string;
  /** The qemus that the guest was in, the latest last. */
  readonly #ears: Ear[] = [];
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

  /** The end of what was heard on each node, for a person. */
  get heard(): string {
    return this.#ears
      .slice(-3)
      .map(({ node, console, monitor }) => {
        const text = console.text.slice(-6000);
        return `=== console on node ${node}\n${text}\n=== events on node ${node}\n${monitor.events.join('\n')}`;
      })
      .join('\n');
  }

  /** What the latest qemu of the guest and the nodes' ports are doing, for a person. */
  async portrait(): Promise<string> {
    const ear = this.#ears.at(-1);
    if (!ear) return 'nobody listened to a guest';
    const pid = this.#cluster.guestPid(ear.node, this.instance);
    const texts = [`=== qemu on node ${ear.node}\n${await portrait(ear.monitor, pid)}`];
    for (const node of nodes) {
      for (const command of ['vlmc showmapped --long', 'xseg posix:archipelago: reportall']) {
        const said = await this.#cluster.tryOn(node, 'timeout', '20', ...command.split(' '));
        texts.push(`=== ${command} on node ${node}\n${said.stdout}${said.stderr}`);
      }
    }
    return texts.join('\n');
  }

  /**
   * Listens to the guest on a node from now on, as soon as its qemu is there. What runs on another node is heard on.
   * Resolves to its monitor.
   */
  async listen(node: Node): Promise<Monitor> {
    const socket = this.#cluster.path(node, `/run/ganeti/kvm-hypervisor/ctrl/${this.instance}`);
    // A qemu listens to one at a time.
    for (const ear of this.#ears) if (ear.node === node) hush(ear);
    const console = await Console.open(`${socket}.serial`);
    // The monitor that Ganeti has for a daemon which does not run here.
    const monitor = await Monitor.connect(`${socket}.kvmd`);
    this.#ears.push({ node, console, monitor });
    return monitor;
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
    for (const ear of this.#ears) hush(ear);
  }

  #heard(): Console {
    const ear = this.#ears.at(-1);
    if (!ear) throw new Error('nobody listens to the guest');
    return ear.console;
  }
}
