/**
 * Handing the lock of a volume that is open shared to another node that asks for it: the composers drain and flush, the map is flushed, what
 * is cached is dropped, the lock released. Whoever writes here next asks for it back.
 */
import { Flag } from '../../requests/ops.js';
import { messageOf } from '../../sys/errno.js';
import { withAlone } from '../alone.js';
import type { Clock } from '../clock.js';
import type { MapperContext, MapperLog } from '../context.js';
import type { Volume } from '../volume.js';

/** For how long after it was taken the lock is not given away, in ms: whoever got it does something with it. */
const LEAST_MS = 50;
/** For how long the node that asked is let go first at most, in ms: until it was seen to have the lock. It tries every 50 ms. */
const YIELD_MS = 400;

export interface HandOverOptions {
  readonly context: Pick<MapperContext, 'volumes' | 'leases' | 'locks'>;
  readonly clock: Clock;
  readonly log: MapperLog;
  /** Makes all that was written of the volume durable. @param flushed the composers flushed what they wrote */
  readonly settle: (volume: Volume, flushed: boolean) => Promise<void>;
}

export class HandOver {
  readonly #options: HandOverOptions;
  /** Volumes that are handed over as soon as their locks have been here for long enough. */
  readonly #soon = new Set<Volume>();

  constructor(options: HandOverOptions) {
    this.#options = options;
  }

  /** Another node wants the lock. Does nothing unless it is held here and the volume is open shared; one at a time. */
  want(name: string): void {
    const { context, clock, log } = this.#options;
    const volume = context.volumes.get(name);
    if (!volume || !isShared(volume) || volume.handingOver) return;
    const left = volume.takenAt + LEAST_MS - clock.now();
    if (left > 0) {
      this.#later(volume, left);
      return;
    }
    volume.handingOver = true;
    this.#handOver(name)
      .catch((error) => log.warn(`volume ${name} is not handed over to the node that asks for it: ${messageOf(error)}`))
      .finally(() => (volume.handingOver = false));
  }

  /** Whoever asks repeats it much later only. */
  #later(volume: Volume, ms: number): void {
    if (this.#soon.has(volume)) return;
    this.#soon.add(volume);
    const { tenure } = volume;
    this.#options.clock.after(ms, () => {
      this.#soon.delete(volume);
      if (volume.tenure === tenure) this.want(volume.name);
    });
  }

  #handOver(name: string): Promise<void> {
    const { context, clock, settle } = this.#options;
    return withAlone(
      context,
      [name],
      [],
      async ([volume], flushed) => {
        if (!isShared(volume)) return;
        await settle(volume, flushed);
        // At last: what was written until all had drained was written under a lock that was still this node's, or it is lost.
        await context.locks.verify(volume);
        await context.locks.release(volume);
        volume.yieldUntil = clock.now() + YIELD_MS;
      },
      { flags: Flag.FLUSH },
    );
  }
}

const isShared = (volume: Volume): boolean => volume.locked && volume.open === 'shared' && !volume.byHand;
