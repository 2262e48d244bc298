/** A suite of cells: what is measured, of whom, on which store. */
import type { Cell } from './cells.js';
import type { Contender } from './contender.js';

/** A build of this project: its name, and the directory of its compiled command line tools. */
export interface Build {
  readonly name: string;
  readonly bin: string;
}

/** How this project's nodes are run: by which Node, and what builds take part beside this one. */
export interface Own {
  /** Path of the Node that runs the nodes. */
  readonly node: string;
  readonly builds: readonly Build[];
}

export interface Suite {
  readonly name: string;
  readonly title: string;
  /** Bytes of every disk; a whole number of MiB. */
  readonly diskSize: number;
  readonly cells: readonly Cell[];
  /** What ratios are to: these contenders, each; the best peer of each cell when there are none. */
  readonly references: readonly string[];
  /** Everybody who can take part here, this project first; `missing` says who cannot and why. */
  contenders(dir: string): Promise<{ present: Contender[]; missing: string[] }>;
  /** What the report says about the store beside the machine. */
  store(): Promise<Readonly<Record<string, string>>>;
  /** Ends what `contenders` began. */
  stop(): Promise<void>;
}
