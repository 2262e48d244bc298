/**
 * One volume request while the composer works on it. Pooled: the hot path allocates none.
 */
import { errnoOf, errnos, messageOf } from '../sys/errno.js';
import type { Request } from '../xseg/index.js';
import type { Volume } from './volume.js';

export class Operation {
  request!: Request;
  volume!: Volume;
  /** Range of the volume, in bytes. */
  offset = 0;
  length = 0;
  /** Where the transfer goes on. */
  position = 0;
  end = 0;
  /** The lease ran out before all was done (errno is ETIME then): what is missing is done under another one. */
  expired = false;
  /** Sub-requests in flight. */
  pending = 0;
  /** First error met. */
  errno = 0;
  message = '';
  /** Writes: which generation of the volume's write barrier it counts in; -1 = in none. */
  barrier = -1;
  /** Counted in the volume's in-flight operations. */
  counted = false;

  /** What goes on when all sub-requests of the current step are answered. */
  next: ((operation: Operation) => void) | null = null;

  reset(request: Request, volume: Volume, offset: number, length: number): this {
    this.request = request;
    this.volume = volume;
    this.offset = offset;
    this.length = length;
    this.position = offset;
    this.end = offset + length;
    this.pending = 0;
    this.expired = false;
    this.errno = 0;
    this.message = '';
    this.barrier = -1;
    this.counted = false;
    this.next = null;
    return this;
  }

  /** Remembers an error; the first one wins. */
  failed(errno: number, message: string): void {
    if (this.errno !== 0 && !this.expired) return;
    this.expired = false;
    this.errno = errno;
    this.message = message;
  }

  /** Remembers what a call failed with. ETIME says that it was not begun, for its lease had run out. */
  rejected(error: unknown): void {
    if (errnoOf(error) === errnos.ETIME) this.expire(this.offset);
    else this.failed(errnoOf(error), messageOf(error));
  }

  /** Nothing more of it may be sent under this lease. @param position where it goes on under another one */
  expire(position: number): void {
    if (this.errno !== 0 && !this.expired) return;
    this.expired = true;
    this.errno = errnos.ETIME;
    if (position < this.position) this.position = position;
  }

  /** Goes on under a lease that is good. */
  resume(): void {
    this.expired = false;
    this.errno = 0;
  }
}

const pool: Operation[] = [];

export function takeOperation(): Operation {
  return pool.pop() ?? new Operation();
}

export function returnOperation(operation: Operation): void {
  if (pool.length < 1024) pool.push(operation);
}
