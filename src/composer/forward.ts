/** Requests that are the mapper's: passed on with their own buffers, and their answers back. */
import { encodeNote, newNote } from '../requests/once.js';
import { Op } from '../requests/ops.js';
import { decodeVolumeInfo, VOLUME_INFO_FULL_SIZE } from '../requests/structs.js';
import { errnoOf, errnos, messageOf } from '../sys/errno.js';
import type { Port, Request } from '../xseg/index.js';

export class Forwarder {
  readonly #port: Port;
  readonly #mapper: number;
  readonly #served: (op: number, target: string) => void;

  /** @param served hears of what the mapper has done, before the asker does */
  constructor(port: Port, mapperPort: number, served: (op: number, target: string) => void) {
    this.#port = port;
    this.#mapper = mapperPort;
    this.#served = served;
  }

  /**
   * Passes a request on; it is answered when the mapper answers. Should this composer die meanwhile, its successor passes the request on once
   * more: the mapper knows it again by its note, which is there before it first goes.
   */
  forward(request: Request): void {
    if (request.note === '') {
      if (request.op === Op.SNAPSHOT) request.note = newNote();
      if (request.op === Op.DELETE) {
        void this.#noteWhich(request).finally(() => this.#pass(request));
        return;
      }
    }
    this.#pass(request);
  }

  /**
   * Notes which volume is to go: one that is made under its name later is another. Nothing is noted of a volume whose map keeps no lineage, as the
   * original writes it, and of one that is not there, which the mapper says best.
   */
  async #noteWhich(request: Request): Promise<void> {
    const { target, flags, v0Size } = request;
    const init = { op: Op.INFO, target, flags, v0Size, capacity: VOLUME_INFO_FULL_SIZE };
    try {
      const { data, serviced } = await this.#port.call(this.#mapper, init, { wait: true });
      const { id, epoch } = decodeVolumeInfo(data.subarray(0, serviced));
      if (id !== null) request.note = encodeNote({ id, epoch });
    } catch {
      // The removal itself fails by the same, or does without.
    }
  }

  #pass(request: Request): void {
    const sub = this.#port.getRequest();
    if (!sub) {
      this.#port.segment.whenAvailable(() => this.#pass(request));
      return;
    }
    sub.op = request.op;
    sub.target = request.target;
    sub.offset = request.offset;
    sub.size = request.size;
    sub.flags = request.flags;
    sub.v0Size = request.v0Size;
    sub.setData(request.dataOffset, request.dataLength);
    sub.note = request.note;
    sub.onReply = (): void => {
      const { served, serviced, errno, message } = sub;
      this.#port.putRequest(sub);
      // A predecessor passed it on already, without a note, and what was to be gone is gone.
      const done = request.op === Op.DELETE && request.redelivered && errno === errnos.ENOENT;
      if (served || done) {
        this.#served(request.op, request.target);
        request.succeed(serviced);
      } else request.fail(errno, message, serviced);
    };
    try {
      this.#port.submit(sub, this.#mapper);
    } catch (error) {
      this.#port.putRequest(sub);
      if (errnoOf(error) === errnos.EAGAIN) this.#port.segment.whenAvailable(() => this.#pass(request));
      else request.fail(errnoOf(error), messageOf(error));
    }
  }
}
