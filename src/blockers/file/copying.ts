/**
 * COPY: a new file gets the source's content and then takes the target's place, so that the target is always either what it was or
 * exactly the copy. The caller has the target to itself.
 */
import fs from 'node:fs';
import path from 'node:path';
import { errnos, SystemError } from '../../sys/errno.js';
import { isErrno } from '../errors.js';
import { missing } from '../names.js';
import { copyContent } from './copy.js';
import { all } from './durability.js';
import type { Handles } from './handles.js';
import type { Partial } from './partial/partial.js';
import type { CopySource } from './partial/partials.js';
import { candidatePaths, hashedPath } from './paths.js';
import type { FileSystem, ImmediateChanges } from './system.js';
import type { TempFiles } from './temp.js';

export interface CopyOptions {
  readonly durable: boolean;
  readonly exclusive: boolean;
  readonly deadline?: number;
}

interface Made {
  readonly fd: number;
  readonly path: string;
  readonly partial: Partial | null;
}

export class Copying {
  readonly #handles: Handles;
  readonly #temp: TempFiles;
  readonly #system: FileSystem;

  constructor(handles: Handles, temp: TempFiles) {
    this.#handles = handles;
    this.#system = handles.opener.system;
    this.#temp = temp;
  }

  /** @throws ENOENT for a missing source, EEXIST for an existing target with exclusive, ETIME after the deadline */
  async copy(source: string, target: string, size: number, options: CopyOptions): Promise<void> {
    const handles = this.#handles;
    const present = await handles.opener.find(target, options.deadline);
    // What takes the place of something is whole.
    const deadline = options.deadline ?? 0;
    const made = await handles.withDescriptor(() => this.#make(source, target, size, present === null, deadline));
    try {
      if (present && options.exclusive) throw new SystemError(errnos.EEXIST, `object ${target} exists already`);
      // What the target was may be durable: its replacement must be so before it takes the place.
      if (present) await this.#system.fdatasync(made.fd);
      const before = present ? await handles.partials.baseAt(present.path) : null;
      const file = await this.#place(made.path, target, present?.path ?? null, options);
      handles.failed.clear(target);
      handles.directories.mark(path.dirname(file));
      const handle = handles.adopt(target, { fd: made.fd, path: file, writable: true, partial: made.partial });
      if (!present) handle.markDirty();
      if (options.durable || before !== null) await all([handle.sync(), handles.directories.sync([file])]);
      if (present) await handles.partials.gone(target, before);
    } catch (error) {
      if (!handles.isOpen(target, made.fd)) {
        made.partial?.dispose();
        await this.#system.close(made.fd).finally(() => handles.descriptorClosed());
        await this.#temp.remove(made.path);
        // Too late: what is left of it a later process removes.
        if (made.partial && !isErrno(error, errnos.ETIME)) await handles.partials.gone(target, made.partial.base);
      }
      throw error;
    }
  }

  /**
   * Makes a partial object one like any other: a whole copy takes its place. Durable when it resolves. The caller has the object to itself.
   * @throws ENOENT, ETIME, the system's error: it is as before
   */
  async complete(name: string, deadline: number): Promise<void> {
    const handles = this.#handles;
    const { partial, fd, path: file } = await handles.openOwn(name, 'write');
    if (partial === null) return;
    const made = await handles.withDescriptor(() =>
      this.#filled(deadline, async (to) => {
        if (await handles.partials.copyWhole(fd, to, partial.length)) return;
        throw new SystemError(errnos.EIO, `object ${name}: it cannot be read what is there of it`);
      }),
    );
    try {
      await this.#system.fdatasync(made.fd);
      await handles.opener.changes.rename(made.path, file, deadline);
    } catch (error) {
      await this.#system.close(made.fd).finally(() => handles.descriptorClosed());
      await this.#temp.remove(made.path);
      throw error;
    }
    // What a failed sync may have lost is not there again by this: it stays failed.
    handles.adopt(name, { fd: made.fd, path: file, writable: true });
    await handles.directories.syncTo(file);
    await handles.partials.gone(name, partial.base);
  }

  /** A temporary file with the source's content, or one that has a part of it. */
  async #make(source: string, target: string, size: number, mayBePartial: boolean, deadline: number): Promise<Made> {
    const { opener, partials } = this.#handles;
    // A file that is open here already has its inode in memory: nothing of what is asked for it waits for the disk.
    const isKept = this.#handles.isKept(source);
    const from = await this.#openSource(source, isKept ? opener.changes.immediate(deadline) : null);
    let partial: Partial | null = null;
    try {
      const made = await this.#filled(deadline, async (to) => {
        if (mayBePartial) partial = await partials.begin(to, from, target, size, deadline);
        if (partial !== null || (await partials.copyWhole(from.fd, to, size))) return;
        await copyContent(this.#system, from.fd, to, size, opener.changes.immediate(deadline));
      });
      return { ...made, partial };
    } finally {
      // A copy of what is partial itself has another base.
      if (!(partial as Partial | null)?.has(from.fd))
        await this.#closeSource(from.fd, isKept && opener.changes.isImmediate(deadline));
    }
  }

  /** A temporary file that is filled. */
  async #filled(deadline: number, fill: (to: number) => Promise<unknown>): Promise<{ fd: number; path: string }> {
    const made = await this.#temp.create(deadline);
    try {
      await fill(made.fd);
      return made;
    } catch (error) {
      await this.#system.close(made.fd);
      await this.#temp.remove(made.path);
      throw error;
    }
  }

  /** A descriptor of its own: copying moves its position. @param calls what does it in this turn; null: a thread of the pool */
  async #openSource(source: string, calls: ImmediateChanges | null): Promise<CopySource> {
    for (const file of candidatePaths(this.#handles.opener.root, source)) {
      try {
        const fd =
          calls?.open(file, fs.constants.O_RDONLY, 0) ?? (await this.#system.open(file, fs.constants.O_RDONLY, 0));
        return { fd, path: file };
      } catch (error) {
        if (!isErrno(error, errnos.ENOENT)) throw error;
      }
    }
    throw missing(source);
  }

  async #closeSource(fd: number, now: boolean): Promise<void> {
    if (now) this.#system.changesNow?.close(fd);
    else await this.#system.close(fd);
  }

  /**
   * Moves a complete file to the target's place; returns where it is now. An object at its old Pithos path stays there: that is
   * the path that counts. @throws EEXIST with exclusive, ETIME
   */
  async #place(from: string, target: string, present: string | null, options: CopyOptions): Promise<string> {
    const { exclusive, deadline = 0 } = options;
    const { changes } = this.#handles.opener;
    const file = present ?? hashedPath(this.#handles.opener.root, target);
    if (exclusive) {
      await this.#retryWithDirectories(file, deadline, () => changes.link(from, file, deadline));
      // It is in its place: what cannot be removed is a leftover.
      await this.#temp.remove(from).catch(() => {});
    } else await this.#retryWithDirectories(file, deadline, () => changes.rename(from, file, deadline));
    return file;
  }

  async #retryWithDirectories(file: string, deadline: number, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!isErrno(error, errnos.ENOENT)) throw error;
      await this.#handles.opener.makeDirectories(file, deadline);
      await work();
    }
  }
}
