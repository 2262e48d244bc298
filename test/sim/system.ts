/**
 * The file driver's system calls on a modelled disk. Each call that may wait is put on a list; the simulator picks one of them, in an
 * order that its seed decides, and only then it happens. A sync covers what was there when it was called, not more. On a local disk there are
 * also the calls that the driver makes on its own thread. A disk that fails loses what it was to write, and tells that once: whoever asks.
 */
import fs from 'node:fs';
import type {
  FileMarks,
  FileStatus,
  FileSystem,
  ImmediateChanges,
  Transferred,
} from '../../src/blockers/file/system.js';
import { errnoOf, errnos } from '../../src/sys/errno.js';
import * as libc from '../../src/sys/libc.js';
import { type Disk, fail, type Inode } from './disk.js';
import { FileInode, PAGE } from './inode.js';
import type { Random } from './random.js';
import type { VirtualTime } from './time.js';

const { O_CREAT, O_EXCL } = fs.constants;
/** The longest of the hot calls; blocks are small here. */
const BOUNCE = 1 << 20;

/** Room that native addresses reach: bytes of the disk go through it. */
const bounce = libc.allocateMemory(BOUNCE);

let nextDevice = 1;

export type CallName =
  // What of an fsync is not of an fdatasync.
  | 'attributes'
  // What tells that the kernel's memory is another.
  | 'stamp'
  | Exclude<
      keyof FileSystem,
      | 'errno'
      | 'pread'
      | 'preadCached'
      | 'links'
      | 'now'
      | 'isMemory'
      | 'isLocal'
      | 'changesNow'
      | 'readdirNow'
      | 'peek'
      | 'peekSize'
    >;

/** Calls that change what a cut leaves though they change nothing that can be read. */
const SYNCS = new Set<CallName>(['fdatasync', 'fdatasyncNow', 'fsync', 'syncfs']);

/** Of the calls by which a failing disk is asked to write, how many tell of a failure: syncs are far more. */
const FAILED_SYNCS = 0.01;
const FAILED_WRITE_OUTS = 0.6;

/** What a disk is like. */
export interface DiskKind {
  /** It is this machine's: the driver makes many calls on its own thread. */
  readonly local: boolean;
  /** It does not take all that is written to the objects of this directory; null: it does. */
  readonly fails: string | null;
}

/** How the failure of a write-out is told: for those who let it pass on purpose. */
export const WRITE_OUT = 'sync_file_range';

const SOUND: DiskKind = { local: false, fails: null };

interface Pending {
  readonly name: CallName;
  readonly detail: string;
  /** Does it, and tells the caller. */
  readonly run: () => () => void;
}

/** Leaves out a call on purpose: true = it is answered as done, and is not. `file` is the path, or that of the descriptor. */
export type Fault = (call: CallName, file: string) => boolean;

export interface SystemHooks {
  /** Called right after a change of the disk, before its caller knows. */
  changed(call: CallName | 'apart'): void;
  /** Everything that happens, for comparing two runs. */
  trace(line: string): void;
  fault?: Fault;
}

export class SimulatedSystem implements FileSystem {
  readonly disk: Disk;
  readonly #random: Random;
  readonly #time: VirtualTime;
  readonly #hooks: SystemHooks;
  readonly #kind: DiskKind;
  /** Files that are locked, each by a descriptor. */
  readonly #locks = new Map<Inode, number>();
  readonly #boot: string;
  readonly #descriptors = new Map<number, { inode: Inode; file: string }>();
  /** What the driver finds out about a device it keeps: no two lives may share that. */
  readonly #device = nextDevice++;
  #nextDescriptor = 3;
  #pending: Pending[] = [];
  #errno = 0;
  /** The last change that a syncfs has given to the disk, which may have it in its cache. */
  #writtenBySyncfs = 0;
  /** The disk has lost something. */
  failed = false;

  /** @param boot which start of the machine this is */
  constructor(disk: Disk, random: Random, time: VirtualTime, hooks: SystemHooks, kind = SOUND, boot = '') {
    this.#boot = boot;
    this.disk = disk;
    this.#kind = kind;
    this.#random = random;
    this.#time = time;
    this.#hooks = hooks;
  }

  get waiting(): number {
    return this.#pending.length;
  }

  /** Picks one of the waiting calls and does it. */
  step(): void {
    const at = this.#random.below(this.#pending.length);
    const call = this.#pending[at];
    this.#pending[at] = this.#pending[this.#pending.length - 1];
    this.#pending.pop();
    this.#hooks.trace(call.detail);
    const { seq } = this.disk;
    const answer = call.run();
    if (this.disk.seq !== seq || SYNCS.has(call.name)) this.#hooks.changed(call.name);
    answer();
  }

  /** Something beside the disk was changed that outlives the processes. */
  changedApart(what: string): void {
    this.#hooks.trace(what);
    this.#hooks.changed('apart');
  }

  #later<T>(name: CallName, file: string, work: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#pending.push({
        name,
        detail: `${name} ${plain(file)}`,
        run: () => {
          try {
            const result = work();
            return () => resolve(result);
          } catch (error) {
            return () => reject(error);
          }
        },
      });
    });
  }

  /** A call with nothing to return that a fault may leave out. */
  #change(name: CallName, file: string, work: () => void): Promise<void> {
    if (this.#hooks.fault?.(name, file)) return this.#later(name, file, () => {});
    return this.#later(name, file, work);
  }

  #of(fd: number): { inode: Inode; file: string } {
    const open = this.#descriptors.get(fd);
    if (!open) throw fail(errnos.EBADF, `descriptor ${fd}`);
    return open;
  }

  #file(fd: number): FileInode {
    const { inode } = this.#of(fd);
    if (!(inode instanceof FileInode)) throw fail(errnos.EISDIR, `descriptor ${fd}`);
    return inode;
  }

  errno(): number {
    return this.#errno;
  }

  pread(fd: number, address: number, count: number, offset: number): number {
    const n = this.#file(fd).read(bounce.bytes.subarray(0, Math.min(count, BOUNCE)), offset);
    if (n > 0) libc.memcpy(address, bounce.address, n);
    return n;
  }

  preadCached(fd: number, address: number, count: number, offset: number): number {
    if (this.#random.chance(0.25)) {
      this.#errno = errnos.EAGAIN;
      return -1;
    }
    return this.pread(fd, address, count, offset);
  }

  pwrite(fd: number, address: number, count: number, offset: number): number {
    const { file } = this.#of(fd);
    if (count > 0) libc.memcpy(bounce.address, address, count);
    this.disk.write(this.#file(fd), bounce.bytes.subarray(0, count), offset);
    this.#hooks.trace(`pwrite ${plain(file)} ${offset} ${count}`);
    this.#hooks.changed('pwrite');
    return count;
  }

  /** A call that changes the disk at once. @throws the system's error */
  #now(name: CallName, file: string, work: () => void): void {
    this.#hooks.trace(`${name} ${plain(file)} now`);
    const { seq } = this.disk;
    if (!this.#hooks.fault?.(name, file)) work();
    if (this.disk.seq !== seq || SYNCS.has(name)) this.#hooks.changed(name);
  }

  /** As #now, for calls that answer as the C functions do. */
  #native(name: CallName, file: string, work: () => void): number {
    try {
      this.#now(name, file, work);
      return 0;
    } catch (error) {
      this.#errno = errnoOf(error);
      return -1;
    }
  }

  isLocal(): boolean {
    return this.#kind.local;
  }

  readonly changesNow: ImmediateChanges = {
    open: (file, flags) => {
      let fd = -1;
      this.#now('open', file, () => {
        fd = this.#open(file, flags);
      });
      return fd;
    },
    tryOpen: (file, flags) => {
      let fd = -1;
      const answer = this.#native('open', file, () => {
        fd = this.#open(file, flags);
      });
      return answer < 0 ? answer : fd;
    },
    tryMkdir: (directory) => this.#native('mkdir', directory, () => this.disk.mkdir(directory)),
    close: (fd) => void this.#descriptors.delete(fd),
    stat: (file) => {
      const inode = this.#lookUp(file);
      return inode && status(inode, this.#device);
    },
    fstat: (fd) => status(this.#of(fd).inode, this.#device),
    ftruncate: (fd, length) =>
      this.#now('ftruncate', this.#of(fd).file, () => this.disk.truncate(this.#file(fd), length)),
    link: (file, name) => this.#now('link', name, () => this.disk.link(file, name)),
    rename: (file, name) => this.#now('rename', name, () => this.disk.rename(file, name)),
    unlink: (file) => this.#now('unlink', file, () => this.disk.unlink(file)),
  };

  fallocateNow(fd: number, mode: number, offset: number, length: number): number {
    return this.#native('fallocateNow', this.#of(fd).file, () => this.#allocate(fd, mode, offset, length));
  }

  fdatasyncNow(fd: number): number {
    return this.#native('fdatasyncNow', this.#of(fd).file, () => this.#sync(fd, this.disk.seq));
  }

  readdirNow(directory: string): string[] {
    return this.#names(directory);
  }

  peekSize(file: string): number | null {
    const inode = this.#lookUp(file);
    return inode instanceof FileInode ? inode.size : null;
  }

  peek(file: string, most: number): Buffer | null {
    const inode = this.#lookUp(file);
    if (!(inode instanceof FileInode)) return null;
    const bytes = Buffer.alloc(most);
    return bytes.subarray(0, inode.read(bytes, 0));
  }

  #lookUp(file: string): Inode | null {
    try {
      return this.disk.find(file);
    } catch (error) {
      if (errnoOf(error) === errnos.ENOENT) return null;
      throw error;
    }
  }

  /**
   * A failing disk may have lost what the kernel has given it of a file, in whatever range: the next call on the descriptor that asks for writing hears
   * of it, and none after that. @throws SystemError EIO
   */
  #mayFail(fd: number, what: string, chance: number): void {
    const { fails } = this.#kind;
    const { file } = this.#of(fd);
    if (fails === null || !file.startsWith(fails) || !this.#random.chance(chance)) return;
    this.#file(fd).lose(this.disk.seq);
    this.failed = true;
    throw fail(errnos.EIO, what);
  }

  #sync(fd: number, seq: number, attributes = false): void {
    this.#mayFail(fd, 'fdatasync', FAILED_SYNCS);
    this.#file(fd).sync(seq, attributes);
  }

  links(fd: number): number {
    return this.#file(fd).nlink;
  }

  now(): number {
    return this.#time.now;
  }

  isMemory(): boolean {
    return false;
  }

  read(fd: number, bytes: Uint8Array, start: number, count: number, offset: number, done: Transferred): void {
    const { file } = this.#of(fd);
    this.#later('read', file, () => this.#file(fd).read(bytes.subarray(start, start + count), offset)).then(
      (n) => done(null, n),
      (error: Error) => done(error, 0),
    );
  }

  write(fd: number, bytes: Uint8Array, start: number, count: number, offset: number, done: Transferred): void {
    const { file } = this.#of(fd);
    this.#later('write', file, () => {
      const n = this.#part(count);
      this.disk.write(this.#file(fd), bytes.subarray(start, start + n), offset);
      return n;
    }).then(
      (n) => done(null, n),
      (error: Error) => done(error, 0),
    );
  }

  /** What is longer than a page may be done in two parts. */
  #part(count: number): number {
    return count > PAGE && this.#random.chance(0.2) ? PAGE * Math.ceil(count / PAGE / 2) : count;
  }

  open(file: string, flags: number): Promise<number> {
    return this.#later('open', file, () => this.#open(file, flags));
  }

  #open(file: string, flags: number): number {
    const inode =
      flags & O_CREAT && (flags & O_EXCL || !this.disk.exists(file)) ? this.disk.create(file) : this.disk.find(file);
    const fd = this.#nextDescriptor++;
    this.#descriptors.set(fd, { inode, file });
    return fd;
  }

  close(fd: number): Promise<void> {
    return this.#later('close', this.#of(fd).file, () => {
      const { inode } = this.#of(fd);
      if (this.#locks.get(inode) === fd) this.#locks.delete(inode);
      this.#descriptors.delete(fd);
    });
  }

  fstat(fd: number): Promise<FileStatus> {
    return this.#later('fstat', this.#of(fd).file, () => status(this.#of(fd).inode, this.#device));
  }

  stat(file: string): Promise<FileStatus> {
    return this.#later('stat', file, () => status(this.disk.find(file), this.#device));
  }

  ftruncate(fd: number, length: number): Promise<void> {
    return this.#change('ftruncate', this.#of(fd).file, () => this.disk.truncate(this.#file(fd), length));
  }

  fallocate(fd: number, mode: number, offset: number, length: number): Promise<void> {
    return this.#change('fallocate', this.#of(fd).file, () => this.#allocate(fd, mode, offset, length));
  }

  #allocate(fd: number, mode: number, offset: number, length: number): void {
    const file = this.#file(fd);
    // Space alone changes nothing.
    if (mode === libc.FALLOC_FL_KEEP_SIZE) return;
    if ((mode & libc.FALLOC_FL_KEEP_SIZE) === 0 && offset + length > file.size)
      this.disk.truncate(file, offset + length);
    this.disk.zero(file, offset, length);
  }

  writeOut(fd: number): Promise<void> {
    return this.#change('writeOut', this.#of(fd).file, () => this.#mayFail(fd, WRITE_OUT, FAILED_WRITE_OUTS));
  }

  fdatasync(fd: number): Promise<void> {
    const { seq } = this.disk;
    return this.#change('fdatasync', this.#of(fd).file, () => this.#sync(fd, seq));
  }

  fsync(fd: number): Promise<void> {
    const { seq } = this.disk;
    const { file } = this.#of(fd);
    const attributes = !this.#hooks.fault?.('attributes', file);
    return this.#change('fsync', file, () => {
      const { inode } = this.#of(fd);
      if (inode instanceof FileInode) this.#sync(fd, seq, attributes);
      else this.disk.syncDirectory(inode, seq);
    });
  }

  /**
   * As on ext4 without a journal: it empties the disk's cache, and then writes what leads to the data into it. So what is on the disk for sure
   * afterwards is what one before it had written.
   */
  syncfs(fd: number): Promise<void> {
    const { seq } = this.disk;
    const written = this.#writtenBySyncfs;
    return this.#change('syncfs', this.#of(fd).file, () => {
      const { inode } = this.#of(fd);
      if (inode.directory) this.disk.syncAll(inode, written);
      this.#writtenBySyncfs = Math.max(this.#writtenBySyncfs, seq);
    });
  }

  readonly marks: FileMarks = {
    suits: () => true,
    stamp: () => (this.#hooks.fault?.('stamp', '') ? 'always' : this.#boot),
    get: (fd) => this.#file(fd).mark,
    set: (fd, mark) => this.#mark(fd, Buffer.from(mark)),
    lock: (fd) => {
      const { inode } = this.#of(fd);
      const holder = this.#locks.get(inode) ?? fd;
      if (holder === fd) this.#locks.set(inode, fd);
      return holder === fd;
    },
    at: (file) => {
      const inode = this.#lookUp(file);
      return inode instanceof FileInode ? inode.mark : null;
    },
    status: (fd) => ({ size: this.#file(fd).size }),
    of: (file) =>
      this.#later('marks', file, () => {
        const inode = this.disk.exists(file) ? this.disk.find(file) : null;
        return inode instanceof FileInode ? inode.mark : null;
      }).catch(() => null),
  };

  #mark(fd: number, mark: Buffer | null): void {
    this.disk.mark(this.#file(fd), mark);
    this.#hooks.trace(`mark ${plain(this.#of(fd).file)} ${mark !== null}`);
    this.#hooks.changed('marks');
  }

  fchmod(fd: number): Promise<void> {
    return this.#later('fchmod', this.#of(fd).file, () => {});
  }

  chmod(file: string): Promise<void> {
    return this.#later('chmod', file, () => {});
  }

  mkdir(directory: string): Promise<void> {
    return this.#change('mkdir', directory, () => this.disk.mkdir(directory));
  }

  readdir(directory: string): Promise<string[]> {
    return this.#later('readdir', directory, () => this.#names(directory));
  }

  #names(directory: string): string[] {
    const inode = this.disk.find(directory);
    if (!inode.directory) throw fail(errnos.ENOTDIR, directory);
    return [...inode.entries.keys()];
  }

  access(file: string): Promise<void> {
    return this.#later('access', file, () => void this.disk.find(file));
  }

  link(file: string, name: string): Promise<void> {
    return this.#change('link', name, () => this.disk.link(file, name));
  }

  rename(file: string, name: string): Promise<void> {
    return this.#change('rename', name, () => this.disk.rename(file, name));
  }

  unlink(file: string): Promise<void> {
    return this.#change('unlink', file, () => this.disk.unlink(file));
  }

  seek(fd: number, offset: number, whence: number): Promise<number> {
    return this.#later('seek', this.#of(fd).file, () => {
      const { size } = this.#file(fd);
      if (offset >= size) throw fail(errnos.ENXIO, 'seek');
      return whence === libc.SEEK_DATA ? offset : size;
    });
  }

  clone(_from: number, to: number): Promise<void> {
    return this.#later('clone', this.#of(to).file, () => {
      throw fail(errnos.EOPNOTSUPP, 'clone');
    });
  }

  copyRange(from: number, to: number, offset: number, count: number): Promise<number> {
    const { file } = this.#of(to);
    if (this.#hooks.fault?.('copyRange', file)) return this.#later('copyRange', file, () => count);
    return this.#later('copyRange', file, () => {
      const bytes = Buffer.alloc(this.#part(count));
      const n = this.#file(from).read(bytes, offset);
      if (n > 0) this.disk.write(this.#file(to), bytes.subarray(0, n), offset);
      return n;
    });
  }
}

/** A path without what differs from run to run. */
const plain = (file: string): string =>
  file.replace(/(\.archipelago-(tmp|bases|ledgers))\/.*/, '$1').replace(/^.*\//, '');

function status(inode: Inode, dev: number): FileStatus {
  const { nlink, id } = inode;
  const [size, blocks] = inode.directory ? [0, 0] : [inode.size, inode.allocated / 512];
  return { size, blocks, mtimeMs: 0, birthtimeMs: 0, dev, ino: id, nlink, isDirectory: () => inode.directory };
}
