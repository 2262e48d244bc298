/** One connection's place in a device's throttle: its next request asks there before it takes any memory. */
import { Command } from './constants.js';
import type { Throttle, ThrottleTicket } from './device.js';
import type { Request } from './requests.js';

export class Ticket implements ThrottleTicket {
  isWrite = false;
  bytes = 0;
  readonly #wake: () => void;
  /** Where it waits. */
  #throttle: Throttle | null = null;
  #granted = false;
  #free = false;

  /** @param wake called when a request that waited may begin */
  constructor(wake: () => void) {
    this.#wake = wake;
  }

  /** Whether this request may begin: asked until it may. */
  admits(request: Request, throttle: Throttle): boolean {
    if (this.#granted) {
      this.#granted = false;
      return true;
    }
    if (this.#throttle !== null) return false;
    const { command, length } = request;
    this.isWrite = command !== Command.READ;
    this.bytes = command === Command.READ || command === Command.WRITE ? length : 0;
    if (this.#free) {
      throttle.charge(this);
      return true;
    }
    if (throttle.admit(this)) return true;
    this.#throttle = throttle;
    return false;
  }

  granted(): void {
    this.#throttle = null;
    this.#granted = true;
    this.#wake();
  }

  /** From now on nothing is held back, only counted: nobody waits for the answers any more, but for the end. */
  release(): void {
    this.#free = true;
    const throttle = this.#throttle;
    if (throttle === null) return;
    throttle.cancel(this);
    throttle.charge(this);
    this.granted();
  }

  /** The request that waits, if one does, will not begin. */
  cancel(): void {
    this.#throttle?.cancel(this);
    this.#throttle = null;
    this.#granted = false;
  }
}
