/**
 * The system calls of the file driver, and nothing else of the system. The driver does all its I/O through one of these, so that a
 * test can put a modelled disk in the place of the kernel (test/sim) and cut its power; a node has kernel.ts.
 *
 * Errors are those of the calls: an `errno` that is negative (libuv's) or positive (NativeError), see errnoOf. Positions and lengths are
 * in bytes.
 */

/** What the driver reads of a file's status. */
export interface FileStatus {
  readonly size: number;
  /** Allocated, in units of 512 bytes. */
  readonly blocks: number;
  readonly mtimeMs: number;
  /** When the file was made. */
  readonly birthtimeMs: number;
  readonly dev: number;
  readonly ino: number;
  readonly nlink: number;
  isDirectory(): boolean;
}

/** Ends a read or write on the thread pool: the system's error, or null and how many bytes. */
export type Transferred = (error: Error | null, count: number) => void;

/**
 * Changes of names and lengths, and what is looked at for them, at once, on the thread that asks. All throw the system's error, but for those that
 * are tried where they often fail: an exception takes ten times as long as the call. These answer -1 with FileSystem.errno().
 */
export interface ImmediateChanges {
  /** @param flags of fs.constants */
  open(file: string, flags: number, mode: number): number;
  /** As open; the descriptor, or -1. */
  tryOpen(file: string, flags: number, mode: number): number;
  /** Makes a directory: 0, or -1. */
  tryMkdir(directory: string, mode: number): number;
  /** Of a file that is open elsewhere, too, or has a name: otherwise its blocks would be freed now. */
  close(fd: number): void;
  /** null: there is none. */
  stat(file: string): FileStatus | null;
  fstat(fd: number): FileStatus;
  ftruncate(fd: number, length: number): void;
  link(file: string, name: string): void;
  rename(file: string, name: string): void;
  unlink(file: string): void;
}

/**
 * Marks of partial objects' files (partial/): a user attribute of the file, which outlives every process and goes where the file goes. At
 * once, on this thread, but for `of`.
 */
export interface FileMarks {
  /** Can files below this directory be marked and locked, and is what one process has written there for the next to find? @throws the system's error */
  suits(directory: string): boolean;
  /**
   * What tells of the kernel's memory of files below this directory: another text after each start of the machine, and after each mount where that can be
   * told; at most 104 ASCII characters. @throws the system's error
   */
  stamp(directory: string): string;
  /** The mark of an open file; null: it has none. @throws the system's error */
  get(fd: number): Buffer | null;
  /** Part of the file's attributes: durable with fsync, not with fdatasync. @throws the system's error */
  set(fd: number, mark: Uint8Array): void;
  /** Takes the advisory lock (flock) of an open file if nobody has it; closing the file gives it back. @throws the system's error */
  lock(fd: number): boolean;
  /** As lock, together with others that share it. Absent: nobody else is there. @throws the system's error */
  share?(fd: number): boolean;
  /** Bytes of an open file. @throws the system's error */
  status(fd: number): { readonly size: number };
  /** The mark of the file at a path; null: it has none, or does not exist. @throws the system's error */
  at(file: string): Buffer | null;
  /** On the thread pool: the mark of the file at a path; null: it has none, or does not exist. @throws the system's error */
  of(file: string): Promise<Buffer | null>;
}

/** Ends a long write. @param errno 0, or positive: some of it may be written; EINTR: it is to be done again, otherwise @param milliseconds that it took */
export type Written = (errno: number, milliseconds: number) => void;

/** Writes by a thread of their own, in the order in which they are given. */
export interface LongWriter {
  /** Whether one is taken now. */
  readonly takes: boolean;
  /** The one that it is at takes long: the kernel holds writers back. */
  readonly isHeldUp: boolean;
  /**
   * Writes while `takes`; descriptor and data stay until it has ended.
   * @param deadline see ObjectIo.deadline: looked at by the thread that writes, right before each of its calls
   * @param ended called later, in a turn of its own
   */
  write(fd: number, address: number, length: number, offset: number, deadline: number, ended: Written): void;
}

export interface FileSystem {
  /** Absent: no file is ever marked. */
  readonly marks?: FileMarks;

  // Of locks between nodes. A modelled disk, which one node uses, does without.

  /** Takes the advisory lock (flock) of an open file if nobody has it; closing the file gives it back. @throws the system's error */
  tryFlock?(fd: number): Promise<boolean>;
  /** Is the directory's file system one of this machine, that answers at once for what it has in memory? @throws the system's error */
  isLocal?(directory: string): boolean;
  /** Keeps the directory's file system from being unmounted until what is returned is called. Absent: nothing can be mounted or unmounted. */
  hold?(directory: string): () => void;
  /** Do writes stay on this machine for a while that a server, which other nodes use, has not seen? @throws the system's error */
  holdsWrites?(directory: string): boolean;
  /** The file's length, at once; null when there is none. @throws the system's error */
  peekSize?(file: string): number | null;
  /** The file's first bytes, at once, good until the next call; null when it cannot be read. */
  peek?(file: string, most: number): Buffer | null;

  // At once, on this thread: the hot path. They take addresses and answer -1 with errno(), like the C functions.

  /** errno of the last of these calls that answered -1. */
  errno(): number;
  pread(fd: number, address: number, count: number, offset: number): number;
  /** Only what is in the page cache: EAGAIN when the first byte is not, EOPNOTSUPP or ENOSYS when the file system does not tell. */
  preadCached(fd: number, address: number, count: number, offset: number): number;
  pwrite(fd: number, address: number, count: number, offset: number): number;
  /** Absent: long writes are as others. */
  readonly longWrites?: LongWriter;
  /** A descriptor more of the same file that has all of this range in the page cache; -1: it has not, or none is to be had. Absent: never. */
  lend?(fd: number, offset: number, length: number): number;
  /**
   * As open of an existing file, where all that leads to it is in memory: names, directories, the inode; -1: it is not, or the file is not there, or cannot be
   * opened. Absent: never.
   * @param flags of fs.constants
   */
  openCached?(file: string, flags: number): number;
  /** As fallocate, which is used where this is missing. */
  fallocateNow?(fd: number, mode: number, offset: number, length: number): number;
  /** As readdir, which is used where this is missing. @throws the system's error */
  readdirNow?(directory: string): string[];
  /** As fdatasync, which is used where this is missing. */
  fdatasyncNow?(fd: number): number;
  /** As those on the thread pool, which are used where this is missing. */
  readonly changesNow?: ImmediateChanges;
  /** Names that the open file has; 0: it was deleted or replaced. @throws the system's error */
  links(fd: number): number;
  /** Milliseconds from some moment on, for measuring how long a call took. */
  now(): number;
  /** Is the directory's file system in memory? @throws the system's error */
  isMemory(directory: string): boolean;

  // On the thread pool. All reject with the system's error.

  read(fd: number, bytes: Uint8Array, start: number, count: number, offset: number, done: Transferred): void;
  write(fd: number, bytes: Uint8Array, start: number, count: number, offset: number, done: Transferred): void;
  /** @param flags of fs.constants */
  open(file: string, flags: number, mode: number): Promise<number>;
  close(fd: number): Promise<void>;
  fstat(fd: number): Promise<FileStatus>;
  stat(file: string): Promise<FileStatus>;
  ftruncate(fd: number, length: number): Promise<void>;
  /** @param mode of fallocate(2) */
  fallocate(fd: number, mode: number, offset: number, length: number): Promise<void>;
  /** Writes out what the cache has changed of a range, without making it durable: what changes it next has no disk to wait for. */
  writeOut?(fd: number, offset: number, length: number): Promise<void>;
  /** Content and length. */
  fdatasync(fd: number): Promise<void>;
  /** Of a directory: its entries. */
  fsync(fd: number): Promise<void>;
  /** Everything of the file system that the descriptor's file is on. */
  syncfs(fd: number): Promise<void>;
  fchmod(fd: number, mode: number): Promise<void>;
  chmod(file: string, mode: number): Promise<void>;
  mkdir(directory: string, mode: number): Promise<void>;
  readdir(directory: string): Promise<string[]>;
  /** @param mode of access(2) */
  access(file: string, mode: number): Promise<void>;
  link(file: string, name: string): Promise<void>;
  rename(file: string, name: string): Promise<void>;
  unlink(file: string): Promise<void>;
  /** lseek with SEEK_DATA or SEEK_HOLE; the descriptor's position is nobody's business. */
  seek(fd: number, offset: number, whence: number): Promise<number>;
  /** FICLONE: the empty file `to` shares everything of `from`. */
  clone(from: number, to: number): Promise<void>;
  /** copy_file_range between the same positions of both, nobody else using either; how many bytes, 0 at the source's end. */
  copyRange(from: number, to: number, offset: number, count: number): Promise<number>;
}
