/** Who owns a port or a lock: a process, told apart from a later one with the same pid by its start time. */
import fs from 'node:fs';

/**
 * Start time of a process in clock ticks since boot (field 22 of /proc/PID/stat) modulo 2^32, so that it is stored in one
 * atomic word; 0 when there is no such process.
 */
export function startTime(pid: number): number {
  let stat: string;
  try {
    stat = fs.readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return 0;
  }
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  // A zombie holds nothing any more: its memory is gone, only its exit status waits.
  return fields[0] === 'Z' || fields[0] === 'X' ? 0 : Number(fields[19]) >>> 0;
}

/** This process. */
export const self = { pid: process.pid, start: startTime(process.pid) };

/**
 * Is this very process alive?
 * @param start its start time; 0 = not known (yet): then any process with the pid counts
 */
export function isAlive(pid: number, start: number): boolean {
  if (pid === 0) return false;
  if (pid === self.pid) return start === 0 || start === self.start;
  const now = startTime(pid);
  return now !== 0 && (start === 0 || start === now);
}
