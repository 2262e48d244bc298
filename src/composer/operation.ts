/**
 * One volume request while the composer works on it. Pooled: the hot path allocates none.
 */
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
    this.errno = 0;
    this.message = '';
    this.barrier = -1;
    this.counted = false;
    this.next = null;
    return this;
  }

  /** Remembers an error; the first one wins. */
  failed(errno: number, message: string): void {
    if (this.errno !== 0) return;
    this.errno = errno;
    this.message = message;
  }
}

const pool: Operation[] = [];

export function takeOperation(): Operation {
  return pool.pop() ?? new Operation();
}

export function returnOperation(operation: Operation): void {
  if (pool.length < 1024) pool.push(operation);
}
