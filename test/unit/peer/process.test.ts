import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Config, parseConfig } from '../../../src/config/index.js';
import { ControlClient } from '../../../src/peer/control.js';
import { ProcessLog } from '../../../src/peer/log.js';
import { controlSocketOf } from '../../../src/peer/paths.js';
import { RoleProcess } from '../../../src/peer/process.js';
import type { RoleContext } from '../../../src/peer/role.js';
import { loadStarter } from '../../../src/peer/roles.js';
import { Segment } from '../../../src/xseg/index.js';
import { ownSegment } from '../../support/own.js';

let dir: string;
let config: Config;
let segment: Segment;
let host: RoleProcess;
let events: string[];
let contexts: Map<string, RoleContext>;
let failing: string | null;
let useless: number;

beforeEach(async () => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), 'process-'));
  const name = ownSegment('process');
  config = parseConfig(
    `[ARCHIPELAGO]\nRUN_DIR=${dir}\nLOG_DIR=${dir}\nLOG=file\n[XSEG]\nSEGMENT_NAME=${name}\nSEGMENT_SIZE=16\n`,
    path.join(dir, 'a.conf'),
  );
  segment = Segment.create(config.xseg.spec);
  events = [];
  contexts = new Map();
  failing = null;
  useless = 0;
  host = new RoleProcess({
    config,
    group: ['mapperd', 'vlmcd', 'nbd'],
    segment,
    log: new ProcessLog(config),
    loadStarter: async () => async (context) => {
      if (context.name === failing) throw new Error(`${context.name}: no`);
      contexts.set(context.name, context);
      events.push(`start ${context.name}`);
      return {
        stop: async () => {
          events.push(`stop ${context.name}`);
          if (context.name === failing) throw new Error(`${context.name}: stuck`);
        },
        status: () => ({ name: context.name }),
      };
    },
  });
  await host.listen(() => {
    useless++;
  });
});

afterEach(async () => {
  await host.close();
  Segment.destroy(config.xseg.spec);
  fs.rmSync(dir, { recursive: true });
});

const files = (end: string): string[] =>
  fs
    .readdirSync(dir)
    .filter((name) => name.endsWith(end))
    .sort();

describe('a process of roles', () => {
  test('gives a role what is its own', async () => {
    await host.start('vlmcd');
    expect(contexts.get('vlmcd')).toMatchObject({
      name: 'vlmcd',
      ports: { first: 500, last: 999 },
      settings: { type: 'vlmcd', blockerPort: 1000 },
    });
    expect(contexts.get('vlmcd')?.segment).toBe(segment);
    contexts.get('vlmcd')?.log.info('hello');
    expect(fs.readFileSync(path.join(dir, 'vlmcd.log'), 'utf8')).toMatch(/INFO {2}vlmcd\[\d+\]: hello\n$/);
  });

  test('tells that it is of no use when its supervisor goes and no role runs', async () => {
    const first = await ControlClient.connect(controlSocketOf(config, ['mapperd', 'vlmcd', 'nbd']));
    await first.call('start', { role: 'vlmcd' });
    const second = await ControlClient.connect(controlSocketOf(config, ['mapperd', 'vlmcd', 'nbd']));
    await second.call('status');
    first.end();
    await second.call('stop', { role: 'vlmcd' });
    expect(useless).toBe(0);
    second.end();
    await expect.poll(() => useless).toBe(1);
  });

  test('is not told so while a role runs', async () => {
    const client = await ControlClient.connect(controlSocketOf(config, ['mapperd', 'vlmcd', 'nbd']));
    await client.call('start', { role: 'vlmcd' });
    client.end();
    const again = await ControlClient.connect(controlSocketOf(config, ['mapperd', 'vlmcd', 'nbd']));
    await again.call('status');
    expect(useless).toBe(0);
    again.end();
  });

  test('has a pidfile for each role that runs, and stops them in reverse', async () => {
    for (const role of ['mapperd', 'vlmcd', 'nbd']) await host.start(role);
    expect(files('.pid')).toEqual(['mapperd.pid', 'nbd.pid', 'vlmcd.pid']);
    expect(host.status().roles.map(({ name, status }) => [name, status])).toEqual(
      ['mapperd', 'vlmcd', 'nbd'].map((name) => [name, { name }]),
    );
    expect(await host.close()).toBe(true);
    expect(events.slice(3)).toEqual(['stop nbd', 'stop vlmcd', 'stop mapperd']);
    expect([...files('.pid'), ...files('.ctl')]).toEqual([]);
  });

  test('starts and stops what it is told, once', async () => {
    const client = await ControlClient.connect(controlSocketOf(config, ['mapperd', 'vlmcd', 'nbd']));
    await Promise.all([client.call('start', { role: 'nbd' }), client.call('start', { role: 'nbd' })]);
    expect(await client.call('status')).toMatchObject({ pid: process.pid, roles: [{ name: 'nbd' }] });
    await client.call('stop', { role: 'nbd' });
    await client.call('stop', { role: 'nbd' });
    expect(events).toEqual(['start nbd', 'stop nbd']);
    await expect(client.call('start', { role: 'blockerb' })).rejects.toThrow('blockerb is not a role of this process');
    await client.call('exit');
    await client.untilClosed();
    await expect(host.start('nbd')).rejects.toThrow('the process is about to end');
  });

  test('leaves no pidfile of a role that does not start, and can start it later', async () => {
    failing = 'mapperd';
    await expect(host.start('mapperd')).rejects.toThrow('mapperd: no');
    expect(files('.pid')).toEqual([]);
    failing = null;
    await host.start('mapperd');
    expect(files('.pid')).toEqual(['mapperd.pid']);
  });

  test('stops the others when one fails to, and says so', async () => {
    await host.start('mapperd');
    await host.start('vlmcd');
    failing = 'vlmcd';
    expect(await host.close()).toBe(false);
    expect(events.slice(2)).toEqual(['stop vlmcd', 'stop mapperd']);
    expect(files('.pid')).toEqual([]);
  });
});

describe('the parts', () => {
  test.each(['file_blocker', 'rados_blocker', 'mapperd', 'vlmcd', 'nbd'] as const)(
    'there is one for %s',
    async (type) => {
      expect(await loadStarter(type)).toBeTypeOf('function');
    },
  );

  test.each(['poold'] as const)('%s is refused in words', async (type) => {
    await expect(loadStarter(type)).rejects.toThrow(`roles of type ${type} are not built in this version`);
  });
});
