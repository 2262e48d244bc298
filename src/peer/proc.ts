/** What /proc tells about a process. */
import fs from 'node:fs';
import path from 'node:path';
import { errnoOf, errnos } from '../sys/errno.js';

/** Is there such a process? A zombie is none: only its exit status is left. */
export function isRunning(pid: number): boolean {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, 'latin1');
    const state = stat[stat.lastIndexOf(')') + 2];
    return state !== 'Z' && state !== 'X';
  } catch {
    return false;
  }
}

/** A process's command line, or null when it cannot be read. */
export function commandLine(pid: number): string[] | null {
  try {
    return fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1);
  } catch {
    return null;
  }
}

/** A path of a process's command line, resolved where that process is. */
export function resolveIn(pid: number, file: string): string {
  if (path.isAbsolute(file)) return file;
  try {
    return path.resolve(fs.readlinkSync(`/proc/${pid}/cwd`), file);
  } catch {
    return path.resolve(file);
  }
}

/** kill -9 of a process that may be gone already. */
export function killHard(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if (errnoOf(error) !== errnos.ESRCH) throw error;
  }
}

/** Waits until a process is gone. @returns false when it is still there after `timeoutMs` */
export async function waitGone(pid: number, timeoutMs: number): Promise<boolean> {
  const deadline = Date.now() + timeoutMs;
  // Nobody tells of the end of a process that is not one's child.
  while (isRunning(pid)) {
    if (Date.now() >= deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return true;
}
