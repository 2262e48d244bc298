/** One picture of the results: for each cell a group of bars, as long as their share of the cell's best. Plain SVG, no I/O. */
import { type CellResult, figure, type Results, ratio, shown } from './results.js';

const WIDTH = 900;
const LEFT = 230;
const RIGHT = 130;
const BAR = 16;
const GAP = 26;
const TOP = 86;
// Distinguishable without colour vision, and in print.
const COLOURS = ['#0b5fa5', '#e69f00', '#7a7a7a', '#56b4a0', '#c46a9f', '#b3b300'];

const escapeXml = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');

function text(x: number, y: number, content: string, attributes = ''): string {
  return `<text x="${x}" y="${y}" ${attributes}>${escapeXml(content)}</text>`;
}

function group(results: Results, cell: CellResult, top: number): { svg: string; height: number } {
  const bars = results.contenders
    .map((contender, index) => ({ index, value: figure(cell, contender.id) }))
    .filter((bar): bar is { index: number; value: number } => bar.value !== null);
  if (bars.length === 0) return { svg: '', height: 0 };
  const best = Math.max(...bars.map((bar) => bar.value));
  const height = bars.length * BAR;
  const [reference] = results.references;
  const share = ratio(results, cell, reference);
  const peer = results.contenders.find(({ id }) => id === reference)?.title ?? 'the best peer';
  const unit = cell.unit === 'ms' ? 'ms, shorter is better' : cell.unit;
  const parts = [
    text(LEFT - 12, top + height / 2 - 1, cell.title, 'text-anchor="end" font-weight="bold"'),
    text(
      LEFT - 12,
      top + height / 2 + 14,
      share === null ? unit : `${unit}, ${share.toFixed(2)}x ${peer}`,
      'text-anchor="end" fill="#555" font-size="11"',
    ),
    ...bars.map((bar, row) => {
      const width = Math.max(1, ((WIDTH - LEFT - RIGHT) * bar.value) / best);
      const y = top + row * BAR;
      return (
        `<rect x="${LEFT}" y="${y}" width="${width.toFixed(1)}" height="${BAR - 2}" fill="${COLOURS[bar.index % COLOURS.length]}"/>` +
        text(LEFT + width + 6, y + 11, shown(bar.value), 'font-size="11"')
      );
    }),
  ];
  return { svg: parts.join('\n'), height };
}

/** The picture as an SVG document. */
export function picture(results: Results): string {
  const parts: string[] = [
    text(16, 26, results.title, 'font-size="17" font-weight="bold"'),
    text(
      16,
      46,
      `${results.machine.cpu}, ${results.machine.cores} cores, Linux ${results.machine.kernel}; longer is better`,
      'fill="#555"',
    ),
  ];
  let x = 16;
  for (const [index, contender] of results.contenders.entries()) {
    parts.push(`<rect x="${x}" y="57" width="12" height="12" fill="${COLOURS[index % COLOURS.length]}"/>`);
    parts.push(text(x + 17, 67, contender.title));
    x += 44 + contender.title.length * 7.2;
  }
  let y = TOP;
  for (const cell of results.cells) {
    const { svg, height } = group(results, cell, y);
    parts.push(svg);
    y += height + GAP;
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${y}" viewBox="0 0 ${WIDTH} ${y}" font-family="sans-serif" font-size="13">`,
    `<rect width="${WIDTH}" height="${y}" fill="white"/>`,
    ...parts,
    '</svg>',
    '',
  ].join('\n');
}
