/**
 * `npm run torture -- [--rounds N] [--seed S] [--kill NAME,…] [--placement NAME] [--keep]`: a node under load whose processes are killed
 * with -9 at random moments, on each placement in turn. Exit status 1: something is wrong; seed and round are told.
 */
import { parseArgs } from 'node:util';
import { type Placement, placements } from '../e2e/harness/placements.js';
import { Random } from '../fuzz/random.js';
import { TARGETS } from './kills.js';
import { type RoundReport, Stint } from './stint.js';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '30' },
    seed: { type: 'string' },
    kill: { type: 'string' },
    placement: { type: 'string' },
    keep: { type: 'boolean', default: false },
  },
});

interface Totals {
  rounds: number;
  requests: number;
  lost: number;
  commands: number;
  repeated: number;
  bytes: number;
  pauseMs: number;
  kills: number;
}

const totals: Totals = { rounds: 0, requests: 0, lost: 0, commands: 0, repeated: 0, bytes: 0, pauseMs: 0, kills: 0 };

function account(report: RoundReport): void {
  totals.rounds++;
  totals.kills += report.killed.split(/[+,]/).length;
  totals.requests += report.requests;
  totals.lost += report.lost;
  totals.commands += report.commands;
  totals.repeated += report.repeated;
  totals.bytes += report.bytes;
  totals.pauseMs = Math.max(totals.pauseMs, report.pauseMs);
}

async function main(): Promise<number> {
  const rounds = Number(values.rounds);
  const seed = Number(values.seed ?? Date.now() % 2 ** 32);
  const targets = values.kill?.split(',') ?? TARGETS;
  const chosen = values.placement === undefined ? Object.keys(placements) : [values.placement];
  if (!Number.isSafeInteger(rounds) || rounds < 1 || !Number.isSafeInteger(seed)) {
    throw new Error('--rounds and --seed take whole numbers');
  }
  const unknown = targets.find((name) => !TARGETS.includes(name));
  if (unknown !== undefined) throw new Error(`--kill: there is no ${unknown}; there are ${TARGETS.join(', ')}`);
  const strange = chosen.find((name) => !(name in placements));
  if (strange !== undefined)
    throw new Error(`--placement: there is no ${strange}; ${Object.keys(placements).join(', ')}`);
  console.log(`torture: --seed ${seed} --rounds ${rounds}`);
  const started = Date.now();
  let next = 1;
  for (const [index, placement] of chosen.entries()) {
    const last = Math.round((rounds * (index + 1)) / chosen.length);
    if (next > last) continue;
    const stint = await Stint.begin(placement as Placement, new Random(seed + index), targets);
    try {
      for (; next <= last; next++) {
        const report = await stint.round();
        account(report);
        const { killed, requests, lost, commands, findings, pauseMs } = report;
        const told = `${requests} requests, ${lost} lost, ${commands} commands, ${findings} notes, pause ${pauseMs} ms`;
        console.log(`torture: round ${next} (${placement}): killed ${killed}: ${told}`);
      }
      await stint.restart();
    } catch (error) {
      console.error(stint.story());
      if (values.keep) console.error(`torture: kept: ${stint.node.dir}`);
      console.error(
        `torture: round ${next} (${placement}), --seed ${seed} --rounds ${rounds}: ${(error as Error).stack}`,
      );
      await stint.end(values.keep).catch((late: Error) => console.error(`torture: ${late.message}`));
      return 1;
    }
    await stint.end(false);
  }
  const { requests, lost, commands, repeated, bytes, pauseMs, kills } = totals;
  console.log(
    `torture: ${totals.rounds} rounds, ${kills} kills, ${requests} requests answered, ${lost} answers lost, ${commands} commands ` +
      `(${repeated} done twice), ${Math.round(bytes / 2 ** 20)} MiB compared, longest pause ${pauseMs} ms, ` +
      `${Math.round((Date.now() - started) / 1000)} s: nothing wrong`,
  );
  return 0;
}

process.exit(await main());
