/** `archipelago`: start, stop, restart, status, and what happens when processes die, as an administrator and his scripts see it. */
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { qemuIo } from './harness/clients.js';
import { type NodeOptions, TestNode, useNode } from './harness/node.js';
import { programs, root } from './harness/requirements.js';
import { attempt, ended, killGroup, start } from './harness/run.js';
import { whateverTheStore } from './harness/stores.js';
import { Command, request, Wire } from './harness/wire.js';

const ROLES = ['blockerb', 'blockerm', 'mapperd', 'vlmcd', 'nbd'];
const LINE = '====================\n';
const MiB = 1 << 20;
const column = (text: string): string => text.padEnd(23);
const rows = (action: string, roles: string[], word: string): string =>
  roles.map((role) => `${column(`${action} ${role}`)}${word}\n`).join('');

interface NodeStatus {
  supervisor: number | null;
  segment: string | null;
  roles: { name: string; state: string; pid: number | null; restarts: number; lastFailure: string | null }[];
}

async function status(node: TestNode): Promise<NodeStatus> {
  return JSON.parse((await node.tryArchipelago('status', '--json')).stdout) as NodeStatus;
}

const runFile = (node: TestNode, name: string): string => path.join(node.dir, 'run', name);

function whenAllRun(node: TestNode): Promise<void> {
  return vi.waitFor(
    async () => expect((await status(node)).roles.map(({ state }) => state)).toEqual(ROLES.map(() => 'running')),
    { timeout: 60_000, interval: 100 },
  );
}

describe('a node that is started and stopped', () => {
  let node: TestNode;
  afterEach(() => node.dispose());
  const prepare = async (options: NodeOptions = {}): Promise<TestNode> => {
    node = await TestNode.prepare(options);
    return node;
  };

  it('prints what the original prints, has its pidfiles, and leaves nothing', async () => {
    await prepare();
    expect(await node.archipelago('start')).toBe(
      `${LINE}Starting archipelago\n${LINE}${rows('Starting', ROLES, 'OK')}`,
    );
    for (const role of ROLES) {
      const file = runFile(node, `${role}.pid`);
      expect(readFileSync(file, 'utf8')).toMatch(/^\d+$/);
      expect(statSync(file).mode & 0o777).toBe(0o660);
    }
    expect(await node.archipelago('status')).toBe(
      ROLES.toReversed()
        .map((role) => `${column(role)}running\n`)
        .join(''),
    );
    expect(await node.archipelago('stop')).toBe(
      `${LINE}Stoping archipelago\n${LINE}${rows('Stopping', ROLES.toReversed(), 'OK')}`,
    );
    expect(node.leftovers()).toEqual([]);
  });

  whateverTheStore(it)('is stopped a second time without an error, and status tells that nothing runs', async () => {
    await prepare();
    expect(await node.archipelago('stop')).toBe(
      `${LINE}Stoping archipelago\n${LINE}${rows('Stopping', ROLES.toReversed(), 'Not running')}`,
    );
    const outcome = await node.tryArchipelago('status');
    expect(outcome).toMatchObject({ code: 255, stderr: '' });
    expect(outcome.stdout).toMatch(/^nbd {20}not running$/m);
    expect(await status(node)).toMatchObject({ supervisor: null, segment: null });
  });

  whateverTheStore(it)('is not started a second time', async () => {
    await prepare();
    await node.archipelago('start');
    const outcome = await node.tryArchipelago('start');
    expect(outcome).toMatchObject({ code: 255, stdout: '', stderr: 'Cannot start. Try stopping first\n' });
    expect((await node.tryArchipelago('status')).code).toBe(0);
  });

  whateverTheStore(it)('replaces pidfiles whose numbers belong to nobody or somebody else', async () => {
    await prepare();
    writeFileSync(runFile(node, 'nbd.pid'), '1');
    writeFileSync(runFile(node, 'mapperd.pid'), '4194303');
    writeFileSync(runFile(node, 'supervisor.pid'), String(process.pid));
    await node.archipelago('start');
    expect(node.rolePid('nbd')).toBe(node.rolePid('vlmcd'));
    expect((await node.tryArchipelago('status')).code).toBe(0);
  });

  it('starts again after everything was killed at once', async () => {
    await prepare();
    await node.archipelago('start');
    node.kill();
    await vi.waitFor(() => expect(node.pids()).toEqual([]));
    expect((await node.tryArchipelago('status')).code).toBe(255);
    await node.archipelago('start');
    expect((await node.tryArchipelago('status')).code).toBe(0);
  });

  it('leaves nothing either when it is stopped after everything was killed', async () => {
    await prepare();
    await node.archipelago('start');
    node.kill();
    await vi.waitFor(() => expect(node.pids()).toEqual([]));
    expect(node.leftovers()).not.toEqual([]);
    await node.archipelago('stop');
    expect(node.leftovers()).toEqual([]);
  });

  whateverTheStore(it)('stops, and starts again, also when something has cleaned its segment away', async () => {
    await prepare();
    await node.archipelago('start');
    for (const part of ['', '.bells']) rmSync(`/dev/shm/${node.segment}${part}`, { recursive: true });
    expect(await node.archipelago('stop')).toBe(
      `${LINE}Stoping archipelago\n${LINE}${rows('Stopping', ROLES.toReversed(), 'OK')}`,
    );
    expect(node.leftovers()).toEqual([]);
    await node.archipelago('start');
    expect((await node.tryArchipelago('status')).code).toBe(0);
  });

  whateverTheStore(it)('prints one JSON document when asked to', async () => {
    await prepare();
    const started = JSON.parse(await node.archipelago('--json', 'start')) as {
      roles: { role: string; state: string }[];
    };
    expect(started.roles.map(({ role, state }) => [role, state])).toEqual(ROLES.map((role) => [role, 'done']));
    const stopped = JSON.parse(await node.archipelago('stop', '--json')) as { roles: { role: string }[] };
    expect(stopped.roles.map(({ role }) => role)).toEqual(ROLES.toReversed());
  });

  whateverTheStore(it)('runs in the foreground until Ctrl-C', async () => {
    await prepare();
    const bin = process.env.ARCHIPELAGO_TEST_BIN ?? path.resolve(import.meta.dirname, '../../dist/cli');
    const child = start(process.execPath, [path.join(bin, 'archipelago.js'), '-c', node.conf, 'start', '--foreground']);
    let out = '';
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      out += text;
    });
    await vi.waitFor(() => expect(out).toContain(`${column('Starting nbd')}OK\n`), 60_000);
    await node.create('foreground', 4 * MiB);
    killGroup(child, 'SIGINT');
    expect(await ended(child)).toEqual({ code: 0, signal: null });
    expect(out).toContain(`${column('Stopping blockerb')}OK\n`);
    expect(node.leftovers()).toEqual([]);
  });
});

whateverTheStore(describe)('a node that cannot start', () => {
  let node: TestNode;
  afterEach(() => node.dispose());

  it('names the directory that is missing, and makes none: it may be a mount that failed', async () => {
    node = await TestNode.prepare({ store: 'files', settings: { blockerm: { archip_dir: '/nonexistent/maps' } } });
    const outcome = await node.tryArchipelago('start');
    expect(outcome.code).toBe(255);
    expect(outcome.stderr).toMatch(
      /archipelago\.conf: \[blockerm\] archip_dir: \/nonexistent\/maps is not a directory/,
    );
    expect(existsSync('/nonexistent')).toBe(false);
    expect(node.leftovers()).toEqual([]);
  });

  it('names file, line and key of a wrong setting', async () => {
    node = await TestNode.prepare({ settings: { mapperd: { log_level: 7 } } });
    for (const command of ['start', 'status', 'stop']) {
      const outcome = await node.tryArchipelago(command);
      expect(outcome).toMatchObject({ code: 255, stdout: '' });
      expect(outcome.stderr).toMatch(
        /archipelago\.conf:\d+: \[mapperd\] log_level: "7" is not allowed; .* from 0 to 3\n$/,
      );
    }
    const sane = readFileSync(node.conf, 'utf8').replace('log_level = 7', '');
    writeFileSync(node.conf, sane);
  });

  it('says which role failed and why, and stops those that had started', async () => {
    const taken = net.createServer();
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
    const { port } = taken.address() as net.AddressInfo;
    node = await TestNode.prepare({ settings: { nbd: { listen: `127.0.0.1:${port}` } } });
    // What an earlier start logged says nothing of this one.
    mkdirSync(path.join(node.dir, 'log'), { recursive: true });
    writeFileSync(path.join(node.dir, 'log/nbd.log'), 'a line of an earlier start\n');
    const outcome = await node.tryArchipelago('start');
    taken.close();
    expect(outcome.code).toBe(255);
    expect(outcome.stdout).toContain(`${column('Starting nbd')}FAILED\n`);
    expect(outcome.stdout).toContain(`${column('Stopping blockerb')}OK\n`);
    expect(outcome.stderr).toMatch(new RegExp(`^nbd: .*127\\.0\\.0\\.1:${port}.*another program does`, 'm'));
    expect(outcome.stderr).not.toContain('a line of an earlier start');
    expect(node.leftovers()).toEqual([]);
  });

  it('because this version has no such part says so', async () => {
    node = await TestNode.prepare({ settings: { PEERS: { ROLES: `poold ${ROLES.join(' ')}` } } });
    const outcome = await node.tryArchipelago('start');
    expect(outcome.code).toBe(255);
    expect(outcome.stderr).toContain('poold: roles of type poold are not built in this version');
    expect(node.leftovers()).toEqual([]);
  });
});

whateverTheStore(describe)('the command line', () => {
  const rig = useNode();

  it.each([
    [[], 'Usage: archipelago'],
    [['begin'], "unknown command 'begin'"],
    [['start', '--fast'], "unknown option '--fast'"],
    [['start', 'nbd', 'vlmcd'], 'too many arguments'],
    [['-c'], 'argument missing'],
  ])('%j is wrong usage: exit status 2', async (args, message) => {
    const outcome = await rig.node.tryArchipelago(...args);
    expect(outcome.code).toBe(2);
    expect(outcome.stderr).toContain(message);
  });

  it('a role that is none is refused with those there are', async () => {
    const outcome = await rig.node.tryArchipelago('restart', 'tapdisk');
    expect(outcome).toMatchObject({ code: 255, stdout: '' });
    expect(outcome.stderr).toBe(`Invalid peer tapdisk; the roles of this node are ${ROLES.join(' ')}\n`);
  });

  it('help has examples, and completion is a script that bash takes', async () => {
    expect(await rig.node.archipelago('--help')).toContain('archipelago restart mapperd');
    const script = await rig.node.archipelago('completion', 'bash');
    const bash = start('bash', ['-n']);
    bash.stdin?.end(script);
    expect(await ended(bash)).toEqual({ code: 0, signal: null });
    expect(await rig.node.archipelago('completion', 'roles')).toBe(`${ROLES.join(' ')}\n`);
  });
});

describe('one role', () => {
  const rig = useNode();

  it('stops and starts by itself', async () => {
    const { node } = rig;
    const before = node.rolePid('vlmcd');
    expect(await node.archipelago('stop', 'vlmcd')).toBe(rows('Stopping', ['vlmcd'], 'OK'));
    expect((await node.tryArchipelago('status')).code).toBe(255);
    expect((await status(node)).roles.filter(({ state }) => state !== 'running').map(({ name }) => name)).toEqual([
      'vlmcd',
    ]);
    expect(await node.archipelago('start', 'vlmcd')).toBe(rows('Starting', ['vlmcd'], 'OK'));
    expect(node.rolePid('vlmcd')).toBe(before);
    expect((await node.tryArchipelago('status')).code).toBe(0);
  });

  whateverTheStore(it)('that runs is not started twice', async () => {
    expect(await rig.node.archipelago('start', 'nbd')).toBe(rows('Starting', ['nbd'], 'Already running'));
  });

  it('after the other is restarted while a client goes on', async () => {
    const { node } = rig;
    await node.create('restarted', 64 * MiB);
    const wire = await Wire.open(node.socket, 'restarted');
    let offset = 0;
    for (const role of ROLES.filter((name) => name !== 'nbd')) {
      expect(await node.archipelago('restart', role)).toBe(
        rows('Stopping', [role], 'OK') + rows('Starting', [role], 'OK'),
      );
      wire.send(Buffer.concat([request(Command.WRITE, offset, 4096), Buffer.alloc(4096, 7)]));
      expect((await wire.take(16)).readUInt32BE(4)).toBe(0);
      offset += 4 * MiB;
    }
    wire.socket.destroy();
  });
});

whateverTheStore(describe)('a node with clients', () => {
  const rig = useNode();

  it('does not stop while a volume is open, but does with -f', async () => {
    const { node } = rig;
    await node.create('opened', 4 * MiB);
    const wire = await Wire.open(node.socket, 'opened');
    for (const args of [['stop'], ['stop', 'nbd'], ['stop', 'mapperd'], ['restart'], ['restart', 'nbd']]) {
      const outcome = await node.tryArchipelago(...args);
      expect(outcome.code).toBe(255);
      expect(outcome.stderr).toMatch(
        /Cannot stop: volumes are mapped or have clients \(opened\); unmap them first, or use -f/,
      );
    }
    expect((await node.tryArchipelago('status')).code).toBe(0);
    await node.archipelago('stop', '-f');
    expect(node.leftovers()).toEqual([]);
    wire.socket.destroy();
    await node.archipelago('start');
  });

  it('does not stop while a volume is mapped', async () => {
    const { node } = rig;
    await node.create('mapped', 4 * MiB);
    await node.vlmc('map', 'mapped');
    expect((await node.tryArchipelago('stop')).stderr).toContain('(mapped)');
    await node.vlmc('unmap', 'mapped');
    await node.archipelago('stop');
    expect(node.leftovers()).toEqual([]);
    await node.archipelago('start');
  });
});

describe.runIf(programs('qemu-io'))('processes that die', () => {
  const rig = useNode();

  it.each(['mapperd', 'nbd'])('by kill -9 are started again: that of %s', async (role) => {
    const { node } = rig;
    const pid = node.rolePid(role);
    process.kill(pid, 'SIGKILL');
    await vi.waitFor(() => expect(node.rolePid(role)).not.toBe(pid), { timeout: 60_000, interval: 50 });
    await whenAllRun(node);
    const found = (await status(node)).roles.find(({ name }) => name === role);
    expect(found).toMatchObject({ restarts: 1, lastFailure: `process ${pid} was ended by SIGKILL` });
    await node.create(`after-${role}`, 4 * MiB);
    await qemuIo(node.uri(`after-${role}`), 'write -P 7 0 64k', 'read -P 7 0 64k');
  });

  it('take nothing from a client of another process but time', async () => {
    const { node } = rig;
    await node.create('paused', 400 * MiB);
    const wire = await Wire.open(node.socket, 'paused');
    const blocks = 40;
    // Each first write to a block needs the mapper; it dies somewhere among them.
    for (let block = 0; block < blocks; block++) {
      wire.send(
        Buffer.concat([request(Command.WRITE, block * 4 * MiB, 4096, BigInt(block + 1)), Buffer.alloc(4096, block)]),
      );
      if (block === blocks / 2) process.kill(node.rolePid('mapperd'), 'SIGKILL');
    }
    const done = new Set<bigint>();
    for (let block = 0; block < blocks; block++) {
      const reply = await wire.take(16);
      expect(reply.readUInt32BE(4)).toBe(0);
      done.add(reply.readBigUInt64BE(8));
    }
    expect(done.size).toBe(blocks);
    for (let block = 0; block < blocks; block++) {
      wire.send(request(Command.READ, block * 4 * MiB, 4096));
      const reply = await wire.take(16 + 4096);
      expect(reply.readUInt32BE(4)).toBe(0);
      expect(reply.subarray(16).every((byte) => byte === block)).toBe(true);
    }
    wire.socket.destroy();
    await whenAllRun(node);
  });

  it('like the supervisor leave the roles serving, and start adopts them', async () => {
    const { node } = rig;
    const pids = ROLES.map((role) => node.rolePid(role));
    const supervisor = (await status(node)).supervisor as number;
    process.kill(supervisor, 'SIGKILL');
    await vi.waitFor(() => expect(node.pids()).not.toContain(supervisor));
    expect(await status(node)).toMatchObject({ supervisor: null });
    expect((await node.tryArchipelago('status')).code).toBe(0);
    await qemuIo(node.uri('paused'), 'read 0 64k');

    process.kill(node.rolePid('mapperd'), 'SIGKILL');
    await vi.waitFor(() => expect(node.pids()).not.toContain(pids[2]));
    const out = await node.archipelago('start');
    expect(out).toContain(rows('Starting', ['blockerb'], 'Already running'));
    expect(out).toContain(rows('Starting', ['mapperd'], 'OK'));
    expect(ROLES.map((role) => node.rolePid(role) === pids[ROLES.indexOf(role)])).toEqual([
      true,
      false,
      false,
      true,
      true,
    ]);
    await qemuIo(node.uri('paused'), 'write -P 9 0 64k', 'read -P 9 0 64k');
  });

  it('without a supervisor are stopped all the same', async () => {
    const { node } = rig;
    const supervisor = (await status(node)).supervisor as number;
    process.kill(supervisor, 'SIGKILL');
    await vi.waitFor(() => expect(node.pids()).not.toContain(supervisor));
    await node.archipelago('stop');
    expect(node.leftovers()).toEqual([]);
    await node.archipelago('start');
  });
});

/** Random reads and writes that check what they read, for as long as `work` takes. @throws when fio saw an error or a wrong byte */
async function underLoad(node: TestNode, volume: string, work: () => Promise<void>): Promise<void> {
  const output = path.join(node.dir, `fio-${volume}.json`);
  const fio = start('fio', [
    '--name=load',
    '--ioengine=nbd',
    `--uri=${node.uri(volume)}`,
    '--rw=randrw',
    '--bsrange=4k-64k',
    '--iodepth=16',
    '--size=96M',
    '--verify=crc32c',
    '--verify_backlog=256',
    '--time_based',
    // Ended by SIGINT, which lets fio finish and verify what it has in flight.
    '--runtime=250',
    // No file of its own in whatever directory this runs in.
    '--verify_state_save=0',
    '--output-format=json',
    `--output=${output}`,
  ]);
  const over = ended(fio);
  let stopped = false;
  void over.then(() => {
    stopped = true;
  });
  try {
    await work();
    expect(stopped).toBe(false);
  } finally {
    killGroup(fio, 'SIGINT');
  }
  const { code } = await over;
  const text = readFileSync(output, 'utf8');
  const [job] = (
    JSON.parse(text.slice(text.indexOf('{'))) as { jobs: { error: number; read: { total_ios: number } }[] }
  ).jobs;
  // 128 is what fio ends with after SIGINT; `error` is EILSEQ after a wrong byte.
  expect({ code, error: job.error }).toEqual({ code: 128, error: 0 });
  expect(job.read.total_ios).toBeGreaterThan(0);
}

describe.runIf(programs('fio'))('under load, verified', () => {
  describe('with a process for each role', () => {
    const rig = useNode({ placement: 'one process per role' });

    it('each role but that of the connections can be killed: no error, no wrong byte', async () => {
      const { node } = rig;
      await node.create('killed', 96 * MiB);
      await underLoad(node, 'killed', async () => {
        for (const role of ['blockerb', 'mapperd', 'blockerm', 'vlmcd']) {
          const pid = node.rolePid(role);
          process.kill(pid, 'SIGKILL');
          await vi.waitFor(() => expect(node.rolePid(role)).not.toBe(pid), { timeout: 60_000, interval: 50 });
          await whenAllRun(node);
        }
      });
    });
  });

  describe('in the default placement', () => {
    const rig = useNode();

    it('each role but that of the connections can be restarted: no error, no wrong byte', async () => {
      const { node } = rig;
      await node.create('restarted', 96 * MiB);
      await underLoad(node, 'restarted', async () => {
        for (const role of ['blockerb', 'mapperd', 'blockerm', 'vlmcd']) await node.archipelago('restart', role);
      });
    });
  });
});

whateverTheStore(describe.runIf(root('running as another account')))('USER and GROUP', () => {
  let node: TestNode;
  beforeAll(async () => {
    node = await TestNode.prepare({
      store: 'files',
      settings: { ARCHIPELAGO: { USER: 'nobody', GROUP: 'nogroup', UMASK: '0o027' } },
    });
    const { uid, gid } = statSync(node.dir);
    expect([uid, gid]).toEqual([0, 0]);
    chmodSync(node.dir, 0o755);
    for (const store of [node.maps, node.blocks]) chownSync(store, 65534, 65534);
    await node.archipelago('start');
  });
  afterAll(() => node?.dispose());

  it('are who every process runs as, with UMASK', () => {
    const wanted = statSync(runFile(node, 'nbd.pid'));
    expect(wanted.uid).not.toBe(0);
    expect(node.pids().length).toBeGreaterThanOrEqual(3);
    for (const pid of node.pids()) {
      const text = readFileSync(`/proc/${pid}/status`, 'utf8');
      const ids = (key: string): Set<string> =>
        new Set(new RegExp(`^${key}:\\s+(.*)$`, 'm').exec(text)?.[1].split(/\s+/));
      expect(ids('Uid')).toEqual(new Set([String(wanted.uid)]));
      expect(ids('Gid')).toEqual(new Set([String(wanted.gid)]));
      expect(/^Umask:\s+(\d+)$/m.exec(text)?.[1]).toBe('0027');
    }
    for (const name of readdirSync(path.join(node.dir, 'log'))) {
      const { uid, mode } = statSync(path.join(node.dir, 'log', name));
      expect([name, uid, mode & 0o027]).toEqual([name, wanted.uid, 0]);
    }
  });

  it('serve volumes, and root can stop them', async () => {
    await node.create('unprivileged', 4 * MiB);
    const wire = await Wire.open(node.socket, 'unprivileged');
    wire.send(Buffer.concat([request(Command.WRITE, 0, 512), Buffer.alloc(512, 1)]));
    expect((await wire.take(16)).readUInt32BE(4)).toBe(0);
    wire.socket.destroy();
    await node.archipelago('stop', '-f');
    expect(node.leftovers()).toEqual([]);
  });

  it('cannot be another than the one who starts, unless that is root', async () => {
    const bin = process.env.ARCHIPELAGO_TEST_BIN ?? path.resolve(import.meta.dirname, '../../dist/cli');
    const outcome = await attempt('setpriv', [
      '--reuid=1',
      '--regid=1',
      '--clear-groups',
      process.execPath,
      path.join(bin, 'archipelago.js'),
      '-c',
      node.conf,
      'start',
    ]);
    expect(outcome.code).toBe(255);
    expect(outcome.stderr).toMatch(/the node runs as nobody \(USER\); start it as that account or as root/);
  });
});
