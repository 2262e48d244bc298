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
import { candidatePaths, hashedPath } from './paths.js';
import type { FileSystem, ImmediateChanges } from './system.js';
import type { TempFiles } from './temp.js';

export interface CopyOptions {
  readonly durable: boolean;
  readonly exclusive: boolean;
  readonly deadline?: number;
}

/** The source is itself not complete: the caller completes it, without a place among those who have the target to themselves, and asks again. */
export class PartialSource extends SystemError {
  constructor(source: string) {
    super(errnos.EAGAIN, `object ${source} is a copy that is not completed yet`);
  }
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

  /** @throws ENOENT for a missing source, EEXIST for an existing target with exclusive, ETIME after the deadline; PartialSource */
  async copy(source: string, target: string, size: number, options: CopyOptions): Promise<void> {
    const handles = this.#handles;
    const present = await handles.opener.find(target, options.deadline);
    // One place in the fd limit for the pair: waiting for a second while holding one could go round in a circle.
    const mayBePartial = !options.durable && present === null;
    const made = await handles.withDescriptor(() => this.#make(source, size, mayBePartial, options.deadline ?? 0));
    try {
      if (present && options.exclusive) throw new SystemError(errnos.EEXIST, `object ${target} exists already`);
      // What the target was may be durable: its replacement must be so before it takes the place.
      if (present) await this.#system.fdatasync(made.fd);
      const file = await this.#place(made.path, target, present?.path ?? null, options);
      handles.failed.clear(target);
      handles.directories.mark(path.dirname(file));
      const handle = handles.adopt(target, { fd: made.fd, path: file, writable: true, partial: made.partial });
      if (!present) handle.markDirty();
      if (options.durable) await all([handle.sync(), handles.directories.sync([file])]);
    } catch (error) {
      if (!handles.isOpen(target, made.fd)) {
        made.partial?.dispose();
        await this.#system.close(made.fd).finally(() => handles.descriptorClosed());
        await this.#temp.remove(made.path);
      }
      throw error;
    }
  }

  /** A temporary file with the source's content, or one that gets it later. */
  async #make(source: string, size: number, mayBePartial: boolean, deadline: number): Promise<Made> {
    const { changes } = this.#handles.opener;
    // A file that is open here already has its inode in memory: nothing of what is asked for it waits for the disk.
    const isKept = this.#handles.isKept(source);
    const from = await this.#openSource(source, isKept ? changes.immediate(deadline) : null);
    let partial: Partial | null = null;
    try {
      if (this.#handles.partials.isMarked(from)) throw new PartialSource(source);
      const made = await this.#temp.create(deadline);
      try {
        if (mayBePartial) {
          partial = await this.#handles.partials.begin(made.fd, from, source, size, deadline !== 0);
        }
        if (partial === null) await copyContent(this.#system, from, made.fd, size, changes.immediate(deadline));
        return { ...made, partial };
      } catch (error) {
        await this.#system.close(made.fd);
        await this.#temp.remove(made.path);
        throw error;
      }
    } finally {
      if (partial === null) await this.#closeSource(from, isKept && changes.isImmediate(deadline));
    }
  }

  /** A descriptor of its own: copying moves its position. @param calls what does it in this turn; null: a thread of the pool */
  async #openSource(source: string, calls: ImmediateChanges | null): Promise<number> {
    for (const file of candidatePaths(this.#handles.opener.root, source)) {
      try {
        if (calls !== null) return calls.open(file, fs.constants.O_RDONLY, 0);
        return await this.#system.open(file, fs.constants.O_RDONLY, 0);
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
      await this.#temp.remove(from);
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
