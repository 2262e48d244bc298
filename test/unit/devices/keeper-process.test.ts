/** Which process is the keeper: one for each RUN_DIR, and one that stays takes the place of one that does not. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { ensureKeeper, keeperPid, takeKeeperPidfile } from '../../../src/devices/keeper-process.js';
import { temporaryDirectory } from '../nbd/support.js';

/** A process whose command line is that of a keeper, and which has the pidfile. */
async function keeper(runDir: string, ...words: string[]): Promise<ChildProcess & { readonly pid: number }> {
  const script = 'console.log("up"); setInterval(() => {}, 1000)';
  const child = spawn(process.execPath, ['-e', script, '--', 'archipelago', 'devices', ...words], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  if (child.pid === undefined) throw new Error('no process');
  fs.writeFileSync(path.join(runDir, 'devices.pid'), String(child.pid));
  return Object.assign(child, { pid: child.pid });
}

it('one that stays ends one that vlmc map started, and has its place', async () => {
  const runDir = temporaryDirectory();
  const other = await keeper(runDir, '--while-attached');
  expect(keeperPid(runDir)).toBe(other.pid);
  const ended = once(other, 'exit');
  const pidfile = await takeKeeperPidfile(runDir, { stays: true });
  expect(await ended).toEqual([null, 'SIGTERM']);
  expect(fs.readFileSync(pidfile.path, 'latin1')).toBe(String(process.pid));
  pidfile.remove();
  expect(fs.readdirSync(runDir)).toEqual([]);
});

it.each([
  ['one that stays', 'another that stays', [], true],
  ['one that vlmc map started', 'one that stays', [], false],
  ['one that vlmc map started', 'another of these', ['--while-attached'], false],
])('%s leaves %s alone', async (_one, _other, words, stays) => {
  const runDir = temporaryDirectory();
  const { pid } = await keeper(runDir, ...words);
  await expect(takeKeeperPidfile(runDir, { stays })).rejects.toMatchObject({
    code: 'EEXIST',
    message: `the keeper of devices runs already: process ${pid}, pidfile ${path.join(runDir, 'devices.pid')}`,
  });
  expect(keeperPid(runDir)).toBe(pid);
});

it('a number that is another program’s now is none', async () => {
  const runDir = temporaryDirectory();
  fs.writeFileSync(path.join(runDir, 'devices.pid'), String(process.ppid));
  expect(keeperPid(runDir)).toBeNull();
  (await takeKeeperPidfile(runDir, { stays: false })).remove();
});

it('one that runs is enough; one that does not start is told with what it said', async () => {
  const runDir = temporaryDirectory();
  const logDir = path.join(runDir, 'log');
  const options = { runDir, logDir, configPath: null };
  await expect(ensureKeeper(options)).rejects.toMatchObject({
    code: 'ENOENT',
    message: /^cannot open the keeper's log: /,
  });
  fs.mkdirSync(logDir);
  const log = path.join(logDir, 'devices.log');
  fs.writeFileSync(log, 'of another day\n');
  // The program is not where it is looked for: this is not what is shipped.
  const failure = await ensureKeeper(options).catch((error: unknown) => error as Error);
  expect(failure).toMatchObject({ code: 'ECHILD' });
  const { message } = failure as Error;
  expect(message).toMatch(/^the keeper of devices did not start: it ended \(1\), saying: .*Cannot find module/);
  expect(message.endsWith(`; see ${log}`)).toBe(true);
  expect(message).not.toContain('of another day');
  const { pid } = await keeper(runDir);
  expect(await ensureKeeper(options)).toBe(pid);
});
