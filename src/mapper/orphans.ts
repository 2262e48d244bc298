/**
 * Locks that nobody is left to give back: those of clients of an `archipelago nbd` that was killed. Nothing tells which volumes it had, nor, once its port was cleaned up,
 * whether it was killed. But a volume of which no endpoint has a client can only have been one's that is gone, as long as the node's own endpoints have lived all the time: clients
 * of one of these that was killed come back, devices of the kernel whenever it takes, and their locks are kept for them. So are all for a minute: clients may start another.
 */
import type { Clock } from './clock.js';
import type { Leases } from './leases.js';
import type { Volume, Volumes } from './volume.js';

/** How often is looked for endpoints that are gone, while locks are held, in ms. */
export const LOOK_MS = 1000;
/** How often each volume is asked about after that, at most, in ms. */
const SWEEP_MS = 20_000;
/** For how long nobody has had a volume of which the lock is given back, in ms. */
export const GRACE_MS = 60_000;

export interface OrphansOptions {
  readonly volumes: Volumes;
  readonly leases: Leases;
  readonly clock: Clock;
  /** Closes a volume that nobody has open, as the end of its last client does. What fails is logged, and tried again. */
  readonly close: (volume: Volume) => Promise<void>;
}

export class Orphans {
  readonly #options: OrphansOptions;
  #lookedAt = Number.NEGATIVE_INFINITY;
  #sweptAt = Number.NEGATIVE_INFINITY;
  /** When an endpoint of the configuration was found to be another process than before, ms of the monotonic clock. */
  #replacedAt = Number.NEGATIVE_INFINITY;
  /** Since when nobody is known to have the volume, under which tenure of its lock. */
  #unused = new Map<Volume, { readonly since: number; readonly tenure: number }>();
  /** Calls the next sweep off; null: there is none. */
  #cancel: (() => void) | null = null;
  #isSweeping = false;
  #isWanted = false;
  #stopped = false;

  constructor(options: OrphansOptions) {
    this.#options = options;
  }

  /** Locks are held. To be called again and again. */
  look(): void {
    if (!this.#stopped && this.#options.clock.now() - this.#lookedAt >= LOOK_MS) this.#look();
  }

  stop(): void {
    this.#stopped = true;
    this.#cancel?.();
    this.#cancel = null;
  }

  #look(): void {
    const { clock, leases } = this.#options;
    this.#lookedAt = clock.now();
    const { replaced, gone } = leases.lookAtEndpoints();
    if (replaced) this.#replacedAt = this.#lookedAt;
    this.#isWanted ||= gone;
    this.#plan();
  }

  #plan(): void {
    const { clock } = this.#options;
    if (this.#stopped || this.#cancel || this.#isSweeping || !(this.#isWanted || this.#unused.size > 0)) return;
    this.#cancel = clock.after(Math.max(0, this.#sweptAt + SWEEP_MS - clock.now()), () => {
      this.#cancel = null;
      void this.#sweep();
    });
  }

  async #sweep(): Promise<void> {
    const { clock, close, leases, volumes } = this.#options;
    this.#isSweeping = true;
    this.#isWanted = false;
    this.#sweptAt = clock.now();
    const before = this.#unused;
    this.#unused = new Map();
    for (const volume of volumes.all()) {
      if (!this.#isCandidate(volume)) continue;
      const { tenure } = volume;
      // One that lives and does not tell has it, perhaps.
      if (await leases.isOpen(volume).catch(() => true)) continue;
      const known = before.get(volume);
      const since = known?.tenure === tenure ? known.since : clock.now();
      // An endpoint that was killed by now did not tell that it has it.
      this.#look();
      if (!this.#isCandidate(volume) || volume.tenure !== tenure) continue;
      if (clock.now() - since < GRACE_MS) this.#unused.set(volume, { since, tenure });
      else await close(volume);
    }
    this.#isSweeping = false;
    this.#plan();
  }

  #isCandidate({ locked, kept, unclosed, takenAt }: Volume): boolean {
    return !this.#stopped && locked && !kept && unclosed === null && takenAt > this.#replacedAt;
  }
}
