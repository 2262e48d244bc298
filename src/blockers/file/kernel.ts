/** The file driver's system calls as Linux does them: Node's where it has them, the C library's where it has not. */
import fs, { promises as fsp } from 'node:fs';
import koffi from 'koffi';
import { errnoOf, errnos } from '../../sys/errno.js';
import type { Native } from '../../sys/libc.js';
import * as libc from '../../sys/libc.js';
import { LongWrites } from './long-writes.js';
import { kernelMarks } from './marks.js';
import { native } from './pool.js';
import { Residence } from './residence.js';
import type { FileStatus, FileSystem, Transferred } from './system.js';

const TMPFS_MAGIC = 0x01021994;
/** File systems on this machine's own disks and memory: ext, xfs, btrfs, f2fs, zfs, bcachefs, tmpfs, overlay. */
const LOCAL = new Set([0xef53, 0x58465342, 0x9123683e, 0xf2f52010, 0x2fc12fc1, 0xca451a4e, TMPFS_MAGIC, 0x794c7630]);
/** File systems of a server: NFS, SMB (two kinds), FUSE (which may be one), 9p, AFS. Cluster file systems give back what they hold. */
const REMOTE = new Set([0x6969, 0xff534d42, 0xfe534d42, 0x517b, 0x65735546, 0x01021997, 0x5346414f]);
const LOCK_EX_NB = 2 | 4;
/** Flags of sync_file_range: wait, write, wait. */
const WRITE_AND_WAIT = 7;
/** ioctl that makes a file share all extents of another. */
const FICLONE = 0x40049409;
/** Most bytes of a peek. */
const PEEK = 4096;
const TWO_TO_32 = 2 ** 32;

const lib = koffi.load('libc.so.6');

/**
 * ioctl with one integer argument: named and variadic integers are passed alike on x86-64 and arm64 Linux, and koffi has no
 * asynchronous variadic calls.
 */
const ioctl = lib.func('int ioctl(int fd, unsigned long request, uintptr_t arg)') as unknown as Native<
  [fd: number, request: number, arg: number],
  number
>;

const flock = lib.func('int flock(int fd, int operation)') as unknown as Native<
  [fd: number, operation: number],
  number
>;

class Kernel implements FileSystem {
  /** One struct iovec: preadv2 takes its address, and it is never in use across turns. */
  readonly #iovec = libc.allocateMemory(16);
  readonly #iov = new Uint32Array(this.#iovec.bytes.buffer, this.#iovec.bytes.byteOffset, 4);
  readonly #iovAddress = this.#iovec.address;
  #peeked: libc.Memory | null = null;
  readonly #residence = new Residence();

  readonly marks = kernelMarks;
  readonly longWrites = new LongWrites(new URL('./long-writes-thread.js', import.meta.url));

  readonly changesNow = {
    open: (file: string, flags: number, mode: number): number => fs.openSync(file, flags, mode),
    tryOpen: (file: string, flags: number, mode: number): number =>
      libc.open(file, flags | libc.O_CLOEXEC, 'uint32_t', mode),
    tryMkdir: (directory: string, mode: number): number => libc.mkdir(directory, mode),
    close: (fd: number): void => fs.closeSync(fd),
    stat: (file: string): FileStatus | null => fs.statSync(file, { throwIfNoEntry: false }) ?? null,
    fstat: (fd: number): FileStatus => fs.fstatSync(fd),
    ftruncate: (fd: number, length: number): void => fs.ftruncateSync(fd, length),
    link: (file: string, name: string): void => fs.linkSync(file, name),
    rename: (file: string, name: string): void => fs.renameSync(file, name),
    unlink: (file: string): void => fs.unlinkSync(file),
  };

  errno(): number {
    return libc.errno();
  }

  pread(fd: number, address: number, count: number, offset: number): number {
    return libc.pread(fd, address, count, offset);
  }

  preadCached(fd: number, address: number, count: number, offset: number): number {
    const iov = this.#iov;
    // The array keeps the low 32 bits.
    iov[0] = address;
    iov[1] = address / TWO_TO_32;
    iov[2] = count;
    return libc.preadv2(fd, this.#iovAddress, 1, offset, libc.RWF_NOWAIT);
  }

  pwrite(fd: number, address: number, count: number, offset: number): number {
    return libc.pwrite(fd, address, count, offset);
  }

  lend(fd: number, offset: number, length: number): number {
    return this.#residence.covers(fd, offset, length) ? libc.fcntlInt(fd, libc.F_DUPFD_CLOEXEC, 'int', 0) : -1;
  }

  openCached(file: string, flags: number): number {
    return libc.openCached(file, flags | libc.O_CLOEXEC);
  }

  fallocateNow(fd: number, mode: number, offset: number, length: number): number {
    return libc.fallocate(fd, mode, offset, length);
  }

  readdirNow(directory: string): string[] {
    return fs.readdirSync(directory);
  }

  fdatasyncNow(fd: number): number {
    return libc.fdatasync(fd);
  }

  links(fd: number): number {
    return fs.fstatSync(fd).nlink;
  }

  now(): number {
    return performance.now();
  }

  isMemory(directory: string): boolean {
    return fs.statfsSync(directory).type === TMPFS_MAGIC;
  }

  isLocal(directory: string): boolean {
    return LOCAL.has(fs.statfsSync(directory).type);
  }

  hold(directory: string): () => void {
    const fd = fs.openSync(directory, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY);
    return () => fs.closeSync(fd);
  }

  holdsWrites(directory: string): boolean {
    return REMOTE.has(fs.statfsSync(directory).type);
  }

  peekSize(file: string): number | null {
    return fs.statSync(file, { throwIfNoEntry: false })?.size ?? null;
  }

  peek(file: string, most: number): Buffer | null {
    const fd = libc.open(file, libc.O_RDONLY | libc.O_CLOEXEC, 'uint32_t', 0);
    if (fd < 0) return null;
    this.#peeked ??= libc.allocateMemory(PEEK);
    const { address, bytes } = this.#peeked;
    const length = libc.pread(fd, address, Math.min(most, PEEK), 0);
    libc.close(fd);
    return length < 0 ? null : bytes.subarray(0, length);
  }

  async tryFlock(fd: number): Promise<boolean> {
    try {
      await native('flock', (end) => flock.async(fd, LOCK_EX_NB, end));
      return true;
    } catch (error) {
      if (errnoOf(error) === errnos.EAGAIN) return false;
      throw error;
    }
  }

  read(fd: number, bytes: Uint8Array, start: number, count: number, offset: number, done: Transferred): void {
    fs.read(fd, bytes, start, count, offset, done);
  }

  write(fd: number, bytes: Uint8Array, start: number, count: number, offset: number, done: Transferred): void {
    fs.write(fd, bytes, start, count, offset, done);
  }

  open(file: string, flags: number, mode: number): Promise<number> {
    return new Promise((resolve, reject) => {
      fs.open(file, flags, mode, (error, fd) => (error ? reject(error) : resolve(fd)));
    });
  }

  close(fd: number): Promise<void> {
    return done((end) => fs.close(fd, end));
  }

  fstat(fd: number): Promise<FileStatus> {
    return new Promise((resolve, reject) => {
      fs.fstat(fd, (error, stats) => (error ? reject(error) : resolve(stats)));
    });
  }

  stat(file: string): Promise<FileStatus> {
    return fsp.stat(file);
  }

  ftruncate(fd: number, length: number): Promise<void> {
    return done((end) => fs.ftruncate(fd, length, end));
  }

  async fallocate(fd: number, mode: number, offset: number, length: number): Promise<void> {
    await native('fallocate', (end) => libc.fallocate.async(fd, mode, offset, length, end));
  }

  async writeOut(fd: number, offset: number, length: number): Promise<void> {
    await native('sync_file_range', (end) => libc.syncFileRange.async(fd, offset, length, WRITE_AND_WAIT, end));
  }

  fdatasync(fd: number): Promise<void> {
    return done((end) => fs.fdatasync(fd, end));
  }

  fsync(fd: number): Promise<void> {
    return done((end) => fs.fsync(fd, end));
  }

  async syncfs(fd: number): Promise<void> {
    await native('syncfs', (end) => libc.syncfs.async(fd, end));
  }

  fchmod(fd: number, mode: number): Promise<void> {
    return done((end) => fs.fchmod(fd, mode, end));
  }

  chmod(file: string, mode: number): Promise<void> {
    return fsp.chmod(file, mode);
  }

  mkdir(directory: string, mode: number): Promise<void> {
    return done((end) => fs.mkdir(directory, mode, end));
  }

  readdir(directory: string): Promise<string[]> {
    return fsp.readdir(directory);
  }

  access(file: string, mode: number): Promise<void> {
    return fsp.access(file, mode);
  }

  link(file: string, name: string): Promise<void> {
    return fsp.link(file, name);
  }

  rename(file: string, name: string): Promise<void> {
    return fsp.rename(file, name);
  }

  unlink(file: string): Promise<void> {
    return fsp.unlink(file);
  }

  seek(fd: number, offset: number, whence: number): Promise<number> {
    return native('lseek', (end) => libc.lseek.async(fd, offset, whence, end));
  }

  async clone(from: number, to: number): Promise<void> {
    await native('ioctl FICLONE', (end) => ioctl.async(to, FICLONE, from, end));
  }

  copyRange(from: number, to: number, offset: number, count: number): Promise<number> {
    // Setting a position touches no disk.
    libc.lseek(from, offset, 0);
    libc.lseek(to, offset, 0);
    return native('copy_file_range', (end) => libc.copyFileRange.async(from, 0, to, 0, count, 0, end));
  }
}

function done(start: (end: (error: Error | null) => void) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    start((error) => (error ? reject(error) : resolve()));
  });
}

export const kernel: FileSystem = new Kernel();
