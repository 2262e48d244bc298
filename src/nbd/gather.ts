/**
 * A budget for memory that reads need at once: a simple or unfragmented reply to a long read has its header before its data, so
 * that every piece must have succeeded before the first byte goes out. Shared by all connections of a server. Who gets none does not
 * wait, since whoever holds it may never take his reply: the read is then streamed, and a failure in the middle of it
 * ends the connection where replies are simple.
 *
 * The bytes are the library's own: a long read takes the device's buffers one piece at a time, never all together, so that two
 * such reads cannot wait for each other's buffers.
 */
export class GatherBudget {
  #free: number;

  /** @param bytes the whole budget */
  constructor(bytes: number) {
    this.#free = bytes;
  }

  /** Memory for `bytes`, or null when there is none now. */
  take(bytes: number): Buffer | null {
    if (bytes > this.#free) return null;
    this.#free -= bytes;
    // Unzeroed: it is sent only when device data filled it from end to end.
    return Buffer.allocUnsafeSlow(bytes);
  }

  give(memory: Buffer): void {
    this.#free += memory.length;
  }
}
