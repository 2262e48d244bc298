/**
 * A set of object names in little memory. Nearly all of them are `<volume>_<epoch>_<block>`; those are kept as one bit each, by their
 * volume and epoch, so that a check of millions of objects needs megabytes.
 */

/** Bits of one lazily made piece. */
const PIECE_BITS = 4096;
const PATTERN = /^(.+)_([0-9a-f]{16})_([0-9a-f]{16})$/s;

/** The parts of an object name that a volume gave. */
export interface ObjectName {
  readonly volume: string;
  readonly epoch: number;
  /** Block number. */
  readonly index: number;
}

/** Takes an object name apart; null when it is not of the pattern (content-addressed, of an old version). */
export function parseObjectName(name: string): ObjectName | null {
  const match = PATTERN.exec(name);
  if (!match) return null;
  const epoch = Number.parseInt(match[2], 16);
  const index = Number.parseInt(match[3], 16);
  return Number.isSafeInteger(epoch) && Number.isSafeInteger(index) ? { volume: match[1], epoch, index } : null;
}

export class NameSet {
  readonly #groups = new Map<string, Map<number, Uint32Array>>();
  readonly #others = new Set<string>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  add(name: string): void {
    const parsed = parseObjectName(name);
    if (!parsed) {
      this.#size += this.#others.has(name) ? 0 : 1;
      this.#others.add(name);
      return;
    }
    const piece = this.#piece(name.slice(0, -17), Math.floor(parsed.index / PIECE_BITS));
    const bit = parsed.index % PIECE_BITS;
    const mask = 1 << (bit & 31);
    if ((piece[bit >>> 5] & mask) !== 0) return;
    piece[bit >>> 5] |= mask;
    this.#size++;
  }

  has(name: string): boolean {
    const at = this.#find(name);
    return at === null ? this.#others.has(name) : (at.piece[at.word] & at.mask) !== 0;
  }

  delete(name: string): void {
    const at = this.#find(name);
    if (at === null) {
      if (this.#others.delete(name)) this.#size--;
    } else if ((at.piece[at.word] & at.mask) !== 0) {
      at.piece[at.word] &= ~at.mask;
      this.#size--;
    }
  }

  /** All names; those of a volume and epoch come together. */
  *[Symbol.iterator](): Generator<string> {
    yield* this.#others;
    for (const [key, group] of this.#groups) {
      for (const [number, piece] of group) {
        for (let bit = 0; bit < PIECE_BITS; bit++) {
          if ((piece[bit >>> 5] & (1 << (bit & 31))) === 0) continue;
          yield `${key}_${(number * PIECE_BITS + bit).toString(16).padStart(16, '0')}`;
        }
      }
    }
  }

  /** The volumes whose objects are in the set. */
  volumes(): ReadonlySet<string> {
    const found = new Set<string>();
    for (const [key, group] of this.#groups) {
      const used = [...group.values()].some((piece) => piece.some((word) => word !== 0));
      // The key is `<volume>_<epoch>`.
      if (used) found.add(key.slice(0, -17));
    }
    return found;
  }

  /** The bits of 4096 blocks of a volume and epoch. */
  #piece(key: string, number: number): Uint32Array {
    const group = this.#groups.get(key) ?? new Map<number, Uint32Array>();
    this.#groups.set(key, group);
    const piece = group.get(number) ?? new Uint32Array(PIECE_BITS / 32);
    group.set(number, piece);
    return piece;
  }

  /** Where the bit of a name is; null: the name is not of the pattern. */
  #find(name: string): { piece: Uint32Array; word: number; mask: number } | null {
    const parsed = parseObjectName(name);
    if (!parsed) return null;
    const bit = parsed.index % PIECE_BITS;
    const piece = this.#groups.get(name.slice(0, -17))?.get(Math.floor(parsed.index / PIECE_BITS));
    return { piece: piece ?? NO_BITS, word: bit >>> 5, mask: 1 << (bit & 31) };
  }
}

const NO_BITS = new Uint32Array(PIECE_BITS / 32);
