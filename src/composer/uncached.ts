/**
 * Reads of a volume that another node has locked: where the data is, is asked for every request, and nothing is kept, since the
 * holder may change the map at any time.
 */

import { Flag, Op } from '../requests/ops.js';
import type { MapSegment } from '../requests/structs.js';
import { monotonicMs } from '../sys/clock.js';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import type { Port } from '../xseg/index.js';
import type { MapperClient } from './mapper-client.js';
import type { Operation } from './operation.js';

/**
 * The holder may drop an object between our look at the map and our read, again and again where it trims and writes without end: look again, but
 * not for ever, since the object may be missing. In ms, and how long to wait in between once it happened more than once.
 */
const PATIENCE_MS = 2000;
const PAUSE_MS = 20;

export class UncachedReads {
  readonly #port: Port;
  readonly #blocker: number;
  readonly #mapper: MapperClient;

  constructor(port: Port, blockerPort: number, mapper: MapperClient) {
    this.#port = port;
    this.#blocker = blockerPort;
    this.#mapper = mapper;
  }

  start(operation: Operation, finish: (operation: Operation) => void): void {
    this.#read(operation).then(
      () => finish(operation),
      (error: unknown) => {
        operation.failed(errnoOf(error), messageOf(error));
        finish(operation);
      },
    );
  }

  async #read(operation: Operation): Promise<void> {
    const { volume, offset, length } = operation;
    const blocks = Math.floor((operation.end - 1) / volume.blockSize) - Math.floor(offset / volume.blockSize) + 1;
    const started = monotonicMs();
    for (let attempt = 1; ; attempt++) {
      const segments = await this.#mapper.locate(volume, offset, length, blocks);
      const missing = await this.#transfer(operation, segments);
      if (missing === null) return;
      if (monotonicMs() - started > PATIENCE_MS) {
        const { name } = volume.key;
        throw new SystemError(errnos.EIO, `object ${missing} of volume ${name} is missing; see vlmc check ${name}`);
      }
      if (attempt > 1) await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }

  /** Reads the segments into the request's data; the name of a missing object, or null. */
  async #transfer(operation: Operation, segments: readonly MapSegment[]): Promise<string | null> {
    const { request } = operation;
    if (request.flags & Flag.MAY_BE_HOLE && isHole(segments, operation.length)) {
      request.flags |= Flag.HOLE;
      return null;
    }
    const data = request.data;
    let at = 0;
    for (const { target, zero, offset, size } of segments) {
      if (at + size > operation.length) throw new SystemError(errnos.EIO, 'the mapper answered more than was asked');
      if (zero) data.fill(0, at, at + size);
      else {
        try {
          const init = { op: Op.READ, target, offset, size, capacity: size, flags: Flag.UNCACHED };
          const reply = await this.#port.call(this.#blocker, init, { wait: true });
          reply.data.copy(data, at, 0, size);
        } catch (error) {
          if (errnoOf(error) === errnos.ENOENT) return target;
          throw error;
        }
      }
      at += size;
    }
    if (at !== operation.length) throw new SystemError(errnos.EIO, 'the mapper answered less than was asked');
    return null;
  }
}

/** Do the segments say that all of it reads as zeros? */
function isHole(segments: readonly MapSegment[], length: number): boolean {
  let size = 0;
  for (const segment of segments) {
    if (!segment.zero) return false;
    size += segment.size;
  }
  return size === length;
}
