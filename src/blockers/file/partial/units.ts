/** Which units of a partial object are there. */
import { UNIT, unitsOf } from './tail.js';

export class Units {
  readonly bits: Uint8Array;
  /** Bytes of the content. */
  readonly length: number;
  readonly count: number;
  #missing = 0;

  /** @param bits as they are stored; kept */
  constructor(length: number, bits: Uint8Array) {
    this.length = length;
    this.count = unitsOf(length);
    this.bits = bits;
    for (let unit = 0; unit < this.count; unit++) if (!this.has(unit)) this.#missing++;
  }

  /** Units that are not there. */
  get missing(): number {
    return this.#missing;
  }

  has(unit: number): boolean {
    return (this.bits[unit >> 3] & (1 << (unit & 7))) !== 0;
  }

  /** Is all of this range of the content there? */
  covers(offset: number, length: number): boolean {
    const end = offset + length;
    if (end > this.length) return false;
    for (let unit = Math.floor(offset / UNIT); unit * UNIT < end; unit++) if (!this.has(unit)) return false;
    return true;
  }

  /** The units that are not there and of which a write to [offset, end), at least a byte, covers a part only. */
  cut(offset: number, end: number): number[] {
    const first = Math.floor(offset / UNIT);
    const last = Math.floor((end - 1) / UNIT);
    const cut: number[] = [];
    for (const unit of first === last ? [first] : [first, last]) {
      const from = unit * UNIT;
      const isWhole = offset <= from && end >= from + this.lengthOf(unit);
      if (!isWhole && !this.has(unit)) cut.push(unit);
    }
    return cut;
  }

  /** These are there. */
  add(first: number, end: number): void {
    for (let unit = first; unit < end; unit++) {
      if (this.has(unit)) continue;
      this.bits[unit >> 3] |= 1 << (unit & 7);
      this.#missing--;
    }
  }

  /** The bytes of the bitmap that [first, end) are in, as they are once these are there. */
  with(first: number, end: number): Uint8Array {
    const from = first >> 3;
    const bytes = this.bits.slice(from, ((end - 1) >> 3) + 1);
    for (let unit = first; unit < end; unit++) bytes[(unit >> 3) - from] |= 1 << (unit & 7);
    return bytes;
  }

  /** End, in bytes, of what from `offset` on is alike: there, or not. At most the content's. */
  runEnd(offset: number): number {
    let unit = Math.floor(offset / UNIT);
    const there = this.has(unit);
    while (++unit < this.count && this.has(unit) === there);
    return Math.min(unit * UNIT, this.length);
  }

  /** The next units that are not there, `most` at most, as [first, end); null: none. */
  nextMissing(from: number, most: number): { first: number; end: number } | null {
    if (this.#missing === 0) return null;
    let first = from;
    while (first < this.count && this.has(first)) first++;
    if (first === this.count) return null;
    let end = first + 1;
    while (end < this.count && end - first < most && !this.has(end)) end++;
    return { first, end };
  }

  /** Bytes of unit `unit`: the last may be shorter. */
  lengthOf(unit: number): number {
    return Math.min(UNIT, this.length - unit * UNIT);
  }
}
