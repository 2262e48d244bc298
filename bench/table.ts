/** Results as tables in markdown. No I/O. */
import type { Curve } from './curves.js';
import {
  bestPeer,
  type CellResult,
  caution,
  cost,
  disturbances,
  figure,
  idle,
  latency,
  median,
  type Report,
  type Results,
  ratio,
  reached,
  shown,
  spread,
} from './results.js';

const line = (columns: readonly string[]): string => `| ${columns.join(' | ')} |`;
const times = (value: number | null): string => (value === null ? '-' : `${value.toFixed(2)}x`);
const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [line(head), line(head.map((_, i) => (i === 0 ? '---' : '---:'))), ...rows.map(line)].join('\n');

/** Sizes as people write them: 4k, 1M, 16T. */
export function bytes(value: number): string {
  const units = ['', 'k', 'M', 'G', 'T', 'P'];
  let power = 0;
  let rest = value;
  for (; rest >= 1024 && power < units.length - 1; power++) rest /= 1024;
  return `${Number.isInteger(rest) ? rest : rest.toFixed(1)}${units[power]}`;
}

const title = (results: Results, id: string): string => results.contenders.find((one) => one.id === id)?.title ?? id;

/** The table that README has: a row for each cell, a column for each contender, the ratio, its target, and the worst percent. */
export function mainTable(results: Results): string {
  const [own] = results.contenders;
  const named = results.references.filter((id) => results.contenders.some((contender) => contender.id === id));
  const ratios = named.length > 0 ? named.map((id) => `to ${title(results, id)}`) : ['ratio to the best peer'];
  const head = ['', ...results.contenders.map((c) => c.title), ...ratios, 'target', 'p99 µs', "that peer's"];
  const rows = results.cells.map((cell) => {
    const { to, ratio: least } = cell.target;
    const peer = bestPeer(results, cell, to ?? named[0]);
    const missed = reached(results, cell) === false;
    const shares =
      named.length > 0 ? named.map((id) => times(ratio(results, cell, id))) : [times(ratio(results, cell, to))];
    return [
      `${cell.title} (${cell.unit})`,
      ...results.contenders.map(({ id }) => shown(figure(cell, id)) + (idle(results, cell, id) ? ' (†)' : '')),
      ...shares.map((share, i) => (missed && i === 0 ? `**${share}**` : share)),
      peer === null ? '-' : `${least}x${missed ? ', below' : ''}`,
      shown(latency(cell, own.id, 'p99')),
      peer === null ? '-' : shown(latency(cell, peer, 'p99')),
    ];
  });
  const some = results.cells.some((cell) => results.contenders.some(({ id }) => idle(results, cell, id)));
  const note = '\n\n(†) gives nothing back for trims of that size, so nothing is compared with it.';
  return table(head, rows) + (some ? note : '');
}

function latencies(results: Results): string | null {
  const cells = results.cells.filter((cell) => results.contenders.some(({ id }) => latency(cell, id, 'p50') !== null));
  if (cells.length === 0) return null;
  const of = (cell: CellResult, id: string): string =>
    latency(cell, id, 'p50') === null
      ? '-'
      : (['p50', 'p99', 'p999'] as const).map((which) => shown(latency(cell, id, which))).join(' / ');
  const rows = cells.map((cell) => [
    cell.latencyOf === 'flushes' ? `${cell.title}: the flushes` : cell.title,
    ...results.contenders.map(({ id }) => of(cell, id)),
  ]);
  return `Latency in µs, p50 / p99 / p99.9:\n\n${table(['', ...results.contenders.map((c) => c.title)], rows)}`;
}

function costs(results: Results): string | null {
  const costly = results.contenders.filter(({ id }) => results.cells.some((cell) => cost(cell, id) !== null));
  if (costly.length === 0) return null;
  const rows = results.cells.map((cell) => [cell.title, ...costly.map(({ id }) => shown(cost(cell, id)))]);
  return `CPU time of the servers for each request, µs:\n\n${table(['', ...costly.map((c) => c.title)], rows)}`;
}

function spreads(results: Results): string | null {
  const percent = (share: number): string => `${share >= 1 ? '+' : ''}${Math.round((share - 1) * 100)} %`;
  const of = (cell: CellResult, id: string): string => {
    const range = spread(cell, id);
    return range ? `${percent(range.low)} to ${percent(range.high)}` : '-';
  };
  if (!results.cells.some((cell) => results.contenders.some(({ id }) => spread(cell, id)))) return null;
  const rows = results.cells.map((cell) => [cell.title, ...results.contenders.map(({ id }) => of(cell, id))]);
  const head = ['', ...results.contenders.map((c) => c.title)];
  return `Spread of the rounds, first and third quartile beside the median:\n\n${table(head, rows)}`;
}

function verified(results: Results): string | null {
  if (results.verified.length === 0) return null;
  const sizes = results.verified[0].trims.map((trim) => trim.bytes);
  const head = ['', 'data written and read back', ...sizes.map((size) => `freed by trims of ${bytes(size)}`)];
  const rows = results.verified.map(({ contender, written, trims }) => [
    title(results, contender),
    `${bytes(written)}, all as written`,
    ...trims.map(({ freed }) => (freed === null ? '-' : `${Math.round(freed * 100)} %`)),
  ]);
  return `What each contender was seen to do before anything was measured:\n\n${table(head, rows)}`;
}

/** One curve as a table: a row for each place on its axis. */
export function curveTable(curve: Curve): string {
  const places = [...new Set(curve.series.flatMap((one) => one.points.map(({ x }) => x)))].sort((a, b) => a - b);
  const place = (x: number): string => (curve.x.unit === 'bytes' ? bytes(x) : String(x));
  const rows = places.map((x) => [
    place(x),
    ...curve.series.map((one) => {
      const point = one.points.find((p) => p.x === x);
      return point && point.values.length > 0 ? shown(median(point.values)) : '-';
    }),
  ]);
  const aim =
    curve.target === undefined ? '' : `; target: ${curve.y.better === 'less' ? 'at most' : 'at least'} ${curve.target}`;
  const note = curve.note ? `\n\n${curve.note}` : '';
  const head = [curve.x.title, ...curve.series.map((one) => one.name)];
  return `${curve.title}: ${curve.y.title}, ${curve.y.unit}${aim}\n\n${table(head, rows)}${note}`;
}

function conditions(results: Results): string {
  const { all, disturbed, repeated } = disturbances(results.cells);
  const options = Object.entries(results.options).map(([name, value]) => `${name} ${value}`);
  const machine = Object.entries(results.machine).map(([name, value]) => `${name} ${value}`);
  const counted = `${all} measurements, ${repeated} of them made again, ${disturbed} disturbed; load ${results.load} before`;
  return [`${results.date}; ${options.join(', ')}; ${counted}.`, `${machine.join(', ')}.`].join('\n');
}

/** All of it. */
export function markdown(results: Results): string {
  const parts = [
    caution(results),
    results.cells.length > 0 ? mainTable(results) : null,
    latencies(results),
    costs(results),
    spreads(results),
    verified(results),
    ...results.curves.map(curveTable),
    conditions(results),
    results.contenders.map((contender) => `* ${contender.title}: ${contender.version}`).join('\n'),
  ];
  return parts.filter((part) => part !== null).join('\n\n');
}

/** What a suite of curves gives. */
export function curvesMarkdown(report: Report): string {
  return report.curves.map(curveTable).join('\n\n');
}
