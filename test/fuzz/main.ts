/**
 * `npm run fuzz -- [--seconds N] [--seed S] [--target NAME] [--grow]`: runs the corpus, then goes on for N seconds (default 60).
 * A finding ends the run with status 1: its input is written to fuzz-finding.txt in the working directory, in the corpus' own form.
 */
import fs from 'node:fs';
import path from 'node:path';
import v8 from 'node:v8';
import vm from 'node:vm';
import { readCorpus, writeCorpus } from './corpus.js';
import { Coverage } from './coverage.js';
import { Engine, type Finding } from './engine.js';
import { printInput } from './input.js';
import { makeTargets } from './targets.js';

/** Bytes the heap may grow between the first and the last look at it; the corpus in memory is part of it. */
const MAX_GROWTH = 48 * 1024 * 1024;
/** Rounds before the first look at the heap: by then every pool and every compiled function is there. On a slow machine a part of the time. */
const WARM_UP = 2_000;
const WARM_UP_PART = 0.4;
/** Milliseconds a target has before it is another one's turn; the server has the most to lose. */
const TURN_MS = 400;
const SERVER_TURN_MS = 2_000;

v8.setFlagsFromString('--expose-gc');
const collect = vm.runInNewContext('gc') as () => void;

function option(name: string): string | undefined {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? undefined : process.argv[at + 1];
}

/** Bytes in use by JavaScript. Memory outside of its heap is given back in a later turn of the event loop. */
async function used(): Promise<number> {
  for (let i = 0; i < 3; i++) {
    collect();
    await new Promise((resolve) => setImmediate(resolve));
  }
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

function report(finding: Finding, seed: number): void {
  const comment = `found with --seed ${seed} in round ${finding.round}\n${finding.error.message}`;
  const file = path.resolve('fuzz-finding.txt');
  fs.writeFileSync(file, printInput(finding.input, comment));
  console.error(`fuzz: ${finding.target}, round ${finding.round}, --seed ${seed}: ${finding.error.stack}`);
  console.error(`fuzz: the input is in ${file}`);
}

async function main(): Promise<number> {
  const seconds = Number(option('seconds') ?? 60);
  const seed = Number(option('seed') ?? Date.now() % 2 ** 32);
  const only = option('target');
  if (!(seconds > 0) || !Number.isSafeInteger(seed)) throw new Error('--seconds and --seed take numbers');
  const coverage = new Coverage((url) => url.includes('/src/nbd/') || url.includes('/src/endpoint/'));
  const targets = (await makeTargets()).filter(({ name }) => only === undefined || name === only);
  if (targets.length === 0) throw new Error(`there is no target ${only}`);
  const corpus = readCorpus();
  const engines = targets.map((target, i) => {
    const own = corpus.filter((input) => input.target === target.name);
    return { target, engine: new Engine(target, { seed: seed + i, corpus: own, coverage }) };
  });
  let current = engines[0].engine;
  process.on('unhandledRejection', (error) => current.stray(error));
  process.on('uncaughtException', (error) => current.stray(error));
  console.log(`fuzz: --seed ${seed}, ${seconds} s, ${corpus.length} inputs of the corpus, ${targets.length} targets`);

  const start = performance.now();
  const end = start + seconds * 1000;
  const over = (finding: Finding | null): boolean => {
    if (finding !== null) report(finding, seed);
    return finding !== null;
  };
  for (const { engine } of engines) {
    current = engine;
    if (over(await engine.replay())) return 1;
  }
  const rounds = () => engines.reduce((sum, { engine }) => sum + engine.rounds, 0);
  let baseline = 0;
  const look = async (): Promise<void> => {
    const warm = rounds() >= WARM_UP || performance.now() >= start + (end - start) * WARM_UP_PART;
    if (baseline === 0 && warm) baseline = await used();
  };
  await look();
  while (performance.now() < end) {
    for (const { target, engine } of engines) {
      current = engine;
      const turn = Math.min(end, performance.now() + (target.name === 'server' ? SERVER_TURN_MS : TURN_MS));
      while (performance.now() < turn) if (over(await engine.round())) return 1;
    }
    await look();
  }
  for (const { target, engine } of engines) {
    console.log(`fuzz: ${target.name}: ${engine.rounds} rounds, ${engine.added.length} inputs reached something new`);
    if (process.argv.includes('--grow')) writeCorpus(engine.added);
  }
  const growth = (await used()) - baseline;
  const perSecond = Math.round((rounds() * 1000) / (performance.now() - start));
  console.log(
    `fuzz: ${rounds()} rounds, ${perSecond}/s, ${coverage.blocks} blocks of code reached, heap ${Math.round(growth / 1024)} KiB more`,
  );
  for (const { target } of engines) await target.close();
  coverage.close();
  if (growth <= MAX_GROWTH) return 0;
  console.error(`fuzz: the heap grew by ${growth} bytes; --seed ${seed}`);
  return 1;
}

process.exit(await main());
