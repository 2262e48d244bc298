/**
 * The names of the partial objects that have units which are not there for good, for the process after this one: should this one be killed, what
 * was acknowledged is in the kernel, and the next one's first flush makes it durable. Written to the kernel and never synced. Each process has a
 * ledger of its own, and it locked (flock): one that nobody has locked is of a process that was killed. It begins with the stamp: after a power cut
 * it counts for nothing.
 */
import fs from 'node:fs';
import path from 'node:path';
import { errnoOf, errnos } from '../../../sys/errno.js';
import * as libc from '../../../sys/libc.js';
import { isErrno } from '../../errors.js';
import { readFully, writeFully } from '../copy.js';
import type { Opener } from '../opener.js';
import type { FileMarks, FileSystem } from '../system.js';
import type { TempFiles } from '../temp.js';

/** Not a place any object's path can have. */
export const LEDGERS_DIRECTORY = '.archipelago-ledgers';
/** Between names; no name has it. */
const END = '\0';
/** Before the name of an object of which a sync failed. No name has it, nor has any rest of one, as an entry written over an old one may leave. */
const FAILED = '/';
/** When nothing is in it that counts, a ledger that is longer begins anew. */
const LONG = 64 * 1024;
/** Bytes of an entry at most. */
const ENTRY = 1024;

/** What another process has in its ledger. */
export interface OtherLedger {
  readonly file: string;
  /** It has it locked. */
  readonly isAlive: boolean;
  readonly names: readonly string[];
}

export class Ledger {
  readonly #directory: string;
  readonly #opener: Opener;
  readonly #system: FileSystem;
  readonly #marks: FileMarks;
  readonly #temp: TempFiles;
  readonly #stamp: string;
  /** Those that are in the file, and those of them that count. */
  readonly #names = new Set<string>();
  readonly #counting = new Set<string>();
  readonly #hasFailed = new Set<string>();
  readonly #entry = libc.allocateMemory(ENTRY);
  #file: { readonly fd: number; readonly path: string } | null = null;
  /** Bytes: of the stamp, and of all that counts. */
  #head = 0;
  #length = 0;
  /** Why there is none. */
  #errno: number = errnos.EBADF;
  #opening: Promise<void> | null = null;
  #isClosed = false;

  /** @param stamp as of partial objects */
  constructor(root: string, stamp: string, opener: Opener, marks: FileMarks, temp: TempFiles) {
    this.#stamp = stamp;
    this.#directory = path.join(root, LEDGERS_DIRECTORY);
    this.#opener = opener;
    this.#system = opener.system;
    this.#marks = marks;
    this.#temp = temp;
  }

  /** Makes this process's ledger. Where that cannot be done now, it is tried again when it is needed: only what adds to it fails until then. */
  open(): Promise<void> {
    this.#opening ??= this.#make()
      .catch((error: unknown) => {
        this.#errno = errnoOf(error);
      })
      .finally(() => {
        this.#opening = null;
      });
    return this.#opening;
  }

  async #make(): Promise<void> {
    await this.#opener.makeDirectory(this.#directory);
    const { fd, path: temp } = await this.#temp.create();
    const file = path.join(this.#directory, path.basename(temp));
    try {
      // Locked, and of some stamp, before anybody can find it.
      this.#marks.lock(fd);
      const head = Buffer.from(this.#stamp + END, 'latin1');
      await writeFully(this.#system, fd, head, 0);
      this.#head = this.#length = head.length;
      await this.#system.rename(temp, file);
    } catch (error) {
      await this.#system.close(fd).catch(() => {});
      await this.#temp.remove(temp);
      throw error;
    }
    this.#file = { fd, path: file };
  }

  get isOpen(): boolean {
    return this.#file !== null;
  }

  /** Removes this process's ledger, if nothing in it counts. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#opening;
    const file = this.#file;
    this.#file = null;
    if (file !== null) {
      if (this.#counting.size === 0) await this.#system.unlink(file.path).catch(() => {});
      await this.#system.close(file.fd).catch(() => {});
    }
    libc.freeMemory(this.#entry);
  }

  /** Names an object, in this turn. @returns 0 or a positive errno */
  add(name: string): number {
    if (this.#counting.has(name)) return 0;
    if (this.#file === null) {
      if (!this.#isClosed) void this.open();
      return this.#errno;
    }
    const errno = this.#names.has(name) ? 0 : this.#append(this.#file.fd, name);
    if (errno === 0) this.#counting.add(name);
    return errno;
  }

  #append(fd: number, name: string): number {
    const bytes = Buffer.from(name + END, 'utf8');
    if (bytes.length > ENTRY) return errnos.ENAMETOOLONG;
    this.#entry.bytes.set(bytes);
    for (;;) {
      const n = this.#system.pwrite(fd, this.#entry.address, bytes.length, this.#length);
      if (n === bytes.length) break;
      if (n >= 0) return errnos.ENOSPC;
      const errno = this.#system.errno();
      if (errno !== errnos.EINTR) return errno;
    }
    this.#length += bytes.length;
    this.#names.add(name);
    return 0;
  }

  /**
   * A sync of the object failed: what its units have the disk may not have, whoever asks the kernel again.
   */
  failed(name: string): void {
    if (this.#file === null || this.#hasFailed.has(name)) return;
    this.#hasFailed.add(name);
    this.#append(this.#file.fd, FAILED + name);
  }

  /** All of the object's units that are there are so for good. */
  remove(name: string): void {
    // What is said of failures stays.
    if (!this.#counting.delete(name) || this.#hasFailed.size > 0 || this.#counting.size > 0 || this.#length < LONG)
      return;
    // From the beginning: what is behind is of names that do not count, and looked at in vain.
    this.#length = this.#head;
    this.#names.clear();
  }

  /** What others have; without names where that was under another stamp. @throws the system's error */
  async others(): Promise<OtherLedger[]> {
    const others: OtherLedger[] = [];
    for (const entry of await this.#entries()) {
      const file = path.join(this.#directory, entry);
      if (file === this.#file?.path) continue;
      const ledger = await this.#read(file);
      if (ledger !== null) others.push(ledger);
    }
    return others;
  }

  async #entries(): Promise<string[]> {
    try {
      return await this.#system.readdir(this.#directory);
    } catch (error) {
      if (isErrno(error, errnos.ENOENT)) return [];
      throw error;
    }
  }

  /** null: it is gone, or not this user's. */
  async #read(file: string): Promise<OtherLedger | null> {
    let fd: number;
    try {
      fd = await this.#system.open(file, fs.constants.O_RDWR, 0);
    } catch (error) {
      // Another user's is of objects that are not this one's either.
      if (isErrno(error, errnos.ENOENT, errnos.EACCES, errnos.EPERM, errnos.EROFS)) return null;
      throw error;
    }
    try {
      const isAlive = !this.#marks.lock(fd);
      const { size } = await this.#system.fstat(fd);
      const [head, ...names] = (await readFully(this.#system, fd, size)).toString('utf8').split(END);
      return { file, isAlive, names: head === this.#stamp ? settleable(names) : [] };
    } finally {
      await this.#system.close(fd);
    }
  }

  /** What one that was killed left is done. */
  async drop({ file }: OtherLedger): Promise<void> {
    await this.#system.unlink(file).catch(() => {});
  }
}

/** Names in a ledger of which no sync failed, each once. */
function settleable(entries: readonly string[]): string[] {
  const failed = new Set(
    entries.filter((entry) => entry.startsWith(FAILED)).map((entry) => entry.slice(FAILED.length)),
  );
  return [...new Set(entries)].filter((entry) => entry !== '' && !entry.startsWith(FAILED) && !failed.has(entry));
}
