/** The writing of data to the page cache piece by piece, by whichever thread. */
import { errnos } from '../../sys/errno.js';
import { isLate } from '../errors.js';

/**
 * Bytes written by one call. What one call puts into the page cache becomes one folio as far as it goes, and ext4 looks at every block of a
 * folio each time that a part of it is written: a small write to what came in pieces of 1 MiB costs three times as much
 * as to what came in pieces of this size, to pieces of 64 KiB a sixth to a quarter more. A call more costs little beside the copying.
 */
const WRITE_PIECE = 32 * 1024;

/** The calls: as libc's. */
export interface Writing {
  pwrite(fd: number, address: number, count: number, offset: number): number;
  errno(): number;
}

/**
 * Writes all of it, and looks at the time before each piece: a process that is stopped between the look and the call writes that piece when it goes on.
 * @param deadline see ObjectIo.deadline
 * @returns 0 or a positive errno, ETIME when the rest came too late; some of it may be written then
 */
export function writePieces(
  system: Writing,
  fd: number,
  address: number,
  length: number,
  offset: number,
  deadline: number,
): number {
  for (let done = 0; done < length; ) {
    // Once more, as late as can be.
    if (isLate(deadline)) return errnos.ETIME;
    const piece = Math.min(length - done, WRITE_PIECE - ((offset + done) % WRITE_PIECE));
    const n = system.pwrite(fd, address + done, piece, offset + done);
    if (n > 0) done += n;
    else if (n === 0) return errnos.EIO;
    else if (system.errno() !== errnos.EINTR) return system.errno();
  }
  return 0;
}
