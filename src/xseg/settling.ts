/**
 * A successor waits for its predecessor's orphans: requests that the dead owner had sent and that living peers still work on.
 *
 * Why: the successor serves what was put back in its queue, sends the same writes again, and is told that they are done. Then the
 * client writes something newer. An old write or copy that is still on its way in another peer would land on top of that. So the
 * successor serves nothing until these are over.
 *
 * A peer that works on such an orphan may need an answer of this port to finish it (a mapper that revokes a lease): requests of its
 * process are let through. To answer them this port may have to ask others, and what it asks waits for the orphans, too. So once something waits here,
 * an orphan at a port that has asked this one is not waited for any more: it would be for ever. A store only answers, and is waited for always.
 */
import { MAX_TARGET, P, R, RequestState, TARGET_BYTE } from './layout.js';
import type { Tables } from './tables.js';

/** A peer that does not answer for this long is stuck; serving on is then better than a node that never comes back. */
export const PATIENCE_MS = 60_000;

export class Settling {
  readonly #over: Promise<void>;
  /** Somebody here waits for the end. */
  #waited = false;
  readonly #tables: Tables;
  readonly #port: number;
  readonly #predecessor: number;
  readonly #deadline = Date.now() + PATIENCE_MS;
  #orphans: number[];
  /** Ports that work on orphans and have asked this one something meanwhile. */
  readonly #asking = new Set<number>();
  #end: () => void = () => {};

  private constructor(tables: Tables, port: number, predecessor: number, orphans: number[]) {
    this.#tables = tables;
    this.#port = port;
    this.#predecessor = predecessor;
    this.#orphans = orphans;
    this.#over = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  /**
   * The wait of a port that is being bound, or null when its predecessor left nothing in flight. Dynamic ports have no successors:
   * a tool that gets a killed tool's number does not go on with its work.
   */
  static of(tables: Tables, port: number): Settling | null {
    if (port >= tables.geometry.firstDynamic) return null;
    const predecessor = tables.memory.u32[tables.portWord(port) + P.LAST_PID];
    const orphans: number[] = [];
    for (let index = 0; index < tables.geometry.requests; index++) {
      if (isOrphanOf(tables, index, port, predecessor)) orphans.push(index);
    }
    return orphans.length > 0 ? new Settling(tables, port, predecessor, orphans) : null;
  }

  /** How many of the requests are still under way. */
  get left(): number {
    this.#orphans = this.#orphans.filter((index) => isOrphanOf(this.#tables, index, this.#port, this.#predecessor));
    if (!this.#waited || this.#asking.size === 0) return this.#orphans.length;
    return this.#orphans.filter((index) => !this.#asking.has(this.#serverOf(index))).length;
  }

  /** Resolves when the wait is over. */
  wait(): Promise<void> {
    this.#waited = true;
    return this.#over;
  }

  get isOverdue(): boolean {
    return Date.now() > this.#deadline;
  }

  /** May a request of this port be served before the wait is over? */
  lets(src: number): boolean {
    const pid = (port: number): number => this.#tables.memory.u32[this.#tables.portWord(port) + P.PID];
    const servers = this.#orphans.map((index) => this.#serverOf(index));
    if (servers.includes(src)) this.#asking.add(src);
    return servers.some((dst) => this.#tables.hasPort(dst) && pid(dst) === pid(src));
  }

  #serverOf(index: number): number {
    return this.#tables.memory.u32[this.#tables.requestWord(index) + R.DST];
  }

  finish(): void {
    this.#end();
  }
}

function isOrphanOf(tables: Tables, index: number, port: number, predecessor: number): boolean {
  const word = tables.requestWord(index);
  const { u32 } = tables.memory;
  if (u32[word + R.STATE] !== RequestState.ORPHANED) return false;
  const src = u32[word + R.SRC];
  if (src === port) return true;
  // What a process asked for a tool (the bridge) is none of its own work: nobody does it again.
  return src < tables.geometry.firstDynamic && predecessor !== 0 && u32[word + R.ORPHAN_OF] === predecessor;
}

/**
 * How many requests that dead owners of this port had sent are still being worked on by living peers.
 * @param except a port: what is worked on there does not count; -1 = none
 */
export function leftBy(tables: Tables, port: number, except: number): number {
  const predecessor = tables.memory.u32[tables.portWord(port) + P.LAST_PID];
  let left = 0;
  for (let index = 0; index < tables.geometry.requests; index++) {
    if (!isOrphanOf(tables, index, port, predecessor)) continue;
    if (tables.memory.u32[tables.requestWord(index) + R.DST] !== except) left++;
  }
  return left;
}

/** How many requests for a target, of whatever dead port, a living peer still works on. */
export function orphansAt(tables: Tables, dst: number, target: Uint8Array): number {
  const { u32, bytes } = tables.memory;
  let found = 0;
  for (let index = 0; index < tables.geometry.requests; index++) {
    const word = tables.requestWord(index);
    if (u32[word + R.STATE] !== RequestState.ORPHANED || u32[word + R.DST] !== dst) continue;
    const start = word * 4 + TARGET_BYTE;
    const length = Math.min(u32[word + R.TARGET_LENGTH], MAX_TARGET);
    if (bytes.subarray(start, start + length).equals(target)) found++;
  }
  return found;
}
