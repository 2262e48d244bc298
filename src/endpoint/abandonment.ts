/**
 * Tells the composer of requests that nobody waits for any more, so that those of them end that wait for a lock. One message at a time for all
 * devices; it has a request record of its own, since those who wait may hold all others.
 */
import { Op } from '../requests/ops.js';
import { errnoOf, errnos } from '../sys/errno.js';
import type { Port, Request } from '../xseg/index.js';

/** In `senders`: a request that is no device's. */
export const NOBODY = 0;
const INDEX_BYTES = 4;

export class Abandonment {
  /** By request record: which device has it in the composer. Devices write it, the hot path does nothing else. */
  readonly senders: Int32Array;
  readonly #port: Port;
  readonly #composer: number;
  readonly #abandoned = new Set<number>();
  #record: Request | null;
  #busy = false;
  #lastId = NOBODY;

  constructor(port: Port, composerPort: number) {
    this.#port = port;
    this.#composer = composerPort;
    this.senders = new Int32Array(port.segment.geometry.requests);
    this.#record = port.getRequest();
  }

  /** A number for a device, to be written into `senders`. */
  join(): number {
    this.#lastId = (this.#lastId + 1) | 0 || 1;
    return this.#lastId;
  }

  /** Nobody waits for what this device has in the composer now. */
  tell(device: number): void {
    this.#abandoned.add(device);
    if (!this.#busy) this.#send();
  }

  #send(): void {
    this.#busy = false;
    if (this.#port.closed) return;
    const indices = this.#take();
    if (indices.length === 0) return;
    this.#busy = true;
    const request = this.#record ?? this.#port.getRequest();
    const size = indices.length * INDEX_BYTES;
    const buffer = request === null ? -1 : this.#port.allocate(size);
    this.#record = request;
    if (request === null || buffer < 0) {
      this.#again(indices);
      return;
    }
    request.reset();
    request.op = Op.ABANDON;
    request.size = size;
    request.setData(buffer, size);
    const { data } = request;
    for (const [i, index] of indices.entries()) data.writeUInt32LE(index, i * INDEX_BYTES);
    request.onReply = (): void => {
      // The record stays for the next message.
      this.#port.free(buffer);
      this.#send();
    };
    try {
      this.#port.submit(request, this.#composer);
    } catch (error) {
      this.#port.free(buffer);
      if (errnoOf(error) === errnos.EAGAIN) this.#again(indices);
      else this.#busy = false;
    }
  }

  /** What the devices in question have in the composer now. */
  #take(): number[] {
    const indices: number[] = [];
    if (this.#abandoned.size === 0) return indices;
    for (let index = 0; index < this.senders.length; index++) {
      if (this.#abandoned.has(this.senders[index])) indices.push(index);
    }
    this.#abandoned.clear();
    return indices;
  }

  /** Nothing could be sent now: whoever has these requests is told for later. */
  #again(indices: readonly number[]): void {
    for (const index of indices) this.#abandoned.add(this.senders[index]);
    this.#port.segment.whenAvailable(() => this.#send());
  }
}
