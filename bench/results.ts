/** Results: medians, ratios, the table. No I/O. */
import type { Cell } from './cells.js';

/** Figures of one contender in one cell, one for each round. */
export interface Series {
  readonly contender: string;
  readonly values: number[];
}

export interface CellResult {
  readonly id: string;
  readonly title: string;
  readonly unit: Cell['unit'];
  readonly series: Series[];
}

export interface Results {
  readonly date: string;
  readonly machine: Readonly<Record<string, string | number>>;
  readonly options: Readonly<Record<string, string | number>>;
  /** In the order of the table; the first is this project. */
  readonly contenders: readonly { id: string; title: string; version: string }[];
  readonly missing: readonly string[];
  readonly cells: readonly CellResult[];
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** A contender's median in a cell, null when it did not take part. */
export function figure(cell: CellResult, contender: string): number | null {
  const series = cell.series.find((s) => s.contender === contender);
  return series && series.values.length > 0 ? median(series.values) : null;
}

/** This project's median over the best peer's; null when there is no such pair. */
export function ratio(results: Results, cell: CellResult): number | null {
  const [own, ...peers] = results.contenders.map((contender) => figure(cell, contender.id));
  const best = Math.max(...peers.filter((value) => value !== null));
  return own === null || !Number.isFinite(best) ? null : own / best;
}

/** Whole above ten, two digits below: no figure here is exact to more. */
export function shown(value: number | null): string {
  if (value === null) return '-';
  return value >= 10 ? String(Math.round(value)) : value.toPrecision(2);
}

/** The table as markdown: a row for each contender, a column for each cell, and the ratios. */
export function markdown(results: Results): string {
  const head = ['', ...results.cells.map((cell) => `${cell.title} (${cell.unit})`)];
  const rows = results.contenders.map((contender) => [
    contender.title,
    ...results.cells.map((cell) => shown(figure(cell, contender.id))),
  ]);
  const ratios = results.cells.map((cell) => ratio(results, cell));
  rows.push(['ratio to the best peer', ...ratios.map((value) => (value === null ? '-' : `${value.toFixed(2)}x`))]);
  const line = (columns: string[]): string => `| ${columns.join(' | ')} |`;
  return [line(head), line(head.map((_, i) => (i === 0 ? '---' : '---:'))), ...rows.map(line)].join('\n');
}
