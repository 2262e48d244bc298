/**
 * The C library calls the data path needs and Node does not offer: shared memory, positional I/O on raw addresses,
 * non-blocking sockets, sync_file_range-like hints, syslog. A leaf: it imports nothing of the project.
 *
 * Every function returns what the C function returns; on -1 `errno()` is valid until the next call. Addresses are plain
 * numbers (x86-64 and arm64 user addresses are below 2^48, so they are exact); passing a number is what makes a call cheap:
 * passing a Buffer costs several times the call itself.
 */
import os from 'node:os';
import koffi from 'koffi';

const lib = koffi.load('libc.so.6');

/** errno of the last failed call of this module, on this thread. */
export const errno = (): number => koffi.errno();

/** A call that also exists as `.async(...args, callback)`, which runs on libuv's thread pool. */
export type Native<A extends unknown[], R> = ((...args: A) => R) & {
  async(...args: [...A, (err: Error | null, result: R) => void]): void;
};

const bind = <A extends unknown[], R>(signature: string): Native<A, R> =>
  lib.func(signature) as unknown as Native<A, R>;

export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_RDWR = 2;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
export const O_TRUNC = 0o1000;
export const O_NONBLOCK = 0o4000;
export const O_CLOEXEC = 0o2000000;
export const O_DIRECTORY = os.arch() === 'arm64' ? 0o40000 : 0o200000;
export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const MAP_SHARED = 1;
export const MSG_PEEK = 0x2;
export const MSG_DONTWAIT = 0x40;
export const MSG_NOSIGNAL = 0x4000;
export const RWF_DSYNC = 2;
export const RWF_NOWAIT = 8;
export const FALLOC_FL_KEEP_SIZE = 1;
export const FALLOC_FL_PUNCH_HOLE = 2;
export const FALLOC_FL_ZERO_RANGE = 16;
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

export const open = bind<[path: string, flags: number, type: 'uint32_t', mode: number], number>(
  'int open(const char *path, int flags, ...)',
);
/** linux/openat2.h; the number is the same on all architectures. */
const SYS_OPENAT2 = 437;
/** Nothing is looked up that is not in memory: EAGAIN then. Since Linux 5.12. */
const RESOLVE_CACHED = 0x20;
/** struct open_how: flags, mode, resolve, 64 bits each. */
const OPEN_HOW_LENGTH = 24;
let openHow: Memory | null = null;
/** Named and variadic integers are passed alike on x86-64 and arm64 Linux. */
const openat2 = bind<[number: number, directory: number, path: string, how: number, size: number], number>(
  'int64_t syscall(int64_t number, int64_t dirfd, const char *path, uintptr_t how, size_t size)',
);

/** Opens an existing file if the kernel has its name and all directories above it in memory; -1 with EAGAIN: it has not. @param flags without O_CREAT */
export function openCached(path: string, flags: number): number {
  if (openHow === null) {
    openHow = allocateMemory(OPEN_HOW_LENGTH);
    openHow.bytes.writeUInt32LE(RESOLVE_CACHED, 16);
  }
  openHow.bytes.writeUInt32LE(flags, 0);
  return openat2(SYS_OPENAT2, AT_FDCWD, path, openHow.address, OPEN_HOW_LENGTH);
}

export const mkdir = bind<[path: string, mode: number], number>('int mkdir(const char *path, uint32_t mode)');
export const close = bind<[fd: number], number>('int close(int fd)');
export const shmOpen = bind<[name: string, flags: number, mode: number], number>(
  'int shm_open(const char *name, int flags, uint32_t mode)',
);
export const shmUnlink = bind<[name: string], number>('int shm_unlink(const char *name)');
export const ftruncate = bind<[fd: number, length: number], number>('int ftruncate(int fd, int64_t length)');
export const mmap = bind<
  [address: number, length: number, prot: number, flags: number, fd: number, offset: number],
  number
>('uintptr_t mmap(uintptr_t addr, size_t length, int prot, int flags, int fd, int64_t offset)');
/** vec: address of a byte for each page, whose lowest bit tells that it is in memory, whoever uses it. */
export const mincore = bind<[address: number, length: number, vec: number], number>(
  'int mincore(uintptr_t addr, size_t length, uintptr_t vec)',
);
export const munmap = bind<[address: number, length: number], number>('int munmap(uintptr_t addr, size_t length)');

export const pread = bind<[fd: number, address: number, count: number, offset: number], number>(
  'int64_t pread(int fd, uintptr_t buf, size_t count, int64_t offset)',
);
export const pwrite = bind<[fd: number, address: number, count: number, offset: number], number>(
  'int64_t pwrite(int fd, uintptr_t buf, size_t count, int64_t offset)',
);
/** iov: address of an array of struct iovec; flags: RWF_*. */
export const preadv2 = bind<[fd: number, iov: number, iovcnt: number, offset: number, flags: number], number>(
  'int64_t preadv2(int fd, uintptr_t iov, int iovcnt, int64_t offset, int flags)',
);
export const pwritev2 = bind<[fd: number, iov: number, iovcnt: number, offset: number, flags: number], number>(
  'int64_t pwritev2(int fd, uintptr_t iov, int iovcnt, int64_t offset, int flags)',
);
export const fsync = bind<[fd: number], number>('int fsync(int fd)');
export const fdatasync = bind<[fd: number], number>('int fdatasync(int fd)');
/** Syncs the whole file system that the descriptor's file is on. */
export const syncfs = bind<[fd: number], number>('int syncfs(int fd)');
export const fallocate = bind<[fd: number, mode: number, offset: number, length: number], number>(
  'int fallocate(int fd, int mode, int64_t offset, int64_t len)',
);
/** With flags 7: what the cache has changed of the range is written to the disk, and waited for. */
export const syncFileRange = bind<[fd: number, offset: number, length: number, flags: number], number>(
  'int sync_file_range(int fd, int64_t offset, int64_t nbytes, unsigned int flags)',
);
export const lseek = bind<[fd: number, offset: number, whence: number], number>(
  'int64_t lseek(int fd, int64_t offset, int whence)',
);
export const ioctlInt = bind<[fd: number, request: number, type: 'int', arg: number], number>(
  'int ioctl(int fd, unsigned long request, ...)',
);
export const AT_FDCWD = -100;
export const STATX_BASIC_STATS = 0x7ff;
/** status: address of a struct statx, 256 bytes. */
export const statx = bind<[directory: number, path: string, flags: number, mask: number, status: number], number>(
  'int statx(int dirfd, const char *path, int flags, unsigned int mask, uintptr_t status)',
);
export const copyFileRange = bind<
  [fdIn: number, offIn: number, fdOut: number, offOut: number, length: number, flags: number],
  number
>(
  'int64_t copy_file_range(int fd_in, uintptr_t off_in, int fd_out, uintptr_t off_out, size_t len, unsigned int flags)',
);

export const recv = bind<[fd: number, address: number, length: number, flags: number], number>(
  'int64_t recv(int fd, uintptr_t buf, size_t len, int flags)',
);
export const send = bind<[fd: number, address: number, length: number, flags: number], number>(
  'int64_t send(int fd, uintptr_t buf, size_t len, int flags)',
);
/** SIGPIPE is ignored in Node processes: a broken pipe is EPIPE. */
export const write = bind<[fd: number, address: number, length: number], number>(
  'int64_t write(int fd, uintptr_t buf, size_t len)',
);
export const writev = bind<[fd: number, iov: number, iovcnt: number], number>(
  'int64_t writev(int fd, uintptr_t iov, int iovcnt)',
);
/** msg: address of a struct msghdr. Unlike writev it takes MSG_NOSIGNAL | MSG_DONTWAIT. */
export const sendmsg = bind<[fd: number, msg: number, flags: number], number>(
  'int64_t sendmsg(int fd, uintptr_t msg, int flags)',
);

/** value: address of the option's value, `length` bytes. */
export const setsockopt = bind<[fd: number, level: number, name: number, value: number, length: number], number>(
  'int setsockopt(int fd, int level, int name, uintptr_t value, uint32_t length)',
);
/** value and length: addresses of room for the value and of a socklen_t with its size. */
export const getsockopt = bind<[fd: number, level: number, name: number, value: number, length: number], number>(
  'int getsockopt(int fd, int level, int name, uintptr_t value, uintptr_t length)',
);
/** address and length: addresses of room for a struct sockaddr and of a socklen_t with its size. */
export const getsockname = bind<[fd: number, address: number, length: number], number>(
  'int getsockname(int fd, uintptr_t address, uintptr_t length)',
);
export const SOL_SOCKET = 1;
export const SO_TYPE = 3;
export const SO_SNDBUF = 7;
export const SO_KEEPALIVE = 9;
export const SO_ACCEPTCONN = 30;
export const SO_DOMAIN = 39;
export const SOCK_STREAM = 1;
export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;
export const IPPROTO_TCP = 6;
export const TCP_KEEPIDLE = 4;
export const TCP_KEEPINTVL = 5;
export const TCP_KEEPCNT = 6;

/** address: of a struct sockaddr of `length` bytes. */
export const bindSocket = bind<[fd: number, address: number, length: number], number>(
  'int bind(int fd, uintptr_t addr, uint32_t length)',
);
export const socket = bind<[domain: number, type: number, protocol: number], number>(
  'int socket(int domain, int type, int protocol)',
);
export const AF_NETLINK = 16;
export const SOCK_RAW = 3;
export const SOCK_CLOEXEC = O_CLOEXEC;
export const SO_RCVTIMEO = 20;
/** Kept by the open file, until it is closed: a process that dies lets go. */
export const flock = bind<[fd: number, operation: number], number>('int flock(int fd, int operation)');
export const LOCK_SH = 1;
export const LOCK_EX = 2;
export const LOCK_NB = 4;

export const fcntlInt = bind<[fd: number, command: number, type: 'int', arg: number], number>(
  'int fcntl(int fd, int command, ...)',
);
/** @param offset address of an int64_t: where the reading begins, then where it ended */
export const sendfile = bind<[to: number, from: number, offset: number, count: number], number>(
  'int64_t sendfile(int out_fd, int in_fd, uintptr_t offset, size_t count)',
);
/** fcntl: the lowest free descriptor from `arg` on becomes a copy that programs started by this one do not get. */
export const F_DUPFD_CLOEXEC = 1030;
/** @param fds address of an array of struct pollfd */
export const poll = bind<[fds: number, count: number, timeoutMs: number], number>(
  'int poll(uintptr_t fds, unsigned long nfds, int timeout)',
);
/** Both directions of the connection are over. */
export const POLLHUP = 0x10;
/** The peer sends no more, whatever of it is not read yet. */
export const POLLRDHUP = 0x2000;
export const dup2 = bind<[from: number, to: number], number>('int dup2(int from, int to)');

export const mkfifo = bind<[path: string, mode: number], number>('int mkfifo(const char *path, uint32_t mode)');
export const kill = bind<[pid: number, signal: number], number>('int kill(int pid, int sig)');
export const schedYield = bind<[], number>('int sched_yield()');

/** ident: address of a C string that stays: the C library keeps the pointer, so a JavaScript string would dangle. */
export const openlog = bind<[ident: number, option: number, facility: number], void>(
  'void openlog(uintptr_t ident, int option, int facility)',
);
export const syslog = bind<[priority: number, format: string, type: 'const char *', text: string], void>(
  'void syslog(int priority, const char *format, ...)',
);

/** Copies between addresses; the two must not overlap. Cheaper than making a Buffer over either. */
export const memcpy = bind<[to: number, from: number, length: number], number>(
  'uintptr_t memcpy(uintptr_t to, uintptr_t from, size_t n)',
);

const posixMemalign = lib.func('int posix_memalign(_Out_ uintptr_t *memptr, size_t alignment, size_t size)');
const cFree = lib.func('void free(uintptr_t ptr)');

/** A piece of C memory that stays where it is: `bytes` is a view over it, `address` goes to the calls above. */
export interface Memory {
  readonly address: number;
  readonly bytes: Buffer;
}

/** Views `length` bytes of this process's memory at `address` as a Buffer; nothing is copied, nothing is owned. */
export function viewMemory(address: number, length: number): Buffer {
  return Buffer.from(koffi.view(BigInt(address), length));
}

/**
 * Allocates C memory, aligned to 4096 bytes, that is never moved. Free it with freeMemory when nothing views it.
 * @param zeroed from which byte on it is zeros; before, it may hold anything, and pages that nobody writes to take no memory. Default: 0
 * @throws Error with code ENOMEM
 */
export function allocateMemory(length: number, zeroed = 0): Memory {
  const out: [number] = [0];
  if (posixMemalign(out, 4096, Math.max(length, 1)) !== 0) {
    throw Object.assign(new Error(`cannot allocate ${length} bytes`), { code: 'ENOMEM', errno: 12 });
  }
  const address = Number(out[0]);
  const bytes = viewMemory(address, length);
  bytes.fill(0, zeroed);
  return { address, bytes };
}

export function freeMemory(memory: Memory): void {
  cFree(memory.address);
}
