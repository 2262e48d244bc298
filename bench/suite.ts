/** A suite: what is measured, of whom, on which store. */
import type { Cell } from './cells.js';
import type { Contender } from './contender.js';

export interface Suite {
  readonly name: 'files' | 'rados';
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
