/** The bars of one cell: as long as their share of the cell's longest, a mark where the target is. No I/O. */
import { bestPeer, type CellResult, figure, idle, type Results, ratio, reached, shown, spread } from './results.js';
import { colour, type Drawn, rect, stroke, text } from './svg.js';

const LEFT = 258;
const RIGHT = 74;
const BAR = 14;
const GAP = 22;

/** What has to be reached, in the cell's unit; null when there is nobody to compare with. */
function aim(results: Results, cell: CellResult, reference: string | undefined): number | null {
  const peer = bestPeer(results, cell, reference);
  const value = peer === null ? null : figure(cell, peer);
  if (value === null) return null;
  return cell.unit === 'ms' ? value / cell.target.ratio : value * cell.target.ratio;
}

function caption(results: Results, cell: CellResult, reference: string | undefined): { line: string; fill: string } {
  const share = ratio(results, cell, reference);
  if (share === null) return { line: cell.unit === 'ms' ? 'shorter is better' : '', fill: '#555' };
  const below = reached(results, cell) === false;
  const line = `${share.toFixed(2)}x ${reference ?? 'the best peer'}; target ${cell.target.ratio}x${below ? ', below' : ''}`;
  return { line, fill: below ? '#b00020' : '#1b7a3d' };
}

/** @param width of the column whose left edge is `x` */
export function bars(results: Results, cell: CellResult, x: number, top: number, width: number): Drawn {
  const all = results.contenders
    .map(({ id }, index) => ({ index, id, value: figure(cell, id) }))
    .filter((bar): bar is { index: number; id: string; value: number } => bar.value !== null);
  if (all.length === 0) return { svg: '', height: 0 };
  const reference = cell.target.to ?? results.references[0];
  const target = aim(results, cell, reference);
  const left = x + LEFT;
  const scale =
    (width - LEFT - RIGHT) /
    Math.max(...all.map(({ id, value }) => value * (spread(cell, id)?.high ?? 1)), target ?? 0);
  const height = Math.max(all.length * BAR, 32);
  const { line, fill } = caption(results, cell, reference);
  const middle = top + (all.length * BAR) / 2;
  const parts = [
    text(left - 10, middle - 2, `${cell.title} (${cell.unit})`, 'text-anchor="end" font-weight="bold"'),
    text(left - 10, middle + 13, line, `text-anchor="end" fill="${fill}" font-size="11"`),
    ...all.map(({ index, id, value }, row) => {
      const y = top + row * BAR;
      const end = left + Math.max(1, value * scale);
      const range = spread(cell, id);
      const ends = range ? [range.low, range.high].map((share) => left + value * share * scale) : [];
      const whisker = range ? stroke(ends[0], y + 6, ends[1], y + 6, 'stroke="black" stroke-width="1"') : '';
      const after = Math.max(end, ends[1] ?? 0) + 5;
      return (
        rect(left, y, end - left, BAR - 2, colour(index)) +
        whisker +
        text(after, y + 10, shown(value) + (idle(results, cell, id) ? ' †' : ''), 'font-size="11"')
      );
    }),
  ];
  if (target !== null) {
    const at = left + target * scale;
    parts.push(
      stroke(at, top - 3, at, top + all.length * BAR + 1, 'stroke="#b00020" stroke-width="1.5" stroke-dasharray="4 2"'),
    );
  }
  return { svg: parts.join('\n'), height: height + GAP };
}
