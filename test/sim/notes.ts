/** The mapper's notes of first writes, as the kernel keeps them: they outlive every process, and a power cut on some machines. */
import type { NoteStore } from '../../src/mapper/provisional/notes.js';

export class SimulatedNotes implements NoteStore {
  readonly #notes: Map<string, Buffer>;
  /** Called after each change. */
  changed: () => void = () => {};

  constructor(notes: ReadonlyMap<string, Buffer> = new Map()) {
    this.#notes = new Map([...notes].map(([volume, bytes]) => [volume, Buffer.from(bytes)]));
  }

  /** As they are now, for another life. */
  clone(): SimulatedNotes {
    return new SimulatedNotes(this.#notes);
  }

  load(): Map<string, Buffer> {
    return new Map([...this.#notes].map(([volume, bytes]) => [volume, Buffer.from(bytes)]));
  }

  write(volume: string, bytes: Uint8Array, at: number): void {
    const old = this.#notes.get(volume) ?? Buffer.alloc(0);
    const out = Buffer.alloc(Math.max(old.length, at + bytes.length));
    out.set(old);
    out.set(bytes, at);
    this.#notes.set(volume, out);
    this.changed();
  }

  truncate(volume: string, length: number): void {
    this.#notes.set(volume, Buffer.from((this.#notes.get(volume) ?? Buffer.alloc(0)).subarray(0, length)));
    this.changed();
  }

  remove(volume: string): void {
    if (this.#notes.delete(volume)) this.changed();
  }
}
