/**
 * The kept files by their hints. A hint is a generation and a slot. Generations of a slot only go up and start from the clock, so a hint from before a
 * restart of this process, or from a file closed since, matches nothing.
 */
import type { Handle } from './handle.js';

/** Room in a hint for slots; also the most files that can be open. */
const SLOTS = 16384;
/** How many files are looked at for one to close. */
const SEARCH = 512;
/** Generations begin at the milliseconds since then: 2^39 of them (17 years) times SLOTS fit a number. */
const GENERATION_EPOCH = Date.UTC(2026, 0, 1);
const GENERATIONS = 2 ** 39;

export class Slots {
  readonly #slots: (Handle | undefined)[] = [];
  readonly #generations: number[] = [];
  readonly #free: number[] = [];
  #hand = 0;

  /** The file that has this hint now; undefined: it is no hint, or an old one. */
  at(hint: number): Handle | undefined {
    if (hint <= 0) return undefined;
    const handle = this.#slots[hint - Math.floor(hint / SLOTS) * SLOTS];
    return handle !== undefined && handle.hint === hint ? handle : undefined;
  }

  /** Gives a file a slot, and no hint yet. */
  put(handle: Handle): void {
    handle.slot = this.#free.pop() ?? this.#slots.length;
    this.#slots[handle.slot] = handle;
  }

  /** Takes a file out: it is not found by its hint any more. */
  take(handle: Handle): void {
    this.#slots[handle.slot] = undefined;
    this.#free.push(handle.slot);
    handle.hint = 0;
  }

  /** The file is found by a new hint from now on. */
  renew(handle: Handle): void {
    const { slot } = handle;
    const last = this.#generations[slot] ?? (Date.now() - GENERATION_EPOCH) % GENERATIONS;
    const generation = (last + 1) % GENERATIONS;
    this.#generations[slot] = generation;
    handle.hint = generation * SLOTS + slot;
  }

  /** Second-chance choice of a file nobody uses, clean ones first; null when there is none. */
  victim(): Handle | null {
    let dirty: Handle | null = null;
    const slots = this.#slots;
    const steps = Math.min(2 * slots.length, SEARCH);
    for (let step = 0; step < steps; step++) {
      this.#hand = (this.#hand + 1) % slots.length;
      const handle = slots[this.#hand];
      if (handle === undefined || !handle.idle || handle.held || handle.evicting) continue;
      if (handle.used) handle.used = false;
      else if (!handle.needsSync) return handle;
      else dirty ??= handle;
    }
    return dirty;
  }
}
