/** From bytes of a volume to its blocks and objects, and what may be done with its map. */
import { EntryFlag } from '../requests/resolved-map.js';
import type { MapSegment } from '../requests/structs.js';
import { errnos, SystemError } from '../sys/errno.js';
import { frozenMessage } from './context.js';
import type { StoredMap } from './stored-map.js';

/** Blocks first .. end-1. */
export interface BlockRun {
  readonly first: number;
  end: number;
}

/** @throws SystemError EROFS with the reason, for a map that must not be written */
export function refuseImmutable(name: string, map: StoredMap): void {
  if (!map.immutable) return;
  const { frozenReason } = map;
  const message =
    frozenReason === null ? `${name} is a snapshot: it cannot be written` : frozenMessage(name, frozenReason);
  throw new SystemError(errnos.EROFS, message);
}

/** The answer has no room for so many blocks. */
export class TooManyBlocks extends SystemError {
  /** Blocks of the range. */
  readonly blocks: number;
  constructor(name: string, blocks: number, most: number) {
    super(errnos.ERANGE, `volume ${name}: the buffer has room for ${most} of ${blocks} blocks`);
    this.name = 'TooManyBlocks';
    this.blocks = blocks;
  }
}

/**
 * The blocks that bytes [offset, offset + size) are in.
 * @throws SystemError EINVAL past the end; TooManyBlocks
 */
export function blocksOf(
  name: string,
  map: StoredMap,
  offset: number,
  size: number,
  most = Number.POSITIVE_INFINITY,
): { first: number; end: number } {
  const { blockSize, size: volumeSize } = map.header;
  if (!(offset >= 0 && size >= 0 && offset + size <= volumeSize)) {
    throw new SystemError(
      errnos.EINVAL,
      `volume ${name}: ${size} bytes at ${offset} are past its end at ${volumeSize}`,
    );
  }
  const first = Math.floor(offset / blockSize);
  const end = size === 0 ? first : Math.ceil((offset + size) / blockSize);
  if (end - first > most) throw new TooManyBlocks(name, end - first, most);
  return { first, end };
}

/**
 * These blocks as runs, in ascending order, each block once.
 * @throws SystemError EINVAL for a block that there is not; TooManyBlocks
 */
export function runsOfBlocks(
  name: string,
  map: StoredMap,
  blocks: readonly number[],
  most = Number.POSITIVE_INFINITY,
): BlockRun[] {
  if (blocks.length > most) throw new TooManyBlocks(name, blocks.length, most);
  const missing = blocks.find((block) => block >= map.blocks);
  if (missing !== undefined) {
    throw new SystemError(errnos.EINVAL, `volume ${name}: block ${missing} is past its end at ${map.blocks}`);
  }
  const runs: BlockRun[] = [];
  for (const block of [...blocks].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last && block <= last.end) last.end = block + 1;
    else runs.push({ first: block, end: block + 1 });
  }
  return runs;
}

/** The pieces of bytes [offset, offset + size), whose entries were checked. */
export function segmentsOf(map: StoredMap, offset: number, size: number): MapSegment[] {
  const { blockSize } = map.header;
  const out: MapSegment[] = [];
  for (let at = offset; at < offset + size; ) {
    const i = Math.floor(at / blockSize);
    const within = at - i * blockSize;
    const length = Math.min(blockSize - within, offset + size - at);
    const zero = (map.entries.flags(i) & EntryFlag.ZERO) !== 0;
    out.push({ target: zero ? '' : map.entries.objectName(i), zero, offset: within, size: length });
    at += length;
  }
  return out;
}
