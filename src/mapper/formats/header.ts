/**
 * What all map formats have in common: the header as the mapper sees it, its limits, and how a stored map is recognised.
 * Pure functions; the formats themselves are v0.ts, v1.ts and v2.ts (ondisk: map formats).
 */
import { MAX_BLOCKS } from '../../requests/resolved-map.js';
import { errnos, SystemError } from '../../sys/errno.js';
import type { Lineage } from './lineage.js';

/** SHA-256 of nothing: the name of the zero block. */
export const ZERO_NAME = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';
export const ZERO_NAME_BYTES: Buffer = Buffer.from(ZERO_NAME, 'latin1');
/** 4 MiB: of every volume that was not made with another, and the only one of v0 and v1. */
export const DEFAULT_BLOCK_SIZE = 1 << 22;
/** What is read of a header object to recognise and decode it. */
export const HEADER_READ = 512;
/** Direct I/O padded files with zeros to a multiple of this. */
export const PADDING = 512;
/** The largest volume, in bytes: what a JavaScript number counts exactly. */
export const MAX_VOLUME_SIZE = Number.MAX_SAFE_INTEGER;

export type MapVersion = 0 | 1 | 2;

export interface MapHeader {
  version: MapVersion;
  /** Volume size in bytes; any value. */
  size: number;
  /** A power of two over 128. */
  blockSize: number;
  /** A snapshot or an image: never written. */
  readOnly: boolean;
  /** The volume is gone; the header stays so that its epochs are not used again. */
  deleted: boolean;
  /** Part of the names of the objects written from now on. */
  epoch: number;
  /** Of v2 maps; null when it is not known. */
  lineage: Lineage | null;
}

/** Blocks of a volume. */
export const blockCount = (size: number, blockSize: number): number => Math.ceil(size / blockSize);

export const validBlockSize = (blockSize: number): boolean =>
  Number.isInteger(blockSize) && blockSize > 128 && blockSize <= 2 ** 31 && Number.isInteger(Math.log2(blockSize));

/** Stored bytes are not what they should be. EIO, because the caller's request was fine. */
export class DamagedMap extends SystemError {
  constructor(object: string, what: string) {
    super(errnos.EIO, `map object ${object} is damaged: ${what}`);
    this.name = 'DamagedMap';
  }
}

export const damaged = (object: string, what: string): DamagedMap => new DamagedMap(object, what);

/** Checks size and block size of a header that was read. @throws SystemError EIO naming the object */
export function checkHeader(object: string, header: MapHeader): MapHeader {
  if (!validBlockSize(header.blockSize)) throw damaged(object, `block size ${header.blockSize}`);
  if (header.size > MAX_VOLUME_SIZE || blockCount(header.size, header.blockSize) > MAX_BLOCKS) {
    throw damaged(object, `a volume of ${header.size} bytes in blocks of ${header.blockSize}`);
  }
  return header;
}

/**
 * Checks the size of a volume that is to be made or resized.
 * @throws SystemError EINVAL (0, not an integer), EFBIG
 */
export function checkNewSize(volume: string, size: number, blockSize: number): void {
  if (!Number.isInteger(size) || size <= 0) {
    throw new SystemError(errnos.EINVAL, `volume ${volume}: a size of ${size} bytes; it must be at least 1`);
  }
  if (size > MAX_VOLUME_SIZE || blockCount(size, blockSize) > MAX_BLOCKS) {
    throw new SystemError(
      errnos.EFBIG,
      `volume ${volume}: ${size} bytes are too many; blocks of ${blockSize} bytes allow ${MAX_BLOCKS * blockSize}`,
    );
  }
}

/** A u64 that must be exact as a number. @throws SystemError EIO naming the object */
export function exact(object: string, value: bigint, what: string): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw damaged(object, `${what} ${value}`);
  return Number(value);
}

/** Whether a file of `length` bytes holds exactly `expected`, or that padded by direct I/O. */
export const fits = (length: number, expected: number): boolean =>
  length === expected || length === Math.ceil(expected / PADDING) * PADDING;
