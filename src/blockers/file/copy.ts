/**
 * Copies the content of one file to another that is new and empty: shared extents where the file system has them, else
 * copy_file_range of what is data, else reading and writing it. Holes stay holes.
 */
import fs from 'node:fs';
import { errnoOf, errnos, SystemError } from '../../sys/errno.js';
import * as libc from '../../sys/libc.js';
import { fstat } from './io.js';
import { ioctl } from './native.js';
import { native } from './pool.js';

/** ioctl that makes a file share all extents of another. */
const FICLONE = 0x40049409;
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
 * @returns the length of the copy
 * @throws the system's error
 */
export async function copyContent(from: number, to: number, size: number): Promise<number> {
  const source = await fstat(from);
  const length = Math.min(size, source.size);
  if (length === 0) return 0;
  if (await clone(from, to, source.dev)) {
    if ((await fstat(to)).size !== length) await truncate(to, length);
    return length;
  }
  // A source without holes needs no search for them.
  if (source.blocks * 512 >= source.size && (await copyRange(from, to, 0, length)) === length) return length;
  let kernelCopies = true;
  for (let at = 0; at < length; ) {
    const data = await seek(from, at, libc.SEEK_DATA);
    if (data === null || data >= length) break;
    const end = Math.min((await seek(from, data, libc.SEEK_HOLE)) ?? length, length);
    if (kernelCopies) {
      at = await copyRange(from, to, data, end);
      kernelCopies = at === end;
      if (!kernelCopies) await copyByHand(from, to, at, end);
    } else await copyByHand(from, to, data, end);
    at = end;
  }
  // A hole at the end counts as content too.
  await truncate(to, length);
  return length;
}

/** Devices (of st_dev) whose file system has said that it never shares extents. */
const noClone = new Set<number>();

async function clone(from: number, to: number, device: number): Promise<boolean> {
  if (noClone.has(device)) return false;
  try {
    await native('ioctl FICLONE', (done) => ioctl.async(to, FICLONE, from, done));
    return true;
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === errnos.EOPNOTSUPP || errno === errnos.ENOTTY) noClone.add(device);
    else if (!cannot.has(errno)) throw error;
    return false;
  }
}

/** Position of the next data or hole, null when there is none; a file system that cannot tell has data everywhere. */
async function seek(fd: number, from: number, whence: number): Promise<number | null> {
  try {
    return await native('lseek', (done) => libc.lseek.async(fd, from, whence, done));
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === errnos.ENXIO) return null;
    if (cannot.has(errno)) return whence === libc.SEEK_DATA ? from : null;
    throw error;
  }
}

/** Copies [begin, end) in the kernel; returns how far it came: less than end when it cannot. */
async function copyRange(from: number, to: number, begin: number, end: number): Promise<number> {
  let at = begin;
  try {
    // Setting a position touches no disk.
    libc.lseek(from, begin, 0);
    libc.lseek(to, begin, 0);
    while (at < end) {
      const n = await native('copy_file_range', (done) => libc.copyFileRange.async(from, 0, to, 0, end - at, 0, done));
      if (n === 0) break;
      at += n;
    }
  } catch (error) {
    const errno = errnoOf(error);
    if (errno !== errnos.EINTR && !cannot.has(errno)) throw error;
  }
  return at;
}

async function copyByHand(from: number, to: number, begin: number, end: number): Promise<void> {
  const buffer = Buffer.allocUnsafeSlow(Math.min(CHUNK, end - begin));
  for (let at = begin; at < end; ) {
    const n = await new Promise<number>((resolve, reject) => {
      fs.read(from, buffer, 0, Math.min(buffer.length, end - at), at, (error, count) =>
        error ? reject(error) : resolve(count),
      );
    });
    // The source has become shorter under the copy: what was promised is not there.
    if (n === 0) throw new SystemError(errnos.EIO, `the source ended at byte ${at} of ${end} while it was copied`);
    await writeFully(to, buffer.subarray(0, n), at);
    at += n;
  }
}

/** Writes all of `bytes` at `offset`. */
export async function writeFully(fd: number, bytes: Uint8Array, offset: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += await new Promise<number>((resolve, reject) => {
      fs.write(fd, bytes, done, bytes.length - done, offset + done, (error, n) => (error ? reject(error) : resolve(n)));
    });
  }
}

/** ftruncate on the thread pool. */
export function truncate(fd: number, length: number): Promise<void> {
  return new Promise((resolve, reject) => {
    fs.ftruncate(fd, length, (error) => (error ? reject(error) : resolve()));
  });
}

/** fdatasync on the thread pool: content and length. */
export function syncData(fd: number): Promise<void> {
  return new Promise((resolve, reject) => {
    fs.fdatasync(fd, (error) => (error ? reject(error) : resolve()));
  });
}

/** close on the thread pool. */
export function closeDescriptor(fd: number): Promise<void> {
  return new Promise((resolve, reject) => {
    fs.close(fd, (error) => (error ? reject(error) : resolve()));
  });
}
