/**
 * Locks in the segment: owned by a process, so that one whose owner died can be told and taken over.
 *
 * They guard a few instructions (a push, a list operation) and are never held across a turn of the event loop, so waiting is
 * spinning; a holder that was descheduled gets the processor by sched_yield. The first word is the owner's token: taking, stealing
 * from the dead and releasing are one atomic step each, with no moment in which a holder is not known.
 */
import { errnos, SystemError } from '../sys/errno.js';
import { schedYield } from '../sys/libc.js';
import type { SegmentMemory } from './memory.js';
import { isTokenAlive, selfToken, tokenPid } from './owner.js';

/** Spins before the owner's life is checked (reading /proc costs tens of microseconds). */
const SPINS_BEFORE_CHECK = 2000;
/** A living owner that holds on this long is broken; better an error than a hang. */
const PATIENCE_MS = 10_000;

export interface LockOwner {
  readonly pid: number;
  /** The port on whose behalf, -1 = none. Not exact while the lock changes hands. */
  readonly port: number;
  readonly alive: boolean;
}

/**
 * Takes the lock at `word`.
 * @param port the port on whose behalf, or -1
 * @returns true when it was taken over from a dead owner: what it guards must be repaired
 * @throws SystemError EDEADLK when a living owner does not let go
 */
export function lock(memory: SegmentMemory, word: number, port: number): boolean {
  const { i32 } = memory;
  const takenOver = Atomics.compareExchange(i32, word, 0, selfToken) !== 0 && lockSlowly(memory, word);
  i32[word + 1] = port + 1;
  return takenOver;
}

function lockSlowly(memory: SegmentMemory, word: number): boolean {
  const { i32 } = memory;
  const deadline = Date.now() + PATIENCE_MS;
  for (let spins = 1; ; spins++) {
    const holder = Atomics.compareExchange(i32, word, 0, selfToken);
    if (holder === 0) return false;
    if (spins % 100 === 0) schedYield();
    if (spins % SPINS_BEFORE_CHECK !== 0) continue;
    if (!isTokenAlive(holder) && Atomics.compareExchange(i32, word, holder, selfToken) === holder) return true;
    if (Date.now() > deadline) {
      throw new SystemError(
        errnos.EDEADLK,
        `process ${tokenPid(holder)} (port ${i32[word + 1] - 1}) holds a segment lock and does not let go; restart it`,
      );
    }
  }
}

export function unlock(memory: SegmentMemory, word: number): void {
  Atomics.store(memory.i32, word, 0);
}

/** Who holds the lock at `word`, or null. */
export function lockOwner(memory: SegmentMemory, word: number): LockOwner | null {
  const holder = Atomics.load(memory.i32, word);
  if (holder === 0) return null;
  return { pid: tokenPid(holder), port: memory.i32[word + 1] - 1, alive: isTokenAlive(holder) };
}
