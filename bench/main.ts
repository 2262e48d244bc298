/** npm run bench: this project beside every peer that is installed, on this machine, with the same client. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { CurveSuite } from './curves.js';
import { machine } from './machine.js';
import { type Options, readOptions } from './options.js';
import { curvesPicture, picture } from './picture.js';
import type { Report } from './results.js';
import { CellRun } from './run-cells.js';
import type { Suite } from './suite.js';
import { curvesMarkdown, markdown } from './table.js';

interface Written {
  readonly report: Report;
  readonly tables: string;
  readonly drawing: string;
}

async function cells(suite: Suite, options: Options, scratch: string, interrupted: AbortSignal): Promise<Written> {
  const whole = new CellRun(suite, options, scratch);
  try {
    const ended = new Promise<never>((_, reject) => {
      interrupted.addEventListener('abort', () => reject(new Error('interrupted')), { once: true });
    });
    const report = await Promise.race([whole.results(), ended]);
    return { report, tables: markdown(report), drawing: picture(report) };
  } finally {
    await whole.stop();
  }
}

async function curves(
  suite: CurveSuite,
  options: Options,
  scratch: string,
  interrupted: AbortSignal,
): Promise<Written> {
  const { rounds, runtime, peers, cells: only, dir } = options;
  const load = os.loadavg()[0];
  const say = (line: string): void => {
    if (interrupted.aborted) throw new Error('interrupted');
    console.error(line);
  };
  const { curves, missing } = await suite.run({ dir: scratch, rounds, runtime, peers, only, say });
  const report: Report = {
    suite: suite.name,
    title: suite.title,
    date: new Date().toISOString(),
    machine: machine(dir),
    options: { rounds, runtime },
    missing,
    load,
    curves,
  };
  return { report, tables: curvesMarkdown(report), drawing: curvesPicture(report) };
}

async function main(): Promise<void> {
  const options = readOptions();
  const { suite, out } = options;
  const scratch = mkdtempSync(path.join(options.dir, 'archipelago-bench-'));
  const interrupt = new AbortController();
  // Whoever sends a signal to a group of processes may send it twice; it may not end the cleaning up.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => interrupt.abort());
  try {
    const written =
      'cells' in suite
        ? await cells(suite, options, scratch, interrupt.signal)
        : await curves(suite, options, scratch, interrupt.signal);
    mkdirSync(out, { recursive: true });
    writeFileSync(path.join(out, 'results.json'), `${JSON.stringify(written.report, null, 2)}\n`);
    writeFileSync(path.join(out, 'results.md'), `${written.tables}\n`);
    writeFileSync(path.join(out, 'results.svg'), written.drawing);
    console.log(written.tables);
    console.error(`\nwritten to ${out}: results.json, results.md, results.svg`);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

main().catch((error: Error) => {
  console.error(error.message);
  process.exitCode = 1;
});
