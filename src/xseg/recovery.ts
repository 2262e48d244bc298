/**
 * Cleaning up after the dead: their locks, their requests, their buffers.
 *
 * What a dead peer had accepted goes back into its queue for its successor (every operation may be done twice), or is failed on
 * demand. What it had asked is dropped; where a living peer still works on it, the record and its buffer wait for the answer.
 *
 * Several processes may be at it at once, and living peers accept and answer meanwhile: the port table's lock lets one at a time
 * take ports away, and each record changes by compare-and-exchange on its state.
 */
import { errnos } from '../sys/errno.js';
import { H, ORPHAN_OWNER, P, PortState, R, RequestState, Resend } from './layout.js';
import { lock, lockOwner, unlock } from './lock.js';
import type { Tables } from './tables.js';

export interface RecoverPortOptions {
  /** Fail what the port had accepted or not yet looked at with EIO, instead of leaving it to a successor. */
  readonly fail?: boolean;
}

export interface RecoveryResult {
  /** Requests put back into the port's queue for its next owner. */
  requeued: number;
  /** Requests that their askers send anew (Request.wantResend). */
  resent: number;
  /** Requests answered with EIO. */
  failed: number;
  /** Records freed that the port had asked or held. */
  freed: number;
  /** Records that wait for a living peer's answer. */
  waiting: number;
  /** Data buffers freed. */
  buffers: number;
}

/** What recovery asks of the process it runs in. */
export interface RecoveryHost {
  /** Makes a port's owner look through the request table. */
  notify(port: number): void;
  /** Answers an accepted request of a dead peer with an error. */
  failFor(index: number, errno: number, message: string): void;
}

export class Recovery {
  readonly #tables: Tables;
  readonly #host: RecoveryHost;

  constructor(tables: Tables, host: RecoveryHost) {
    this.#tables = tables;
    this.#host = host;
  }

  /**
   * Frees ports with all that their owner leaves behind. The caller holds the port table's lock and has made sure that the owner
   * is dead, or is the owner.
   */
  release(ports: ReadonlySet<number>, options: RecoverPortOptions = {}): RecoveryResult {
    const { memory } = this.#tables;
    const result = this.#releaseRequests(ports, options);
    result.buffers = this.#releaseBuffers(ports);
    for (const port of ports) {
      const word = this.#tables.portWord(port);
      // Who died while it waited for its predecessor's requests leaves that wait to its successor.
      const served = memory.u32[word + P.PID] !== 0 && memory.u32[word + P.SETTLING] === 0;
      if (served) memory.u32[word + P.LAST_PID] = memory.u32[word + P.PID];
      memory.u32[word + P.SETTLING] = 0;
      // The rings may miss what was put back: the next owner looks through the table.
      Atomics.store(memory.i32, word + P.SCAN, 1);
      Atomics.add(memory.i32, word + P.GENERATION, 1);
      Atomics.store(memory.i32, word + P.STATE, PortState.FREE);
      memory.u32[word + P.PID] = 0;
      memory.u32[word + P.REQUESTS] = 0;
      memory.u32[word + P.HEAP_PAGES] = 0;
    }
    return result;
  }

  /** Ports whose owners are dead. */
  deadPorts(): Set<number> {
    const { geometry, memory } = this.#tables;
    const dead = new Set<number>();
    for (let port = 0; port < geometry.ports; port++) {
      if (memory.u32[this.#tables.portWord(port) + P.STATE] === PortState.FREE) continue;
      if (!this.#tables.isServed(port)) dead.add(port);
    }
    return dead;
  }

  #releaseRequests(ports: ReadonlySet<number>, options: RecoverPortOptions): RecoveryResult {
    const { memory, geometry, pool } = this.#tables;
    const { u32, i32 } = memory;
    const result: RecoveryResult = { requeued: 0, resent: 0, failed: 0, freed: 0, waiting: 0, buffers: 0 };
    const served = new Map<number, boolean>();
    const worksOn = (dst: number): boolean => {
      if (ports.has(dst)) return false;
      if (!served.has(dst)) served.set(dst, this.#tables.isServed(dst));
      return served.get(dst) === true;
    };
    const answered = new Set<number>();
    const change = (index: number, from: number, to: number): boolean =>
      Atomics.compareExchange(i32, this.#tables.requestWord(index) + R.STATE, from, to) === from;

    /** false: the record changed under our hands, look again */
    const release = (index: number): boolean => {
      const word = this.#tables.requestWord(index);
      const state = Atomics.load(i32, word + R.STATE);
      if (state === RequestState.FREE) return true;
      const src = u32[word + R.SRC];
      const dst = u32[word + R.DST];
      if (ports.has(src)) {
        const working = state === RequestState.ACCEPTED || state === RequestState.ORPHANED;
        if (working && worksOn(dst)) {
          if (state === RequestState.ORPHANED) return true;
          u32[word + R.ORPHAN_OF] = u32[this.#tables.portWord(src) + P.PID];
          if (!change(index, RequestState.ACCEPTED, RequestState.ORPHANED)) return false;
          result.waiting++;
          return true;
        }
        if (!pool.reclaim(index, state, -1)) return false;
        result.freed++;
        return true;
      }
      // DST of a record that is only held is what its last use left.
      if (state === RequestState.HELD || !ports.has(dst)) return true;
      if (state === RequestState.REPLIED) {
        // It may have died before it rang.
        answered.add(src);
      } else if (state === RequestState.ORPHANED) {
        return pool.reclaim(index, state, -1);
      } else if (options.fail) {
        if (state === RequestState.SUBMITTED && !change(index, state, RequestState.ACCEPTED)) return false;
        this.#host.failFor(index, errnos.EIO, `the peer on port ${dst} died and its requests were failed by recovery`);
        result.failed++;
      } else if (state === RequestState.ACCEPTED && u32[word + R.RESEND] !== Resend.NO) {
        u32[word + R.REDELIVERED] = 1;
        u32[word + R.RESEND] = Resend.DUE;
        this.#host.failFor(index, errnos.EAGAIN, `the peer on port ${dst} went before it answered: send it again`);
        result.resent++;
      } else if (state === RequestState.ACCEPTED) {
        u32[word + R.REDELIVERED] = 1;
        if (!change(index, state, RequestState.SUBMITTED)) return false;
        result.requeued++;
      }
      return true;
    };
    for (let index = 0; index < geometry.requests; index++) while (!release(index));
    for (const src of answered) if (!ports.has(src)) this.#host.notify(src);
    return result;
  }

  /** Frees the ports' buffers, but those that requests in flight point into: these become nobody's and wait. */
  #releaseBuffers(ports: ReadonlySet<number>): number {
    const { heap } = this.#tables;
    const inUse = this.#tables.pagesInUse();
    let freed = 0;
    for (const block of heap.blocks()) {
      if (!ports.has(block.owner) && block.owner !== ORPHAN_OWNER) continue;
      if (!inUse.has(block.page)) {
        if (heap.free(heap.offsetOf(block), block.owner)) freed++;
      } else if (block.owner !== ORPHAN_OWNER) heap.orphan(block);
    }
    return freed;
  }

  /** An orphaned request was answered: frees its record, and its buffer when nobody else works on that. */
  endOrphan(index: number): void {
    const { memory, pool, heap } = this.#tables;
    const word = this.#tables.requestWord(index);
    const data = memory.u32[word + R.DATA_LENGTH] > 0 ? memory.get64(word + R.DATA) : 0;
    if (!pool.reclaim(index, RequestState.ORPHANED, -1)) return;
    const block = data > 0 ? heap.blockAround(data) : null;
    if (block?.owner !== ORPHAN_OWNER) return;
    heap.free(heap.offsetOf(block), ORPHAN_OWNER, ({ page }) => this.#tables.pagesInUse().has(page));
  }

  /**
   * Releases locks whose owners are dead and repairs what they guard.
   * @param number only locks taken on behalf of this port; undefined = all
   * @returns how many locks were released
   */
  recoverLocks(number?: number): number {
    const { memory, geometry, pool, heap } = this.#tables;
    let released = 0;
    const isDead = (word: number): boolean => {
      const owner = lockOwner(memory, word);
      return owner !== null && !owner.alive && (number === undefined || owner.port === number);
    };
    if (isDead(H.REQUESTS_LOCK)) {
      pool.rebuild(-1);
      released++;
    }
    if (isDead(H.HEAP_LOCK)) {
      heap.rebuild(-1);
      released++;
    }
    if (isDead(H.PORTS_LOCK)) {
      lock(memory, H.PORTS_LOCK, -1);
      unlock(memory, H.PORTS_LOCK);
      released++;
    }
    for (let port = 0; port < geometry.ports; port++) {
      const word = this.#tables.portWord(port);
      for (const queueLock of [word + P.REQUEST_LOCK, word + P.REPLY_LOCK]) {
        if (!isDead(queueLock)) continue;
        lock(memory, queueLock, -1);
        unlock(memory, queueLock);
        this.#host.notify(port);
        released++;
      }
    }
    return released;
  }
}
