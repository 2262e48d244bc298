/**
 * Requests that nobody waits for any more (ABANDON): those that wait for a lock end, and those that would have to later do as well; what runs
 * goes on. The mark is a note on the request, so that it outlives this composer.
 */
import { errnos } from '../sys/errno.js';
import type { Port, Request } from '../xseg/index.js';

/** Bytes of a request's index in the data of ABANDON. */
const INDEX_BYTES = 4;
const MARK = 'abandoned';

/** Does nobody wait for the answer any more? */
export const isAbandoned = (request: Request): boolean => request.note === MARK;

/** Takes an ABANDON and answers it: its data is the indices of requests of its asker, 32 bits each. */
export function markAbandoned(port: Port, request: Request): void {
  const { size, dataLength, src, dst } = request;
  if (size > dataLength || size % INDEX_BYTES !== 0 || !request.hasValidData) {
    request.fail(errnos.EINVAL, `ABANDON with ${size} bytes of indices in a buffer of ${dataLength}`);
    return;
  }
  const { segment } = port;
  const { data } = request;
  for (let at = 0; at < size; at += INDEX_BYTES) {
    const index = data.readUInt32LE(at);
    if (index >= segment.geometry.requests) continue;
    const abandoned = segment.request(index);
    // Answered meanwhile, and perhaps another's already: what is not this asker's and owed by this port is left alone.
    if (abandoned.owed && abandoned.src === src && abandoned.dst === dst) abandoned.note = MARK;
  }
  request.succeed(0);
}
