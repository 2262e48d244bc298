/**
 * What a process does for its segment now and then: a safety net under the doorbells, giving back spare memory when others are
 * short of it, and cleaning up after dead peers.
 */

/** A peer that dies between pushing and ringing leaves an entry that nobody was rung for: this long it waits at most. */
const TICK_MS = 250;
/** Dead peers are looked for every so many ticks: reading /proc for each bound port costs some 30 µs. */
const REAP_TICKS = 8;

export interface Household {
  readonly isOverdue: boolean;
  readonly isServing: boolean;
  wake(): void;
  /** Gives back what is kept spare if somebody asked for it. */
  relieve(): void;
  /** Cleans up after dead peers. */
  reap(): void;
}

export class Housekeeping {
  readonly #timer: NodeJS.Timeout;
  #ticks = 0;

  constructor(household: Household, onError: (error: unknown) => void) {
    this.#timer = setInterval(() => {
      try {
        if (household.isOverdue) household.wake();
        household.relieve();
        // Daemons do it for everybody; a tool is gone in a moment.
        if (++this.#ticks % REAP_TICKS === 0 && household.isServing) household.reap();
      } catch (error) {
        onError(error);
      }
    }, TICK_MS);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}
