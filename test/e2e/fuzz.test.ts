/** The fuzzer for a minute, with a new seed each time. A longer run: `npm run fuzz -- --seconds N`. */
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { expect, onTestFinished, test } from 'vitest';

const root = path.join(import.meta.dirname, '..', '..');
const SECONDS = 60;

test('a minute of the fuzzer finds nothing', async () => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'fuzz-'));
  onTestFinished(() => fs.rmSync(directory, { recursive: true, force: true }));
  const seed = Math.floor(Math.random() * 2 ** 32);
  const child = spawn(path.join(root, 'scripts', 'fuzz.sh'), ['--seconds', String(SECONDS), '--seed', String(seed)], {
    cwd: directory,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  onTestFinished(() => void child.kill());
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk;
    });
  }
  const status = await new Promise<number | null>((resolve) => child.on('close', resolve));
  const finding = path.join(directory, 'fuzz-finding.txt');
  const input = fs.existsSync(finding) ? fs.readFileSync(finding, 'utf8') : '';
  expect(status, `${output}\n${input}`).toBe(0);
  const rounds = Number(/^fuzz: (\d+) rounds/m.exec(output)?.[1]);
  expect(rounds, output).toBeGreaterThan(200);
});
