/**
 * Entries of v2 maps as the bytes that are stored: what snapshots and clones are made of. A map of 1 TiB has 262,144 entries; to decode
 * and encode each is most of the work where only a flag changes. No I/O here.
 */
import { EntryFlag } from '../../requests/resolved-map.js';
import { ZERO_NAME_BYTES } from './header.js';
import { ENTRY_SIZE, encodeZeroEntry, MAX_ENTRY_NAME } from './v2.js';

const STORED_FLAGS = EntryFlag.WRITABLE | EntryFlag.ARCHIP | EntryFlag.ZERO | EntryFlag.DELETED;
const OWN = EntryFlag.WRITABLE | EntryFlag.ARCHIP;
const NAME_AT = 5;
const SLASH = 0x2f;

/** What sharing the entries of a run found. */
export interface SharedBytes {
  /** The first entry that cannot be used, as its place in the run; -1: all can. */
  readonly damaged: number;
  /** Some entry was writable. */
  readonly writable: boolean;
}

/**
 * Takes from the entries in `bytes` every flag but ARCHIP and ZERO, in place: as a snapshot has them, as its volume has them from then on,
 * and as a clone begins. A zero block keeps ZERO alone. Ends at the first entry that decodeEntry would refuse, or that is marked deleted.
 */
export function shareBytes(bytes: Buffer): SharedBytes {
  let writable = false;
  for (let at = 0; at < bytes.length; at += ENTRY_SIZE) {
    const flags = bytes[at];
    const length = bytes[at + 1];
    const longer = bytes[at + 2] | bytes[at + 3] | bytes[at + 4];
    const unusable = flags & (~STORED_FLAGS | EntryFlag.DELETED);
    if (unusable || longer !== 0 || length === 0 || length > MAX_ENTRY_NAME) {
      return { damaged: at / ENTRY_SIZE, writable };
    }
    if (flags & EntryFlag.WRITABLE) writable = true;
    if (flags & EntryFlag.ZERO) {
      bytes[at] = EntryFlag.ZERO;
    } else if (isZeroName(bytes, at + NAME_AT, length)) {
      bytes.fill(0, at, at + ENTRY_SIZE);
      encodeZeroEntry(bytes, at);
    } else if (isNameSound(bytes, at + NAME_AT, length)) {
      bytes[at] = flags & EntryFlag.ARCHIP;
    } else {
      return { damaged: at / ENTRY_SIZE, writable };
    }
  }
  return { damaged: -1, writable };
}

/** How many entries are of each kind. */
export interface EntryCounts {
  zero: number;
  /** Of objects that are the volume's alone. */
  own: number;
  shared: number;
  /** Of objects that archipelago did not name. */
  foreign: number;
  /** Not usable: damaged, or of a deletion that was interrupted. */
  damaged: number;
}

/** Counts the entries in `bytes`, as decodeEntry understands them. */
export function countBytes(bytes: Buffer, counts: EntryCounts): void {
  for (let at = 0; at < bytes.length; at += ENTRY_SIZE) {
    const flags = bytes[at];
    const length = bytes[at + 1];
    const longer = bytes[at + 2] | bytes[at + 3] | bytes[at + 4];
    const unusable = flags & (~STORED_FLAGS | EntryFlag.DELETED);
    if (unusable || longer !== 0 || length === 0 || length > MAX_ENTRY_NAME) counts.damaged++;
    else if (flags & EntryFlag.ZERO || isZeroName(bytes, at + NAME_AT, length)) counts.zero++;
    else if (!isNameSound(bytes, at + NAME_AT, length)) counts.damaged++;
    else if ((flags & OWN) === OWN) counts.own++;
    else if (flags & EntryFlag.ARCHIP) counts.shared++;
    else counts.foreign++;
  }
}

function isZeroName(bytes: Buffer, start: number, length: number): boolean {
  // The first byte decides nearly always: comparing is a call out of JavaScript.
  if (length !== ZERO_NAME_BYTES.length || bytes[start] !== ZERO_NAME_BYTES[0]) return false;
  return ZERO_NAME_BYTES.compare(bytes, start, start + length) === 0;
}

function isNameSound(bytes: Buffer, start: number, length: number): boolean {
  for (let k = start; k < start + length; k++) if (bytes[k] === 0 || bytes[k] === SLASH) return false;
  return true;
}

/** `count` entries of zero blocks. */
export function zeroBytes(count: number): Buffer {
  const bytes = Buffer.alloc(count * ENTRY_SIZE);
  if (count === 0) return bytes;
  encodeZeroEntry(bytes, 0);
  // Doubling: a copy of memory each time.
  for (let done = ENTRY_SIZE; done < bytes.length; done *= 2) bytes.copy(bytes, done, 0, done);
  return bytes;
}
