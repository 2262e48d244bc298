/** Says in a partial object's file that units are there for good. */
import { errnos } from '../../../sys/errno.js';
import type { Memory } from '../../../sys/libc.js';
import type { FileSystem } from '../system.js';
import { DURABLE, HEAD, stampOf, stateOffset, tailLength, tailOffset, WRITTEN } from './tail.js';
import type { Run } from './units.js';

interface SettleContext {
  readonly system: FileSystem;
  /** Room for a tail, in use within one turn of the event loop only. */
  readonly scratch: Memory;
  readonly stamp: string;
}

/**
 * All in one turn. A flush has no deadline, so it may end when the volume's lock is another process's already: what it says is to be true all the same. So
 * it is said of units that are 1 now, under this stamp, and of no others.
 * @param length bytes of the content
 * @param runs units whose content is on the disk
 * @returns 0 or a positive errno; ESTALE: units are there by another stamp, of a process that this one knows nothing of
 */
export function settle(
  { system, scratch, stamp }: SettleContext,
  fd: number,
  length: number,
  runs: readonly Run[],
): number {
  const { address, bytes } = scratch;
  const count = tailLength(length);
  const n = system.pread(fd, address, count, tailOffset(length));
  if (n !== count) return n < 0 ? system.errno() : errnos.EIO;
  if (stampOf(bytes) !== stamp) return errnos.ESTALE;
  for (const { first, end } of runs) {
    for (let unit = first; unit < end; unit++) if (bytes[HEAD + unit] === WRITTEN) bytes[HEAD + unit] = DURABLE;
    const written = system.pwrite(fd, address + HEAD + first, end - first, stateOffset(length, first));
    if (written !== end - first) return written < 0 ? system.errno() : errnos.EIO;
  }
  return 0;
}
