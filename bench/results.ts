/** Results: medians, ratios, the table. No I/O. */
import type { Cell } from './cells.js';

/** Figures of one contender in one cell, one for each round. */
export interface Series {
  readonly contender: string;
  readonly values: number[];
  /** CPU time of the contender's servers for each request, µs; empty where nobody but the client works. */
  readonly cpu: number[];
}

export interface CellResult {
  readonly id: string;
  readonly title: string;
  readonly unit: Cell['unit'];
  readonly series: Series[];
}

export interface Results {
  readonly title: string;
  readonly date: string;
  readonly machine: Readonly<Record<string, string | number>>;
  readonly options: Readonly<Record<string, string | number>>;
  /** In the order of the table; the first is this project. */
  readonly contenders: readonly { id: string; title: string; version: string }[];
  /** Contenders that ratios are to, each; none: the best peer of each cell. */
  readonly references: readonly string[];
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

/** A contender's median CPU time for a request of a cell in µs, null when that was not measured. */
export function cost(cell: CellResult, contender: string): number | null {
  const series = cell.series.find((s) => s.contender === contender);
  return series && series.cpu.length > 0 ? median(series.cpu) : null;
}

/**
 * How many times better this project's median is than that of `reference`, or of the best peer; above 1 is better for times as well. Null
 * when there is no such pair.
 */
export function ratio(results: Results, cell: CellResult, reference?: string): number | null {
  const [own, ...peers] = results.contenders;
  const mine = figure(cell, own.id);
  const others = peers
    .filter((peer) => reference === undefined || peer.id === reference)
    .map((peer) => figure(cell, peer.id))
    .filter((value) => value !== null);
  if (mine === null || others.length === 0) return null;
  return cell.unit === 'ms' ? Math.min(...others) / mine : mine / Math.max(...others);
}

/** Whole above ten, two digits below: no figure here is exact to more. */
export function shown(value: number | null): string {
  if (value === null) return '-';
  return value >= 10 ? String(Math.round(value)) : value.toPrecision(2);
}

const line = (columns: readonly string[]): string => `| ${columns.join(' | ')} |`;
const times = (value: number | null): string => (value === null ? '-' : `${value.toFixed(2)}x`);
const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [line(head), line(head.map((_, i) => (i === 0 ? '---' : '---:'))), ...rows.map(line)].join('\n');

/** The table as markdown: a row for each contender, a column for each cell, and the ratios. */
export function markdown(results: Results): string {
  return results.references.length > 0 ? upright(results) : lying(results);
}

function lying(results: Results): string {
  const head = ['', ...results.cells.map((cell) => `${cell.title} (${cell.unit})`)];
  const rows = results.contenders.map((contender) => [
    contender.title,
    ...results.cells.map((cell) => shown(figure(cell, contender.id))),
  ]);
  rows.push(['ratio to the best peer', ...results.cells.map((cell) => times(ratio(results, cell)))]);
  return table(head, rows);
}

/** Many cells: a row for each of them, and a column for each contender, the ratio to each reference, and the CPU time. */
function upright(results: Results): string {
  const title = (id: string): string => results.contenders.find((contender) => contender.id === id)?.title ?? id;
  const references = results.references.filter((id) => results.contenders.some((contender) => contender.id === id));
  const costly = results.contenders.filter(({ id }) => results.cells.some((cell) => cost(cell, id) !== null));
  const head = [
    '',
    ...results.contenders.map((contender) => contender.title),
    ...references.map((id) => `to ${title(id)}`),
    ...costly.map((contender) => `CPU µs, ${contender.title}`),
  ];
  const rows = results.cells.map((cell) => [
    `${cell.title} (${cell.unit})`,
    ...results.contenders.map((contender) => shown(figure(cell, contender.id))),
    ...references.map((id) => times(ratio(results, cell, id))),
    ...costly.map((contender) => shown(cost(cell, contender.id))),
  ]);
  return table(head, rows);
}
