/** What the endpoint asks about volumes: which there are, how large one is, its snapshots. No locks are taken for that. */
import {
  decodeJson,
  encodeJson,
  type ListRequest,
  type VolumeListEntry,
  type VolumeListReply,
} from '../requests/json.js';
import { Flag, Op } from '../requests/ops.js';
import { decodeVolumeInfo, VOLUME_INFO_FULL_SIZE, type VolumeInfo } from '../requests/structs.js';
import { monotonicMs } from '../sys/clock.js';
import { errnoOf, errnos } from '../sys/errno.js';
import { type CallInit, type CallReply, type Port, ReplyError } from '../xseg/index.js';

/** How a volume is asked for. */
export interface VolumeAddress {
  readonly name: string;
  /** A map without a header is a v0 (Pithos) map. */
  readonly assumeV0: boolean;
  /** Size of a v0 map's volume in bytes, -1 = not given. */
  readonly v0Size: number;
}

/** A volume that is asked for by its name alone. */
export const plainAddress = (name: string): VolumeAddress => ({ name, assumeV0: false, v0Size: -1 });

/** What names are resolved with. */
export type VolumeLookup = Pick<Volumes, 'info' | 'snapshotsOf' | 'snapshotOf'>;

const LIST_CAPACITY = 256 << 10;
/**
 * How long a peer that died may take to be there again before it is asked in vain, in ms: clients that reconnect after a crash find the
 * endpoint first. Less than the time a client has for its handshake, so that it gets an answer.
 */
const PATIENCE_MS = 8000;
/** Between two questions to a peer that is not there, in ms. */
const RETRY_MS = 50;

export class Volumes {
  readonly #port: Port;
  readonly #composer: number;
  readonly #mapper: number;

  constructor(port: Port, composerPort: number, mapperPort: number) {
    this.#port = port;
    this.#composer = composerPort;
    this.#mapper = mapperPort;
  }

  /** @throws SystemError ENOENT and the mapper's other errors */
  async info(volume: VolumeAddress): Promise<VolumeInfo> {
    const reply = await this.#ask(this.#mapper, {
      op: Op.INFO,
      target: volume.name,
      flags: volume.assumeV0 ? Flag.ASSUMEV0 : 0,
      v0Size: volume.v0Size,
      capacity: VOLUME_INFO_FULL_SIZE,
    });
    return decodeVolumeInfo(reply.data.subarray(0, reply.serviced));
  }

  /** All volumes, snapshots included, page by page. */
  list(): AsyncGenerator<VolumeListEntry> {
    return this.#pages({});
  }

  /** The snapshots of a volume. @throws SystemError ENOENT when there is no such volume */
  snapshotsOf(volume: string): AsyncGenerator<VolumeListEntry> {
    return this.#pages({ snapshotsOf: volume });
  }

  /** The snapshot of this name of a volume, as it is stored now; null when it is none of that volume. */
  async snapshotOf(volume: string, name: string): Promise<VolumeListEntry | null> {
    for await (const entry of this.#pages({ snapshotsOf: volume, name })) return entry;
    return null;
  }

  async *#pages(which: Pick<ListRequest, 'snapshotsOf' | 'name'>): AsyncGenerator<VolumeListEntry> {
    let cursor: string | null = null;
    do {
      const request: ListRequest = { cursor, limit: 512, ...which };
      const reply = await this.#ask(this.#mapper, {
        op: Op.LIST,
        data: encodeJson(request),
        capacity: LIST_CAPACITY,
      });
      const page = decodeJson(reply.data.subarray(0, reply.serviced), 'LIST reply') as unknown as VolumeListReply;
      yield* page.volumes;
      cursor = page.cursor;
    } while (cursor !== null);
  }

  /** Changes the size of a volume, as `vlmc resize` does. @param size bytes; a smaller one is refused */
  async grow(volume: VolumeAddress, size: number): Promise<void> {
    await this.#ask(this.#mapper, { op: Op.TRUNCATE, target: volume.name, offset: size });
  }

  /**
   * Flushes the volume and lets its lock go, when the last client of this endpoint is gone.
   * @param isHeard see Flag.HEARD
   * @throws SystemError EBUSY when another endpoint has clients of it: nothing was done; what kept the volume from being closed otherwise
   */
  async close(volume: VolumeAddress, isHeard = false): Promise<void> {
    await this.#ask(this.#composer, {
      op: Op.CLOSE,
      target: volume.name,
      flags: Flag.IMPLICIT | (isHeard ? Flag.HEARD : 0) | (volume.assumeV0 ? Flag.ASSUMEV0 : 0),
      v0Size: volume.v0Size,
    });
  }

  /** Everything that is asked here may be done twice. @throws SystemError */
  async #ask(peer: number, init: CallInit): Promise<CallReply> {
    const limit = monotonicMs() + PATIENCE_MS;
    for (;;) {
      try {
        return await this.#port.call(peer, init);
      } catch (error) {
        const away =
          !(error instanceof ReplyError) && [errnos.ECONNREFUSED, errnos.ECONNRESET].includes(errnoOf(error));
        if (!away || monotonicMs() >= limit) throw error;
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  }
}
