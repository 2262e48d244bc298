/**
 * What the torture writes: each sector says which operation wrote it and where it belongs, and all of its bytes follow from these two, so
 * that data of another operation, another place or another volume, and a sector that is half of one thing, are told from what is right.
 */

/** Bytes that are written whole or not at all, by a process that may be killed at any time. */
export const SECTOR = 512;
const WORDS = SECTOR / 4;
const ZEROS = Buffer.alloc(SECTOR);

/** Tags of consecutive sectors, run by run. Tag 0: zeros. */
export type Runs = [tag: number, sectors: number][];

/** A sector that nobody can have written. */
export interface Damage {
  readonly sector: number;
  readonly what: string;
}

const base = (tag: number, sector: number): number => Math.imul(tag, 0x9e3779b1) ^ Math.imul(sector, 0x85ebca6b);

/** @param tag of the operation, 1 to 2^32-1 @param first the number of the first sector in the volume */
export function makeContent(tag: number, first: number, count: number): Buffer {
  const bytes = Buffer.alloc(count * SECTOR);
  const words = new Int32Array(bytes.buffer, bytes.byteOffset, count * WORDS);
  for (let s = 0; s < count; s++) {
    const at = s * WORDS;
    let x = base(tag, first + s);
    words[at] = tag;
    words[at + 1] = first + s;
    for (let i = 2; i < WORDS; i++) {
      x = (x + 0x6d2b79f5) | 0;
      words[at + i] = x;
    }
  }
  return bytes;
}

/**
 * Who wrote these sectors.
 * @param bytes whole sectors in memory that is 4-aligned
 */
export function readContent(bytes: Buffer, first: number): { runs: Runs; damage: Damage | null } {
  const count = bytes.length / SECTOR;
  const words = new Int32Array(bytes.buffer, bytes.byteOffset, count * WORDS);
  const runs: Runs = [];
  let last = -1;
  for (let s = 0; s < count; s++) {
    const tag = words[s * WORDS] >>> 0;
    const what = tag === 0 ? notZeros(bytes, s) : notWhole(words, s * WORDS, tag, first + s);
    if (what !== null) return { runs, damage: { sector: first + s, what } };
    if (tag === last) runs[runs.length - 1][1]++;
    else runs.push([tag, 1]);
    last = tag;
  }
  return { runs, damage: null };
}

function notZeros(bytes: Buffer, s: number): string | null {
  const at = s * SECTOR;
  if (ZEROS.equals(bytes.subarray(at, at + SECTOR))) return null;
  return 'begins with zeros and has other bytes behind them';
}

function notWhole(words: Int32Array, at: number, tag: number, sector: number): string | null {
  if (words[at + 1] !== sector) return `has the data of operation ${tag} for sector ${words[at + 1]}`;
  let x = base(tag, sector);
  for (let i = 2; i < WORDS; i++) {
    x = (x + 0x6d2b79f5) | 0;
    if (words[at + i] !== x) return `begins as operation ${tag} wrote it, and is something else from byte ${i * 4} on`;
  }
  return null;
}
