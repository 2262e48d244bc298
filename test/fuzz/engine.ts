/** The loop: takes an input of the corpus or a fresh one, changes it, runs it, keeps what reached new code, and makes a finding small. */
import type { Coverage } from './coverage.js';
import type { Input } from './input.js';
import { Random } from './random.js';

/** What inputs are run against. */
export interface Target {
  readonly name: string;
  /** A fresh input. */
  generate(random: Random): Input;
  /** One input out of another; `other` to splice with. */
  mutate(random: Random, input: Input, other: Input): Input;
  /** @throws when the input shows a mistake */
  run(input: Input): Promise<void>;
}

/** An input that shows a mistake. */
export interface Finding {
  readonly target: string;
  /** Made small. */
  readonly input: Input;
  readonly error: Error;
  /** Rounds before it was found. */
  readonly round: number;
}

export interface EngineOptions {
  readonly seed: number;
  readonly corpus?: readonly Input[];
  /** null: inputs are not kept for what they reach. */
  readonly coverage?: Coverage | null;
}

/** Inputs that are run between two questions for coverage. */
const BATCH = 16;
/** Inputs kept of one target. */
const MAX_CORPUS = 400;
/** Runs a finding is made small with. */
const MINIMIZE_RUNS = 200;

export class Engine {
  readonly #target: Target;
  readonly #random: Random;
  readonly #coverage: Coverage | null;
  readonly corpus: Input[];
  /** Inputs of the corpus that were added by this run. */
  readonly added: Input[] = [];
  #batch: Input[] = [];
  rounds = 0;
  /** What fell outside of any run: a rejection nobody handled. */
  #stray: Error | null = null;

  constructor(target: Target, options: EngineOptions) {
    this.#target = target;
    this.#random = new Random(options.seed);
    this.#coverage = options.coverage ?? null;
    this.corpus = [...(options.corpus ?? [])];
  }

  /** Something was thrown where nobody caught it. */
  stray(error: unknown): void {
    this.#stray ??= error instanceof Error ? error : new Error(String(error));
  }

  async #failure(input: Input): Promise<Error | null> {
    try {
      await this.#target.run(input);
    } catch (error) {
      return error as Error;
    }
    const stray = this.#stray;
    this.#stray = null;
    return stray === null ? null : new Error(`nobody caught: ${stray.stack ?? stray.message}`);
  }

  /** Runs every input of the corpus once. */
  async replay(): Promise<Finding | null> {
    for (const input of [...this.corpus]) {
      const error = await this.#failure(input);
      this.rounds++;
      if (error !== null) return { target: this.#target.name, input, error, round: this.rounds };
      this.#coverage?.keep(this.#coverage.take());
    }
    return null;
  }

  #next(): Input {
    const random = this.#random;
    if (this.corpus.length === 0 || random.oneIn(4)) return this.#target.generate(random);
    return this.#target.mutate(random, random.pick(this.corpus), random.pick(this.corpus));
  }

  /** One input; a finding when it shows a mistake. */
  async round(): Promise<Finding | null> {
    const input = this.#next();
    const error = await this.#failure(input);
    this.rounds++;
    if (error !== null) return this.#minimize(input, error);
    this.#batch.push(input);
    if (this.#batch.length >= BATCH) return this.#lookAtBatch();
    return null;
  }

  async #lookAtBatch(): Promise<Finding | null> {
    const batch = this.#batch;
    this.#batch = [];
    const coverage = this.#coverage;
    if (coverage === null) return null;
    if (!coverage.isNew(coverage.take())) return null;
    for (const input of batch) {
      const error = await this.#failure(input);
      if (error !== null) return this.#minimize(input, error);
      const blocks = coverage.take();
      if (!coverage.isNew(blocks)) continue;
      coverage.keep(blocks);
      this.#add(input);
    }
    return null;
  }

  #add(input: Input): void {
    if (this.corpus.length >= MAX_CORPUS) this.corpus[this.#random.below(this.corpus.length)] = input;
    else this.corpus.push(input);
    this.added.push(input);
  }

  /** Leaves out messages and settings, then bytes at the ends of messages, as long as the mistake still shows. */
  async #minimize(found: Input, error: Error): Promise<Finding> {
    const finding = (input: Input, shown: Error): Finding => ({
      target: this.#target.name,
      input,
      error: shown,
      round: this.rounds,
    });
    let best = finding(found, error);
    let runs = 0;
    const attempt = async (input: Input): Promise<boolean> => {
      if (runs >= MINIMIZE_RUNS) return false;
      runs++;
      const again = await this.#failure(input);
      if (again !== null) best = finding(input, again);
      return again !== null;
    };
    // A mistake that does not show again may have been left by an earlier input: it is told as it was.
    if (!(await attempt(found))) return best;
    for (let size = Math.ceil(best.input.messages.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
      for (let at = best.input.messages.length - size; at >= 0; at -= size) {
        const messages = best.input.messages.filter((_, i) => i < at || i >= at + size);
        await attempt({ ...best.input, messages });
      }
    }
    for (const name of [...best.input.settings.keys()]) {
      const settings = new Map([...best.input.settings].filter(([key]) => key !== name));
      await attempt({ ...best.input, settings });
    }
    return best;
  }
}
