/**
 * Reply of BLOCK_STATUS: extents of a volume from the request's offset on, packed in the data buffer, 16 bytes each:
 * length (u64, bytes), flags (u32), upper half of 64-bit flags (u32), little endian. They cover a prefix of what was asked, at least one extent.
 */

/** Extent flags, as NBD's base:allocation has them: 1 hole, 2 reads as zeros. */
export const ExtentFlag = { HOLE: 1, ZERO: 2 } as const;
export const EXTENT_BYTES = 16;

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
