/**
 * What a volume may read as while it is written: every 4 KiB sector carries a stamp (volume, sector, number of the write), and the ledger
 * knows of each sector the last write that was answered and the last that was sent. What is read must lie between the two: older is a
 * lost write, another sector's stamp is a misplaced one, anything else is damage. Writes to the same sector must not overlap in time
 * (`claim`); reads may overlap everything.
 */

export const SECTOR = 4096;
const STAMP = 16;
const MAGIC = 0x41726368;

/** What a reader notes before it reads: what had been answered by then. */
export interface Since {
  readonly first: number;
  readonly answered: Uint32Array;
}

export class Ledger {
  readonly sectors: number;
  readonly #volume: number;
  /** Of each sector: number of the last write that was answered (0: none, it is zeros). */
  readonly #answered: Uint32Array;
  /** Number of the last write, of any kind, that was sent. */
  readonly #sent: Uint32Array;
  /** Number of the last zeroing that was sent. */
  readonly #zeroed: Uint32Array;
  /** As #answered, of the last write that a flush has made durable. */
  readonly #durable: Uint32Array;
  readonly #claimed: Uint8Array;
  #number = 0;

  /** @param size of the volume in bytes @param volume a number of one's own for each volume */
  constructor(size: number, volume: number) {
    this.sectors = size / SECTOR;
    this.#volume = volume;
    this.#answered = new Uint32Array(this.sectors);
    this.#sent = new Uint32Array(this.sectors);
    this.#zeroed = new Uint32Array(this.sectors);
    this.#durable = new Uint32Array(this.sectors);
    this.#claimed = new Uint8Array(this.sectors);
  }

  /** What a clone or a snapshot of the volume may read as, while nothing is on its way: it keeps the origin's stamps. */
  copy(): Ledger {
    const copy = new Ledger(this.sectors * SECTOR, this.#volume);
    copy.#answered.set(this.#answered);
    copy.#sent.set(this.#sent);
    copy.#zeroed.set(this.#zeroed);
    copy.#durable.set(this.#durable);
    copy.#number = this.#number;
    return copy;
  }

  /** Writes that were sent so far. */
  get count(): number {
    return this.#number;
  }

  /** Claims sectors for one write; false: one of them is being written. */
  claim(first: number, count: number): boolean {
    for (let i = first; i < first + count; i++) if (this.#claimed[i]) return false;
    this.#claimed.fill(1, first, first + count);
    return true;
  }

  /** The bytes of a new write to claimed sectors, which is about to be sent. */
  write(first: number, count: number): Buffer {
    const number = ++this.#number;
    const bytes = Buffer.allocUnsafe(count * SECTOR);
    for (let i = 0; i < count; i++) {
      this.#sent[first + i] = number;
      bytes.fill(this.#stamp(first + i, number), i * SECTOR, (i + 1) * SECTOR);
    }
    return bytes;
  }

  /** A zeroing of claimed sectors is about to be sent. */
  zero(first: number, count: number): void {
    const number = ++this.#number;
    this.#sent.fill(number, first, first + count);
    this.#zeroed.fill(number, first, first + count);
  }

  /** A write or zeroing was answered, well. */
  answer(first: number, count: number): void {
    for (let i = first; i < first + count; i++) this.#answered[i] = this.#sent[i];
    this.release(first, count);
  }

  /** A write failed, or was a trim: the sectors may have its content or what they had. */
  release(first: number, count: number): void {
    this.#claimed.fill(0, first, first + count);
  }

  /** To be called before a flush is sent; what it returns, when the flush was answered. */
  flush(): () => void {
    const answered = this.#answered.slice();
    return () => {
      for (let i = 0; i < this.sectors; i++) if (answered[i] > this.#durable[i]) this.#durable[i] = answered[i];
    };
  }

  /** The writer was cut off: only what was flushed counts as answered from now on, until `settle` has seen what became of the rest. */
  cut(): void {
    this.#answered.set(this.#durable);
    this.#claimed.fill(0);
  }

  /** What is read now is what later reads must see. @throws as check */
  settle(since: Since, bytes: Buffer): void {
    this.check(since, bytes);
    for (let i = 0; i < since.answered.length; i++) {
      const sector = since.first + i;
      const number = bytes.readUInt32LE(i * SECTOR + 12) || this.#zeroed[sector];
      this.#answered[sector] = Math.max(this.#answered[sector], number);
    }
  }

  /** To be noted before a read is sent. */
  since(first: number, count: number): Since {
    return { first, answered: this.#answered.slice(first, first + count) };
  }

  /** @throws when the bytes of a read (of whole sectors) are not what they may be */
  check({ first, answered }: Since, bytes: Buffer): void {
    for (let i = 0; i < answered.length; i++) {
      const problem = this.#problem(first + i, answered[i], bytes.subarray(i * SECTOR, (i + 1) * SECTOR));
      if (problem) throw new Error(`sector ${first + i} of volume ${this.#volume}: ${problem}`);
    }
  }

  /** What is wrong with the bytes of a sector, of which a write had been answered; null: nothing. */
  #problem(sector: number, answered: number, bytes: Buffer): string | null {
    const number = bytes.readUInt32LE(12);
    const whole = number === 0 ? ZEROS : Buffer.alloc(SECTOR, this.#stamp(sector, number));
    if (bytes.equals(whole)) return this.#stampProblem(sector, answered, bytes);
    // A read and a write at the same time see each other half done.
    const overlapped = this.#sent[sector] > answered;
    for (let at = 0; at < SECTOR; at += STAMP) {
      const problem = this.#stampProblem(sector, answered, bytes.subarray(at, at + STAMP));
      if (problem) return `${problem} (from byte ${at} on)`;
    }
    return overlapped ? null : `has write ${number} in its beginning only`;
  }

  #stampProblem(sector: number, answered: number, bytes: Buffer): string | null {
    const lost = `write ${answered} was answered (the last sent is ${this.#sent[sector]})`;
    const [magic, volume, at, number] = [0, 4, 8, 12].map((offset) => bytes.readUInt32LE(offset));
    if (magic === 0 && volume === 0 && at === 0 && number === 0) {
      return answered === 0 || this.#zeroed[sector] >= answered ? null : `is zeros, but ${lost}`;
    }
    if (magic !== MAGIC) return `has bytes that nobody wrote: ${bytes.toString('hex', 0, STAMP)}`;
    if (volume !== this.#volume || at !== sector) return `has what was written to sector ${at} of volume ${volume}`;
    if (number < answered) return `has write ${number}, but ${lost}`;
    return number > this.#sent[sector] ? `has write ${number}, which was never sent` : null;
  }

  #stamp(sector: number, number: number): Buffer {
    const stamp = Buffer.alloc(STAMP);
    [MAGIC, this.#volume, sector, number].forEach((word, i) => {
      stamp.writeUInt32LE(word, i * 4);
    });
    return stamp;
  }
}

const ZEROS = Buffer.alloc(SECTOR);
