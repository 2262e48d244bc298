/** A node that is started twice: at the same time, and while the first start has given up waiting for a supervisor that is slow. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { loadConfig } from '../../src/config/index.js';
import { bin, TestNode } from './harness/node.js';
import { describeOutcome, type Outcome } from './harness/run.js';

let node: TestNode;
beforeEach(async () => {
  node = await TestNode.prepare({ store: 'files' });
});
afterEach(async () => {
  delete process.env.NODE_OPTIONS;
  writeFileSync(gate(), '');
  await node.dispose();
});

const gate = (): string => path.join(node.dir, 'gate');
const supervisor = (): number => Number(readFileSync(path.join(node.dir, 'run', 'supervisor.pid'), 'latin1'));
const roles = ['blockerb', 'blockerm', 'mapperd', 'vlmcd', 'nbd'];
const lines = (outcome: Outcome, word: string): number =>
  outcome.stdout.split('\n').filter((line) => line.endsWith(word)).length;

/** A supervisor is made that has its pidfile, and does not listen before the gate is open. Whoever started it has given up. */
async function slowSupervisor(): Promise<void> {
  const hook = path.join(node.dir, 'hook.cjs');
  writeFileSync(
    hook,
    `const fs = require('fs');
     const net = require('net');
     const { listen } = net.Server.prototype;
     net.Server.prototype.listen = function (...words) {
       if (JSON.stringify(words).includes('supervisor.sock')) {
         fs.writeFileSync(${JSON.stringify(path.join(node.dir, 'waits'))}, '');
         while (!fs.existsSync(${JSON.stringify(gate())})) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
       }
       return listen.apply(this, words);
     };`,
  );
  process.env.NODE_OPTIONS = `--require ${hook}`;
  const { spawnSupervisor } = (await import(
    path.join(bin, 'archipelago', 'node.js')
  )) as typeof import('../../src/cli/archipelago/node.js');
  const limitMs = 200;
  await expect(spawnSupervisor(loadConfig(node.conf), [], limitMs)).rejects.toThrow(
    /^the supervisor, process \d+, has not come up within 0\.2 s: archipelago start waits for it once more; kill it if it hangs$/,
  );
  delete process.env.NODE_OPTIONS;
  await expect.poll(() => existsSync(path.join(node.dir, 'waits')), { timeout: 60_000 }).toBe(true);
}

it('at the same time runs once, and everybody is told when it serves', async () => {
  const outcomes = await Promise.all([1, 2, 3].map(() => node.tryArchipelago('start')));
  // Who comes when the first has begun to start roles is told what is right then.
  const refused = outcomes.filter(({ code }) => code !== 0);
  for (const outcome of refused)
    expect(outcome.stderr, describeOutcome(outcome)).toBe('Cannot start. Try stopping first\n');
  const started = outcomes.filter(({ code }) => code === 0);
  expect(
    started
      .map((outcome) => lines(outcome, 'OK'))
      .toSorted()
      .at(-1),
  ).toBe(roles.length);
  for (const outcome of started) expect(lines(outcome, 'OK') + lines(outcome, 'Already running')).toBe(roles.length);
  expect(await node.archipelago('status')).toMatch(/^nbd +running$/m);
});

it('after the first start has given up is started by the supervisor that came up late', async () => {
  await slowSupervisor();
  const pid = supervisor();
  const again = node.tryArchipelago('start');
  writeFileSync(gate(), '');
  const outcome = await again;
  expect(outcome.code, describeOutcome(outcome)).toBe(0);
  expect(lines(outcome, 'OK')).toBe(roles.length);
  expect(supervisor()).toBe(pid);
});

it('after the first start has given up can be stopped: nothing is left', async () => {
  await slowSupervisor();
  const stop = node.tryArchipelago('stop');
  writeFileSync(gate(), '');
  const outcome = await stop;
  expect(outcome.code, describeOutcome(outcome)).toBe(0);
  expect(lines(outcome, 'Not running')).toBe(roles.length);
  expect(node.leftovers()).toEqual([]);
});
