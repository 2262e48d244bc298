/** What a store has not answered yet: whoever waits for the mapper can tell a store that hangs from work that takes long. */
import type { Caller, CallRequest } from '../requests/object-client.js';
import { Op } from '../requests/ops.js';
import type { Clock } from './clock.js';

/** These may take long while all is well. */
const patient: ReadonlySet<number> = new Set([Op.FLUSH, Op.LIST, Op.NEWS, Op.FENCE]);

export interface PendingStatus {
  /** Requests without an answer. */
  readonly pending: number;
  /** For how long the oldest of them has had none, in ms; 0 = there is none. */
  readonly oldestMs: number;
}

/** Calls of one store, counted. */
export class PendingCalls implements Caller {
  readonly #caller: Caller;
  readonly #clock: Clock;
  /** In the order in which they were sent. */
  readonly #sent = new Set<{ readonly at: number }>();

  constructor(caller: Caller, clock: Clock) {
    this.#caller = caller;
    this.#clock = clock;
  }

  async call(
    dst: number,
    request: CallRequest,
    options?: { wait?: boolean },
  ): Promise<{ serviced: number; data: Buffer }> {
    if (patient.has(request.op)) return this.#caller.call(dst, request, options);
    const sent = { at: this.#clock.now() };
    this.#sent.add(sent);
    try {
      return await this.#caller.call(dst, request, options);
    } finally {
      this.#sent.delete(sent);
    }
  }

  status(): PendingStatus {
    const [oldest] = this.#sent;
    return { pending: this.#sent.size, oldestMs: oldest ? Math.max(1, Math.round(this.#clock.now() - oldest.at)) : 0 };
  }
}
