/**
 * Curves: how a figure grows as work grows. Suites that measure growth instead of cells beside each other (`scale`, `fairness`) give these;
 * the results, the tables and the picture are made of them in one place. No I/O.
 */

/** One measured place of a curve. */
export interface Point {
  /** Where on the x axis: bytes, or a number of things. */
  readonly x: number;
  /** What was measured there, one figure for each round; shown is the median. */
  readonly values: number[];
}

/** One line of a curve: a contender, or one way of doing it. */
export interface Line {
  readonly name: string;
  /** In ascending order of x. */
  readonly points: Point[];
}

export interface Curve {
  readonly title: string;
  /** What grows: the axis' title, and whether its numbers are bytes (shown as 4k, 1M, 16T) or things. Drawn logarithmically. */
  readonly x: { readonly title: string; readonly unit: 'bytes' | 'count' };
  /** What is measured: its title, its unit, and whether more or less of it is better. */
  readonly y: { readonly title: string; readonly unit: string; readonly better: 'more' | 'less' };
  /** What y has to reach, or may not exceed; drawn as a line across. */
  readonly target?: number;
  readonly series: Line[];
  /** What a reader has to know about how it was measured. */
  readonly note?: string;
}

/** What a suite of curves is given. */
export interface CurveSetting {
  /** An empty directory that is removed afterwards. */
  readonly dir: string;
  readonly rounds: number;
  /** Seconds of one measurement where it has a duration. */
  readonly runtime: number;
  /** Ids of the peers that may take part, null: all. */
  readonly peers: readonly string[] | null;
  /** Only these curves, by whatever ids the suite has, null: all. */
  readonly only: readonly string[] | null;
  /**
   * Tells what was just measured; to be called after each measurement.
   * @throws when somebody interrupted the run: the suite cleans up and passes it on
   */
  say(line: string): void;
}

export interface CurveSuite {
  readonly name: string;
  readonly title: string;
  /** Ids that --cells takes, each with what it is: for --help and for what is unknown. */
  readonly ids: readonly string[];
  /** Measures. `missing`: peers that cannot take part, and why. Cleans up what it made, also when it throws. */
  run(setting: CurveSetting): Promise<{ curves: Curve[]; missing: string[] }>;
}
