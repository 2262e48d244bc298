/** The files for systemd, by systemd's own programs: units that it takes without a word, the account, the directories. */
import { execFileSync, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { programs, root } from '../../e2e/harness/requirements.js';

const source = path.resolve(import.meta.dirname, '../../../scripts/systemd');
let dir: string;

beforeEach(() => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), 'units-test-'));
});
afterEach(() => fs.rmSync(dir, { recursive: true, force: true }));

const unitFiles = fs.readdirSync(source).filter((name) => /\.(service|socket|target|mount)$/.test(name));
const valuesOf = (unit: string, key: string): string[] =>
  fs
    .readFileSync(path.join(source, unit), 'utf8')
    .split('\n')
    .flatMap((line) => (line.startsWith(`${key}=`) ? line.slice(key.length + 1).split(' ') : []));

describe.runIf(programs('systemd-analyze'))('units', () => {
  it('are all right, each by its own name', () => {
    // The programs of this package are not installed here; systemd-analyze looks whether they are there.
    for (const name of unitFiles) {
      const text = fs
        .readFileSync(path.join(source, name), 'utf8')
        .replaceAll(/\/usr\/bin\/(archipelago|vlmc)/g, '/bin/true');
      fs.writeFileSync(path.join(dir, name.replace('@.', '@web1.')), text);
    }
    const files = fs.readdirSync(dir).map((name) => path.join(dir, name));
    const env = { ...process.env, SYSTEMD_UNIT_PATH: `${dir}:` };
    const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', ...files], {
      env,
      encoding: 'utf8',
    });
    const about = stderr.split('\n').filter((line) => line.includes('archipelago'));
    expect(about).toEqual([]);
    expect(status, stderr).toBe(0);
  });
});

describe('the units of devices', () => {
  it('name commands that there are', () => {
    const commands = unitFiles.flatMap((unit) =>
      ['ExecStart', 'ExecStop', 'ExecReload'].map((key) => valuesOf(unit, key)),
    );
    const own = commands.filter(([program = '']) => /^\/usr\/bin\/(archipelago|vlmc)$/.test(program));
    expect(own.map((words) => words.slice(0, 3).join(' '))).toEqual(
      expect.arrayContaining([
        '/usr/bin/archipelago devices',
        '/usr/bin/archipelago start --foreground',
        '/usr/bin/vlmc map --table',
        '/usr/bin/vlmc unmap --table',
      ]),
    );
  });

  it('start the keeper again however often it ends', () => {
    const unit = 'archipelago-devices.service';
    expect(valuesOf(unit, 'Restart')).toEqual(['always']);
    // Else systemd gives up after five times in ten seconds.
    expect(valuesOf(unit, 'StartLimitIntervalSec')).toEqual(['0']);
  });

  it('let the node be restarted without unmapping anything', () => {
    for (const unit of ['archipelago-map.service', 'archipelago-devices.service']) {
      for (const key of ['Requires', 'BindsTo', 'PartOf', 'Requisite']) expect(valuesOf(unit, key)).toEqual([]);
    }
    expect(valuesOf('archipelago-map.service', 'After')).toContain('archipelago.service');
    // The registries of mappings and devices are in there.
    expect(valuesOf('archipelago.service', 'RuntimeDirectoryPreserve')).toEqual(['yes']);
  });
});

const tools = programs('systemd-sysusers', 'systemd-tmpfiles') && root('making accounts');

describe.runIf(tools)('account and directories', () => {
  it('are made', () => {
    fs.mkdirSync(path.join(dir, 'etc'));
    execFileSync('systemd-sysusers', [`--root=${dir}`, path.join(source, 'archipelago.sysusers.conf')], {
      stdio: 'pipe',
    });
    const read = (file: string): string => fs.readFileSync(path.join(dir, 'etc', file), 'utf8');
    expect(read('passwd')).toMatch(/^archipelago:x:\d+:\d+:Archipelago block devices:\/:\/usr\/sbin\/nologin$/m);
    expect(read('group')).toMatch(/^archipelago:x:\d+:$/m);
    const uid = Number(/^archipelago:x:(\d+)/m.exec(read('passwd'))?.[1]);
    const conf = path.join(source, 'archipelago.tmpfiles.conf');
    const made = spawnSync('systemd-tmpfiles', ['--create', `--root=${dir}`, conf], { encoding: 'utf8' });
    expect(made.status, made.stderr).toBe(0);
    for (const name of ['run/archipelago', 'var/log/archipelago', 'etc/archipelago'])
      expect(fs.statSync(path.join(dir, name)).isDirectory()).toBe(true);
    expect(fs.statSync(path.join(dir, 'run/archipelago'))).toMatchObject({ uid });
  });
});
