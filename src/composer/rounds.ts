/** Work on a volume that callers share: who calls gets a round that began after the call, and at most one waits behind the one that runs. */
import type { Volume } from './volume.js';

interface Round {
  readonly running: Promise<void>;
  next: Promise<void> | null;
}

export class Rounds {
  readonly #work: (volume: Volume) => Promise<void>;
  readonly #rounds = new WeakMap<Volume, Round>();

  /** @param work what it begins with covers all that was done before */
  constructor(work: (volume: Volume) => Promise<void>) {
    this.#work = work;
  }

  isRunning(volume: Volume): boolean {
    return this.#rounds.has(volume);
  }

  /** Resolves at the end of a round that began after this call. */
  run(volume: Volume): Promise<void> {
    const round = this.#rounds.get(volume);
    if (!round) return this.#start(volume);
    const start = (): Promise<void> => this.#start(volume);
    round.next ??= round.running.then(start, start);
    return round.next;
  }

  #start(volume: Volume): Promise<void> {
    const running = this.#work(volume);
    const round: Round = { running, next: null };
    this.#rounds.set(volume, round);
    const done = (): void => {
      if (this.#rounds.get(volume) === round && !round.next) this.#rounds.delete(volume);
    };
    running.then(done, done);
    return running;
  }
}
