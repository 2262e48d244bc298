/**
 * Requests that nobody waits for any more (ABANDON): those that wait for a lock end, and those that would have to later do as well; what runs
 * goes on. The mark is on the request while this composer serves it.
 */
import { errnos } from '../sys/errno.js';
import type { Port, Request } from '../xseg/index.js';

/** Bytes of a request's index in the data of ABANDON. */
const INDEX_BYTES = 4;

export class Abandoned {
  readonly #port: Port;
  /** Of this composer: a mark that an earlier one left on a record means nothing. */
  readonly #mark = {};

  constructor(port: Port) {
    this.#port = port;
  }

  has(request: Request): boolean {
    return request.serving === this.#mark;
  }

  /** Takes an ABANDON and answers it: its data is the indices of requests of its asker, 32 bits each. */
  take(request: Request): void {
    const { size, dataLength, src, dst } = request;
    if (size > dataLength || size % INDEX_BYTES !== 0 || !request.hasValidData) {
      request.fail(errnos.EINVAL, `ABANDON with ${size} bytes of indices in a buffer of ${dataLength}`);
      return;
    }
    const { segment } = this.#port;
    const { data } = request;
    for (let at = 0; at < size; at += INDEX_BYTES) {
      const index = data.readUInt32LE(at);
      if (index >= segment.geometry.requests) continue;
      const abandoned = segment.request(index);
      // Answered meanwhile, and perhaps another's already: what is not this asker's and owed by this port is left alone.
      if (abandoned.owed && abandoned.src === src && abandoned.dst === dst) abandoned.serving = this.#mark;
    }
    request.succeed(0);
  }
}
