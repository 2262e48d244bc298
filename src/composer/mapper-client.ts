/** What the composer asks of the mapper about a volume's map: fetching it, making blocks writable, making them zero. */

import { decodeJson, encodeJson } from '../requests/json.js';
import type { LeaseReply, LeaseRequest } from '../requests/lease.js';
import { Flag, Op } from '../requests/ops.js';
import { CHUNK_ENTRIES, type ResolvedMap } from '../requests/resolved-map.js';
import { decodeMapReply, encodeBlocks, type MapSegment, mapReplySize } from '../requests/structs.js';
import { errnos, SystemError } from '../sys/errno.js';
import type { CallInit, CallReply, Port } from '../xseg/index.js';
import type { Volume, VolumeKey } from './volume.js';

const LEASE_CAPACITY = 4096;
const FETCH_CAPACITY = 256 << 10;

export class MapperClient {
  readonly #port: Port;
  readonly #mapper: number;

  constructor(port: Port, mapperPort: number) {
    this.#port = port;
    this.#mapper = mapperPort;
  }

  async lease(key: VolumeKey, write: boolean): Promise<LeaseReply> {
    const request: LeaseRequest = { write };
    const reply = await this.#call(key, { op: Op.LEASE, data: encodeJson(request), capacity: LEASE_CAPACITY });
    return decodeJson(reply.data.subarray(0, reply.serviced), 'LEASE reply') as unknown as LeaseReply;
  }

  /** Fetches the chunk of entries that has this block into the map. */
  async fetchChunk(volume: Volume, map: ResolvedMap, chunk: number): Promise<void> {
    const end = Math.min((chunk + 1) * CHUNK_ENTRIES, map.blockCount);
    for (let first = chunk * CHUNK_ENTRIES; first < end; ) {
      const reply = await this.#call(volume.key, {
        op: Op.MAPFETCH,
        offset: first,
        size: end - first,
        capacity: FETCH_CAPACITY,
        brief: true,
      });
      first += map.setChunk(reply.data.subarray(0, reply.serviced)).count;
    }
  }

  /** Makes blocks writable; where their data is now. offset, size in bytes of the volume */
  async makeWritable(volume: Volume, offset: number, size: number, blocks: number): Promise<MapSegment[]> {
    const capacity = mapReplySize(blocks);
    const reply = await this.#call(volume.key, { op: Op.MAPW, offset, size, capacity, brief: true });
    return segmentsIn(reply, blocks);
  }

  /** Makes blocks writable, wherever they lie; the names of their objects, in the same order. */
  async makeOwn(volume: Volume, blocks: readonly number[]): Promise<string[]> {
    const init = { op: Op.MAPOWN, data: encodeBlocks(blocks), capacity: mapReplySize(blocks.length), brief: true };
    const reply = await this.#call(volume.key, init);
    return segmentsIn(reply, blocks.length).map(({ target }) => target);
  }

  /** Where the data of a range is, for one read without a lease. */
  async locate(volume: Volume, offset: number, size: number, blocks: number): Promise<MapSegment[]> {
    const reply = await this.#call(volume.key, { op: Op.MAPR, offset, size, capacity: mapReplySize(blocks) });
    return decodeMapReply(reply.data.subarray(0, reply.serviced));
  }

  /** Makes whole blocks ZERO. offset, size in bytes */
  async makeZero(volume: Volume, offset: number, size: number): Promise<void> {
    await this.#call(volume.key, { op: Op.MAPZERO, offset, size });
  }

  /**
   * Makes the volume's map durable.
   * @param written the volume was changed, so the lock must still be this node's
   * @throws SystemError EIO when it is not
   */
  async flush(key: VolumeKey, written: boolean): Promise<void> {
    await this.#call(key, { op: Op.FLUSH, size: 0, flags: written ? Flag.WRITTEN : 0 });
  }

  /** Nobody waits for the volume's lock any more. */
  async abandon(key: VolumeKey): Promise<void> {
    await this.#call(key, { op: Op.ABANDON });
  }

  #call(key: VolumeKey, init: CallInit): Promise<CallReply> {
    return this.#port.call(
      this.#mapper,
      { ...init, target: key.name, flags: (init.flags ?? 0) | (key.assumeV0 ? Flag.ASSUMEV0 : 0), v0Size: key.v0Size },
      { wait: true },
    );
  }
}

/** @throws SystemError EIO when it has not so many, or one without an object */
function segmentsIn({ data }: CallReply, blocks: number): MapSegment[] {
  const segments = decodeMapReply(data);
  const own = segments.filter(({ zero, target }) => !zero && target !== '').length;
  if (segments.length === blocks && own === blocks) return segments;
  throw new SystemError(errnos.EIO, `the mapper told of the objects of ${own} of ${blocks} blocks`);
}
