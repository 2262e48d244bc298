/** Who owns a port or a lock: a process, told apart from a later one with the same pid by its start time. */
import fs from 'node:fs';

/** There is no such process. */
const GONE = 0;
/** There is one, but this user may not see when it started (/proc mounted with hidepid, or not at all). */
const HIDDEN = -1;

/**
 * Start time of a process in clock ticks since boot (field 22 of /proc/PID/stat) modulo 2^32, so that it is stored in one
 * atomic word; 0 when there is no such process, -1 when it is not ours to see.
 *
 * A killed process counts as there until its last thread ended: a thread of it may be inside a write to an object or a read into
 * a buffer, and a successor that worked meanwhile would be overwritten by it.
 */
export function startTime(pid: number): number {
  let stat: string;
  try {
    stat = fs.readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return exists(pid) ? HIDDEN : GONE;
  }
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const threads = Number(fields[17]);
  const ended = fields[0] === 'X' || (fields[0] === 'Z' && threads <= 1);
  return ended ? GONE : Number(fields[19]) >>> 0;
}

function exists(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** This process. */
export const self = { pid: process.pid, start: startTime(process.pid) >>> 0 };

/** Is this very process alive? @param start its start time, 0 = not known: then any process with the pid counts */
export function isAlive(pid: number, start: number): boolean {
  if (pid === 0 || pid > MAX_PID) return false;
  if (pid === self.pid) return start === 0 || start === self.start;
  const now = startTime(pid);
  if (now === GONE) return false;
  return now === HIDDEN || start === 0 || start === HIDDEN >>> 0 || start === now;
}

/** Linux gives out no pid above this. */
const MAX_PID = 1 << 22;
const START_BITS = 10;
const START_MASK = (1 << START_BITS) - 1;

/**
 * A process in one word, for locks: pid and the low bits of its start time, so that taking a lock and saying who did is one atomic
 * step. Never 0.
 */
export function token(pid: number, start: number): number {
  return (pid << START_BITS) | (start & START_MASK);
}

export const selfToken = token(self.pid, self.start);

export const tokenPid = (word: number): number => word >>> START_BITS;

/** Is the process of this token alive? */
export function isTokenAlive(word: number): boolean {
  if (word === selfToken) return true;
  const pid = tokenPid(word);
  if (pid === 0 || pid === self.pid) return false;
  const now = startTime(pid);
  return now === HIDDEN || (now !== GONE && (now & START_MASK) === (word & START_MASK));
}

/** Identity of this process's pid namespace, 0 when it cannot be told. Pids mean something only within it. */
export function pidNamespace(): number {
  try {
    return fs.statSync('/proc/self/ns/pid').ino >>> 0;
  } catch {
    return 0;
  }
}
