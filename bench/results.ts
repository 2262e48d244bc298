/** Results: what was measured, medians, spreads, ratios, what is below its target. No I/O. */
import type { Cell } from './cells.js';
import type { Curve } from './curves.js';
import type { Latency } from './fio.js';
import type { Conditions } from './machine.js';
import type { Target } from './targets.js';
import type { Verified } from './verify.js';

/** One measurement. */
export interface Sample {
  /** In the cell's unit. */
  readonly value: number;
  /** CPU time of the contender's servers for each request, µs; absent where nobody but the client works. */
  readonly cpu?: number;
  readonly latency?: Latency;
  /** What else the machine did, absent where that was not watched. */
  readonly conditions?: Conditions;
  /** True when the machine did so much else, in each of several tries, that the figure says little. */
  readonly disturbed?: boolean;
}

/** What one contender did in one cell, one sample for each round. */
export interface Series {
  readonly contender: string;
  readonly samples: Sample[];
  /** How many measurements were made again, because the machine did something else meanwhile. */
  repeated: number;
}

export interface CellResult {
  readonly id: string;
  readonly title: string;
  readonly unit: Cell['unit'];
  /** Whose latency is told. */
  readonly latencyOf: 'requests' | 'flushes';
  readonly target: Target;
  /** Bytes of each of its trims; absent where it trims nothing. */
  readonly trims?: number;
  readonly series: Series[];
}

export interface ContenderInfo {
  readonly id: string;
  readonly title: string;
  readonly version: string;
  /** This project, in this build or another. */
  readonly own: boolean;
}

export interface Report {
  readonly suite: string;
  readonly title: string;
  readonly date: string;
  readonly machine: Readonly<Record<string, string | number>>;
  readonly options: Readonly<Record<string, string | number>>;
  readonly missing: readonly string[];
  /** Load average when it began. */
  readonly load: number;
  readonly curves: readonly Curve[];
}

export interface Results extends Report {
  /** In the order of the table; the first is this project. */
  readonly contenders: readonly ContenderInfo[];
  /** Contenders that ratios are to, each; none: the best peer of each cell. */
  readonly references: readonly string[];
  readonly verified: readonly Verified[];
  readonly cells: readonly CellResult[];
}

/** A share of the way through ascending values, between neighbours in proportion. */
function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (sorted.length - 1) * share;
  const below = Math.floor(at);
  const above = Math.ceil(at);
  return sorted[below] + (sorted[above] - sorted[below]) * (at - below);
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);

/** A contender's samples in a cell: those that nothing disturbed, if there are any. */
function samples(cell: CellResult, contender: string): readonly Sample[] {
  const all = cell.series.find((s) => s.contender === contender)?.samples ?? [];
  const calm = all.filter((sample) => !sample.disturbed);
  return calm.length > 0 ? calm : all;
}

function middle(cell: CellResult, contender: string, of: (sample: Sample) => number | undefined): number | null {
  const values = samples(cell, contender)
    .map(of)
    .filter((value) => value !== undefined);
  return values.length > 0 ? median(values) : null;
}

/** A contender's median in a cell, null when it did not take part. */
export const figure = (cell: CellResult, contender: string): number | null => middle(cell, contender, (s) => s.value);

/** A contender's median CPU time for a request of a cell in µs, null when that was not measured. */
export const cost = (cell: CellResult, contender: string): number | null => middle(cell, contender, (s) => s.cpu);

/** A contender's latency in a cell in µs, the median of the rounds' percentiles; null when the client did not tell. */
export const latency = (cell: CellResult, contender: string, which: keyof Latency): number | null =>
  middle(cell, contender, (s) => s.latency?.[which]);

/** First and third quartile of a contender's rounds, as shares of their median; null for fewer than three rounds. */
export function spread(cell: CellResult, contender: string): { readonly low: number; readonly high: number } | null {
  const values = samples(cell, contender).map(({ value }) => value);
  if (values.length < 3) return null;
  const half = median(values);
  return { low: quantile(values, 0.25) / half, high: quantile(values, 0.75) / half };
}

/** Whether a contender answers a cell's trims without giving anything back: then its figure is no trim's. */
export function idle(results: Results, { trims }: CellResult, contender: string): boolean {
  const seen = results.verified.find((one) => one.contender === contender)?.trims.find(({ bytes }) => bytes === trims);
  return seen !== undefined && seen.freed !== null && seen.freed < 0.5;
}

/** The id of the peer that did best in a cell, of all or of one; null when nobody else took part. */
export function bestPeer(results: Results, cell: CellResult, reference?: string): string | null {
  const better = (a: number, b: number): boolean => (cell.unit === 'ms' ? a < b : a > b);
  let best: { id: string; value: number } | null = null;
  for (const { id, own } of results.contenders) {
    const value = figure(cell, id);
    if (own || value === null || (reference !== undefined && id !== reference)) continue;
    if (idle(results, cell, id)) continue;
    if (!best || better(value, best.value)) best = { id, value };
  }
  return best?.id ?? null;
}

/**
 * How many times better this project's median is than that of `reference`, or of the best peer; above 1 is better for times as well. Null
 * when there is no such pair.
 */
export function ratio(results: Results, cell: CellResult, reference?: string): number | null {
  const [own] = results.contenders;
  const peer = bestPeer(results, cell, reference);
  const mine = figure(cell, own.id);
  const theirs = peer === null ? null : figure(cell, peer);
  if (mine === null || theirs === null) return null;
  return cell.unit === 'ms' ? theirs / mine : mine / theirs;
}

/** Whether a cell reaches its target, in its rate and in its latency; null when there is nobody to compare with. */
export function reached(results: Results, cell: CellResult): boolean | null {
  const share = ratio(results, cell, cell.target.to);
  if (share === null) return null;
  return share >= cell.target.ratio && worst(results, cell) !== false;
}

/** Whether the 99th percentile of latency keeps to its target; null when there is none, or nothing to compare. */
export function worst(results: Results, cell: CellResult): boolean | null {
  const { to, p99 } = cell.target;
  const peer = bestPeer(results, cell, to);
  if (p99 === undefined || peer === null) return null;
  const mine = latency(cell, results.contenders[0].id, 'p99');
  const theirs = latency(cell, peer, 'p99');
  return mine === null || theirs === null ? null : mine <= theirs * p99;
}

/** How many samples there are, how many of them were disturbed, and how many measurements were made again. */
export function disturbances(cells: readonly CellResult[]): { all: number; disturbed: number; repeated: number } {
  const series = cells.flatMap((cell) => cell.series);
  const every = series.flatMap((one) => one.samples);
  return {
    all: every.length,
    disturbed: every.filter((sample) => sample.disturbed).length,
    repeated: series.reduce((sum, one) => sum + one.repeated, 0),
  };
}

/** Whole above ten, two digits below: no figure here is exact to more. */
export function shown(value: number | null): string {
  if (value === null) return '-';
  return value >= 10 ? String(Math.round(value)) : value.toPrecision(2);
}

/** What a reader has to know about when it was measured: null when nothing disturbed it. */
export function caution(results: Results): string | null {
  const { all, disturbed, repeated } = disturbances(results.cells);
  if (disturbed === 0) return null;
  return `Measured while the machine did other work: ${disturbed} of ${all} measurements were disturbed, though ${repeated} were made again. These figures are no result.`;
}
