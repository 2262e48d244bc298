/** Notes of provisional blocks as files: RUN_DIR/provisional, a file for each volume, written to the kernel's cache and never synced. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import type { NoteStore } from './notes.js';

/** Names of volumes may be longer than those of files: the first bytes of the file say whose it is. */
const NAME_BYTES = 512;

export class NoteFiles implements NoteStore {
  readonly #directory: string;
  readonly #descriptors = new Map<string, number>();

  /** @param directory made when the first note is */
  constructor(directory: string) {
    this.#directory = directory;
  }

  load(): Map<string, Buffer> {
    const found = new Map<string, Buffer>();
    let entries: fs.Dirent[];
    try {
      entries = fs.readdirSync(this.#directory, { withFileTypes: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      return found;
    }
    for (const { name } of entries.filter((entry) => entry.isFile())) {
      const file = path.join(this.#directory, name);
      const bytes = fs.readFileSync(file);
      const end = bytes.indexOf(0);
      const volume = bytes.toString('utf8', 0, end < 0 ? 0 : end);
      // A process that was killed may have left one without its name: nothing was noted in it.
      if (bytes.length < NAME_BYTES || this.#fileOf(volume) !== file) fs.unlinkSync(file);
      else found.set(volume, bytes.subarray(NAME_BYTES));
    }
    return found;
  }

  write(volume: string, bytes: Uint8Array, at: number): void {
    this.#writeAll(this.#open(volume), bytes, NAME_BYTES + at);
  }

  truncate(volume: string, length: number): void {
    fs.ftruncateSync(this.#open(volume), NAME_BYTES + length);
  }

  remove(volume: string): void {
    fs.rmSync(this.#fileOf(volume), { force: true });
    const fd = this.#descriptors.get(volume);
    this.#descriptors.delete(volume);
    if (fd !== undefined) fs.closeSync(fd);
  }

  #fileOf(volume: string): string {
    return path.join(this.#directory, createHash('sha256').update(volume).digest('hex'));
  }

  #open(volume: string): number {
    const known = this.#descriptors.get(volume);
    if (known !== undefined) return known;
    const flags = fs.constants.O_RDWR | fs.constants.O_CREAT;
    fs.mkdirSync(this.#directory, { recursive: true, mode: 0o770 });
    const fd = fs.openSync(this.#fileOf(volume), flags, 0o660);
    try {
      const name = Buffer.alloc(NAME_BYTES);
      name.write(volume, 'utf8');
      this.#writeAll(fd, name, 0);
    } catch (error) {
      fs.closeSync(fd);
      throw error;
    }
    this.#descriptors.set(volume, fd);
    return fd;
  }

  #writeAll(fd: number, bytes: Uint8Array, at: number): void {
    for (let done = 0; done < bytes.length; ) done += fs.writeSync(fd, bytes, done, bytes.length - done, at + done);
  }
}
