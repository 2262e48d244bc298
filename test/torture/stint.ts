/** Rounds on one node: load, kills in the middle of it, load again, silence, and all is compared. */
import { TestNode } from '../e2e/harness/node.js';
import type { Placement } from '../e2e/harness/placements.js';
import { describeOutcome } from '../e2e/harness/run.js';
import type { Random } from '../fuzz/random.js';
import { segmentOf, sizes, untilQuiet, verifyContent, verifyProcesses, verifySegment, verifyStore } from './checks.js';
import { Fleet } from './fleet.js';
import { chooseTargets, killProcesses, pidOf } from './kills.js';
import { WrongData } from './model.js';
import { Workload } from './workload.js';

/** How long a request may go without an answer after the last kill, in ms. */
const HANG_MS = 90_000;
/** Answers before the first kill and after the last one. */
const MOST_BEFORE = 300;
const LEAST_AFTER = 60;
/** Longest time between two kills of a round, in ms: the second hits what recovers from the first. */
const MOST_BETWEEN_MS = 700;

export interface RoundReport {
  readonly killed: string;
  readonly requests: number;
  readonly lost: number;
  readonly commands: number;
  readonly repeated: number;
  readonly bytes: number;
  readonly findings: number;
  readonly pauseMs: number;
}

export class Stint {
  readonly node: TestNode;
  readonly #fleet: Fleet;
  readonly #workload: Workload;
  readonly #random: Random;
  readonly #targets: readonly string[];
  /** The last of what happened, for the report of a failure. */
  readonly #events: string[] = [];

  private constructor(node: TestNode, random: Random, targets: readonly string[]) {
    this.node = node;
    this.#random = random;
    this.#targets = targets;
    this.#fleet = new Fleet(node.conf, node.socket);
    this.#workload = new Workload(this.#fleet, random);
  }

  static async begin(placement: Placement, random: Random, targets: readonly string[]): Promise<Stint> {
    return new Stint(await TestNode.start({ placement }), random, targets);
  }

  #note(event: string): void {
    this.#events.push(`${new Date().toISOString()} ${event}`);
  }

  /** One round. @throws what went wrong */
  async round(): Promise<RoundReport> {
    const before = { ...this.#fleet.counts };
    this.#events.length = 0;
    this.#workload.start();
    await this.#watched('before the kill', this.#workload.answers(20 + this.#random.below(MOST_BEFORE)));
    const killed: string[] = [];
    for (let strikes = this.#random.pick([1, 1, 1, 2, 3]); strikes > 0; strikes--) {
      const targets = chooseTargets(this.#random, this.#targets);
      await this.#strike(targets);
      killed.push(targets.join('+'));
      const wait = strikes > 1 ? this.#random.below(MOST_BETWEEN_MS) : 0;
      if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    }
    await this.#ensureSupervisor();
    await this.#watched('after the kill', this.#workload.answers(LEAST_AFTER));
    await this.#watched('at the end', this.#workload.stop());
    const pauseMs = Math.round(this.#fleet.longestPause);
    const findings = await this.#compare();
    await this.#freshSupervisor();
    const { counts } = this.#fleet;
    return {
      killed: killed.join(', then '),
      requests: counts.requests - before.requests,
      lost: counts.lost - before.lost,
      commands: counts.commands - before.commands,
      repeated: counts.repeated - before.repeated,
      bytes: counts.bytes - before.bytes,
      findings,
      pauseMs,
    };
  }

  async #strike(targets: readonly string[]): Promise<void> {
    this.#note(`kill ${targets.join(' ')}`);
    for (const name of targets) {
      const client = /^client(\d+)$/.exec(name);
      if (client) this.#fleet.killActor(Number(client[1]));
    }
    await killProcesses(
      this.node,
      targets.filter((name) => !name.startsWith('client')),
    );
  }

  /** As an administrator would: a supervisor that is gone is started again. */
  async #ensureSupervisor(): Promise<void> {
    if (pidOf(this.node, 'supervisor') !== null) return;
    this.#note('archipelago start');
    const outcome = await this.node.tryArchipelago('start');
    if (outcome.code !== 0) throw new WrongData(describeOutcome(outcome));
  }

  /** Between rounds the supervisor is replaced: its patience with what keeps dying begins anew. */
  async #freshSupervisor(): Promise<void> {
    await killProcesses(this.node, ['supervisor']);
    await this.#ensureSupervisor();
  }

  async #watched(when: string, work: Promise<void>): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        const where = segmentOf(this.node);
        reject(new Error(`${when}: ${this.#fleet.waiting} requests have no answer after ${HANG_MS} ms\n${where}`));
      }, HANG_MS);
    });
    try {
      await Promise.race([work, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  async #compare(): Promise<number> {
    const { node } = this;
    this.#note('silence');
    await untilQuiet(node);
    const [there] = await Promise.all([sizes(node), verifyProcesses(node)]);
    await this.#workload.resolve(there);
    await verifyContent(node, this.#fleet);
    const [findings] = await Promise.all([verifyStore(node), verifySegment(node)]);
    return findings;
  }

  /** Stops the node: no lock and nothing else is left; starts it again: all is there. */
  async restart(): Promise<void> {
    const { node } = this;
    await this.#fleet.end();
    const outcome = await node.tryArchipelago('stop', '-f');
    if (outcome.code !== 0) throw new WrongData(describeOutcome(outcome));
    const locks = await node.stores.maps.held();
    if (locks.length > 0) throw new WrongData(`the node stopped and left locks: ${locks.join(', ')}`);
    const left = node.leftovers();
    if (left.length > 0) throw new WrongData(`the node stopped and left ${left.join(', ')}`);
    await node.archipelago('start');
    await verifyContent(node, this.#fleet);
  }

  /** What happened in the round, and the ends of the node's logs. */
  story(): string {
    return [...this.#events, this.node.logs(40)].join('\n');
  }

  async end(keep: boolean): Promise<void> {
    await this.#fleet.end();
    if (keep) this.node.keep();
    else await this.node.dispose();
  }
}
