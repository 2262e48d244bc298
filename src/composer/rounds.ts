/** Work on a volume that callers share: who calls gets a round that began after the call, and at most one waits behind the one that runs. */
import type { Volume } from './volume.js';

/** Takes the end of something: null, or what it failed with. */
export type Done = (error: unknown) => void;

/** The rounds of one volume. Used over and over: a round allocates next to nothing. */
class Round {
  running = false;
  readonly #work: (done: Done) => void;
  #now: Done[] = [];
  #next: Done[] = [];

  constructor(work: (done: Done) => void) {
    this.#work = work;
  }

  enter(done: Done): void {
    if (this.running) {
      this.#next.push(done);
      return;
    }
    this.#now.push(done);
    this.#start();
  }

  #start(): void {
    this.running = true;
    this.#work(this.#ended);
  }

  readonly #ended: Done = (error) => {
    const ended = this.#now;
    this.#now = this.#next;
    this.#next = [];
    this.running = false;
    // Before those that waited for this one are told, who may ask for more: what waits is not to wait for that.
    if (this.#now.length > 0) this.#start();
    for (const done of ended) done(error);
  };
}

export class Rounds {
  readonly #work: (volume: Volume, done: Done) => void;
  readonly #rounds = new WeakMap<Volume, Round>();

  /** @param work what it begins with covers all that was done before; calls `done` once, perhaps at once, and never throws */
  constructor(work: (volume: Volume, done: Done) => void) {
    this.#work = work;
  }

  isRunning(volume: Volume): boolean {
    return this.#rounds.get(volume)?.running ?? false;
  }

  /** `done` is called at the end of a round that began after this call. */
  run(volume: Volume, done: Done): void {
    let round = this.#rounds.get(volume);
    if (!round) {
      round = new Round((ended) => this.#work(volume, ended));
      this.#rounds.set(volume, round);
    }
    round.enter(done);
  }
}
