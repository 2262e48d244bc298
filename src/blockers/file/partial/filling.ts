/** Puts a part of the source's content into a partial object's file. What is a hole in the source is one there. */
import { errnos, SystemError } from '../../../sys/errno.js';
import * as libc from '../../../sys/libc.js';
import { isErrno } from '../../errors.js';
import { copyByHand, copyRange, seek, writeFully } from '../copy.js';
import type { FileSystem } from '../system.js';
import { UNIT } from './tail.js';

/** The file that units come from. */
export interface Source {
  readonly fd: number;
  /** It has no holes worth looking for. */
  readonly isDense: boolean;
}

/**
 * Copies [begin, end) from the source to `to`, whatever was there.
 * @param isClean holes of the source are known to be holes there
 * @throws the system's error, EIO when the source ends before
 */
export async function fillRange(
  system: FileSystem,
  { fd, isDense }: Source,
  to: number,
  begin: number,
  end: number,
  isClean: boolean,
): Promise<void> {
  if (isDense) {
    await copyAll(system, fd, to, begin, end);
    return;
  }
  const { size } = await system.fstat(fd);
  if (size < end) throw endedEarly(size, end);
  for (let at = begin; at < end; ) {
    const data = Math.min((await seek(system, fd, at, libc.SEEK_DATA)) ?? end, end);
    if (data > at && !isClean) await clear(system, to, at, data - at);
    if (data >= end) return;
    const next = Math.min((await seek(system, fd, data, libc.SEEK_HOLE)) ?? end, end);
    await copyAll(system, fd, to, data, next);
    at = next;
  }
}

export const endedEarly = (size: number, end: number): SystemError =>
  new SystemError(errnos.EIO, `the source ended at byte ${size} of ${end} while it was copied`);

async function copyAll(system: FileSystem, from: number, to: number, begin: number, end: number): Promise<void> {
  const at = await copyRange(system, from, to, begin, end);
  if (at < end) await copyByHand(system, from, to, at, end);
}

/** Makes a range a hole; where the file system has none, zeros. */
async function clear(system: FileSystem, fd: number, offset: number, length: number): Promise<void> {
  try {
    // To the end of its last unit: a part of a block would stay allocated.
    const whole = Math.ceil((offset + length) / UNIT) * UNIT - offset;
    await system.fallocate(fd, libc.FALLOC_FL_PUNCH_HOLE | libc.FALLOC_FL_KEEP_SIZE, offset, whole);
  } catch (error) {
    if (!isErrno(error, errnos.EOPNOTSUPP, errnos.ENOSYS)) throw error;
    await writeFully(system, fd, Buffer.alloc(length), offset);
  }
}
