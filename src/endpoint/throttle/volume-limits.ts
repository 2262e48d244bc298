/** The limits of all volumes: what is set, what the configuration says of the others, and the throttles of those that are open. */
import { monotonicMs } from '../../sys/clock.js';
import { changed, effective, type Limits, type OwnLimits, parseChanges } from './rates.js';
import { keyOf, type LimitsStore, type StoredLimits, type VolumeKey } from './store.js';
import { type Clock, VolumeThrottle } from './volume-throttle.js';

/** What is told of one volume. */
export interface LimitsOf extends VolumeKey {
  /** Set for it. */
  readonly own: OwnLimits;
  /** In force. */
  readonly limits: Limits;
  /** Connections whose next request waits for them now. */
  readonly waiting: number;
}

interface Open extends VolumeKey {
  readonly throttle: VolumeThrottle;
  users: number;
}

/** Real time. */
export const systemClock: Clock = {
  now: monotonicMs,
  after: (ms, callback) => {
    const timer = setTimeout(callback, Math.ceil(ms)).unref();
    return () => clearTimeout(timer);
  },
};

export class VolumeLimits {
  readonly #store: LimitsStore;
  readonly #defaults: Limits;
  readonly #clock: Clock;
  /** Those with users, and those whose last user has left owing something: whoever comes back finds it. */
  readonly #open = new Map<string, Open>();

  /** @param defaults of volumes for which nothing is set */
  constructor(store: LimitsStore, defaults: Limits, clock: Clock = systemClock) {
    this.#store = store;
    this.#defaults = defaults;
    this.#clock = clock;
  }

  /** Volumes with limits of their own. */
  get count(): number {
    return this.#store.count;
  }

  /** The throttle of a volume, for one more connection; leave() follows. */
  join(volume: VolumeKey): VolumeThrottle {
    for (const [key, { users, throttle }] of this.#open) if (users === 0 && throttle.isFresh) this.#open.delete(key);
    const key = keyOf(volume);
    let open = this.#open.get(key);
    if (open === undefined) {
      open = { ...volume, throttle: new VolumeThrottle(this.#clock), users: 0 };
      open.throttle.set(this.#effective(volume));
      this.#open.set(key, open);
    }
    open.users++;
    return open.throttle;
  }

  leave(volume: VolumeKey): void {
    const open = this.#open.get(keyOf(volume));
    if (open === undefined) return;
    open.users--;
    if (open.users === 0 && open.throttle.isFresh) this.#open.delete(keyOf(volume));
  }

  of(volume: VolumeKey): LimitsOf {
    return {
      ...volume,
      own: this.#store.get(volume),
      limits: this.#effective(volume),
      waiting: this.#open.get(keyOf(volume))?.throttle.waiting ?? 0,
    };
  }

  /** All for which something is set. */
  all(): LimitsOf[] {
    return this.#store.all().map(({ id, name }: StoredLimits) => this.of({ id, name }));
  }

  /** For which something is set under this name, whether it is still its name or not; null: none. */
  named(name: string): VolumeKey | null {
    const found = this.#store.all().find((entry) => entry.name === name);
    return found === undefined ? null : { id: found.id, name };
  }

  /**
   * Changes what is set for a volume, for what waits now too. It is kept before it is in force.
   * @param changes what parseChanges takes
   * @throws SystemError EINVAL; Error of the file: nothing has changed then
   */
  change(volume: VolumeKey, changes: unknown): void {
    this.#store.set(volume, changed(this.#store.get(volume), parseChanges(changes), this.#defaults));
    this.#apply(volume);
  }

  /** Forgets what is set for a volume: the configuration's are in force. */
  clear(volume: VolumeKey): void {
    this.#store.set(volume, {});
    this.#apply(volume);
  }

  /** Another process may have changed the file. @throws SystemError EIO: the limits stay as they were */
  reload(): void {
    if (this.#store.reload()) for (const volume of this.#open.values()) this.#apply(volume);
  }

  #effective(volume: VolumeKey): Limits {
    return effective(this.#store.get(volume), this.#defaults);
  }

  #apply(volume: VolumeKey): void {
    this.#open.get(keyOf(volume))?.throttle.set(this.#effective(volume));
  }
}
