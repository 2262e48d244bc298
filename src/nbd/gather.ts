/**
 * A budget for memory that reads need at once: a simple or unfragmented reply to a long read has its header before its data, so
 * that every piece must have succeeded before the first byte goes out. Shared by all connections of a server.
 *
 * The bytes are the library's own: a long read takes the device's buffers one piece at a time, never all together, so that two
 * such reads cannot wait for each other's buffers.
 */
export class GatherBudget {
  #free: number;
  readonly #waiting: { bytes: number; callback: () => void }[] = [];

  /** @param bytes the whole budget */
  constructor(bytes: number) {
    this.#free = bytes;
  }

  /** Memory for `bytes`, or null: then `callback` is called, in turn, when asking again may succeed. */
  take(bytes: number, callback: () => void): Buffer | null {
    if (bytes > this.#free) {
      this.#waiting.push({ bytes, callback });
      return null;
    }
    this.#free -= bytes;
    // Unzeroed: it is sent only when device data filled it from end to end.
    return Buffer.allocUnsafeSlow(bytes);
  }

  give(memory: Buffer): void {
    this.#free += memory.length;
    while (this.#waiting.length > 0 && this.#waiting[0].bytes <= this.#free) this.#waiting.shift()?.callback();
  }
}
