/** What to do about errors of the stores; and errors of system calls on files, as SystemErrors that say it. */
import { monotonicMs } from '../sys/clock.js';
import { errnoName, errnoOf, errnos, SystemError } from '../sys/errno.js';

const advice = new Map<number, string>([
  [errnos.ENOSPC, 'the file system, or the pool of Ceph, is full: free space, then retry'],
  [errnos.EDQUOT, 'the quota of the disk, or of the pool of Ceph, is used up: raise it or free space'],
  [errnos.EROFS, 'the file system is read-only: remount it writable'],
  [
    errnos.EACCES,
    'permission denied: check owner and mode of the directory and file, or the capabilities of the Ceph user',
  ],
  [errnos.EPERM, 'not permitted: check owner, mode and attributes (lsattr), or the capabilities of the Ceph user'],
  [errnos.EMFILE, 'no file descriptor is left: raise LimitNOFILE or lower fdcache'],
  [errnos.ENFILE, 'the system has no file descriptor left: raise fs.file-max'],
  [errnos.ENODEV, 'the device, or the pool of Ceph, is gone'],
  [errnos.EFBIG, 'longer than objects of this store may be (Ceph: osd_max_object_size)'],
  [errnos.EIO, 'the disk reports an input/output error: see the kernel log'],
  [errnos.ENOTDIR, 'a file is where a directory belongs'],
  [errnos.EISDIR, 'a directory is where the object belongs'],
  [errnos.ETIME, 'it came too late to be begun: the lock under which it was sent may be another node’s by now'],
]);

/** What to do about an errno, or '' where there is nothing to say. */
export function adviceFor(errno: number): string {
  return advice.get(errno) ?? '';
}

/** Has a deadline (ms of the monotonic clock, 0 = none) passed? */
export const isLate = (deadline: number): boolean => deadline !== 0 && monotonicMs() >= deadline;

/** Asked in the turn in which something is handed to the system. @throws SystemError ETIME when it is too late to begin with it */
export function checkDeadline(deadline: number): void {
  if (isLate(deadline)) throw new SystemError(errnos.ETIME, adviceFor(errnos.ETIME));
}

/** @param what the thing and the attempt, e.g. `object web1: cannot write /srv/…` */
export function fileError(what: string, error: unknown): SystemError {
  if (error instanceof SystemError) return error;
  const errno = errnoOf(error);
  const message = error instanceof Error ? error.message : String(error);
  // A programming error has neither: its own words are worth more than advice about disks.
  const ofSystem = typeof error === 'object' && error !== null && ('errno' in error || 'code' in error);
  const reason = (ofSystem && advice.get(errno)) || message;
  return new SystemError(errno, `${what}: ${errnoName(errno)}: ${reason}`, { cause: error });
}

export function isErrno(error: unknown, ...wanted: number[]): boolean {
  return wanted.includes(errnoOf(error));
}
