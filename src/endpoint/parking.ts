/**
 * Writes to volumes that another node has locked, beyond the one that waits in the composer for all of this endpoint: they hold no request
 * record, of which all volumes need some. When that one is answered they are sent, or fail with it.
 *
 * Answers of a composer that died may come in another order than it gave them: the one that ends the waiting before the one that parks. So
 * one of those parked asks again now and then.
 */
import type { Io } from '../nbd/index.js';
import { errnos } from '../sys/errno.js';

/** How often one of a volume asks again, in ms. */
const ASK_MS = 1000;

/** Whose Io it is. */
export interface Parker {
  unpark(io: Io): void;
  /** Ends an Io, which others may wait for (leftovers.ts). @param errno positive */
  fail(io: Io, errno: number, message: string): void;
}

interface Parked {
  readonly by: Parker;
  readonly io: Io;
}

export class Parking {
  readonly #volumes = new Map<string, Parked[]>();
  #asking: NodeJS.Timeout | undefined;

  /** Something is parked. */
  get isUsed(): boolean {
    return this.#volumes.size > 0;
  }

  park(volume: string, by: Parker, io: Io): void {
    const parked = this.#volumes.get(volume);
    if (parked) parked.push({ by, io });
    else this.#volumes.set(volume, [{ by, io }]);
    this.#asking ??= setTimeout(() => this.#ask(), ASK_MS).unref();
  }

  #ask(): void {
    this.#asking = undefined;
    for (const [volume, parked] of [...this.#volumes]) {
      const { by, io } = parked.shift()!;
      if (parked.length === 0) this.#volumes.delete(volume);
      else this.#asking ??= setTimeout(() => this.#ask(), ASK_MS).unref();
      by.unpark(io);
    }
  }

  /** Takes what one device has parked. */
  take(volume: string, by: Parker): Io[] {
    const parked = this.#volumes.get(volume) ?? [];
    const left = parked.filter((entry) => entry.by !== by);
    if (left.length > 0) this.#volumes.set(volume, left);
    else this.#volumes.delete(volume);
    return parked.flatMap((entry) => (entry.by === by ? entry.io : []));
  }

  /**
   * A change of the volume was answered, which may be the one that waited for the lock. That it waited long enough goes for all; anything
   * else is each one's own.
   */
  answered(volume: string, errno: number, message: string): void {
    const parked = this.#volumes.get(volume);
    if (!parked) return;
    this.#volumes.delete(volume);
    for (const { by, io } of parked) {
      if (errno === errnos.EBUSY) by.fail(io, errno, message);
      else by.unpark(io);
    }
  }
}
