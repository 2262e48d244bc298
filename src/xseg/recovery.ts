/**
 * Cleaning up after the dead: their locks, their requests, their buffers.
 *
 * What a dead peer had accepted goes back into its queue for its successor (every operation may be done twice), or is failed on
 * demand. What it had asked is dropped; where a living peer still works on it, the record and its buffer wait for the answer.
 */
import { errnos } from '../sys/errno.js';
import type { Block } from './heap.js';
import { H, ORPHAN_OWNER, P, PortState, R, RequestState } from './layout.js';
import { lock, lockOwner, unlock } from './lock.js';
import { isAlive } from './owner.js';
import type { Segment } from './segment.js';

export interface RecoverPortOptions {
  /** Fail what the port had accepted or not yet looked at with EIO, instead of leaving it to a successor. */
  readonly fail?: boolean;
}

export interface RecoveryResult {
  /** Requests put back into the port's queue for its next owner. */
  requeued: number;
  /** Requests answered with EIO. */
  failed: number;
  /** Records freed that the port had asked or held. */
  freed: number;
  /** Records that wait for a living peer's answer. */
  waiting: number;
  /** Data buffers freed. */
  buffers: number;
}

export class Recovery {
  readonly #segment: Segment;

  constructor(segment: Segment) {
    this.#segment = segment;
  }

  /** Frees the port of a dead owner. The caller holds the port table's lock and has made sure that the owner is dead. */
  recoverPort(number: number, options: RecoverPortOptions): RecoveryResult {
    const { memory } = this.#segment;
    this.recoverLocks(number);
    const result = this.#recoverRequests(number, options);
    result.buffers = this.#recoverBuffers(number);
    const word = this.#segment.portWord(number);
    memory.u32[word + P.PID] = 0;
    memory.u32[word + P.GENERATION]++;
    Atomics.store(memory.i32, word + P.STATE, PortState.FREE);
    return result;
  }

  /** What a port leaves behind when its owner closes it: nothing is requeued that was not accepted, buffers in use wait. */
  releasePort(number: number): void {
    this.#recoverRequests(number, {});
    this.#recoverBuffers(number);
    this.#segment.memory.u32[this.#segment.portWord(number) + P.GENERATION]++;
  }

  #recoverRequests(number: number, options: RecoverPortOptions): RecoveryResult {
    const { memory, geometry } = this.#segment;
    const result: RecoveryResult = { requeued: 0, failed: 0, freed: 0, waiting: 0, buffers: 0 };
    for (let index = 0; index < geometry.requests; index++) {
      const word = this.#segment.requestWord(index);
      const state = memory.u32[word + R.STATE];
      if (state === RequestState.FREE) continue;
      const request = this.#segment.request(index);
      if (memory.u32[word + R.SRC] === number) {
        if (state === RequestState.ACCEPTED && this.#worksOn(memory.u32[word + R.DST], number)) {
          memory.u32[word + R.ORPHAN] = 1;
          result.waiting++;
        } else {
          this.#segment.discard(request);
          result.freed++;
        }
        continue;
      }
      if (memory.u32[word + R.DST] !== number) continue;
      if (options.fail && (state === RequestState.ACCEPTED || state === RequestState.SUBMITTED)) {
        request.fail(errnos.EIO, `the peer on port ${number} died and its requests were failed by recovery`);
        result.failed++;
      } else if (state === RequestState.ACCEPTED) {
        Atomics.store(memory.i32, word + R.STATE, RequestState.SUBMITTED);
        result.requeued++;
      }
    }
    // The rings may miss what was requeued: the next owner looks through the table.
    Atomics.store(memory.i32, this.#segment.portWord(number) + P.SCAN, 1);
    return result;
  }

  #worksOn(dst: number, dead: number): boolean {
    return dst !== dead && (this.#segment.portOwner(dst)?.alive ?? false);
  }

  #recoverBuffers(number: number): number {
    let freed = 0;
    for (const block of this.#segment.heap.blocks()) {
      if (block.owner !== number) continue;
      if (this.#inUse(block)) this.#segment.heap.orphan(block);
      else {
        this.#segment.heap.free(this.#segment.heap.offsetOf(block), -1);
        freed++;
      }
    }
    return freed;
  }

  /** Frees buffers of dead ports that nobody works on any more. Called when an orphaned request is answered. */
  sweepOrphans(): void {
    for (const block of this.#segment.heap.blocks()) {
      if (block.owner === ORPHAN_OWNER && !this.#inUse(block)) {
        this.#segment.heap.free(this.#segment.heap.offsetOf(block), -1);
      }
    }
  }

  /** Does a request that a living peer has accepted point into this block? Sub-requests of other peers count as well. */
  #inUse(block: Block): boolean {
    const { memory, geometry, heap } = this.#segment;
    const start = heap.offsetOf(block);
    const end = start + heap.bytesOf(block.order);
    for (let index = 0; index < geometry.requests; index++) {
      const word = this.#segment.requestWord(index);
      const state = memory.u32[word + R.STATE];
      if (state !== RequestState.ACCEPTED && state !== RequestState.SUBMITTED) continue;
      const offset = memory.get64(word + R.DATA);
      if (offset >= start && offset < end && memory.u32[word + R.DATA_LENGTH] > 0) return true;
    }
    return false;
  }

  /**
   * Releases locks whose owners are dead and repairs what they guard.
   * @param number only locks taken on behalf of this port; undefined = all
   * @returns how many locks were released
   */
  recoverLocks(number?: number): number {
    const { memory, geometry } = this.#segment;
    let released = 0;
    const dead = (word: number): boolean => {
      const owner = lockOwner(memory, word);
      if (!owner || (number !== undefined && owner.port !== number)) return false;
      return !isAlive(owner.pid, owner.start);
    };
    if (dead(H.REQUESTS_LOCK)) {
      this.#segment.rebuildRequests();
      released++;
    }
    if (dead(H.HEAP_LOCK)) {
      this.#segment.heap.rebuild(-1);
      released++;
    }
    if (dead(H.PORTS_LOCK)) {
      lock(memory, H.PORTS_LOCK, -1);
      unlock(memory, H.PORTS_LOCK);
      released++;
    }
    for (let port = 0; port < geometry.ports; port++) {
      const word = this.#segment.portWord(port);
      for (const queueLock of [word + P.REQUEST_LOCK, word + P.REPLY_LOCK]) {
        if (!dead(queueLock)) continue;
        lock(memory, queueLock, -1);
        unlock(memory, queueLock);
        this.#segment.forceScan(port);
        released++;
      }
    }
    return released;
  }
}
