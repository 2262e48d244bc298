/** The provider's directory, the command line, how qemu is told of a disk, and the table of disks. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { qemuUri } from '../../../../src/cli/ganeti/access.js';
import { PARAMETERS } from '../../../../src/cli/ganeti/environment.js';
import { formatDisks, knownDisks, list, requireForgotten } from '../../../../src/cli/ganeti/list.js';
import type { Node } from '../../../../src/cli/ganeti/node.js';
import { ACTIONS, ganetiMain } from '../../../../src/cli/ganeti/program.js';
import { encodeRecord } from '../../../../src/cli/ganeti/records.js';
import { errnos, SystemError } from '../../../../src/sys/errno.js';
import { capture, type Outcome } from '../capture.js';

const directory = path.resolve(import.meta.dirname, '../../../../scripts/ganeti-ext/archipelago');
const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'ganeti-provider-'));
afterAll(() => fs.rmSync(scratch, { recursive: true, force: true }));

describe('the provider', () => {
  it('has a script for each action and nothing else, all the same', () => {
    const files = fs.readdirSync(directory).filter((name) => name !== 'parameters.list');
    expect(files.sort()).toEqual(Object.keys(ACTIONS).sort());
    const [first, ...rest] = files.map((name) => fs.readFileSync(path.join(directory, name), 'utf8'));
    for (const text of rest) expect(text).toBe(first);
    for (const name of files) expect(fs.statSync(path.join(directory, name)).mode & 0o111).toBe(0o111);
  });

  it('lists the parameters that there are, each with a word about it', () => {
    const lines = fs.readFileSync(path.join(directory, 'parameters.list'), 'utf8').trimEnd().split('\n');
    expect(lines.map((line) => line.split(/\s+/)[0])).toEqual([...PARAMETERS]);
    for (const line of lines) expect(line.split(/\s+/).length).toBeGreaterThan(2);
  });
});

describe('the command line', () => {
  const run = (args: string[], env: Record<string, string> = {}): Promise<Outcome> =>
    capture({ env }, (io) => ganetiMain(args, io));

  it.each([
    [[], 'say what is to be done'],
    [['mount'], 'no such action: mount'],
    [['toString'], 'no such action: toString'],
    [['--verbose', 'attach'], 'no such option: --verbose'],
    [['-c'], '-c needs a file'],
    [['attach', 'disk'], 'attach takes nothing but the environment, not disk'],
    [['remove', 'a', 'b'], 'remove takes nothing but the environment, not a b'],
    [['list', '--all'], 'list has no option --all'],
  ])('refuses %j', async (args, message) => {
    const { status, out, err } = await run(args);
    expect([status, out, err]).toEqual([2, '', `${message} (archipelago-ganeti --help tells more)\n`]);
  });

  it('tells how it is called', async () => {
    for (const option of ['-h', '--help']) {
      const { status, out } = await run(['attach', option]);
      expect(status).toBe(0);
      for (const action of Object.keys(ACTIONS)) expect(out).toContain(action);
    }
  });

  it('fails with one line, which names action and disk', async () => {
    const conf = path.join(scratch, 'none.conf');
    fs.writeFileSync(conf, `[ARCHIPELAGO]\nRUN_DIR = ${scratch}\n`);
    const VOL_NAME = 'disk-of-nobody';
    const away = await run(['--config', conf, 'attach'], { VOL_NAME });
    expect([away.status, away.out, away.err]).toEqual([
      1,
      '',
      `archipelago attach ${VOL_NAME}: the node is not running: nobody listens on ${scratch}/bridge.sock; start it with archipelago start\n`,
    ]);
    const unset = await run(['--config', conf, 'attach']);
    expect([unset.status, unset.err]).toEqual([
      1,
      'archipelago attach: the environment has no VOL_NAME: this is called by Ganeti, not by hand\n',
    ]);
    const lost = await run(['--config', path.join(scratch, 'lost.conf'), 'attach'], { VOL_NAME });
    expect(lost.status).toBe(1);
    expect(lost.err).toMatch(/^archipelago attach disk-of-nobody: .*lost\.conf.*\n$/);
  });
});

describe('how qemu is told of a disk', () => {
  const unix = 'nbd+unix:///disk?socket=/run/a%20b/nbd+1.sock';
  it.each<[string, string[], string | null]>([
    [
      'by the unix socket before TCP',
      ['nbd://10.0.0.1:10809/disk', unix],
      'nbd:unix:/run/a b/nbd+1.sock:exportname=disk',
    ],
    ['by TCP', ['nbd://10.0.0.1:10809/disk'], 'nbd:10.0.0.1:10809:exportname=disk'],
    ['by TCP of version 6', ['nbd://[::1]:10810/disk'], 'nbd:[::1]:10810:exportname=disk'],
    ['not by TLS', ['nbds+unix:///disk?socket=/s', 'nbds://10.0.0.1:10809/disk'], null],
    ["not by a socket of the volume's own", ['nbd+unix:///?socket=/run/own.sock'], null],
    ['not where there is nothing', [], null],
  ])('%s', (_what, uris, expected) => {
    expect(qemuUri('disk', uris)).toBe(expected);
  });
});

describe('the list of disks', () => {
  const none = { volume: null, size: null, instance: null, name: null, created: null, lock: null };

  it('says what each is', () => {
    const disks = [
      {
        ...none,
        disk: 'aaa.ext.disk0',
        volume: 'aaa.ext.disk0',
        size: 3 * 2 ** 30,
        instance: 'web1',
        created: 0,
        lock: 'n1_1002',
      },
      { ...none, disk: 'bbb.ext.disk1', volume: 'web-data', size: 512, name: 'web-data' },
      { ...none, disk: 'ccc.ext.disk0', instance: 'web2' },
    ];
    expect(formatDisks(disks).split('\n')).toEqual([
      'DISK           SIZE   INSTANCE  NAME      CREATED              STATE',
      'aaa.ext.disk0  3 GiB  web1      -         1970-01-01 00:00:00  locked by n1_1002',
      'bbb.ext.disk1  512 B  -         web-data  -                    is volume web-data',
      'ccc.ext.disk0  -      web2      -         -                    gone',
    ]);
  });

  it("knows the disks of Ganeti's configuration", () => {
    const file = path.join(scratch, 'config.data');
    const disks = {
      a: { dev_type: 'ext', logical_id: ['archipelago', 'one.ext.disk0'] },
      b: { dev_type: 'plain', logical_id: ['xenvg', 'two'] },
      c: { dev_type: 'ext', logical_id: ['rbd', 'three.ext.disk0'] },
    };
    fs.writeFileSync(file, JSON.stringify({ disks }));
    expect([...knownDisks(file)]).toEqual(['one.ext.disk0', 'three.ext.disk0']);
  });

  it('does not take every disk for leaked where there is no configuration', () => {
    const file = path.join(scratch, 'other.data');
    expect(() => knownDisks(file)).toThrow(/cannot read Ganeti's configuration: .*; run this on the master node/);
    for (const text of ['{}', '{"disks": null}', '[]']) {
      fs.writeFileSync(file, text);
      expect(() => knownDisks(file)).toThrow(`${file} is no configuration of Ganeti: it has no disks`);
    }
    fs.writeFileSync(file, '{"disks": ');
    expect(() => knownDisks(file)).toThrow("cannot read Ganeti's configuration");
  });
});

describe('while disks come and go', () => {
  const [disk, other] = ['1', '2'].map((n) => `1a2b3c4d-0000-4000-8000-12345678900${n}.ext.disk0`);
  const info = { size: 4096, created: null };
  /** A node with records of disks; `there` are volumes that can be found, though they were not there when volumes were listed. */
  const nodeWith = (records: string[], there: string[], onInfo = (): void => {}): Node =>
    ({
      json: async () => ({ volumes: [], cursor: null }),
      info: async (name: string) => {
        onInfo();
        return there.includes(name) ? info : null;
      },
      maps: () => ({
        list: async () => ({ names: records.map((name) => `.archipelago-ganeti-${name}`), cursor: null }),
        read: async (name: string) => {
          if (records.some((record) => name.endsWith(record))) return encodeRecord({ metadata: 'originstname+web' });
          throw new SystemError(errnos.ENOENT, 'no object');
        },
        lockHolder: async () => null,
      }),
    }) as unknown as Node;

  it('one that was made meanwhile is not called gone, nor leaked', async () => {
    const node = nodeWith([disk, other], [disk]);
    const shown = await capture({}, async (io) => {
      await list(node, io, { json: false, configuration: null });
      return 0;
    });
    expect(shown.out).toMatch(new RegExp(`^${disk} +4 KiB +web .* -$`, 'm'));
    expect(shown.out).toMatch(new RegExp(`^${other} .* gone$`, 'm'));

    const file = path.join(scratch, 'meanwhile.data');
    const write = (...names: string[]): void => {
      const disks = names.map((name) => ({ dev_type: 'ext', logical_id: ['archipelago', name] }));
      fs.writeFileSync(file, JSON.stringify({ disks }));
    };
    write(other);
    const leaked = await capture({}, async (io) => {
      await list(
        nodeWith([disk, other], [disk, other], () => write(disk, other)),
        io,
        { json: true, configuration: file },
      );
      return 0;
    });
    expect(JSON.parse(leaked.out)).toEqual({ disks: [] });
  });

  it('by hand only what Ganeti has forgotten is removed', async () => {
    const file = path.join(scratch, 'known.data');
    const none = path.join(scratch, 'not-a-master.data');
    fs.writeFileSync(file, JSON.stringify({ disks: { x: { dev_type: 'ext', logical_id: ['archipelago', disk] } } }));
    await expect(requireForgotten(nodeWith([], []), 'web-data', none)).rejects.toThrow(
      'that is no disk of Ganeti; vlmc remove web-data removes other volumes',
    );
    await expect(requireForgotten(nodeWith([], []), disk, file)).rejects.toThrow(
      `an instance of Ganeti has this disk (${file}): gnt-instance modify --disk N:remove, or gnt-instance remove, removes it`,
    );
    await requireForgotten(nodeWith([], []), disk, none);
    await requireForgotten(nodeWith(['odd-name'], []), 'odd-name', none);
    await requireForgotten(nodeWith([], []), `${disk}.snap`, file);
  });
});
