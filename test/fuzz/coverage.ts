/**
 * Which code an input reached, from V8 itself: its block coverage, asked for over the inspector inside this process. Asking costs some
 * milliseconds, so that a batch of inputs is asked about at once, and its inputs one by one only when the batch brought something new.
 */
import { type Profiler, Session } from 'node:inspector';

export class Coverage {
  readonly #session = new Session();
  readonly #matches: (url: string) => boolean;
  /** `script:start-end` of every block that was reached. */
  readonly #seen = new Set<string>();

  /** @param matches says which scripts count, by their URL */
  constructor(matches: (url: string) => boolean) {
    this.#matches = matches;
    this.#session.connect();
    this.#post('Profiler.enable');
    this.#post('Profiler.startPreciseCoverage', { callCount: true, detailed: true });
    this.take();
  }

  #post(method: string, parameters: object = {}): unknown {
    let result: unknown;
    // A session to the own process answers before post returns.
    this.#session.post(method, parameters, (error: Error | null, answer?: object) => {
      if (error !== null) throw error;
      result = answer;
    });
    return result;
  }

  /** Blocks reached since the last call, as keys. */
  take(): Set<string> {
    const { result } = this.#post('Profiler.takePreciseCoverage') as Profiler.TakePreciseCoverageReturnType;
    const blocks = new Set<string>();
    for (const script of result) {
      if (!this.#matches(script.url)) continue;
      for (const { ranges } of script.functions) {
        for (const { startOffset, endOffset, count } of ranges) {
          if (count > 0) blocks.add(`${script.scriptId}:${startOffset}-${endOffset}`);
        }
      }
    }
    return blocks;
  }

  /** Whether there is a block nobody reached before; keeps none. */
  isNew(blocks: ReadonlySet<string>): boolean {
    for (const block of blocks) if (!this.#seen.has(block)) return true;
    return false;
  }

  /** Keeps the blocks; how many were new. */
  keep(blocks: ReadonlySet<string>): number {
    const before = this.#seen.size;
    for (const block of blocks) this.#seen.add(block);
    return this.#seen.size - before;
  }

  /** Blocks reached so far. */
  get blocks(): number {
    return this.#seen.size;
  }

  close(): void {
    this.#session.disconnect();
  }
}
