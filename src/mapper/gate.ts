/** Who may work on a volume at the same time: a fair shared/exclusive gate, and locks on ranges of blocks. Memory only. */

interface Waiter {
  exclusive: boolean;
  admit: () => void;
}

/** Shared or exclusive, in the order of arrival: a waiting exclusive caller is not overtaken. */
export class Gate {
  #shared = 0;
  #exclusive = false;
  readonly #waiting: Waiter[] = [];

  /** Nobody is inside or waits. */
  get idle(): boolean {
    return this.#shared === 0 && !this.#exclusive && this.#waiting.length === 0;
  }

  async shared<T>(work: () => Promise<T>): Promise<T> {
    const leave = await this.enter(false);
    try {
      return await work();
    } finally {
      leave();
    }
  }

  async exclusive<T>(work: () => Promise<T>): Promise<T> {
    const leave = await this.enter(true);
    try {
      return await work();
    } finally {
      leave();
    }
  }

  /** Enters when it is this caller's turn. @returns what leaves, to be called once */
  async enter(exclusive: boolean): Promise<() => void> {
    if (this.#waiting.length > 0 || !this.#fits(exclusive)) {
      await new Promise<void>((admit) => {
        this.#waiting.push({ exclusive, admit });
      });
    } else this.#count(exclusive);
    return () => {
      if (exclusive) this.#exclusive = false;
      else this.#shared--;
      this.#next();
    };
  }

  #fits(exclusive: boolean): boolean {
    return !this.#exclusive && (!exclusive || this.#shared === 0);
  }

  #count(exclusive: boolean): void {
    if (exclusive) this.#exclusive = true;
    else this.#shared++;
  }

  #next(): void {
    while (this.#waiting.length > 0 && this.#fits(this.#waiting[0].exclusive)) {
      const waiter = this.#waiting.shift()!;
      this.#count(waiter.exclusive);
      waiter.admit();
    }
  }
}

interface Range {
  first: number;
  end: number;
  done: Promise<void>;
}

/** Locks on block ranges: work on overlapping ranges runs one after the other, on others at the same time. */
export class RangeLocks {
  readonly #ranges = new Set<Range>();

  run<T>(first: number, end: number, work: () => Promise<T>): Promise<T> {
    return this.runAll([{ first, end }], work);
  }

  /** Works on several ranges. All are entered at once: who has one of them never waits for who waits for another of them. */
  async runAll<T>(wanted: readonly { first: number; end: number }[], work: () => Promise<T>): Promise<T> {
    const before = [...this.#ranges].filter((range) =>
      wanted.some(({ first, end }) => range.first < end && first < range.end),
    );
    let finish: () => void = () => {};
    const done = new Promise<void>((resolve) => (finish = resolve));
    const ranges: Range[] = wanted.map(({ first, end }) => ({ first, end, done }));
    for (const range of ranges) this.#ranges.add(range);
    try {
      for (const earlier of before) await earlier.done;
      return await work();
    } finally {
      for (const range of ranges) this.#ranges.delete(range);
      finish();
    }
  }
}

/** Runs `work` for every item, at most `limit` at the same time; rejects with the first error once none runs any more. */
export async function forEachLimited<T>(
  items: readonly T[],
  limit: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0;
  let failed = false;
  let failure: unknown;
  const worker = async (): Promise<void> => {
    while (next < items.length && !failed) {
      try {
        await work(items[next++]);
      } catch (error) {
        if (!failed) failure = error;
        failed = true;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(limit, items.length) }, worker));
  if (failed) throw failure;
}
