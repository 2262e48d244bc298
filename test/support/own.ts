/**
 * Segments of unit tests and simulations, by names that say which process made them. Who is killed leaves them, and they are memory; the next run
 * removes those of processes that are no more.
 */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';

const PREFIX = 'archipelago-unit';
const SEGMENTS = '/dev/shm';
const PATTERN = new RegExp(`^${PREFIX}-[a-z-]+-(\\d+)-\\d+(\\.bells)?$`);
let count = 0;

/** A name for a segment that nobody else has. @param what whose it is, for a reader of the directory */
export function ownSegment(what: string): string {
  return `${PREFIX}-${what}-${process.pid}-${count++}`;
}

/** Removes the segments of processes that are no more. */
export function removeLeft(): void {
  for (const name of readdirSync(SEGMENTS)) {
    const pid = PATTERN.exec(name)?.[1];
    if (pid === undefined || existsSync(`/proc/${pid}`)) continue;
    try {
      rmSync(path.join(SEGMENTS, name), { recursive: true, force: true });
    } catch {
      // Another user's.
    }
  }
}
