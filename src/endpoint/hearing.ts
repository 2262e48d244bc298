/**
 * Whether the clients of a volume know that what they wrote may be lost: the mapper keeps what the disk did not take until they do. A flush that
 * fails tells of all changes that were answered before it was asked for; of those that are answered later nobody has heard, and
 * nobody hears what is answered to a client that is gone.
 */

/** Of one volume, by all clients of this endpoint together. */
export class Hearing {
  /** Changes that were answered. */
  #changes = 0;
  #heardAt = -1;

  /** A change was done, and somebody told so. */
  changed(): void {
    this.#changes++;
  }

  /** A flush is asked for: what `failed` is to be given. */
  get now(): number {
    return this.#changes;
  }

  /** It failed with EIO, and whoever asked was there to be told. @param asked `now` when it was asked for */
  failed(asked: number): void {
    this.#heardAt = asked;
  }

  /** Nobody was told of a change since a flush told that all may be lost. */
  get isComplete(): boolean {
    return this.#heardAt === this.#changes;
  }
}
