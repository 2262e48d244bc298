/** Ten rounds of kill -9 under load (five where it has run on files already), with a new seed each time. More: `npm run torture -- --rounds N`. */
import { spawn } from 'node:child_process';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { bin } from './harness/node.js';
import { repeated } from './harness/stores.js';

const root = path.join(import.meta.dirname, '..', '..');
const ROUNDS = repeated ? 5 : 10;
/** A minute on two idle cores; a machine with much else to do takes its time. */
const LIMIT_MS = 1_200_000;

test(`${ROUNDS} rounds of kill -9 lose no byte that was acknowledged, and leave nothing to clean up`, {
  timeout: LIMIT_MS,
}, async ({ task }) => {
  const seed = Math.floor(Math.random() * 2 ** 32);
  const args = ['--rounds', String(ROUNDS), '--seed', String(seed)];
  const child = spawn(path.join(root, 'scripts', 'torture.sh'), args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ARCHIPELAGO_TEST_BIN: bin },
  });
  let output = '';
  onTestFinished(() => {
    child.kill();
    // One that was cut short has said nothing yet.
    if (task.result?.state === 'fail') console.error(output);
  });
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk;
    });
  }
  const status = await new Promise<number | null>((resolve) => child.on('close', resolve));
  expect(status, output).toBe(0);
  const summary = /^torture: (\d+) rounds, (\d+) kills, (\d+) requests answered.*nothing wrong$/m.exec(output);
  expect(Number(summary?.[1]), output).toBe(ROUNDS);
  expect(Number(summary?.[2])).toBeGreaterThanOrEqual(ROUNDS);
  expect(Number(summary?.[3])).toBeGreaterThan(ROUNDS * 50);
  console.log(summary?.[0]);
});
