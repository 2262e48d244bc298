/** Requests that are the mapper's: passed on with their own buffers, and their answers back. */
import { newNote } from '../requests/once.js';
import { Op } from '../requests/ops.js';
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

  /** Passes a request on; it is answered when the mapper answers. */
  forward(request: Request): void {
    const sub = this.#port.getRequest();
    if (!sub) {
      this.#port.segment.whenAvailable(() => this.forward(request));
      return;
    }
    sub.op = request.op;
    sub.target = request.target;
    sub.offset = request.offset;
    sub.size = request.size;
    sub.flags = request.flags;
    sub.v0Size = request.v0Size;
    sub.setData(request.dataOffset, request.dataLength);
    // Should this composer die, its successor passes the request on once more: the mapper knows it again by this.
    if (request.op === Op.SNAPSHOT && request.note === '') request.note = newNote();
    sub.note = request.note;
    sub.onReply = (): void => {
      const { served, serviced, errno, message } = sub;
      this.#port.putRequest(sub);
      // A predecessor passed it on already, and what was to be gone is gone.
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
      if (errnoOf(error) === errnos.EAGAIN) this.#port.segment.whenAvailable(() => this.forward(request));
      else request.fail(errnoOf(error), messageOf(error));
    }
  }
}
