/** What a command of xseg is. */
import type { CommandShape, Ports } from './chain.js';
import type { ChainState } from './state.js';

export interface Invocation {
  readonly state: ChainState;
  readonly args: readonly string[];
  readonly options: ReadonlySet<string>;
  readonly ports: Ports | null;
}

export interface XsegCommand extends CommandShape {
  /** One line for the help. */
  readonly help: string;
  /** @returns false when it did its work and what it found is bad. @throws when it failed */
  run(invocation: Invocation): Promise<boolean | undefined> | boolean | undefined;
}
