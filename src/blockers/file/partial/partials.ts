/**
 * The partial objects of a store: which copies become one, and what is found partial on the disk. The file of a partial object is marked by
 * an attribute and has a tail (tail.ts); the store has a directory for what they are copies of (bases.ts), which also says that it may have any.
 */
import fs from 'node:fs';
import { errnos, messageOf, SystemError } from '../../../sys/errno.js';
import * as libc from '../../../sys/libc.js';
import { isErrno } from '../../errors.js';
import { copyByHand, copyContent, sharesNothing } from '../copy.js';
import type { DirtyDirectories, FailedObjects } from '../durability.js';
import type { OpenedFile, Opener } from '../opener.js';
import type { FileMarks, FileStatus, FileSystem } from '../system.js';
import type { TempFiles } from '../temp.js';
import type { Base } from './base-file.js';
import { Bases } from './bases.js';
import { Ledger } from './ledger.js';
import { Left } from './left.js';
import { Partial, type PartialContext } from './partial.js';
import { type Release, shareStore } from './store-lock.js';
import { endsWithTail, storedOf } from './stored.js';
import {
  canBePartial,
  decodeMark,
  decodeTail,
  encodeMark,
  encodeTail,
  fileLength,
  LONGEST,
  tailLength,
  tailOffset,
  UNIT,
  unitsOf,
  WRITTEN,
} from './tail.js';
import { Units } from './units.js';

/** A source with less data is copied at once: bytes. */
const LEAST_DATA = 128 * 1024;
/** Of a source that is partial itself so much is copied at once, as a part of the content; the whole of it where there is more. */
const MOST_COPIED = 1 / 4;
const DIGITS = /^[0-9a-f]{2}$/;

/** Whether copies may be partial: `auto` in a store that was new to this version, or had any before. */
export type MakesPartials = boolean | 'auto';

export interface PartialsSettings {
  /** The store's directory. */
  readonly root: string;
  readonly makes: MakesPartials;
  /** Bytes of data below which a source is copied at once. */
  readonly leastData?: number;
  /** Who opens it has the store for himself (store-lock.ts). Default: others may have it open, too. */
  readonly isAlone?: boolean;
}

/** What the open files of the store share with them. */
export interface PartialsOf {
  readonly opener: Opener;
  readonly directories: DirtyDirectories;
  readonly failed: FailedObjects;
  /** Runs work that opens a file, and again when descriptors have run out and some could be closed. */
  retrying<T>(work: () => Promise<T>): Promise<T>;
}

/** An open source of a copy, and where it is. */
export interface CopySource {
  readonly fd: number;
  readonly path: string;
}

export class Partials {
  readonly #system: FileSystem;
  readonly #root: string;
  readonly #opener: Opener;
  readonly #bases: Bases;
  readonly #of: PartialsOf;
  #left: Left | null = null;
  readonly #leastData: number;
  readonly #retrying: <T>(work: () => Promise<T>) => Promise<T>;
  readonly #asked: MakesPartials;
  /** New copies may be partial. */
  #makes = false;
  /** null: the store has no partial objects. */
  #context: PartialContext | null = null;
  /** Why it can have none. */
  #whyNot = '';
  #made = 0;
  #completed = 0;
  #sweeping: Promise<void> | null = null;
  readonly #isAlone: boolean;
  #release: Release | null = null;

  constructor(settings: PartialsSettings, of: PartialsOf) {
    const { opener, directories, retrying } = of;
    this.#of = of;
    this.#system = opener.system;
    this.#root = settings.root;
    this.#opener = opener;
    this.#asked = settings.makes;
    this.#isAlone = settings.isAlone ?? false;
    this.#leastData = settings.leastData ?? LEAST_DATA;
    this.#retrying = retrying;
    this.#bases = new Bases(settings.root, opener, directories);
  }

  /**
   * Looks at what the store has and its file system can do.
   * @throws SystemError EOPNOTSUPP for a store that has partial objects where they cannot be read, EBUSY for one that a process has for itself; the system's error
   */
  async open(temp: TempFiles): Promise<void> {
    try {
      await this.#openStore(temp);
    } catch (error) {
      await this.#letGo();
      throw error;
    }
  }

  /** @param isNeeded else a file system may have no such locks */
  async #share(isNeeded: boolean): Promise<void> {
    try {
      this.#release = await shareStore(this.#system, this.#root);
    } catch (error) {
      if (isNeeded || !isErrno(error, errnos.EBADF, errnos.EINVAL, errnos.ENOLCK, errnos.EOPNOTSUPP, errnos.ENOSYS))
        throw error;
    }
  }

  async #letGo(): Promise<void> {
    const release = this.#release;
    this.#release = null;
    await release?.().catch(() => {});
  }

  async #openStore(temp: TempFiles): Promise<void> {
    const { marks } = this.#system;
    const why = this.#unsuitable();
    // Before anything is looked at that goes when the store is made whole.
    if (!this.#isAlone) await this.#share(why === null);
    const isPrepared = await this.#bases.exist();
    if (marks === undefined || why !== null) {
      this.#whyNot = why ?? 'this system cannot tell them';
      if (!isPrepared) return;
      throw new SystemError(
        errnos.EOPNOTSUPP,
        `the store ${this.#root} has copies that are not complete, or may get some (${this.#bases.path('')}), and ${this.#whyNot}: use it where it was made, or have all made whole there (archipelago complete)`,
      );
    }
    const isWanted = this.#asked === 'auto' ? isPrepared || (await this.#isNew()) : this.#asked;
    const canUse = isPrepared || (isWanted && (await this.#prepare()));
    // In any case: another process may make the first of them.
    const ledger = new Ledger(this.#root, marks.stamp(this.#root), this.#opener, marks, temp);
    const context = this.#contextOf(marks, ledger);
    this.#context = context;
    this.#left = new Left(this.#root, context, this.#of);
    if (!canUse) return;
    await this.#bases.start();
    await ledger.open();
    this.#makes = isWanted;
    this.#sweeping = this.#left.sweep().catch(() => {});
  }

  /** False: a store that cannot be written, or a file system that has no room. */
  async #prepare(): Promise<boolean> {
    try {
      await this.#bases.make();
      return true;
    } catch (error) {
      if (isErrno(error, errnos.EROFS, errnos.EACCES, errnos.EPERM, errnos.ENOSPC, errnos.EDQUOT)) return false;
      throw error;
    }
  }

  #contextOf(marks: FileMarks, ledger: Ledger): PartialContext {
    return {
      system: this.#system,
      marks,
      memory: this.#system.isMemory(this.#root),
      scratch: libc.allocateMemory(Math.max(UNIT, tailLength(LONGEST))),
      bases: this.#bases,
      ledger,
      stamp: marks.stamp(this.#root),
      openBase: (base, isPatient) => this.#openBase(base, isPatient),
      completed: () => void this.#completed++,
    };
  }

  /** What keeps objects of this store from being partial; null: nothing. */
  #unsuitable(): string | null {
    const { marks } = this.#system;
    try {
      if (!marks?.suits(this.#root)) return 'this file system cannot hold them';
      marks.stamp(this.#root);
      return null;
    } catch (error) {
      return `it cannot be told which start of the machine this is (${messageOf(error)})`;
    }
  }

  /** Has nobody put an object here? */
  async #isNew(): Promise<boolean> {
    return !(await this.#system.readdir(this.#root)).some((entry) => DIGITS.test(entry));
  }

  async close(): Promise<void> {
    const context = this.#context;
    this.#context = null;
    this.#makes = false;
    this.#left?.close();
    await this.#sweeping;
    await this.#bases.close();
    if (context !== null) {
      await context.ledger.close();
      libc.freeMemory(context.scratch);
    }
    await this.#letGo();
  }

  status(): object {
    return { made: this.#made, completed: this.#completed };
  }

  /** Has the store partial objects, or may it have any? */
  get exist(): boolean {
    return this.#context !== null;
  }

  /** Bytes of the content of the file at a path with this status. */
  async lengthOf(file: string, { size }: FileStatus): Promise<number> {
    if (!this.#context || size % UNIT === 0) return size;
    const mark = await this.#context.marks.of(file);
    // Completed meanwhile, or just a length.
    if (mark === null) return (await this.#system.stat(file)).size;
    const length = decodeMark(mark);
    return length !== null && size === fileLength(length) ? length : size;
  }

  /** Is the object at this path one of which a part may have to be read elsewhere? At once. */
  isMarkedAt(file: string): boolean {
    return this.#context !== null && this.#context.marks.at(file) !== null;
  }

  /** The name of the base of an open file's object; null: it is not partial, or nobody can tell. At once, as far as what it reads is in memory. */
  baseOf(fd: number): string | null {
    const { marks, scratch } = this.#context ?? {};
    const mark = marks?.get(fd) ?? null;
    const length = mark === null ? null : decodeMark(mark);
    if (length === null || scratch === undefined) return null;
    const n = this.#system.pread(fd, scratch.address, tailLength(length), tailOffset(length));
    return decodeTail(Buffer.from(scratch.bytes.subarray(0, Math.max(0, n))), length)?.base ?? null;
  }

  /** Is the open file marked as a partial object's? */
  isMarked(fd: number): boolean {
    return this.#context?.marks.get(fd) != null;
  }

  /** Is the open file a partial object's, also where that cannot be told but by its tail? @throws the system's error */
  async isPartial(fd: number): Promise<boolean> {
    return this.#context ? this.isMarked(fd) : await this.#endsWithTail(fd);
  }

  /** The name of the base of the object at a path; null: it is not partial, or not there. @throws the system's error */
  async baseAt(file: string): Promise<string | null> {
    try {
      if (!this.isMarkedAt(file)) return null;
    } catch (error) {
      // Whoever may not read it may delete it all the same.
      if (isErrno(error, errnos.EACCES, errnos.EPERM)) return null;
      throw error;
    }
    const fd = await this.#retrying(() => this.#system.open(file, fs.constants.O_RDONLY, 0));
    try {
      return this.baseOf(fd);
    } finally {
      await this.#system.close(fd);
    }
  }

  /** What a partial object was has ended for good: it was deleted, replaced or completed. @param base its base's name, if it had one */
  async gone(name: string, base: string | null): Promise<void> {
    this.#context?.ledger.remove(name);
    if (base !== null) await this.#bases.remove(base);
  }

  /**
   * Makes a new, empty file the partial copy of an open source, if that is worth it and possible.
   * @param to nobody else's
   * @param source its descriptor is the partial object's own when it becomes the base's
   * @param target the object that the file is going to be
   * @param size most bytes to copy
   * @param deadline of the copy: see ObjectIo.deadline; without one it is whole
   * @returns null: the file is empty as before
   * @throws the system's error
   */
  async begin(to: number, source: CopySource, target: string, size: number, deadline: number): Promise<Partial | null> {
    const context = this.#context;
    if (!context || !this.#makes || deadline === 0 || !canBePartial(size)) return null;
    const stored = await storedOf(context, source.fd);
    const units = stored && new Units(stored.tail.length, stored.tail.states);
    // One that needs no base itself can be one.
    if (stored === null || units === null || units.absent === 0) {
      const calls = this.#opener.changes.immediate(deadline);
      const stats = calls?.fstat(source.fd) ?? (await this.#system.fstat(source.fd));
      // Where extents can be shared a copy costs next to nothing.
      if (stats.blocks * 512 < this.#leastData || !sharesNothing(stats.dev)) return null;
      const open = { fd: source.fd, size: stored?.tail.length ?? stats.size };
      return await this.#start(to, source.path, target, new Units(size, new Uint8Array(unitsOf(size))), open, deadline);
    }
    const { tail } = stored;
    if (size !== tail.length || (units.count - units.absent) / units.count > MOST_COPIED) return null;
    const copied = units.states.map((state) => (state === 0 ? 0 : WRITTEN));
    // What is copied is there at once, and not for good.
    if (units.absent < units.count && context.ledger.add(target) !== 0) return null;
    let partial: Partial | null = null;
    try {
      await this.#copyThere(source.fd, to, units);
      partial = await this.#start(to, this.#bases.path(tail.base), target, new Units(size, copied), null, deadline);
      return partial;
    } finally {
      if (partial === null) context.ledger.remove(target);
    }
  }

  /** Makes a file, in which the units are that are there, partial. */
  async #start(
    to: number,
    file: string,
    target: string,
    units: Units,
    open: Base | null,
    deadline: number,
  ): Promise<Partial | null> {
    const context = this.#context;
    const base = this.#bases.newName(target);
    if (!context || base === null) return null;
    try {
      await this.#bases.link(file, base, deadline);
      // The name may have become another file's since the source was opened.
      if (open !== null && !(await this.#isSame(open.fd, this.#bases.path(base), deadline)))
        throw new SystemError(errnos.EAGAIN, `object ${target}: what it is a copy of was replaced meanwhile`);
      const { length, states } = units;
      await this.#opener.changes.ftruncate(to, fileLength(length), deadline);
      this.#put(context, to, encodeTail({ base, length, stamp: context.stamp, states }), length);
    } catch (error) {
      // Too late: what is left of it a later process removes.
      if (!isErrno(error, errnos.ETIME)) await this.#bases.remove(base);
      // tmpfs has attributes of users since Linux 6.6 only.
      if (isErrno(error, errnos.EOPNOTSUPP)) this.#makes = false;
      const isPossible = isErrno(error, errnos.EOPNOTSUPP, errnos.EPERM, errnos.EACCES, errnos.EMLINK, errnos.ENOENT);
      if (!isPossible) throw error;
      await this.#system.ftruncate(to, 0);
      return null;
    }
    this.#made++;
    return new Partial(context, { units, base, open, isCurrent: true, isNew: true });
  }

  #put({ marks, scratch }: PartialContext, to: number, tail: Buffer, length: number): void {
    scratch.bytes.set(tail);
    const n = this.#system.pwrite(to, scratch.address, tail.length, tailOffset(length));
    if (n !== tail.length) throw new SystemError(n < 0 ? this.#system.errno() : errnos.ENOSPC, 'cannot write its tail');
    marks.set(to, encodeMark(length));
  }

  async #isSame(fd: number, file: string, deadline: number): Promise<boolean> {
    const calls = this.#opener.changes.immediate(deadline);
    const [a, b] = calls
      ? [calls.fstat(fd), calls.stat(file)]
      : [await this.#system.fstat(fd), await this.#system.stat(file)];
    return b !== null && a.ino === b.ino && a.dev === b.dev;
  }

  /**
   * Copies the content of an open partial object to an empty file, if it is one.
   * @param most bytes
   * @returns false: it is an object like any other
   */
  async copyWhole(from: number, to: number, most: number): Promise<boolean> {
    const stored = this.#context ? await storedOf(this.#context, from) : await this.#checkWhole('', from);
    if (stored === null) return false;
    const { base, length: whole, states } = stored.tail;
    const units = new Units(whole, states);
    const length = Math.min(most, whole);
    if (units.absent > 0) {
      const { fd, size } = await this.#openBase(base);
      try {
        // Behind that may be a tail.
        await copyContent(this.#system, fd, to, Math.min(length, size));
      } finally {
        await this.#system.close(fd);
      }
    }
    await this.#system.ftruncate(to, length);
    await this.#copyThere(from, to, units, length);
    return true;
  }

  /** Copies the units that are there. @param length of the copy, bytes */
  async #copyThere(from: number, to: number, units: Units, length = units.length): Promise<void> {
    for (let at = 0; at < length; ) {
      const end = Math.min(units.runEnd(at), length);
      if (units.has(at / UNIT)) await copyByHand(this.#system, from, to, at, end);
      at = end;
    }
  }

  /**
   * Looks whether a file that was opened is one of a partial object.
   * @returns the file, with what there is to know of it; @throws after closing it: EIO when it cannot be understood; the system's error
   */
  async inspect(name: string, file: OpenedFile): Promise<OpenedFile> {
    const context = this.#context;
    try {
      if (!context) {
        await this.#checkWhole(name, file.fd);
        return file;
      }
      const stored = await storedOf(context, file.fd, name);
      if (stored === null) return file;
      const { tail, isCurrent } = stored;
      // Another process may have made the first one of the store since it was opened here.
      if (!context.ledger.isOpen) await context.ledger.open();
      const units = new Units(tail.length, tail.states);
      const partial = new Partial(context, { units, base: tail.base, open: null, isCurrent, isNew: false });
      return { ...file, partial };
    } catch (error) {
      await this.#system.close(file.fd).catch(() => {});
      throw error;
    }
  }

  /** Another machine may have made one that is partial where this one cannot tell. @throws SystemError EIO; the system's error */
  async #checkWhole(name: string, fd: number): Promise<null> {
    if (!(await this.#endsWithTail(fd))) return null;
    throw new SystemError(
      errnos.EIO,
      `object ${name}: it is a copy that is not complete, and ${this.#whyNot}: use the store where it was made`,
    );
  }

  async #endsWithTail(fd: number): Promise<boolean> {
    const { size } = this.#opener.changes.local?.fstat(fd) ?? (await this.#system.fstat(fd));
    return await endsWithTail({ system: this.#system }, fd, size);
  }

  /** Makes durable what others acknowledged. @throws the system's error: it can be tried again */
  async settleLeft(): Promise<void> {
    await this.#left?.settle();
  }

  async #openBase(base: string, isPatient = true): Promise<Base> {
    const open = (): Promise<number> => this.#bases.open(base);
    const fd = await (isPatient ? this.#retrying(open) : open()).catch((error: unknown) => {
      if (!isErrno(error, errnos.ENOENT)) throw error;
      const what = `${this.#bases.path(base)}, which an object of the store is a copy of, is missing`;
      throw new SystemError(errnos.EIO, what, { cause: error });
    });
    try {
      const { size } = await this.#system.fstat(fd);
      // One that was partial once has its tail still.
      const mark = this.#context?.marks.get(fd) ?? null;
      return { fd, size: Math.min(size, (mark && decodeMark(mark)) ?? size) };
    } catch (error) {
      await this.#system.close(fd).catch(() => {});
      throw error;
    }
  }
}
