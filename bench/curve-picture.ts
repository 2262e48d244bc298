/** A curve as a picture: x logarithmic, y too where it spans much, a line for each contender, the target across. No I/O. */
import type { Curve } from './curves.js';
import { median, shown } from './results.js';
import { colour, type Drawn, stroke, text } from './svg.js';
import { bytes } from './table.js';

const LEFT = 62;
const RIGHT = 184;
const TOP = 44;
const BOTTOM = 44;
const HEIGHT = 290;
/** From this factor between the least and the most on, y is drawn logarithmically. */
const WIDE = 12;

interface Scale {
  /** Place of a value on the drawing. */
  at(value: number): number;
  readonly ticks: readonly number[];
}

/** 1, 2, 5, 10, 20, … up to a number, in steps that make about five of them. */
function evenTicks(most: number): number[] {
  const raw = most / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= raw) ?? 10) * power;
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, i) => i * step);
}

function logTicks(least: number, most: number): number[] {
  const all: number[] = [];
  for (let power = Math.floor(Math.log10(least)); power <= Math.ceil(Math.log10(most)); power++) {
    for (const factor of [1, 2, 5]) all.push(factor * 10 ** power);
  }
  const inside = all.filter((tick) => tick >= least && tick <= most);
  return inside.length > 7 ? inside.filter((tick) => Number.isInteger(Math.log10(tick))) : inside;
}

function vertical(values: readonly number[], top: number, bottom: number): Scale {
  const positive = values.filter((value) => value > 0);
  const most = positive.length > 0 ? Math.max(...positive) * 1.06 : 1;
  const least = Math.min(...positive, most);
  if (most / least > WIDE) {
    const from = Math.log(least * 0.8);
    const size = Math.log(most) - from;
    const at = (value: number): number =>
      bottom - ((Math.log(Math.max(value, least * 0.8)) - from) / size) * (bottom - top);
    return { at, ticks: logTicks(least * 0.8, most) };
  }
  return { at: (value) => bottom - (value / most) * (bottom - top), ticks: evenTicks(most) };
}

function horizontal(places: readonly number[], left: number, right: number): (x: number) => number {
  // A place of 0 stands one step before the first one above it.
  const log = (x: number): number => Math.log2(Math.max(x, 0.5));
  const first = log(places[0]);
  const size = log(places[places.length - 1]) - first || 1;
  return (x) => (places.length === 1 ? (left + right) / 2 : left + ((log(x) - first) / size) * (right - left));
}

/** Names at the ends of lines, moved apart so that each can be read. */
function apart(wanted: readonly { readonly y: number; readonly index: number }[]): Map<number, number> {
  const placed = new Map<number, number>();
  let last = Number.NEGATIVE_INFINITY;
  for (const { y, index } of wanted.toSorted((a, b) => a.y - b.y)) {
    last = Math.max(y, last + 13);
    placed.set(index, last);
  }
  return placed;
}

/** @param width of the panel whose left upper corner is (x, y) */
export function curvePanel(curve: Curve, x: number, y: number, width: number): Drawn {
  const lines = curve.series
    .map((one, index) => ({
      index,
      name: one.name,
      points: one.points
        .filter(({ values }) => values.length > 0)
        .map((point) => ({
          x: point.x,
          y: median(point.values),
          low: Math.min(...point.values),
          high: Math.max(...point.values),
        })),
    }))
    .filter(({ points }) => points.length > 0);
  if (lines.length === 0) return { svg: '', height: 0 };
  const places = [...new Set(lines.flatMap(({ points }) => points.map((point) => point.x)))].sort((a, b) => a - b);
  // What is drawn of the rounds has to fit, too.
  const values = lines.flatMap(({ points }) => points.flatMap(({ low, high }) => [low, high]));
  const [left, right, top, bottom] = [x + LEFT, x + width - RIGHT, y + TOP, y + HEIGHT - BOTTOM];
  const scale = vertical(curve.target === undefined ? values : [...values, curve.target], top, bottom);
  const across = horizontal(places, left, right);
  const place = (value: number): string => (curve.x.unit === 'bytes' ? bytes(value) : String(value));
  const names = apart(lines.map(({ index, points }) => ({ index, y: scale.at(points[points.length - 1].y) + 4 })));
  const parts = [
    text(x + 8, y + 16, curve.title, 'font-weight="bold"'),
    text(x + 8, y + 32, `${curve.y.title}, ${curve.y.unit}; ${curve.y.better} is better`, 'fill="#555" font-size="11"'),
    ...scale.ticks.map(
      (tick) =>
        stroke(left, scale.at(tick), right, scale.at(tick), 'stroke="#ddd"') +
        text(
          left - 6,
          scale.at(tick) + 4,
          tick === 0 ? '0' : shown(tick),
          'text-anchor="end" font-size="11" fill="#555"',
        ),
    ),
    ...places.map((value) =>
      text(across(value), bottom + 16, place(value), 'text-anchor="middle" font-size="11" fill="#555"'),
    ),
    text((left + right) / 2, bottom + 32, curve.x.title, 'text-anchor="middle" font-size="11" fill="#555"'),
    stroke(left, bottom, right, bottom, 'stroke="#555"'),
    ...lines.map(({ index, name, points }) => {
      const line = points.map((point) => `${across(point.x).toFixed(1)},${scale.at(point.y).toFixed(1)}`).join(' ');
      const dots = points.map(
        (point) =>
          stroke(
            across(point.x),
            scale.at(point.low),
            across(point.x),
            scale.at(point.high),
            `stroke="${colour(index)}" stroke-opacity="0.45"`,
          ) +
          `<circle cx="${across(point.x).toFixed(1)}" cy="${scale.at(point.y).toFixed(1)}" r="3" fill="${colour(index)}"/>`,
      );
      const label = text(right + 10, names.get(index) ?? bottom, name, `font-size="11" fill="${colour(index)}"`);
      return `<polyline points="${line}" fill="none" stroke="${colour(index)}" stroke-width="2"/>${dots.join('')}${label}`;
    }),
  ];
  if (curve.target !== undefined) {
    const at = scale.at(curve.target);
    parts.push(stroke(left, at, right, at, 'stroke="#b00020" stroke-dasharray="4 2"'));
    parts.push(text(left + 4, at - 4, `target ${shown(curve.target)}`, 'font-size="11" fill="#b00020"'));
  }
  return { svg: parts.join('\n'), height: HEIGHT };
}
