/**
 * Locks in the segment: owned by a port of a process, so that one whose owner died can be told and taken over.
 *
 * They guard a few instructions (a push, a list operation) and are never held across a turn of the event loop, so waiting is
 * spinning; a holder that was descheduled gets the processor by sched_yield.
 */
import { errnos, SystemError } from '../sys/errno.js';
import { schedYield } from '../sys/libc.js';
import type { SegmentMemory } from './memory.js';
import { isAlive, self } from './owner.js';

/** Spins before the owner's life is checked (reading /proc costs tens of microseconds). */
const SPINS_BEFORE_CHECK = 2000;
/** A living owner that holds on this long is broken; better an error than a hang. */
const PATIENCE_MS = 10_000;

export interface LockOwner {
  readonly pid: number;
  readonly port: number;
  readonly start: number;
}

/**
 * Takes the lock at `word`.
 * @param port the port on whose behalf, or -1
 * @returns true when it was taken over from a dead owner: what it guards must be repaired
 * @throws SystemError EDEADLK when a living owner does not let go
 */
export function lock(memory: SegmentMemory, word: number, port: number): boolean {
  const { i32 } = memory;
  if (Atomics.compareExchange(i32, word, 0, self.pid) === 0) {
    stamp(memory, word, port);
    return false;
  }
  return lockSlowly(memory, word, port);
}

function lockSlowly(memory: SegmentMemory, word: number, port: number): boolean {
  const { i32 } = memory;
  const deadline = Date.now() + PATIENCE_MS;
  for (let spins = 1; ; spins++) {
    if (Atomics.compareExchange(i32, word, 0, self.pid) === 0) {
      stamp(memory, word, port);
      return false;
    }
    if (spins % 100 === 0) schedYield();
    if (spins % SPINS_BEFORE_CHECK !== 0) continue;
    const owner = lockOwner(memory, word);
    if (owner && !isAlive(owner.pid, owner.start)) {
      // No start time beside our pid means "alive by pid alone": the dead owner's must not be seen next to it.
      Atomics.store(i32, word + 2, 0);
      if (Atomics.compareExchange(i32, word, owner.pid, self.pid) === owner.pid) {
        stamp(memory, word, port);
        return true;
      }
    }
    if (Date.now() > deadline) {
      throw new SystemError(
        errnos.EDEADLK,
        `process ${owner?.pid} (port ${owner?.port}) holds a segment lock and does not let go; restart it`,
      );
    }
  }
}

function stamp(memory: SegmentMemory, word: number, port: number): void {
  memory.u32[word + 1] = port + 1;
  Atomics.store(memory.i32, word + 2, self.start | 0);
}

export function unlock(memory: SegmentMemory, word: number): void {
  memory.u32[word + 1] = 0;
  Atomics.store(memory.i32, word + 2, 0);
  Atomics.store(memory.i32, word, 0);
}

/** Who holds the lock at `word`, or null. */
export function lockOwner(memory: SegmentMemory, word: number): LockOwner | null {
  const pid = Atomics.load(memory.i32, word);
  if (pid === 0) return null;
  return { pid, port: memory.u32[word + 1] - 1, start: memory.u32[word + 2] };
}
