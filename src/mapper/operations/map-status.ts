/**
 * MAPSTATUS: what the maps alone tell of a range of a volume: how deep its data lies, which objects hold it, where it differs from a
 * snapshot. No object is looked at, nothing is locked.
 *
 * An answer covers a prefix of the range, so that a volume of any size is scanned in requests of bounded work; only the entries
 * that are looked at are read. A damaged entry ends the answer before it, and is an error where the range begins with it.
 */
import { crc32 } from 'node:zlib';
import { EXTENT_BYTES, ExtentPacker, OBJECT_GENERATION_MASK, ObjectFlag } from '../../requests/extents.js';
import type { MapStatusRequest } from '../../requests/json.js';
import { equalBytes, parseHex8, SUFFIX, UNDERSCORE } from '../../requests/map-chunk.js';
import { CHUNK_ENTRIES, EntryFlag, MAX_OBJECT_NAME, type ResolvedMap } from '../../requests/resolved-map.js';
import { errnos, SystemError } from '../../sys/errno.js';
import { blocksOf } from '../ranges.js';
import type { StoredMap } from '../stored-map.js';
import type { Volume } from '../volume.js';

/** Most blocks that one answer covers: 8 MiB of map data, some milliseconds. */
const MOST_BLOCKS = 16 * CHUNK_ENTRIES;
/** Blocks whose entries are read first, for answers that end soon; each further read is larger, up to a chunk. */
const FIRST_STEP = 64;
const OWN = EntryFlag.WRITABLE | EntryFlag.ARCHIP;

/** A map, and the volume it is of, which tells whether the map is kept. */
export interface Subject {
  readonly volume: Volume;
  readonly map: StoredMap;
}

/** Adds the extent of block i, `length` bytes of it; false when there is no room. */
type Describe = (i: number, length: number, out: ExtentPacker) => boolean;

/**
 * @param from what `diff` compares with, else null
 * @param room bytes for the answer
 * @returns packed extents (requests/extents.ts), at least one
 * @throws SystemError EINVAL (the range; from is written to; block sizes differ), ERANGE (room), EIO (the range begins with a
 * damaged entry)
 */
export async function mapStatus(
  subject: Subject,
  what: MapStatusRequest['what'],
  from: Subject | null,
  offset: number,
  size: number,
  room: number,
): Promise<Buffer> {
  const { volume, map } = subject;
  const { first, end } = blocksOf(volume.name, map, offset, size);
  if (size === 0) throw new SystemError(errnos.EINVAL, `volume ${volume.name}: the status of no bytes`);
  if (room < EXTENT_BYTES) throw new SystemError(errnos.ERANGE, `a buffer of ${room} bytes has no room for an extent`);
  if (from) checkComparable(subject, from);
  const out = new ExtentPacker(room);
  const describe = describer(subject, what, from);
  const maps = from ? [subject, from] : [subject];
  const { blockSize } = map.header;
  const stop = Math.min(end, first + MOST_BLOCKS);
  let step = FIRST_STEP;
  for (let at = first; at < stop; ) {
    const count = Math.min(step, stop - at);
    try {
      for (const each of maps) await load(each, at, Math.min(count, each.map.blocks - at));
    } catch (error) {
      // What can be read is answered; the error is for whoever asks for the very blocks that it concerns.
      if (count > 1) {
        step = 1;
        continue;
      }
      if (at > first) return out.finish();
      throw error;
    }
    for (let i = at; i < at + count; i++) {
      for (const each of maps) {
        if (i >= each.map.blocks || each.map.usable(i)) continue;
        if (i > first) return out.finish();
        await each.map.checkOnly(i, 1);
      }
      const start = Math.max(i * blockSize, offset);
      if (!describe(i, Math.min((i + 1) * blockSize, offset + size) - start, out)) return out.finish();
    }
    at += count;
    if (step > 1) step = Math.min(step * 4, CHUNK_ENTRIES);
  }
  return out.finish();
}

/**
 * Names are used again, epochs of one name are not.
 * @throws SystemError ENOENT when another map has that name now
 */
export function checkEpoch({ volume, map }: Subject, epoch: number | undefined): void {
  if (epoch === undefined || map.header.epoch === epoch) return;
  throw new SystemError(
    errnos.ENOENT,
    `${volume.name} was removed, and another made under that name: nothing is compared with it`,
  );
}

async function load({ volume, map }: Subject, first: number, count: number): Promise<void> {
  if (volume.map === map) await map.load(first, count);
  else await map.loadOnly(first, count);
}

function checkComparable({ volume, map }: Subject, from: Subject): void {
  const reference = from.map.header;
  if (!reference.readOnly) {
    throw new SystemError(
      errnos.EINVAL,
      `${from.volume.name} is not a snapshot: its objects change in place, so ${volume.name} cannot be compared with it`,
    );
  }
  if (reference.blockSize !== map.header.blockSize) {
    throw new SystemError(
      errnos.EINVAL,
      `${volume.name} has blocks of ${map.header.blockSize} bytes and ${from.volume.name} of ${reference.blockSize}: they cannot be compared`,
    );
  }
}

function describer({ volume, map }: Subject, what: MapStatusRequest['what'], from: Subject | null): Describe {
  switch (what) {
    case 'depth':
      return (i, length, out) => out.add(length, depth(map.entries.flags(i)));
    case 'object': {
      const name = Buffer.from(volume.name, 'utf8');
      return (i, length, out) => addObject(map.entries, i, name, length, out);
    }
    case 'diff':
      // A map does not differ from itself.
      return from === null
        ? (_i, length, out) => out.add(length, 0)
        : (i, length, out) => out.add(length, differs(map, from.map, i) ? 1 : 0);
  }
}

function depth(flags: number): number {
  if (flags & EntryFlag.ZERO) return 0;
  return (flags & OWN) === OWN ? 1 : 2;
}

const nameBytes = Buffer.alloc(MAX_OBJECT_NAME);

function addObject(entries: ResolvedMap, i: number, volume: Buffer, length: number, out: ExtentPacker): boolean {
  const flags = entries.flags(i);
  if (flags & EntryFlag.ZERO) return out.add(length, 0);
  const nameLength = entries.writeName(i, nameBytes);
  let described = ObjectFlag.PRESENT + (flags & EntryFlag.WRITABLE ? ObjectFlag.WRITABLE : 0);
  const prefix = nameLength - SUFFIX;
  if (isGiven(nameBytes, prefix)) {
    described += parseHex8(nameBytes, prefix + 9) & OBJECT_GENERATION_MASK;
    if (!equalBytes(volume, nameBytes, 0, prefix)) described += ObjectFlag.OTHER_VOLUME;
  } else described += ObjectFlag.FOREIGN;
  return out.add(length, described, crc32(nameBytes.subarray(0, nameLength)));
}

/** Whether `_<epoch>_<index>` follows the first `prefix` bytes. */
function isGiven(name: Uint8Array, prefix: number): boolean {
  if (prefix < 1 || name[prefix] !== UNDERSCORE || name[prefix + 17] !== UNDERSCORE) return false;
  for (const at of [1, 9, 18, 26]) if (parseHex8(name, prefix + at) < 0) return false;
  return true;
}

/**
 * Whether block `i` may differ from that of a read-only map, whose bytes past its end count as zeros. Equal is only what the maps
 * prove: zeros, or one object that neither writes in place. Where one map ends within the block, the same object does not prove it:
 * what the object holds past that end is not looked at.
 */
function differs(map: StoredMap, from: StoredMap, i: number): boolean {
  const flags = map.entries.flags(i);
  if (i >= from.blocks) return (flags & EntryFlag.ZERO) === 0;
  const reference = from.entries.flags(i);
  if (flags & reference & EntryFlag.ZERO) return false;
  if ((flags | reference) & (EntryFlag.ZERO | EntryFlag.WRITABLE)) return true;
  return map.blockLength(i) !== from.blockLength(i) || !map.entries.hasSameName(i, from.entries);
}
