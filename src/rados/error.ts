/** The errors of librados: an errno, what was being done to what, and what the errno means here. */
import { errnoName, errnos, SystemError } from '../sys/errno.js';

/** An error of the cluster or of librados. `errno` is positive. */
export class RadosError extends SystemError {
  constructor(errno: number, message: string, options?: ErrorOptions) {
    super(errno, message, options);
    this.name = 'RadosError';
  }
}

/** What an errno of Ceph says beyond its name. */
const words = new Map<number, string>([
  [errnos.ENOENT, 'it does not exist'],
  [errnos.EEXIST, 'it exists already'],
  [errnos.EPERM, 'the capabilities of this CephX user do not allow it: see `ceph auth get`'],
  [errnos.EACCES, 'the capabilities of this CephX user do not allow it: see `ceph auth get`'],
  [errnos.ESHUTDOWN, 'Ceph has blocklisted this client: see `ceph osd blocklist ls`'],
  [errnos.ENOSPC, 'the cluster or the pool is full: see `ceph df`'],
  [errnos.EDQUOT, "the pool's quota is used up: see `ceph osd pool get-quota`"],
  [errnos.ETIMEDOUT, 'no answer in time: see `ceph status`'],
  [errnos.ENODATA, 'it has no such attribute'],
  [errnos.ECANCELED, 'a condition of the operation does not hold, or it was given up when the connection was closed'],
  [
    errnos.ENODEV,
    'the pool was deleted: one that is made anew under its name is another, for which the blocker is to be started again',
  ],
  [errnos.ENOTCONN, 'the connection is closed'],
  [errnos.EFBIG, 'beyond the size that objects may have (osd_max_object_size)'],
  [errnos.ERANGE, 'the value is larger than this client reads'],
  [errnos.EOPNOTSUPP, 'the OSD does not know this operation or object class'],
]);

/**
 * The error of a call of librados. @param result its negative errno
 * @param what what was being done, to what, e.g. `read object o of pool blocks`
 * @param said Ceph's own words, where it has some
 */
export function radosError(result: number, what: string, said = ''): RadosError {
  const errno = Math.abs(result);
  const meaning = words.get(errno);
  const why = said || meaning ? `${errnoName(errno)}: ${said || meaning}` : errnoName(errno);
  return new RadosError(errno, `cannot ${what}: ${why}`);
}
