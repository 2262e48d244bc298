/** The file that the units of a partial object come from which are not there: opened when it is needed, closed when nobody needs it any more. */

/** An open one. */
export interface Base {
  readonly fd: number;
  /** Bytes; behind them are zeros. */
  readonly size: number;
}

export class BaseFile {
  readonly #opened: (isPatient: boolean) => Promise<Base>;
  readonly #close: (fd: number) => Promise<void>;
  #open: Base | null;
  #opening: Promise<Base> | null = null;
  /** Who uses the descriptor across turns. */
  #users = 0;
  #isDone = false;

  /** @param open if it is open already: its descriptor is this one's from now on */
  constructor(open: Base | null, opened: (isPatient: boolean) => Promise<Base>, close: (fd: number) => Promise<void>) {
    this.#open = open;
    this.#opened = opened;
    this.#close = close;
  }

  /** Is it open now? For use within the turn. */
  get now(): Base | null {
    return this.#open;
  }

  /**
   * Runs work on it.
   * @param isPatient where there is no descriptor, others are closed for it, which may take a sync
   * @param without answers where it cannot be opened, or throws that error
   * @throws the system's error, that of the work
   */
  async use<T>(
    work: (base: Base) => Promise<T>,
    without: (error: unknown) => Promise<T>,
    isPatient = true,
  ): Promise<T> {
    this.#users++;
    try {
      let base: Base;
      try {
        base = await this.#get(isPatient);
      } catch (error) {
        return await without(error);
      }
      return await work(base);
    } finally {
      this.#users--;
      if (this.#isDone) this.done();
    }
  }

  /** Nobody needs it any more: else its blocks would be taken for as long as the partial object is open. */
  done(): void {
    this.#isDone = true;
    const base = this.#open;
    if (base === null || this.#users > 0) return;
    this.#open = null;
    this.#close(base.fd).catch(() => {});
  }

  async #get(isPatient: boolean): Promise<Base> {
    if (this.#open !== null) return this.#open;
    this.#opening ??= this.#opened(isPatient).finally(() => {
      this.#opening = null;
    });
    const base = await this.#opening;
    // Who waited with this one has the same.
    this.#open ??= base;
    return this.#open;
  }
}
