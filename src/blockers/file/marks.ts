/** Marks of files (system.ts) as Linux keeps them: extended attributes of the user. */
import fs from 'node:fs';
import koffi from 'koffi';
import { errnos } from '../../sys/errno.js';
import type { Native } from '../../sys/libc.js';
import * as libc from '../../sys/libc.js';
import { Mounted } from '../../sys/mounted.js';
import { isErrno } from '../errors.js';
import { NativeError, native } from './pool.js';
import type { FileMarks } from './system.js';

const ATTRIBUTE = 'user.archip.part';
/** Longest mark, in bytes. */
const LONGEST = 64;
/** ext4, XFS, btrfs, tmpfs: attributes and locks of these are known to hold what is built on them. */
const SUITABLE = new Set([0xef53, 0x58465342, 0x9123683e, 0x01021994]);

const lib = koffi.load('libc.so.6');
const bind = <A extends unknown[], R>(signature: string): Native<A, R> =>
  lib.func(signature) as unknown as Native<A, R>;
const fgetxattr = bind<[fd: number, name: string, value: number, size: number], number>(
  'int64_t fgetxattr(int fd, const char *name, uintptr_t value, size_t size)',
);
const getxattr = bind<[path: string, name: string, value: number, size: number], number>(
  'int64_t getxattr(const char *path, const char *name, uintptr_t value, size_t size)',
);
const fsetxattr = bind<[fd: number, name: string, value: number, size: number, flags: number], number>(
  'int fsetxattr(int fd, const char *name, uintptr_t value, size_t size, int flags)',
);

/** Of these, those that have a number of the mount in /sys. */
const NUMBERED = new Set([0xef53, 0x58465342]);

/** What says that a file has no mark, as it has no attributes or is not there. */
const NONE = [errnos.ENODATA, errnos.EOPNOTSUPP, errnos.ENOENT, errnos.ENOTDIR];

class KernelMarks implements FileMarks {
  /** In use within one call. */
  readonly #value = libc.allocateMemory(LONGEST);
  #boot: string | null = null;

  suits(directory: string): boolean {
    return SUITABLE.has(fs.statfsSync(directory).type);
  }

  stamp(directory: string): string {
    this.#boot ??= fs.readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
    // Without the depth, which is another in another mount namespace.
    const id = new Mounted(directory).id()?.split('@')[0] ?? null;
    // Two processes of one machine that do not tell the same stamp would not believe each other what is there.
    if (id === null && NUMBERED.has(fs.statfsSync(directory).type)) throw new Error('/sys does not tell its mount');
    return id === null ? this.#boot : `${this.#boot}/${id}`;
  }

  get(fd: number): Buffer | null {
    const n = fgetxattr(fd, ATTRIBUTE, this.#value.address, LONGEST);
    if (n >= 0) return Buffer.from(this.#value.bytes.subarray(0, n));
    const errno = libc.errno();
    if (NONE.includes(errno)) return null;
    throw new NativeError('fgetxattr', errno);
  }

  set(fd: number, mark: Uint8Array): void {
    this.#value.bytes.set(mark);
    if (fsetxattr(fd, ATTRIBUTE, this.#value.address, mark.length, 0) !== 0) {
      throw new NativeError('fsetxattr', libc.errno());
    }
  }

  lock(fd: number): boolean {
    return this.#flock(fd, libc.LOCK_EX);
  }

  share(fd: number): boolean {
    return this.#flock(fd, libc.LOCK_SH);
  }

  #flock(fd: number, kind: number): boolean {
    while (libc.flock(fd, kind | libc.LOCK_NB) !== 0) {
      const errno = libc.errno();
      if (errno === errnos.EAGAIN) return false;
      if (errno !== errnos.EINTR) throw new NativeError('flock', errno);
    }
    return true;
  }

  status(fd: number): { readonly size: number } {
    return fs.fstatSync(fd);
  }

  at(file: string): Buffer | null {
    const n = getxattr(file, ATTRIBUTE, this.#value.address, LONGEST);
    if (n >= 0) return Buffer.from(this.#value.bytes.subarray(0, n));
    const errno = libc.errno();
    if (NONE.includes(errno)) return null;
    throw new NativeError('getxattr', errno);
  }

  async of(file: string): Promise<Buffer | null> {
    // Not in the heap, where it might be moved meanwhile.
    const value = libc.allocateMemory(LONGEST);
    try {
      const n = await native('getxattr', (end) => getxattr.async(file, ATTRIBUTE, value.address, LONGEST, end));
      return Buffer.from(value.bytes.subarray(0, n));
    } catch (error) {
      if (isErrno(error, ...NONE)) return null;
      throw error;
    } finally {
      libc.freeMemory(value);
    }
  }
}

export const kernelMarks: FileMarks = new KernelMarks();
