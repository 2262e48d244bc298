/** Entries of a volume's map, fetched from the mapper piece by piece. */
import { Op } from '../../requests/ops.js';
import { CHUNK_ENTRIES, EntryFlag, ResolvedMap } from '../../requests/resolved-map.js';
import { decodeVolumeInfo, VOLUME_INFO_SIZE } from '../../requests/structs.js';
import { errnos, SystemError } from '../../sys/errno.js';
import type { NodeClient } from '../common/client.js';

export { EntryFlag };

export interface MapEntry {
  /** Block number. */
  readonly index: number;
  /** EntryFlag bits. */
  readonly flags: number;
  /** '' for a zero block. */
  readonly object: string;
}

export interface OpenMap {
  readonly size: number;
  readonly blockSize: number;
  readonly blockCount: number;
  /** The entries of a range, as they come: in pieces of up to a few thousand. */
  pieces(first: number, count: number): AsyncGenerator<MapEntry[]>;
}

/** Room for one piece of entries: a whole chunk of usual names; the mapper sends fewer when names are long. */
const PIECE_CAPACITY = 256 << 10;

/** How a v0 map is asked for. */
export interface MapVersion {
  readonly flags: number;
  readonly v0Size: number;
}

/** Looks up the volume's size. No lock is taken: the map may change while it is read. */
export async function openMap(client: NodeClient, name: string, version: MapVersion): Promise<OpenMap> {
  const reply = await client.call('mapper', { op: Op.INFO, target: name, capacity: VOLUME_INFO_SIZE, ...version });
  return mapOf(client, name, decodeVolumeInfo(reply.data), version);
}

/** A map whose size is known already, e.g. from LIST. */
export function mapOf(
  client: NodeClient,
  name: string,
  { size, blockSize }: { size: number; blockSize: number },
  version: MapVersion,
): OpenMap {
  const blockCount = Math.ceil(size / blockSize);
  return {
    size,
    blockSize,
    blockCount,
    pieces: (first, count) => fetchPieces(client, name, blockCount, first, count, version),
  };
}

async function* fetchPieces(
  client: NodeClient,
  name: string,
  blockCount: number,
  first: number,
  count: number,
  version: MapVersion,
): AsyncGenerator<MapEntry[]> {
  const end = Math.min(first + count, blockCount);
  for (let at = first; at < end; ) {
    const size = Math.min(end - at, CHUNK_ENTRIES - (at % CHUNK_ENTRIES));
    const reply = await client.call('mapper', {
      op: Op.MAPFETCH,
      target: name,
      offset: at,
      size,
      capacity: PIECE_CAPACITY,
      ...version,
    });
    const piece = new ResolvedMap(blockCount);
    const range = piece.setChunk(reply.data.subarray(0, reply.serviced));
    if (range.first !== at || range.count > size) {
      throw new SystemError(errnos.EPROTO, `the mapper answered with other blocks of ${name} than those asked for`);
    }
    const entries: MapEntry[] = [];
    for (let i = at; i < at + range.count; i++) {
      entries.push({ index: i, flags: piece.flags(i) & ~EntryFlag.LITERAL, object: piece.objectName(i) });
    }
    yield entries;
    at += range.count;
  }
}
