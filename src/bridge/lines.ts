/** Lines out of a stream of bytes, of a bounded length. */
const NEWLINE = 0x0a;
const FIRST_ROOM = 512;

export class LineReader {
  readonly #limit: number;
  /** The beginning of a line that has not ended: the first `#length` bytes. */
  #rest: Buffer = Buffer.alloc(0);
  #length = 0;
  #overlong = false;

  /** @param limit bytes of a line without its end */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** A line was longer than may be: nothing after it can be read. */
  get overlong(): boolean {
    return this.#overlong;
  }

  /** The lines that a chunk completes, parts of the chunk or new. All are to be taken: what follows a line that the caller stops at is lost. */
  *push(chunk: Buffer): Generator<Buffer> {
    for (let from = 0; !this.#overlong && from < chunk.length; ) {
      const end = chunk.indexOf(NEWLINE, from);
      const part = chunk.subarray(from, end < 0 ? chunk.length : end);
      if (this.#length + part.length > this.#limit) {
        this.#overlong = true;
        this.#rest = Buffer.alloc(0);
        return;
      }
      if (end < 0) {
        this.#keep(part);
        return;
      }
      yield this.#length === 0 ? part : this.#completed(part);
      from = end + 1;
    }
  }

  #completed(part: Buffer): Buffer {
    this.#keep(part);
    const line = this.#rest.subarray(0, this.#length);
    this.#rest = Buffer.alloc(0);
    this.#length = 0;
    return line;
  }

  /** Copied, with room for more: a client that sends single bytes costs no object for each. */
  #keep(part: Buffer): void {
    const length = this.#length + part.length;
    if (length > this.#rest.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(FIRST_ROOM, 2 * this.#rest.length, length));
      this.#rest.copy(larger, 0, 0, this.#length);
      this.#rest = larger;
    }
    part.copy(this.#rest, this.#length);
    this.#length = length;
  }
}
