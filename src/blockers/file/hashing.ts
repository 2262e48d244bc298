/** Content addressing (ondisk.md 2.4): an object's content is stored once, under its SHA-256. */
import path from 'node:path';
import { errnos } from '../../sys/errno.js';
import { sha256, withoutTrailingZeros } from '../digest.js';
import { isErrno } from '../errors.js';
import { checkName } from '../names.js';
import { writeFully } from './copy.js';
import type { Handles } from './handles.js';
import { hashedPath, isPithosName } from './paths.js';
import type { TempFiles } from './temp.js';

/** What of the object's file counts, read through the driver. */
export type ContentReader = (name: string, size: number) => Promise<Buffer>;

/** Hashes objects of one store. Durable when it resolves. */
export class Hasher {
  readonly #handles: Handles;
  readonly #temp: TempFiles;
  readonly #read: ContentReader;

  constructor(handles: Handles, temp: TempFiles, read: ContentReader) {
    this.#handles = handles;
    this.#temp = temp;
    this.#read = read;
  }

  async hash(name: string, size: number): Promise<string> {
    const memo = `${name}_hash`;
    checkName(memo);
    const known = await this.#memo(memo);
    if (known !== null) return known;
    const content = withoutTrailingZeros(await this.#read(name, size));
    const digest = await sha256(content);
    const stored = await this.#handles.opener.find(digest);
    // Who stored it may be doing so now, or have been killed at it: the memo must not be durable before what it names.
    if (stored) await this.#handles.directories.syncTo(stored.path);
    else await this.#store(digest, content);
    await this.#store(memo, Buffer.from(digest, 'latin1'));
    return digest;
  }

  async #memo(memo: string): Promise<string | null> {
    try {
      const text = (await this.#read(memo, 64)).toString('latin1');
      return isPithosName(text) ? text : null;
    } catch (error) {
      if (isErrno(error, errnos.ENOENT)) return null;
      throw error;
    }
  }

  /** Makes object `name` with this content, unless it exists already. */
  async #store(name: string, content: Buffer): Promise<void> {
    const { opener, directories } = this.#handles;
    const { system } = opener;
    const file = hashedPath(opener.root, name);
    const temp = await this.#temp.create();
    try {
      try {
        await writeFully(system, temp.fd, content, 0);
        await system.fdatasync(temp.fd);
      } finally {
        await system.close(temp.fd);
      }
      await opener.makeDirectories(file);
      await system.link(temp.path, file);
    } catch (error) {
      // Somebody else has just stored the same content.
      if (!isErrno(error, errnos.EEXIST)) throw error;
    } finally {
      await this.#temp.remove(temp.path);
    }
    directories.mark(path.dirname(file));
    await directories.sync([file]);
  }
}
