import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { type Config, parseConfig } from '../../../src/config/index.js';
import { ControlClient } from '../../../src/peer/control.js';
import type { BackOff } from '../../../src/peer/group.js';
import type { Progress } from '../../../src/peer/node-status.js';
import { controlSocketOf, roleArguments, supervisorSocket } from '../../../src/peer/paths.js';
import { isRunning } from '../../../src/peer/proc.js';
import { Supervisor } from '../../../src/peer/supervisor.js';
import { Op } from '../../../src/requests/ops.js';
import { type Port, Segment } from '../../../src/xseg/index.js';
import { ownSegment } from '../../support/own.js';

/**
 * Real processes (dummy-role/main.js) under a real supervisor. The ports of the roles are served by the test itself, since what
 * matters here is the processes.
 */
let dir: string;
let config: Config;
let segment: Segment;
let mapped: { name: string }[];
let connections: { name: string }[];
let supervisor: Supervisor | null;
let progress: string[];
let messages: string[];

const note = (event: Progress): void => {
  progress.push(`${event.action} ${event.role} ${event.state}`);
};
const has = (name: string): boolean => fs.existsSync(path.join(dir, name));
const tell = (name: string): void => fs.writeFileSync(path.join(dir, name), '');
const untell = (name: string): void => fs.rmSync(path.join(dir, name));
const pidOf = (role: string): number => Number(fs.readFileSync(path.join(dir, `${role}.pid`), 'utf8'));
const events = (): string[] => fs.readFileSync(path.join(dir, 'events'), 'utf8').trim().split('\n');

function serve(port: Port): void {
  port.serve((request) => {
    if (request.op !== Op.SHOWMAPPED) return request.succeed(0);
    const body = Buffer.from(JSON.stringify({ mapped, connections }));
    request.data.set(body);
    request.succeed(body.length);
  });
}

interface OpenOptions {
  readonly backOff?: BackOff;
  readonly hangTimeoutMs?: number;
}

async function open({
  backOff = { firstMs: 1, maxMs: 8, resetMs: 60_000 },
  hangTimeoutMs = 0,
}: OpenOptions = {}): Promise<Supervisor> {
  supervisor = await Supervisor.open({
    config,
    log: pino({}, { write: (line: string) => messages.push(JSON.parse(line).msg) }),
    backOff,
    plan: (group) => ({
      roles: group,
      command: process.execPath,
      args: [path.join(import.meta.dirname, 'dummy-role', 'main.js'), ...roleArguments(config, group).slice(1)],
      env: { ...process.env, DUMMY_DIR: dir },
      controlSocket: controlSocketOf(config, group),
      output: path.join(dir, `${group[0]}.out`),
      stopLimitMs: 300,
      hangTimeoutMs,
      hangTickMs: 20,
      hangNoticeMs: 1000,
    }),
  });
  return supervisor;
}

beforeEach(() => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), 'supervisor-'));
  const file = path.join(dir, 'a.conf');
  const text = `
[ARCHIPELAGO]
RUN_DIR = ${dir}
LOG_DIR = ${dir}
[XSEG]
SEGMENT_NAME = ${ownSegment('supervisor')}
SEGMENT_PORTS = 64
SEGMENT_DYNPORTS = 32
SEGMENT_SIZE = 16
VTOOL_START = 20
VTOOL_END = 21
[PEERS]
ROLES = one two three
PLACEMENT = one+three two
[one]
type = vlmcd
portno_start = 1
[two]
type = mapperd
portno_start = 2
[three]
type = nbd
portno_start = 3
`;
  fs.writeFileSync(file, text);
  config = parseConfig(text, file);
  segment = Segment.create(config.xseg.spec);
  for (const role of config.roles) serve(segment.bind(role.portnoStart, { name: role.name }));
  mapped = [];
  connections = [];
  progress = [];
  messages = [];
  supervisor = null;
});

afterEach(async () => {
  await supervisor?.stop(null, true, () => undefined).catch(() => undefined);
  segment.close();
  if (Segment.exists(config.xseg.spec)) Segment.destroy(config.xseg.spec);
  fs.rmSync(dir, { recursive: true });
});

describe('start and stop', () => {
  test('roles start in order, each in its process, and stop in reverse; nothing is left', async () => {
    const node = await open();
    await node.start(null, note);
    expect(events()).toEqual(['start one', 'start two', 'start three']);
    expect(pidOf('one')).toBe(pidOf('three'));
    expect(pidOf('two')).not.toBe(pidOf('one'));
    const pids = [pidOf('one'), pidOf('two')];
    expect(progress).toEqual(['one', 'two', 'three'].flatMap((role) => [`start ${role} begins`, `start ${role} done`]));

    await node.stop(null, false, note);
    await node.closed;
    expect(events().slice(3)).toEqual(['stop three', 'stop two', 'stop one']);
    expect(pids.some(isRunning)).toBe(false);
    expect(Segment.exists(config.xseg.spec)).toBe(false);
    expect(fs.readdirSync(dir).filter((name) => /\.(pid|ctl|sock)$/.test(name))).toEqual([]);
  });

  test('status tells every role', async () => {
    const node = await open();
    await node.start('two', note);
    const { roles, segment: spec } = await node.status();
    expect(spec).toBe(config.xseg.spec);
    expect(roles.map(({ name, state }) => [name, state])).toEqual([
      ['one', 'not running'],
      ['two', 'running'],
      ['three', 'not running'],
    ]);
    expect(roles[1]).toMatchObject({ pid: pidOf('two'), ports: [2, 2], restarts: 0, status: { dummy: true } });
  });

  test('one role stops and starts while the other of its process goes on', async () => {
    const node = await open();
    await node.start(null, note);
    const pid = pidOf('one');
    await node.restart('three', false, note);
    expect(events().slice(3)).toEqual(['stop three', 'start three']);
    expect([pidOf('one'), pidOf('three')]).toEqual([pid, pid]);
  });

  test('a process whose last role stops ends', async () => {
    const node = await open();
    await node.start('two', note);
    const pid = pidOf('two');
    await node.stop('two', false, note);
    expect(isRunning(pid)).toBe(false);
  });

  test('an unknown role is refused with the ones there are', async () => {
    const node = await open();
    await expect(node.start('four', note)).rejects.toThrow(
      'Invalid peer four; the roles of this node are one two three',
    );
  });
});

describe('a role that does not start', () => {
  test('says why, and everything is stopped again', async () => {
    const node = await open();
    tell('fail-three');
    await expect(node.start(null, note)).rejects.toThrow('three: cannot, because of a test');
    await node.closed;
    expect(progress).toContain('start three failed');
    expect(events()).toEqual(['start one', 'start two', 'stop two', 'stop one']);
    expect(Segment.exists(config.xseg.spec)).toBe(false);
  });

  test('and takes its process along has its last words told', async () => {
    const node = await open();
    tell('die-two');
    await expect(node.start(null, note)).rejects.toThrow(/two: process \d+ exited with 3: Error: two met its end/);
  });

  test('because its process does not come up: likewise', async () => {
    const node = await open();
    tell('die-at-once');
    await expect(node.start('one', note)).rejects.toThrow(
      /the process of one\+three: exited with 4: Error: no mood today/,
    );
  });

  test('leaves no idle process behind', async () => {
    const node = await open();
    tell('fail-two');
    await expect(node.start('two', note)).rejects.toThrow('cannot');
    expect(has('two.ctl')).toBe(false);
  });
});

describe('a process that dies', () => {
  test('by kill -9 is started again with the roles it had', async () => {
    const node = await open();
    await node.start(null, note);
    const [one, two] = [pidOf('one'), pidOf('two')];
    process.kill(one, 'SIGKILL');
    await vi.waitFor(async () => {
      const { roles } = await node.status();
      expect(roles.every(({ state }) => state === 'running')).toBe(true);
      expect(pidOf('three')).not.toBe(one);
    }, 10_000);
    expect(pidOf('one')).toBe(pidOf('three'));
    expect(pidOf('two')).toBe(two);
    const { roles } = await node.status();
    expect(roles.map(({ restarts }) => restarts)).toEqual([1, 0, 1]);
    expect(roles[0].lastFailure).toBe(`process ${one} was ended by SIGKILL`);
  });

  test('is tried again until it comes up', async () => {
    const node = await open();
    await node.start(null, note);
    tell('die-at-once');
    process.kill(pidOf('two'), 'SIGKILL');
    await vi.waitFor(async () => {
      const role = (await node.status()).roles[1];
      expect(role.restarts).toBeGreaterThanOrEqual(2);
      expect(role.lastFailure).toMatch(/exited with 4: Error: no mood today/);
      expect(role.state).not.toBe('running');
    }, 20_000);
    untell('die-at-once');
    await vi.waitFor(async () => expect((await node.status()).roles[1].state).toBe('running'), 20_000);
  });

  test('is not started again once its roles are stopped', async () => {
    const node = await open();
    await node.start(null, note);
    tell('die-at-once');
    process.kill(pidOf('two'), 'SIGKILL');
    await vi.waitFor(async () => expect((await node.status()).roles[1].state).toBe('restarting'), 10_000);
    await node.stop('two', false, note);
    untell('die-at-once');
    await node.start('one', note);
    expect((await node.status()).roles[1].state).toBe('not running');
    expect(progress.at(-1)).toBe('start one runs already');
  });
});

describe('a process that had served for a while', () => {
  const backOff = { firstMs: 3_600_000, maxMs: 3_600_000, resetMs: 0 };

  test('is started again at once, time after time', async () => {
    const node = await open({ backOff });
    await node.start(null, note);
    for (let round = 1; round <= 3; round++) {
      process.kill(pidOf('two'), 'SIGKILL');
      await vi.waitFor(async () => {
        expect((await node.status()).roles[1]).toMatchObject({ restarts: round, state: 'running' });
      }, 20_000);
    }
    expect(messages.filter((message) => message === 'starting two again now')).toHaveLength(3);
  });

  test('is started later when its successor does not come up', async () => {
    const node = await open({ backOff });
    await node.start(null, note);
    tell('die-two');
    process.kill(pidOf('two'), 'SIGKILL');
    await vi.waitFor(() => expect(messages).toContain('starting two again in 3600000 ms'), 20_000);
    expect((await node.status()).roles[1]).toMatchObject({ restarts: 1, state: 'restarting' });
    untell('die-two');
  });
});

describe('a process that hangs', () => {
  const told = (text: string): number => messages.filter((message) => message.includes(text)).length;

  test('is told of once, and once more when it goes on; it is left alone', async () => {
    const node = await open();
    await node.start(null, note);
    const pid = pidOf('two');
    process.kill(pid, 'SIGSTOP');
    await vi.waitFor(() => expect(told(`two: process ${pid} has not answered`)).toBe(1), 20_000);
    process.kill(pid, 'SIGCONT');
    await vi.waitFor(() => expect(told(`two: process ${pid} answers again`)).toBe(1), 20_000);
    expect(told('has not answered')).toBe(1);
    expect((await node.status()).roles[1]).toMatchObject({ pid, restarts: 0, state: 'running' });
  });

  test('is killed after HANG_TIMEOUT, and what it ran is started again', async () => {
    const node = await open({ hangTimeoutMs: 2000 });
    await node.start(null, note);
    const pid = pidOf('one');
    process.kill(pid, 'SIGSTOP');
    await vi.waitFor(async () => {
      const { roles } = await node.status();
      expect(roles.every(({ state }) => state === 'running')).toBe(true);
      expect(pidOf('three')).not.toBe(pid);
    }, 30_000);
    expect(isRunning(pid)).toBe(false);
    expect((await node.status()).roles[0].lastFailure).toMatch(/did not answer for [\d.]+ s and was killed/);
    expect(told(`one+three: process ${pid} has not answered`)).toBe(2);
  });
});

describe('a role that does not stop', () => {
  test('is killed with its process, and what shared it is started again', async () => {
    const node = await open();
    await node.start(null, note);
    const pid = pidOf('three');
    tell('hang-three');
    await expect(node.stop('three', false, note)).rejects.toThrow(
      `no answer to stop within 0.3 s; process ${pid} was killed`,
    );
    expect(isRunning(pid)).toBe(false);
    await vi.waitFor(async () => {
      const states = (await node.status()).roles.map(({ state }) => state);
      expect(states).toEqual(['running', 'running', 'not running']);
    }, 20_000);
    expect(pidOf('one')).not.toBe(pid);
  });

  test('does not keep the node from stopping', async () => {
    const node = await open();
    await node.start(null, note);
    const pids = [pidOf('one'), pidOf('two')];
    tell('hang-two');
    await expect(node.stop(null, false, note)).rejects.toMatchObject({ code: 'ETIMEDOUT' });
    await node.closed;
    expect(fs.readdirSync(dir).filter((name) => /\.(pid|ctl|sock)$/.test(name))).toEqual([]);
    expect(pids.some(isRunning)).toBe(false);
    expect(Segment.exists(config.xseg.spec)).toBe(false);
  });
});

describe('a supervisor that goes', () => {
  test('leaves the roles running, and the next one adopts them', async () => {
    const first = await open();
    await first.start(null, note);
    const pids = [pidOf('one'), pidOf('two')];
    first.release();
    expect(pids.every(isRunning)).toBe(true);

    const second = await open();
    const { roles } = await second.status();
    expect(roles.map(({ pid }) => pid)).toEqual([pids[0], pids[1], pids[0]]);
    await second.start(null, note);
    expect(events()).toEqual(['start one', 'start two', 'start three']);

    process.kill(pids[1], 'SIGKILL');
    await vi.waitFor(async () => {
      expect((await second.status()).roles[1].state).toBe('running');
      expect(pidOf('two')).not.toBe(pids[1]);
    }, 10_000);
  });

  test('starts what is missing', async () => {
    const first = await open();
    await first.start('two', note);
    first.release();
    const second = await open();
    await second.start(null, note);
    expect(events()).toEqual(['start two', 'start one', 'start three']);
  });
});

describe('mapped volumes', () => {
  test('keep a node from stopping, unless forced', async () => {
    const node = await open();
    await node.start(null, note);
    mapped = [{ name: 'volume1' }];
    connections = [{ name: 'volume1' }, { name: 'volume2' }];
    await expect(node.stop(null, false, note)).rejects.toThrow(
      /^Cannot stop: .*\(volume1, volume2\); unmap them first, or use -f/,
    );
    await expect(node.stop('two', false, note)).rejects.toMatchObject({ code: 'EBUSY' });
    await expect(node.restart('three', false, note)).rejects.toMatchObject({ code: 'EBUSY' });
    expect((await node.status()).roles.every(({ state }) => state === 'running')).toBe(true);
    await node.restart('two', false, note);
    await node.stop(null, true, note);
    expect(Segment.exists(config.xseg.spec)).toBe(false);
  });
});

describe('the control socket', () => {
  test('does what the command line asks, and tells how it goes', async () => {
    const node = await open();
    expect(fs.statSync(supervisorSocket(config)).mode & 0o777).toBe(0o660);
    const client = await ControlClient.connect(supervisorSocket(config));
    const seen: unknown[] = [];
    await client.call('start', { role: 'two' }, 0, (event) => seen.push(event));
    expect(seen).toEqual([
      { action: 'start', role: 'two', state: 'begins' },
      { action: 'start', role: 'two', state: 'done' },
    ]);
    expect(await client.call('status')).toMatchObject({ supervisor: process.pid });
    await expect(client.call('nonsense')).rejects.toThrow('the supervisor does not know "nonsense"');
    await client.call('stop', { force: true });
    await client.untilClosed();
    await node.closed;
    expect(has('supervisor.sock') || has('supervisor.pid')).toBe(false);
  });
});
