/** What the benchmark says of its figures: medians, ratios, who counts as a peer, what is below target, and that it is drawn. */
import { expect, it } from 'vitest';
import { disturbed } from '../../../bench/machine.js';
import { curvesPicture, picture } from '../../../bench/picture.js';
import {
  bestPeer,
  type CellResult,
  caution,
  figure,
  type Results,
  ratio,
  reached,
  type Sample,
  spread,
} from '../../../bench/results.js';
import { bytes, curveTable, mainTable, markdown } from '../../../bench/table.js';
import { fileTarget } from '../../../bench/targets.js';

const calm = (value: number, p99 = 100): Sample => ({
  value,
  latency: { p50: 10, p99, p999: 1000 },
  conditions: { others: 0, steal: 0 },
});
const noisy = (value: number): Sample => ({ value, conditions: { others: 0.5, steal: 0 }, disturbed: true });

function cell(id: string, of: Readonly<Record<string, Sample[]>>, more: Partial<CellResult> = {}): CellResult {
  const series = Object.entries(of).map(([contender, samples]) => ({ contender, samples, repeated: 0 }));
  return { id, title: id, unit: 'IOPS', latencyOf: 'requests', target: fileTarget(id), series, ...more };
}

function results(cells: readonly CellResult[], more: Partial<Results> = {}): Results {
  const contenders = ['archipelago', 'old', 'nbdkit', 'qemu-qcow2'].map((id, i) => ({
    id,
    title: id === 'nbdkit' ? 'nbdkit <file>' : id,
    version: '1',
    own: i < 2,
  }));
  return {
    suite: 'files',
    title: 'test',
    date: '2026-01-01T00:00:00.000Z',
    machine: { cpu: 'a & b', cores: 2, kernel: '6', fileSystem: 'ext4' },
    options: { rounds: 3 },
    missing: [],
    load: 0,
    curves: [],
    contenders,
    references: [],
    verified: [],
    cells,
    ...more,
  };
}

it('compares medians with the best peer, and another build of this project is no peer', () => {
  const one = cell('r4k1', {
    archipelago: [calm(300), calm(180), calm(200)],
    old: [calm(900)],
    nbdkit: [calm(100), calm(90), calm(400)],
    'qemu-qcow2': [calm(50)],
  });
  const all = results([one]);
  expect(bestPeer(all, one)).toBe('nbdkit');
  expect(ratio(all, one)).toBe(2);
  expect(ratio(all, one, 'qemu-qcow2')).toBe(4);
  expect(reached(all, one)).toBe(true);
  expect(spread(one, 'archipelago')).toEqual({ low: 0.95, high: 1.25 });
});

it('takes a shorter time for better', () => {
  const one = cell(
    'snapshot',
    { archipelago: [calm(50)], nbdkit: [calm(100)], 'qemu-qcow2': [calm(200)] },
    { unit: 'ms' },
  );
  expect(bestPeer(results([one]), one)).toBe('nbdkit');
  expect(ratio(results([one]), one)).toBe(2);
});

it('leaves disturbed rounds out of the median unless there is nothing else, and says so', () => {
  const one = cell('r4k1', { archipelago: [noisy(1), calm(100), noisy(2)], nbdkit: [noisy(10), noisy(30)] });
  expect(figure(one, 'archipelago')).toBe(100);
  expect(figure(one, 'nbdkit')).toBe(20);
  expect(caution(results([one]))).toMatch(/4 of 5 measurements were disturbed/);
  expect(caution(results([cell('r4k1', { archipelago: [calm(1)] })]))).toBeNull();
});

it('tells a machine that is busy with something else', () => {
  expect(disturbed({ others: 0, steal: 0 })).toBe(false);
  expect(disturbed({ others: 0.2, steal: 0 })).toBe(true);
  expect(disturbed({ others: 0, steal: 0.2 })).toBe(true);
});

it('compares trims with nobody who gives nothing back for them', () => {
  const trims = 4096;
  const one = cell('trim4k32', { archipelago: [calm(10)], nbdkit: [calm(5)], 'qemu-qcow2': [calm(999)] }, { trims });
  const seen = (freed: number): Partial<Results> => ({
    verified: [{ contender: 'qemu-qcow2', written: 1, trims: [{ bytes: trims, freed }] }],
  });
  expect(ratio(results([one], seen(0)), one)).toBe(2);
  expect(mainTable(results([one], seen(0)))).toContain('999 (†)');
  expect(bestPeer(results([one], seen(1)), one)).toBe('qemu-qcow2');
});

it('takes copy-up for reached only when the worst percent is no worse either', () => {
  const with99 = (p99: number): CellResult =>
    cell('clone4k8', { archipelago: [calm(300, p99)], 'qemu-qcow2': [calm(100, 100)] });
  expect(reached(results([with99(100)]), with99(100))).toBe(true);
  expect(reached(results([with99(101)]), with99(101))).toBe(false);
});

it('marks what is below its target in the table', () => {
  const low = cell('w4k1', { archipelago: [calm(139)], nbdkit: [calm(100)] });
  const high = cell('w4k32', { archipelago: [calm(139)], nbdkit: [calm(100)] });
  const [, , first, second] = mainTable(results([low, high])).split('\n');
  expect(first).toContain('| **1.39x** | 1.4x, below |');
  expect(second).toContain('| 1.39x | 1.2x |');
});

it('writes sizes as people do', () => {
  expect([0, 512, 4096, 1.5 * 2 ** 20, 16 * 2 ** 40].map(bytes)).toEqual(['0', '512', '4k', '1.5M', '16T']);
});

it('draws and tells curves, also of a single place and where a line begins later', () => {
  const curves = [
    {
      title: 'size & cost',
      x: { title: 'bytes', unit: 'bytes' as const },
      y: { title: 'time', unit: 'ms', better: 'less' as const },
      target: 100,
      series: [
        { name: 'a', points: [1, 2].map((i) => ({ x: i * 2 ** 30, values: [i, 100 * i, 3 * i] })) },
        { name: 'b', points: [{ x: 2 ** 31, values: [7] }] },
      ],
    },
    {
      title: 'one',
      x: { title: 'n', unit: 'count' as const },
      y: { title: 'time', unit: 'ms', better: 'less' as const },
      series: [{ name: 'a', points: [{ x: 1, values: [0] }] }],
    },
  ];
  expect(curveTable(curves[0])).toBe(
    'size & cost: time, ms; target: at most 100\n\n| bytes | a | b |\n| --- | ---: | ---: |\n| 1G | 3.0 | - |\n| 2G | 6.0 | 7.0 |',
  );
  const all = results([cell('r4k1', { archipelago: [calm(3), calm(4), calm(5)], nbdkit: [calm(1)] })], { curves });
  for (const drawing of [picture(all), curvesPicture(all)]) {
    expect(drawing).not.toMatch(/NaN|Infinity|undefined|&(?!amp;|lt;|gt;|quot;)/);
    expect(drawing.match(/<polyline/g)).toHaveLength(3);
  }
  expect(picture(all)).toContain('nbdkit &lt;file&gt;');
  expect(markdown(all)).toContain('size & cost');
});

it('draws what the rounds spread over inside of the panel', () => {
  const curve = {
    title: 'spread',
    x: { title: 'n', unit: 'count' as const },
    y: { title: 'time', unit: 'ms', better: 'less' as const },
    series: [{ name: 'a', points: [{ x: 1, values: [1, 1, 9] }] }],
  };
  const drawing = curvesPicture(results([], { curves: [curve] }));
  const spread = /y1="([\d.-]+)" x2="[\d.]+" y2="([\d.-]+)" stroke="#\w+" stroke-opacity/.exec(drawing);
  // Below the title and its unit, which are 32 down the panel that begins at 66.
  expect(Number(spread?.[2])).toBeGreaterThan(66 + 32);
});
