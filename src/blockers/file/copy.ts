/**
 * Copies the content of one file to another that is new and empty: shared extents where the file system has them, else
 * copy_file_range of what is data, else reading and writing it. Holes stay holes.
 */
import { errnoOf, errnos, SystemError } from '../../sys/errno.js';
import * as libc from '../../sys/libc.js';
import type { FileSystem, ImmediateChanges } from './system.js';

const CHUNK = 1 << 20;

/** What says: this file system, or this pair of files, cannot do it; go on with the next way. */
const cannot = new Set<number>([
  errnos.EOPNOTSUPP,
  errnos.ENOSYS,
  errnos.EXDEV,
  errnos.EINVAL,
  errnos.ENOTTY,
  errnos.EPERM,
  errnos.EBADF,
  errnos.ETXTBSY,
]);

/**
 * @param from descriptor that nobody else uses: its position is moved
 * @param to empty file, open for writing, that nobody else uses
 * @param size most bytes to copy
 * @param calls what looks at the files in this turn; null: threads of the pool
 * @returns the length of the copy
 * @throws the system's error
 */
export async function copyContent(
  system: FileSystem,
  from: number,
  to: number,
  size: number,
  calls: ImmediateChanges | null = null,
): Promise<number> {
  const source = calls?.fstat(from) ?? (await system.fstat(from));
  const length = Math.min(size, source.size);
  if (length === 0) return 0;
  if (await clone(system, from, to, source.dev)) {
    const copy = calls?.fstat(to) ?? (await system.fstat(to));
    if (copy.size !== length) await system.ftruncate(to, length);
    return length;
  }
  // A source without holes needs no search for them.
  if (source.blocks * 512 >= source.size && (await copyRange(system, from, to, 0, length)) === length) return length;
  let kernelCopies = true;
  for (let at = 0; at < length; ) {
    const data = await seek(system, from, at, libc.SEEK_DATA);
    if (data === null || data >= length) break;
    const end = Math.min((await seek(system, from, data, libc.SEEK_HOLE)) ?? length, length);
    if (kernelCopies) {
      at = await copyRange(system, from, to, data, end);
      kernelCopies = at === end;
      if (!kernelCopies) await copyByHand(system, from, to, at, end);
    } else await copyByHand(system, from, to, data, end);
    at = end;
  }
  // A hole at the end counts as content too.
  await system.ftruncate(to, length);
  return length;
}

/** Devices (of st_dev) whose file system has said that it never shares extents. */
const noClone = new Set<number>();

/** Is it known that files of this device (st_dev) share no extents? */
export const sharesNothing = (device: number): boolean => noClone.has(device);

async function clone(system: FileSystem, from: number, to: number, device: number): Promise<boolean> {
  if (noClone.has(device)) return false;
  try {
    await system.clone(from, to);
    return true;
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === errnos.EOPNOTSUPP || errno === errnos.ENOTTY) noClone.add(device);
    else if (!cannot.has(errno)) throw error;
    return false;
  }
}

/** Position of the next data or hole, null when there is none; a file system that cannot tell has data everywhere. */
export async function seek(system: FileSystem, fd: number, from: number, whence: number): Promise<number | null> {
  try {
    return await system.seek(fd, from, whence);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === errnos.ENXIO) return null;
    if (cannot.has(errno)) return whence === libc.SEEK_DATA ? from : null;
    throw error;
  }
}

/** Copies [begin, end) in the kernel; returns how far it came: less than end when it cannot. */
export async function copyRange(
  system: FileSystem,
  from: number,
  to: number,
  begin: number,
  end: number,
): Promise<number> {
  let at = begin;
  try {
    while (at < end) {
      const n = await system.copyRange(from, to, at, end - at);
      if (n === 0) break;
      at += n;
    }
  } catch (error) {
    const errno = errnoOf(error);
    if (errno !== errnos.EINTR && !cannot.has(errno)) throw error;
  }
  return at;
}

export async function copyByHand(
  system: FileSystem,
  from: number,
  to: number,
  begin: number,
  end: number,
): Promise<void> {
  const buffer = Buffer.allocUnsafeSlow(Math.min(CHUNK, end - begin));
  for (let at = begin; at < end; ) {
    const n = await new Promise<number>((resolve, reject) => {
      system.read(from, buffer, 0, Math.min(buffer.length, end - at), at, (error, count) =>
        error ? reject(error) : resolve(count),
      );
    });
    // The source has become shorter under the copy: what was promised is not there.
    if (n === 0) throw new SystemError(errnos.EIO, `the source ended at byte ${at} of ${end} while it was copied`);
    await writeFully(system, to, buffer.subarray(0, n), at);
    at += n;
  }
}

/** Writes all of `bytes` at `offset`. */
export async function writeFully(system: FileSystem, fd: number, bytes: Uint8Array, offset: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += await new Promise<number>((resolve, reject) => {
      system.write(fd, bytes, done, bytes.length - done, offset + done, (error, n) =>
        error ? reject(error) : resolve(n),
      );
    });
  }
}

/** At most `length` bytes from `offset` on: fewer when the file ends before. */
export async function readFully(system: FileSystem, fd: number, length: number, offset = 0): Promise<Buffer> {
  const bytes = Buffer.allocUnsafeSlow(length);
  let done = 0;
  while (done < length) {
    const n = await new Promise<number>((resolve, reject) => {
      system.read(fd, bytes, done, length - done, offset + done, (error, count) =>
        error ? reject(error) : resolve(count),
      );
    });
    if (n === 0) break;
    done += n;
  }
  return bytes.subarray(0, done);
}
