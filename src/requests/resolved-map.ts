/**
 * The resolved map of a volume: for every block its flags and the name of the object that holds it. The mapper keeps its
 * maps this way and the composer its leased copies; MAPFETCH carries pieces of it between the two.
 *
 * Typed arrays instead of an object per block, because a 16 TiB volume has four million blocks: 13 bytes an entry, in chunks of
 * 4096 entries, fewer at the end of a volume, that exist only once something was stored in them. Nearly every object is called `<prefix>_<epoch>_<index>` with
 * the index of its own block, so an entry keeps the number of the prefix and the epoch, and the name is written out when needed,
 * without making a string. Any other name (content-addressed, legacy) is kept as bytes in its chunk: the LITERAL flag says so.
 */
import { errnos, SystemError } from '../sys/errno.js';
import {
  addLiteral,
  CHUNK_ENTRIES,
  type Chunk,
  checkedCount,
  ENTRY_BYTES,
  EntryFlag,
  equalBytes,
  growChunk,
  MAX_OBJECT_NAME,
  newChunk,
  PRESENT,
  PUBLIC_FLAGS,
  parseHex8,
  SUFFIX,
  UNDERSCORE,
  writeHex8,
} from './map-chunk.js';
import { checkPiece, encodePiece } from './map-piece.js';

export { CHUNK_ENTRIES, EntryFlag, MAX_BLOCKS, MAX_OBJECT_NAME } from './map-chunk.js';
export { pieceRange } from './map-piece.js';

const nameScratch = Buffer.alloc(256);
const STORED_FLAGS = EntryFlag.WRITABLE | EntryFlag.ARCHIP | EntryFlag.ZERO | EntryFlag.DELETED;

/** Flags and object names of a volume's blocks. Entries not stored yet are absent: `has(i)` is false. */
export class ResolvedMap {
  #blockCount: number;
  readonly #chunks: (Chunk | undefined)[] = [];
  readonly #prefixes: Buffer[] = [];
  /** Number of a prefix by its bytes (as latin1), and by the text setOwn was given. */
  readonly #prefixNumbers = new Map<string, number>();
  readonly #ownNumbers = new Map<string, number>();

  /** @param blockCount blocks of the volume, ceil(size / block size) */
  constructor(blockCount: number) {
    this.#blockCount = checkedCount(blockCount);
  }

  get blockCount(): number {
    return this.#blockCount;
  }

  /** Changes the number of blocks. Entries at and past the new end are forgotten. */
  resize(blockCount: number): void {
    const count = checkedCount(blockCount);
    if (count < this.#blockCount) this.forget(count, this.#blockCount - count);
    this.#blockCount = count;
  }

  /** Whether the entry of block `i` is known. */
  has(i: number): boolean {
    const chunk = this.#chunks[Math.floor(i / CHUNK_ENTRIES)];
    return chunk !== undefined && (chunk.flags[i % CHUNK_ENTRIES] & PRESENT) !== 0;
  }

  /** EntryFlag bits of block `i`. @throws RangeError when the entry is absent */
  flags(i: number): number {
    const chunk = this.#chunks[Math.floor(i / CHUNK_ENTRIES)];
    const flags = chunk === undefined ? 0 : chunk.flags[i % CHUNK_ENTRIES];
    if ((flags & PRESENT) === 0) throw new RangeError(`entry ${i} is not loaded`);
    return flags & PUBLIC_FLAGS;
  }

  /** Name of the object of block `i`; '' for a ZERO entry. */
  objectName(i: number): string {
    return nameScratch.toString('utf8', 0, this.writeName(i, nameScratch));
  }

  /** What stands before `_<epoch>_<index>` in the name of block `i`'s object; null for zero blocks and other names. */
  namePrefix(i: number): string | null {
    const chunk = this.#at(i);
    const k = i % CHUNK_ENTRIES;
    if (chunk.flags[k] & (EntryFlag.ZERO | EntryFlag.LITERAL)) return null;
    return this.#prefixes[chunk.nameRef[k]].toString('utf8');
  }

  /** Whether block `i` has an object of one and the same name here and in `other`; both entries must be known. Makes no string. */
  hasSameName(i: number, other: ResolvedMap): boolean {
    const a = this.#at(i);
    const b = other.#at(i);
    const k = i % CHUNK_ENTRIES;
    const flags = a.flags[k];
    if ((flags | b.flags[k]) & EntryFlag.ZERO || (flags ^ b.flags[k]) & EntryFlag.LITERAL) return false;
    if (flags & EntryFlag.LITERAL) {
      const start = a.nameRef[k];
      const name = a.literals.subarray(start, start + 1 + a.literals[start]);
      return equalBytes(name, b.literals, b.nameRef[k], name.length);
    }
    if (a.epochLow[k] !== b.epochLow[k] || a.epochHigh[k] !== b.epochHigh[k]) return false;
    const prefix = this.#prefixes[a.nameRef[k]];
    const otherPrefix = other.#prefixes[b.nameRef[k]];
    return equalBytes(prefix, otherPrefix, 0, otherPrefix.length);
  }

  /** Length in bytes of the name that writeName writes. */
  nameLength(i: number): number {
    const chunk = this.#at(i);
    const k = i % CHUNK_ENTRIES;
    const flags = chunk.flags[k];
    if (flags & EntryFlag.ZERO) return 0;
    if (flags & EntryFlag.LITERAL) return chunk.literals[chunk.nameRef[k]];
    return this.#prefixes[chunk.nameRef[k]].length + SUFFIX;
  }

  /**
   * Writes the name of block `i`'s object at `at` in `target`, which must have room for it (MAX_OBJECT_NAME).
   * @returns its length in bytes; 0 for a ZERO entry, which has no object
   */
  writeName(i: number, target: Uint8Array, at = 0): number {
    const chunk = this.#at(i);
    const k = i % CHUNK_ENTRIES;
    const flags = chunk.flags[k];
    if (flags & EntryFlag.ZERO) return 0;
    const ref = chunk.nameRef[k];
    if (flags & EntryFlag.LITERAL) {
      const length = chunk.literals[ref];
      for (let j = 0; j < length; j++) target[at + j] = chunk.literals[ref + 1 + j];
      return length;
    }
    const prefix = this.#prefixes[ref];
    const length = prefix.length;
    for (let j = 0; j < length; j++) target[at + j] = prefix[j];
    const end = at + length;
    target[end] = UNDERSCORE;
    writeHex8(target, end + 1, chunk.epochHigh[k]);
    writeHex8(target, end + 9, chunk.epochLow[k]);
    target[end + 17] = UNDERSCORE;
    writeHex8(target, end + 18, Math.floor(i / 0x100000000));
    writeHex8(target, end + 26, i >>> 0);
    return length + SUFFIX;
  }

  /** Stores an entry. @param name object name; ignored for ZERO entries. LITERAL is found out here, not passed. */
  set(i: number, flags: number, name: string): void {
    const bytes = Buffer.from(name, 'utf8');
    this.setBytes(i, flags, bytes, 0, bytes.length);
  }

  /**
   * Stores an entry whose object name is `length` bytes of `bytes` from `start`; nothing is kept of `bytes`.
   * @throws SystemError EINVAL when the name is empty or too long
   */
  setBytes(i: number, flags: number, bytes: Uint8Array, start: number, length: number): void {
    if (flags & EntryFlag.ZERO) {
      this.setZero(i, flags);
      return;
    }
    if (length < 1 || length > MAX_OBJECT_NAME) {
      throw new SystemError(errnos.EINVAL, `block ${i}: an object name of ${length} bytes`);
    }
    const suffix = start + length - SUFFIX;
    if (
      suffix > start &&
      bytes[suffix] === UNDERSCORE &&
      bytes[suffix + 17] === UNDERSCORE &&
      parseHex8(bytes, suffix + 18) === Math.floor(i / 0x100000000) &&
      parseHex8(bytes, suffix + 26) === i >>> 0
    ) {
      const high = parseHex8(bytes, suffix + 1);
      const low = parseHex8(bytes, suffix + 9);
      if (high >= 0 && low >= 0) {
        this.#store(i, flags & ~EntryFlag.LITERAL, this.#prefixNumber(bytes, start, suffix - start), high, low);
        return;
      }
    }
    const chunk = this.#chunkFor(i);
    this.#store(i, flags | EntryFlag.LITERAL, addLiteral(chunk, bytes, start, length), 0, 0);
  }

  /** Stores `<prefix>_<epoch>_<i>` without making a string. @param epoch at most 2^53 - 1 */
  setOwn(i: number, flags: number, prefix: string, epoch: number): void {
    let number = this.#ownNumbers.get(prefix);
    if (number === undefined) {
      const bytes = Buffer.from(prefix, 'utf8');
      number = this.#prefixNumber(bytes, 0, bytes.length);
      this.#ownNumbers.set(prefix, number);
    }
    this.#store(i, flags & ~EntryFlag.LITERAL, number, Math.floor(epoch / 0x100000000), epoch >>> 0);
  }

  /** Makes block `i` a zero block. @param flags more flags to keep besides ZERO */
  setZero(i: number, flags: number = EntryFlag.ZERO): void {
    this.#store(i, (flags | EntryFlag.ZERO) & ~EntryFlag.LITERAL, 0, 0, 0);
  }

  /** Changes the flags (not LITERAL) of a known entry and keeps its name. */
  setFlags(i: number, flags: number): void {
    const chunk = this.#at(i);
    const k = i % CHUNK_ENTRIES;
    chunk.flags[k] = (chunk.flags[k] & (PRESENT | EntryFlag.LITERAL)) | (flags & 15);
  }

  /** Leaves the entries of these blocks, of those that are known, no flags but these. The blocks must lie in one chunk. */
  keepFlags(first: number, count: number, keep: number): void {
    const chunk = this.#chunks[Math.floor(first / CHUNK_ENTRIES)];
    const base = first % CHUNK_ENTRIES;
    if (chunk) for (let k = base; k < base + count; k++) chunk.flags[k] &= keep | PRESENT | EntryFlag.LITERAL;
  }

  /**
   * Whether the flags in stored entries, the first byte of every `stride` bytes, are those of the blocks from `first` on, as far as these are
   * known. The blocks must lie in one chunk.
   */
  agrees(first: number, stored: Uint8Array, stride: number): boolean {
    const chunk = this.#chunks[Math.floor(first / CHUNK_ENTRIES)];
    if (chunk === undefined) return true;
    for (let at = 0, k = first % CHUNK_ENTRIES; at < stored.length; at += stride, k++) {
      const flags = chunk.flags[k];
      if (flags & PRESENT && ((flags ^ stored[at]) & STORED_FLAGS) !== 0) return false;
    }
    return true;
  }

  /** Forgets `count` entries from `first`; chunks that lie inside give their memory back. */
  forget(first: number, count: number): void {
    const end = Math.min(first + count, this.#blockCount);
    for (let i = first; i < end; ) {
      const number = Math.floor(i / CHUNK_ENTRIES);
      const chunkEnd = (number + 1) * CHUNK_ENTRIES;
      const stop = Math.min(chunkEnd, end);
      if (i % CHUNK_ENTRIES === 0 && (stop === chunkEnd || stop === this.#blockCount)) delete this.#chunks[number];
      else this.#chunks[number]?.flags.fill(0, i % CHUNK_ENTRIES, stop - number * CHUNK_ENTRIES);
      i = stop;
    }
  }

  /**
   * Packs entries for MAPFETCH: as many from `first` on as are known, lie in one chunk and fit.
   * @param limit most bytes of the piece
   * @returns the piece; its count of blocks is what pieceRange() tells. @throws SystemError ERANGE when not even one fits
   */
  serialiseChunk(first: number, count: number, limit: number): Buffer {
    const chunk = this.#at(first);
    const base = first % CHUNK_ENTRIES;
    const most = Math.min(count, CHUNK_ENTRIES - base, this.#blockCount - first);
    return encodePiece(chunk, this.#prefixes, first, most, limit);
  }

  /**
   * Stores the entries of a piece made by serialiseChunk. The piece is checked completely before any entry changes.
   * @returns the blocks it covered. @throws SystemError EINVAL when it is damaged or reaches past the volume
   */
  setChunk(piece: Uint8Array): { first: number; count: number } {
    const bytes = Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength);
    const { first, count, prefixes, entriesAt, literalsAt } = checkPiece(bytes, this.#blockCount);
    const numbers = prefixes.map((p) => this.#prefixNumber(bytes, p.start, p.length));
    this.forget(first, count);
    for (let k = 0, e = entriesAt; k < count; k++, e += ENTRY_BYTES) {
      const flags = bytes[e];
      const ref = bytes.readUInt32LE(e + 1);
      if (flags & EntryFlag.ZERO) this.setZero(first + k, flags);
      else if (flags & EntryFlag.LITERAL) {
        const start = literalsAt + ref;
        this.#store(first + k, flags, addLiteral(this.#chunkFor(first + k), bytes, start + 1, bytes[start]), 0, 0);
      } else this.#store(first + k, flags, numbers[ref], bytes.readUInt32LE(e + 9), bytes.readUInt32LE(e + 5));
    }
    return { first, count };
  }

  /** Bytes of memory the entries take now, about. */
  get memoryUsage(): number {
    let bytes = 0;
    for (const chunk of this.#chunks) if (chunk) bytes += chunk.flags.length * ENTRY_BYTES + chunk.literals.length;
    for (const prefix of this.#prefixes) bytes += prefix.length;
    return bytes;
  }

  #at(i: number): Chunk {
    const chunk = this.#chunks[Math.floor(i / CHUNK_ENTRIES)];
    if (chunk === undefined || (chunk.flags[i % CHUNK_ENTRIES] & PRESENT) === 0) {
      throw new RangeError(`entry ${i} is not loaded`);
    }
    return chunk;
  }

  #chunkFor(i: number): Chunk {
    if (!Number.isInteger(i) || i < 0 || i >= this.#blockCount) {
      throw new RangeError(`block ${i} is outside of a map of ${this.#blockCount} blocks`);
    }
    const number = Math.floor(i / CHUNK_ENTRIES);
    const chunk = this.#chunks[number];
    if (chunk !== undefined && i % CHUNK_ENTRIES < chunk.flags.length) return chunk;
    const entries = Math.min(CHUNK_ENTRIES, this.#blockCount - number * CHUNK_ENTRIES);
    if (chunk !== undefined) {
      growChunk(chunk, entries);
      return chunk;
    }
    const made = newChunk(entries);
    this.#chunks[number] = made;
    return made;
  }

  #store(i: number, flags: number, ref: number, epochHigh: number, epochLow: number): void {
    const chunk = this.#chunkFor(i);
    const k = i % CHUNK_ENTRIES;
    chunk.flags[k] = PRESENT | (flags & PUBLIC_FLAGS);
    chunk.nameRef[k] = ref;
    chunk.epochHigh[k] = epochHigh;
    chunk.epochLow[k] = epochLow;
  }

  #prefixNumber(bytes: Uint8Array, start: number, length: number): number {
    // The newest prefixes are the likely ones, and there are as many as the volume has ancestors: a scan beats making a string.
    for (let n = this.#prefixes.length - 1, tries = 0; n >= 0 && tries < 4; n--, tries++) {
      if (equalBytes(this.#prefixes[n], bytes, start, length)) return n;
    }
    const prefix = Buffer.from(bytes.subarray(start, start + length));
    const key = prefix.toString('latin1');
    const known = this.#prefixNumbers.get(key);
    if (known !== undefined) return known;
    this.#prefixes.push(prefix);
    this.#prefixNumbers.set(key, this.#prefixes.length - 1);
    return this.#prefixes.length - 1;
  }
}
