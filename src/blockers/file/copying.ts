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
import { candidatePaths, hashedPath } from './paths.js';
import type { FileSystem } from './system.js';
import type { TempFiles } from './temp.js';

export interface CopyOptions {
  readonly durable: boolean;
  readonly exclusive: boolean;
  readonly deadline?: number;
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
    const present = await handles.opener.find(target);
    // One place in the fd limit for the pair: waiting for a second while holding one could go round in a circle.
    const made = await handles.withDescriptor(() => this.#make(source, size));
    try {
      if (present && options.exclusive) throw new SystemError(errnos.EEXIST, `object ${target} exists already`);
      // What the target was may be durable: its replacement must be so before it takes the place.
      if (present) await this.#system.fdatasync(made.fd);
      const file = await this.#place(made.path, target, present?.path ?? null, options);
      handles.failed.clear(target);
      handles.directories.mark(path.dirname(file));
      const handle = handles.adopt(target, { fd: made.fd, path: file, writable: true });
      if (!present) handle.markDirty();
      if (options.durable) await all([handle.sync(), handles.directories.sync([file])]);
    } catch (error) {
      if (!handles.isOpen(target, made.fd)) {
        await this.#system.close(made.fd).finally(() => handles.descriptorClosed());
        await this.#temp.remove(made.path);
      }
      throw error;
    }
  }

  /** A temporary file with the source's content. */
  async #make(source: string, size: number): Promise<{ fd: number; path: string }> {
    const from = await this.#openSource(source);
    try {
      const made = await this.#temp.create();
      try {
        await copyContent(this.#system, from, made.fd, size);
        return made;
      } catch (error) {
        await this.#system.close(made.fd);
        await this.#temp.remove(made.path);
        throw error;
      }
    } finally {
      await this.#system.close(from);
    }
  }

  /** A descriptor of its own: copying moves its position. */
  async #openSource(source: string): Promise<number> {
    for (const file of candidatePaths(this.#handles.opener.root, source)) {
      try {
        return await this.#system.open(file, fs.constants.O_RDONLY, 0);
      } catch (error) {
        if (!isErrno(error, errnos.ENOENT)) throw error;
      }
    }
    throw missing(source);
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
      await this.#retryWithDirectories(file, () => changes.link(from, file, deadline));
      await this.#temp.remove(from);
    } else await this.#retryWithDirectories(file, () => changes.rename(from, file, deadline));
    return file;
  }

  async #retryWithDirectories(file: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!isErrno(error, errnos.ENOENT)) throw error;
      await this.#handles.opener.makeDirectories(file);
      await work();
    }
  }
}
