/**
 * Reply of BLOCK_STATUS and MAPSTATUS: extents of a volume from the request's offset on, packed in the data buffer, 16 bytes each:
 * length (u64, bytes), flags (u32), upper half of 64-bit flags (u32), little endian. They cover a prefix of what was asked, at least one extent.
 */

/** Extent flags, as NBD's base:allocation has them: 1 hole, 2 reads as zeros. */
export const ExtentFlag = { HOLE: 1, ZERO: 2 } as const;
export const EXTENT_BYTES = 16;

/**
 * Flags of MAPSTATUS `object`, besides the low 28 bits of the generation in the object's name; zeros without an object have none.
 * flagsHigh is the CRC-32 of the object's name.
 */
export const ObjectFlag = {
  /** There is an object. */
  PRESENT: 0x10000000,
  /** Its name is not one that a volume gives: content-addressed, or of a version 1 map. The generation is 0. */
  FOREIGN: 0x20000000,
  /** Its name is one that another volume gave: a parent, or this one before it was renamed. */
  OTHER_VOLUME: 0x40000000,
  /** This volume writes it in place. */
  WRITABLE: 0x80000000,
} as const;
export const OBJECT_GENERATION_MASK = 0x0fffffff;

export interface PackedExtent {
  /** Bytes. */
  length: number;
  flags: number;
  /** Upper half of 64-bit flags; absent: 0. */
  flagsHigh?: number;
}

/** Writes as many extents as fit; returns the bytes used. */
export function encodeExtents(extents: readonly PackedExtent[], out: Buffer): number {
  let at = 0;
  for (const { length, flags, flagsHigh = 0 } of extents) {
    if (at + EXTENT_BYTES > out.length) break;
    out.writeUInt32LE(length >>> 0, at);
    out.writeUInt32LE(Math.floor(length / 0x100000000), at + 4);
    out.writeUInt32LE(flags, at + 8);
    out.writeUInt32LE(flagsHigh, at + 12);
    at += EXTENT_BYTES;
  }
  return at;
}

/** Packs extents as they are found; neighbours with the same flags become one. */
export class ExtentPacker {
  readonly #out: Buffer;
  #at = -EXTENT_BYTES;
  #length = 0;
  #flags = 0;
  #flagsHigh = 0;

  /** @param bytes room for the extents: at least EXTENT_BYTES */
  constructor(bytes: number) {
    this.#out = Buffer.allocUnsafe(bytes - (bytes % EXTENT_BYTES));
  }

  /** Adds the next extent. @returns false when there is no room for it: the packed extents end before it */
  add(length: number, flags: number, flagsHigh = 0): boolean {
    if (this.#at >= 0 && flags === this.#flags && flagsHigh === this.#flagsHigh) {
      this.#length += length;
      return true;
    }
    const next = this.#at + EXTENT_BYTES;
    if (next + EXTENT_BYTES > this.#out.length) return false;
    this.#put();
    this.#at = next;
    this.#length = length;
    this.#flags = flags;
    this.#flagsHigh = flagsHigh;
    return true;
  }

  /** What was packed so far. */
  finish(): Buffer {
    this.#put();
    return this.#out.subarray(0, this.#at + EXTENT_BYTES);
  }

  #put(): void {
    if (this.#at < 0) return;
    this.#out.writeUInt32LE(this.#length >>> 0, this.#at);
    this.#out.writeUInt32LE(Math.floor(this.#length / 0x100000000), this.#at + 4);
    this.#out.writeUInt32LE(this.#flags, this.#at + 8);
    this.#out.writeUInt32LE(this.#flagsHigh, this.#at + 12);
  }
}

export function decodeExtents(bytes: Buffer): PackedExtent[] {
  const extents: PackedExtent[] = [];
  for (let at = 0; at + EXTENT_BYTES <= bytes.length; at += EXTENT_BYTES) {
    const length = bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * 0x100000000;
    const flags = bytes.readUInt32LE(at + 8);
    const flagsHigh = bytes.readUInt32LE(at + 12);
    extents.push(flagsHigh === 0 ? { length, flags } : { length, flags, flagsHigh });
  }
  return extents;
}
