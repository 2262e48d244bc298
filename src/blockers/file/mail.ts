/**
 * Mail between the owners of locks: a file per owner beside the lock files, a line of JSON per letter. Senders append, and repeat what
 * matters; the owner reads on from where it was. Nothing here needs to be durable, and on a network file system, where appending is not
 * atomic, two letters at once may spoil each other: what is not a letter is skipped.
 */
import fs from 'node:fs';
import path from 'node:path';
import type { LockMail } from '../../requests/locks.js';
import { errnos } from '../../sys/errno.js';
import { fileError, isErrno } from '../errors.js';
import { checkAddressee, toMail } from '../mail.js';
import type { Opener } from './opener.js';

/** Not a place of an object or a lock (see temp.ts). */
export const MAIL_DIRECTORY = '.archipelago-mail';
/** A longer file is emptied once it was read… */
const LONG = 64 << 10;
/** …and by a sender when it is so long that nobody seems to read it. */
const UNREAD = 1 << 20;
/** Read at a time: what an answer has room for. The rest follows. */
const PIECE = 32 << 10;
const NEWLINE = 10;

export class Mailbox {
  readonly #directory: string;
  readonly #own: string;
  readonly #opener: Opener;
  /** Where the next letter begins. */
  #position = 0;
  #reading = false;
  /** Null: not known yet. */
  #isLocal: boolean | null = null;

  /** @param parent directory of the lock files */
  constructor(parent: string, owner: string, opener: Opener) {
    this.#directory = path.join(parent, MAIL_DIRECTORY);
    this.#own = path.join(this.#directory, owner);
    this.#opener = opener;
  }

  /** Letters from now on: older ones were for a predecessor, and will come again if they still matter. */
  async open(): Promise<void> {
    try {
      this.#position = (await this.#opener.system.stat(this.#own)).size;
    } catch (error) {
      if (!isErrno(error, errnos.ENOENT, errnos.ENOTDIR))
        throw fileError(`cannot look at the mail ${this.#own}`, error);
      this.#position = 0;
    }
  }

  /** What came since the last call; nothing while another call reads. @throws SystemError */
  async receive(): Promise<LockMail[]> {
    if (this.#reading) return [];
    this.#reading = true;
    try {
      return this.#hasNone() ? [] : await this.#receive();
    } catch (error) {
      throw fileError(`cannot read the mail ${this.#own}`, error);
    } finally {
      this.#reading = false;
    }
  }

  /** True where a look of microseconds tells that nothing has come: a check of locks then waits for no thread. */
  #hasNone(): boolean {
    const { system } = this.#opener;
    this.#isLocal ??= system.isLocal?.(path.dirname(this.#directory)) ?? false;
    if (!this.#isLocal || !system.peekSize) return false;
    const size = system.peekSize(this.#own);
    if (size === null) this.#position = 0;
    return (size ?? 0) === this.#position;
  }

  async #receive(): Promise<LockMail[]> {
    const { system } = this.#opener;
    const fd = await this.#open();
    if (fd === null) {
      this.#position = 0;
      return [];
    }
    try {
      const { size } = await system.fstat(fd);
      if (size < this.#position) this.#position = 0;
      const letters = size > this.#position ? await this.#read(fd, size) : [];
      if (size > LONG && this.#position >= size) await this.#empty(fd);
      return letters;
    } finally {
      await system.close(fd);
    }
  }

  async #empty(fd: number): Promise<void> {
    try {
      // What comes between reading and this is lost; it is repeated.
      await this.#opener.system.ftruncate(fd, 0);
      this.#position = 0;
    } catch (error) {
      // Not open for writing: it is read all the same.
      if (!isErrno(error, errnos.EINVAL, errnos.EBADF)) throw error;
    }
  }

  async #open(): Promise<number | null> {
    const { system } = this.#opener;
    for (const flags of [fs.constants.O_RDWR, fs.constants.O_RDONLY]) {
      try {
        return await system.open(this.#own, flags, 0);
      } catch (error) {
        if (isErrno(error, errnos.ENOENT, errnos.ENOTDIR)) return null;
        if (flags === fs.constants.O_RDONLY || !isErrno(error, errnos.EROFS, errnos.EACCES, errnos.EPERM)) throw error;
      }
    }
    return null;
  }

  /** The whole letters from the position on, at most PIECE bytes of them. */
  async #read(fd: number, size: number): Promise<LockMail[]> {
    const bytes = Buffer.allocUnsafeSlow(Math.min(size - this.#position, PIECE));
    const length = await new Promise<number>((resolve, reject) => {
      this.#opener.system.read(fd, bytes, 0, bytes.length, this.#position, (error, n) =>
        error ? reject(error) : resolve(n),
      );
    });
    const end = bytes.lastIndexOf(NEWLINE, length - 1) + 1;
    // Half a letter is waited for, unless it is longer than any.
    this.#position += end > 0 ? end : length === PIECE ? length : 0;
    return bytes.toString('utf8', 0, end).split('\n').flatMap(parse);
  }

  async send(to: string, mail: LockMail): Promise<void> {
    checkAddressee(to);
    const file = path.join(this.#directory, to);
    const { system } = this.#opener;
    try {
      const fd = await this.#openToAppend(file);
      try {
        if ((await system.fstat(fd)).size > UNREAD) await system.ftruncate(fd, 0);
        const line = Buffer.from(`${JSON.stringify(mail)}\n`, 'utf8');
        // One call: a letter in pieces could have another in its middle.
        await new Promise<void>((resolve, reject) => {
          system.write(fd, line, 0, line.length, 0, (error) => (error ? reject(error) : resolve()));
        });
      } finally {
        await system.close(fd);
      }
    } catch (error) {
      throw fileError(`cannot leave mail for ${to} in ${file}`, error);
    }
  }

  /** Whatever position a write has: it appends. */
  async #openToAppend(file: string): Promise<number> {
    const { system } = this.#opener;
    for (let made = false; ; made = true) {
      try {
        return await system.open(file, fs.constants.O_WRONLY | fs.constants.O_APPEND, 0);
      } catch (error) {
        if (made || !isErrno(error, errnos.ENOENT)) throw error;
      }
      await this.#opener.makeDirectory(this.#directory);
      try {
        await system.close(await this.#opener.createFile(file));
      } catch (error) {
        if (!isErrno(error, errnos.EEXIST)) throw error;
      }
    }
  }
}

function parse(line: string): LockMail[] {
  try {
    const mail = toMail(JSON.parse(line));
    return mail ? [mail] : [];
  } catch {
    return [];
  }
}
