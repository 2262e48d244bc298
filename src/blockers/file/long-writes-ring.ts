/**
 * The memory that a process shares with its writing thread: a ring of writes, which the thread takes in their order, and what became of each. Both sides count
 * upwards, by 32 bits; the lowest of them are the place in the ring.
 */

/** Writes that may be under way: a power of two. */
export const SLOTS = 64;
/** Numbers of a write. */
const FIELDS = 5;

/** To be raised with each change of what is shared: the thread's script may be of a version that was installed under the running process. */
const LAYOUT = 1;

/** What the thread is given. */
export interface RingData {
  readonly shared: SharedArrayBuffer;
  readonly layout: number;
}

export const dataOf = ({ shared }: Ring): RingData => ({ shared, layout: LAYOUT });

/** null: it is of another version. */
export const ringOf = ({ shared, layout }: RingData): Ring | null => (layout === LAYOUT ? new Ring(shared) : null);

/** Words of the control array. */
export const Control = {
  /** Writes that were given to the thread. */
  GIVEN: 0,
  /** Writes that it has ended. */
  ENDED: 1,
  /** The thread waits for GIVEN to change. */
  ASLEEP: 2,
  /** The process was told of what has ended, and has not looked yet. */
  TOLD: 3,
} as const;
const WORDS = 4;

/** As Ring.put. */
export type Write = [fd: number, address: number, length: number, offset: number, deadline: number];

export class Ring {
  readonly shared: SharedArrayBuffer;
  readonly control: Int32Array;
  readonly #numbers: Float64Array;
  readonly #milliseconds: Float64Array;
  readonly #errnos: Int32Array;

  constructor(shared = new SharedArrayBuffer((FIELDS + 1) * SLOTS * 8 + (SLOTS + WORDS) * 4)) {
    this.shared = shared;
    this.#numbers = new Float64Array(shared, 0, FIELDS * SLOTS);
    this.#milliseconds = new Float64Array(shared, FIELDS * SLOTS * 8, SLOTS);
    this.#errnos = new Int32Array(shared, (FIELDS + 1) * SLOTS * 8, SLOTS);
    this.control = new Int32Array(shared, (FIELDS + 1) * SLOTS * 8 + SLOTS * 4, WORDS);
  }

  /** @param deadline see ObjectIo.deadline */
  put(count: number, fd: number, address: number, length: number, offset: number, deadline: number): void {
    const at = (count & (SLOTS - 1)) * FIELDS;
    const numbers = this.#numbers;
    numbers[at] = fd;
    numbers[at + 1] = address;
    numbers[at + 2] = length;
    numbers[at + 3] = offset;
    numbers[at + 4] = deadline;
  }

  get(count: number): Write {
    const at = (count & (SLOTS - 1)) * FIELDS;
    const numbers = this.#numbers;
    return [numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3], numbers[at + 4]];
  }

  /** What became of a write. @param errno 0: all of it is written @param milliseconds that it took */
  end(count: number, errno: number, milliseconds: number): void {
    this.#errnos[count & (SLOTS - 1)] = errno;
    this.#milliseconds[count & (SLOTS - 1)] = milliseconds;
  }

  errno(count: number): number {
    return this.#errnos[count & (SLOTS - 1)];
  }

  milliseconds(count: number): number {
    return this.#milliseconds[count & (SLOTS - 1)];
  }
}
