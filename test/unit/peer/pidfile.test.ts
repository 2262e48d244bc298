import { spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseConfig } from '../../../src/config/index.js';
import { hostsRole, isSupervisor } from '../../../src/peer/paths.js';
import { livingPid, Pidfile } from '../../../src/peer/pidfile.js';
import { isRunning, waitGone } from '../../../src/peer/proc.js';

let dir: string;
let file: string;
beforeEach(() => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), 'pidfile-'));
  file = path.join(dir, 'mapperd.pid');
});
afterEach(() => fs.rmSync(dir, { recursive: true }));

const anybody = (): boolean => true;
const nobody = (): boolean => false;

/** A process with these arguments that lives until it is killed. */
async function child(...args: string[]) {
  const process_ = spawn(process.execPath, ['-e', 'setInterval(()=>{},1e6);console.log(1)', '--', ...args]);
  await new Promise((resolve) => process_.stdout.once('data', resolve));
  const pid = process_.pid as number;
  return {
    pid,
    async end(): Promise<void> {
      process_.kill('SIGKILL');
      expect(await waitGone(pid, 10_000)).toBe(true);
    },
  };
}

describe('a pidfile', () => {
  test('has the number alone, mode 0660, and goes with its owner', () => {
    const before = process.umask(0o007);
    const pidfile = Pidfile.take(file, 'mapperd', anybody);
    process.umask(before);
    expect(fs.readFileSync(file, 'latin1')).toBe(String(process.pid));
    expect(fs.statSync(file).mode & 0o777).toBe(0o660);
    pidfile.remove();
    expect(fs.readdirSync(dir)).toEqual([]);
  });

  test('of a living process is refused, naming it', async () => {
    const other = await child();
    fs.writeFileSync(file, String(other.pid));
    expect(() => Pidfile.take(file, 'mapperd', anybody)).toThrow(
      `mapperd runs already: process ${other.pid}, pidfile ${file}`,
    );
    expect(livingPid(file, anybody)).toBe(other.pid);
    expect(fs.readdirSync(dir)).toEqual(['mapperd.pid']);
    await other.end();
  });

  test('of a process that is gone is replaced', async () => {
    const other = await child();
    fs.writeFileSync(file, String(other.pid));
    await other.end();
    expect(livingPid(file, anybody)).toBeNull();
    Pidfile.take(file, 'mapperd', anybody);
    expect(fs.readFileSync(file, 'latin1')).toBe(String(process.pid));
  });

  test('whose number belongs to something else now is replaced', async () => {
    const other = await child();
    fs.writeFileSync(file, String(other.pid));
    expect(livingPid(file, nobody)).toBeNull();
    Pidfile.take(file, 'mapperd', nobody);
    expect(fs.readdirSync(dir)).toEqual(['mapperd.pid']);
    expect(isRunning(other.pid)).toBe(true);
    await other.end();
  });

  test.each(['', 'rubbish', '-1', '99999999999'])('that says %j is stale', (text) => {
    fs.writeFileSync(file, text);
    expect(livingPid(file, anybody)).toBeNull();
    Pidfile.take(file, 'mapperd', anybody).remove();
  });

  test('that somebody else took over is not removed', () => {
    const pidfile = Pidfile.take(file, 'mapperd', anybody);
    fs.writeFileSync(file, '1');
    pidfile.remove();
    expect(fs.readFileSync(file, 'latin1')).toBe('1');
  });
});

describe('a process is a role of this node', () => {
  const config = parseConfig('', '/etc/a.conf');

  test('when it runs the same program with the same configuration and that role', async () => {
    const process_ = await child('/x/main.js', '-c', '/etc/a.conf', '--roles', 'mapperd+blockerm', '--supervised');
    expect(hostsRole(process_.pid, 'blockerm', config)).toBe(true);
    expect(hostsRole(process_.pid, 'nbd', config)).toBe(false);
    expect(hostsRole(process_.pid, 'blockerm', parseConfig('', '/etc/b.conf'))).toBe(false);
    expect(hostsRole(process_.pid, 'blockerm', parseConfig(null, null))).toBe(false);
    expect(isSupervisor(process_.pid, config)).toBe(false);
    await process_.end();
    expect(hostsRole(process_.pid, 'blockerm', config)).toBe(false);
  });

  test('also when its configuration was given relative to where it runs', async () => {
    const process_ = await child('/x/main.js', '-c', 'a.conf', '--roles', 'nbd');
    expect(hostsRole(process_.pid, 'nbd', parseConfig('', path.resolve('a.conf')))).toBe(true);
    await process_.end();
  });

  test('and a supervisor in the background or the foreground', async () => {
    for (const name of ['supervisor-main.js', 'archipelago', 'archipelago.js']) {
      const process_ = await child(`/x/${name}`, '-c', '/etc/a.conf', 'start', '--foreground');
      expect(isSupervisor(process_.pid, config)).toBe(true);
      await process_.end();
    }
  });
});
