/** A request of the segment as a driver sees it: one object per operation in flight, used over and over. */
import { Flag, opName } from '../requests/ops.js';
import { errnoName, errnos } from '../sys/errno.js';
import type { Request } from '../xseg/index.js';
import type { ObjectIo } from './driver.js';
import { adviceFor } from './errors.js';

export class RequestIo implements ObjectIo {
  offset = 0;
  length = 0;
  address = 0;
  fua = false;
  noHole = false;
  uncached = false;
  alone = false;
  #request: Request | null = null;
  #bytes: Buffer | null = null;
  readonly #finished: (io: RequestIo, op: number, errno: number) => void;

  /** @param finished called after the answer: the object may be used again */
  constructor(finished: (io: RequestIo, op: number, errno: number) => void) {
    this.#finished = finished;
  }

  /** Takes over a request that has been checked. What counts is copied: the asker cannot change it under the driver. */
  begin(request: Request): void {
    const { flags } = request;
    this.#request = request;
    this.#bytes = null;
    this.offset = request.offset;
    this.length = request.size;
    this.address = request.dataAddress;
    this.fua = (flags & Flag.FUA) !== 0;
    this.noHole = (flags & Flag.NO_HOLE) !== 0;
    this.uncached = (flags & Flag.UNCACHED) !== 0;
    this.alone = (flags & Flag.ALONE) !== 0;
  }

  get request(): Request {
    if (this.#request === null) throw new Error('an operation was used after its end');
    return this.#request;
  }

  get name(): string {
    return this.request.target;
  }

  get hint(): number {
    return this.request.hint;
  }
  set hint(value: number) {
    this.request.hint = value;
  }

  get deadline(): number {
    return this.request.deadline;
  }

  isNamed(name: Uint8Array): boolean {
    return this.request.hasTarget(name);
  }

  get bytes(): Buffer {
    this.#bytes ??= this.request.data.subarray(0, this.length);
    return this.#bytes;
  }

  complete(errno: number, reason?: string): void {
    const { request, length } = this;
    const { op } = request;
    this.#request = null;
    this.#bytes = null;
    if (errno === 0) request.succeed(length);
    else request.fail(errno, reason ?? failure(request, errno));
    this.#finished(this, op, errno);
  }
}

function failure(request: Request, errno: number): string {
  const { op, target } = request;
  if (errno === errnos.ENOENT) return `object ${target} does not exist`;
  const advice = adviceFor(errno);
  return `${opName(op)} of object ${target} failed with ${errnoName(errno)}${advice && `: ${advice}`}`;
}
