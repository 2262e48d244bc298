/** Opens, finds and makes the files of objects: path rules, directories on demand, modes. */
import fs from 'node:fs';
import path from 'node:path';
import { errnos } from '../../sys/errno.js';
import { fileError, isErrno } from '../errors.js';
import { missing } from '../names.js';
import { TimedChanges } from './changes.js';
import type { DirtyDirectories } from './durability.js';
import type { Partial } from './partial/partial.js';
import { candidatePaths, directoriesOf, hashedPath, isPithosName } from './paths.js';
import { NativeError } from './pool.js';
import type { FileStatus, FileSystem, ImmediateChanges } from './system.js';

const { O_RDWR, O_RDONLY, O_CREAT, O_EXCL } = fs.constants;

export interface OpenedFile {
  readonly fd: number;
  readonly path: string;
  readonly writable: boolean;
  /** Made by this call: it has no content, and nobody knows it yet. */
  readonly isNew?: boolean;
  /** Not all of its content is there (partial/). */
  readonly partial?: Partial | null;
}

/** How a file is opened: `create` makes it when missing, `write` insists on being able to write. */
export type OpenMode = 'read' | 'write' | 'create';

export class Opener {
  readonly root: string;
  readonly system: FileSystem;
  readonly changes: TimedChanges;
  readonly #fileMode: number;
  readonly #directoryMode: number;
  /** The process's own umask takes bits away that the store's umask leaves: put them back after making something. */
  readonly #mustChmod: boolean;
  readonly #pithosMigrate: boolean;
  readonly #directories: DirtyDirectories;

  constructor(
    settings: { system: FileSystem; root: string; umask: number; pithosMigrate: boolean },
    directories: DirtyDirectories,
  ) {
    this.root = settings.root;
    this.system = settings.system;
    this.changes = new TimedChanges(settings.system, settings.root);
    this.#fileMode = 0o666 & ~settings.umask;
    this.#directoryMode = 0o777 & ~settings.umask;
    this.#mustChmod = (process.umask() & ~settings.umask & 0o777) !== 0;
    this.#pithosMigrate = settings.pithosMigrate;
    this.#directories = directories;
  }

  /** @throws SystemError ENOENT when the object is missing and mode is not `create`, ETIME when it is created after `deadline` */
  async open(name: string, mode: OpenMode, deadline = 0): Promise<OpenedFile> {
    const created = mode === 'create' ? this.createNow(name, deadline) : null;
    if (created) return created;
    for (const file of candidatePaths(this.root, name)) {
      const opened = await this.#openExisting(name, file, mode);
      if (opened) return this.#pithosMigrate ? await this.#migrate(name, opened) : opened;
    }
    if (mode !== 'create') throw missing(name);
    const file = hashedPath(this.root, name);
    try {
      const fd = await this.create(file, deadline);
      this.#directories.mark(path.dirname(file));
      return { fd, path: file, writable: true };
    } catch (error) {
      // Another node or process was faster: it is there now.
      if (isErrno(error, errnos.EEXIST)) {
        const opened = await this.#openExisting(name, file, mode);
        // Whether that one has made it durable is not known here.
        this.#directories.mark(path.dirname(file));
        if (opened) return opened;
      }
      throw fileError(`object ${name}: cannot create ${file}`, error);
    }
  }

  /**
   * Makes the file of a new object and the directories on its way in this turn, where this machine's own file system allows that: a thread
   * of the pool would take several times as long to come. Null when that is not so, and when the file exists.
   * @throws SystemError ETIME after the deadline
   */
  createNow(name: string, deadline: number): OpenedFile | null {
    if (this.#mustChmod || isPithosName(name)) return null;
    const calls = this.changes.immediate(deadline);
    if (calls === null) return null;
    const file = hashedPath(this.root, name);
    try {
      const fd = this.#createWith(calls, file);
      if (fd < 0) return null;
      this.#directories.mark(path.dirname(file));
      return { fd, path: file, writable: true, isNew: true };
    } catch (error) {
      throw fileError(`object ${name}: cannot create ${file}`, error);
    }
  }

  /** The descriptor, or -1 when the file exists. @throws the system's error */
  #createWith(calls: ImmediateChanges, file: string): number {
    for (let hasDirectories = false; ; ) {
      const fd = calls.tryOpen(file, O_RDWR | O_CREAT | O_EXCL, this.#fileMode);
      if (fd >= 0) return fd;
      const errno = this.system.errno();
      if (errno === errnos.EEXIST) return -1;
      if (errno === errnos.ENOENT && !hasDirectories) {
        this.#makeDirectoriesNow(calls, file);
        hasDirectories = true;
      } else if (errno !== errnos.EINTR) throw new NativeError('open', errno);
    }
  }

  #makeDirectoriesNow(calls: ImmediateChanges, file: string): void {
    const levels = levelsOf(file);
    // Marked also when another process made it just now: see makeDirectories.
    this.#directories.mark(levels[0][1]);
    // The outermost is nearly always there: it is made only when the next one cannot be made without.
    for (let at = 1; at < levels.length; at++) this.#makeDirectoryNow(calls, levels, at);
  }

  /** Makes a directory, and first those above it that turn out to be missing. @throws the system's error */
  #makeDirectoryNow(calls: ImmediateChanges, levels: readonly [directory: string, parent: string][], at: number): void {
    const [directory, parent] = levels[at];
    const make = (): number => (calls.tryMkdir(directory, this.#directoryMode) === 0 ? 0 : this.system.errno());
    let errno = make();
    if (errno === errnos.ENOENT && at > 0) {
      this.#makeDirectoryNow(calls, levels, at - 1);
      errno = make();
    }
    if (errno !== 0 && errno !== errnos.EEXIST) throw new NativeError('mkdir', errno);
    // Not earlier: a parent that is not there either could never be synced.
    this.#directories.mark(parent);
  }

  async #openExisting(name: string, file: string, mode: OpenMode): Promise<OpenedFile | null> {
    try {
      return { fd: await this.system.open(file, O_RDWR, 0), path: file, writable: true };
    } catch (error) {
      if (isErrno(error, errnos.ENOENT)) return null;
      if (mode !== 'read' || !isErrno(error, errnos.EROFS, errnos.EACCES, errnos.EPERM)) {
        throw fileError(`object ${name}: cannot open ${file}`, error);
      }
    }
    try {
      return { fd: await this.system.open(file, O_RDONLY, 0), path: file, writable: false };
    } catch (error) {
      if (isErrno(error, errnos.ENOENT)) return null;
      throw fileError(`object ${name}: cannot open ${file}`, error);
    }
  }

  /**
   * Makes a new object file and any directory on its way; the caller marks the file's own directory dirty.
   * @throws the system's error, EEXIST when it exists; ETIME after the deadline
   */
  async create(file: string, deadline = 0): Promise<number> {
    try {
      return await this.createFile(file, deadline);
    } catch (error) {
      if (!isErrno(error, errnos.ENOENT)) throw error;
      await this.makeDirectories(file);
      return await this.createFile(file, deadline);
    }
  }

  /** Makes a new file with the store's mode, open for reading and writing. @throws the system's error; ETIME after the deadline */
  async createFile(file: string, deadline = 0): Promise<number> {
    const fd = await this.changes.create(file, O_RDWR | O_CREAT | O_EXCL, this.#fileMode, deadline);
    if (this.#mustChmod) {
      try {
        await this.system.fchmod(fd, this.#fileMode);
      } catch (error) {
        await this.system.close(fd).catch(() => {});
        throw error;
      }
    }
    return fd;
  }

  /**
   * Makes the three directories above an object's file. The store's own directory must be there.
   * @param deadline of the change that follows: see TimedChanges
   * @throws the system's error; SystemError ETIME after the deadline
   */
  async makeDirectories(file: string, deadline = 0): Promise<void> {
    const calls = this.#mustChmod ? null : this.changes.immediate(deadline);
    if (calls !== null) {
      this.#makeDirectoriesNow(calls, file);
      return;
    }
    for (const [directory, parent] of levelsOf(file)) {
      // Marked also when another process made it just now, and before others can make files in it: what is acknowledged must not hang on
      // a sync that nobody owes.
      await this.makeDirectory(directory, () => this.#directories.mark(parent));
    }
  }

  /** Makes one directory with the store's mode, if it is not there. @param there called as soon as it is */
  async makeDirectory(directory: string, there: () => void = () => {}): Promise<void> {
    try {
      await this.system.mkdir(directory, this.#directoryMode).finally(there);
      if (this.#mustChmod) await this.system.chmod(directory, this.#directoryMode);
    } catch (error) {
      if (!isErrno(error, errnos.EEXIST)) throw error;
    }
  }

  /**
   * Where the object's file is, with its status; null when it is missing.
   * @param deadline of the change that follows: see TimedChanges
   * @throws SystemError ETIME after the deadline
   */
  async find(name: string, deadline = 0): Promise<{ path: string; stats: FileStatus } | null> {
    const calls = this.changes.immediate(deadline);
    for (const file of candidatePaths(this.root, name)) {
      try {
        const stats = calls === null ? await this.system.stat(file) : calls.stat(file);
        if (stats !== null) return { path: file, stats };
      } catch (error) {
        if (!isErrno(error, errnos.ENOENT)) throw fileError(`object ${name}: cannot stat ${file}`, error);
      }
    }
    return null;
  }

  /** Gives a file found at its old Pithos path its new one; a store that cannot be written is served where it is. */
  async #migrate(name: string, opened: OpenedFile): Promise<OpenedFile> {
    const file = hashedPath(this.root, name);
    if (!isPithosName(name) || opened.path === file || !opened.writable) return opened;
    try {
      await this.makeDirectories(file);
      await this.system.link(opened.path, file);
      // With the directories that were made for it: the old name must not go while the new one hangs on what a power cut takes.
      await this.#directories.syncTo(file);
      await this.system.unlink(opened.path);
    } catch (error) {
      // EEXIST: both paths hold the object; the old one goes on being the one that counts, as in the original.
      if (isErrno(error, errnos.EEXIST, errnos.EROFS, errnos.EACCES, errnos.EPERM)) return opened;
      await this.system.close(opened.fd).catch(() => {});
      throw fileError(`object ${name}: cannot move ${opened.path} to ${file}`, error);
    }
    this.#directories.mark(path.dirname(opened.path));
    return { ...opened, path: file };
  }
}

/** The three directories above an object's file, each with its parent, the outermost first. */
function levelsOf(file: string): [directory: string, parent: string][] {
  const [leaf, middle, top, root] = directoriesOf(file);
  return [
    [top, root],
    [middle, top],
    [leaf, middle],
  ];
}
