/** One picture of the results: for each cell a group of bars, then the curves, in two columns. Plain SVG, no I/O. */
import { bars } from './bars.js';
import { curvePanel } from './curve-picture.js';
import type { Curve } from './curves.js';
import { caution, type Report, type Results } from './results.js';
import { type Drawn, document, legend, text } from './svg.js';

const WIDTH = 1320;
const MARGIN = 16;
const COLUMN = (WIDTH - 3 * MARGIN) / 2;
const LEFT = [MARGIN, 2 * MARGIN + COLUMN];

function heading(report: Report, how: string): string[] {
  const { cpu, cores, kernel, fileSystem } = report.machine;
  const when = `${report.date.slice(0, 10)}; ${cpu}, ${cores} cores, Linux ${kernel}, ${fileSystem}; load ${report.load} before`;
  return [
    text(MARGIN, 26, report.title, 'font-size="17" font-weight="bold"'),
    text(MARGIN, 46, `${when}${how}`, 'fill="#555"'),
  ];
}

/** Draws things below each other in two columns, in reading order of the first, then the second. */
function columns<T>(things: readonly T[], top: number, draw: (thing: T, x: number, y: number) => Drawn): Drawn {
  const half = Math.ceil(things.length / 2);
  const parts: string[] = [];
  let lowest = top;
  for (const [column, some] of [things.slice(0, half), things.slice(half)].entries()) {
    let y = top;
    for (const thing of some) {
      const { svg, height } = draw(thing, LEFT[column], y);
      parts.push(svg);
      y += height;
    }
    lowest = Math.max(lowest, y);
  }
  return { svg: parts.join('\n'), height: lowest - top };
}

const panels = (curves: readonly Curve[], top: number): Drawn =>
  columns(curves, top, (curve, x, y) => curvePanel(curve, x, y, COLUMN));

/** The picture of cells, and of the curves that were measured with them, as an SVG document. */
export function picture(results: Results): string {
  const warning = caution(results);
  const parts = heading(results, '; bars: longer is better, quartiles as lines, the target dashed');
  if (warning) parts.push(text(MARGIN, 66, warning, 'fill="#b00020" font-weight="bold"'));
  const named = warning ? 90 : 70;
  parts.push(
    legend(
      MARGIN,
      named,
      results.contenders.map(({ title }) => title),
    ),
  );
  const cells = columns(results.cells, named + 22, (cell, x, y) => bars(results, cell, x, y, COLUMN));
  const curves = panels(results.curves, named + 22 + cells.height);
  return document(results.title, WIDTH, named + 22 + cells.height + curves.height + MARGIN, [
    ...parts,
    cells.svg,
    curves.svg,
  ]);
}

/** The picture of a suite of curves. */
export function curvesPicture(report: Report): string {
  const curves = panels(report.curves, 66);
  return document(report.title, WIDTH, 66 + curves.height + MARGIN, [...heading(report, ''), curves.svg]);
}
