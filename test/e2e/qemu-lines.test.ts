/**
 * The command lines of docs/qemu.md, as they stand there, in machines that never start their processor: qemu opens its disks all the same, and is
 * told through its monitor what to read and write on them. Lines for a running guest are in qemu-guest.test.ts.
 */
import type { ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Authority, credentialsDirectory } from './harness/certificates.js';
import { nbdmap, qemuRead } from './harness/clients.js';
import { Manual, type Places } from './harness/manual.js';
import { freePort, type TestNode } from './harness/node.js';
import { owners, useNodes } from './harness/nodes.js';
import { Monitor } from './harness/qmp.js';
import { programs } from './harness/requirements.js';
import { ended, killGroup, start } from './harness/run.js';

const tools = programs('qemu-system-x86_64', 'qemu-io', 'nbdinfo', 'certtool');
const MiB = 1 << 20;
const manual = new Manual('qemu.md');
const machines: Emulator[] = [];
/** Where qemu has the only device that the lines make, its disk. */
const DEVICE = '/machine/peripheral-anon/device[0]/virtio-backend';

/** Where the page's example has a socket, a port, a directory, this test has others. */
const placesOf = (node: TestNode): Places => ({
  '/run/archipelago/nbd.sock': node.socket,
  10809: node.port,
  '/run/web1': path.join(node.dir, 'web1'),
});

/** A qemu without a guest. */
class Emulator {
  readonly #child: ChildProcess;
  readonly #end: Promise<unknown>;
  #said = '';
  #monitor: Monitor | undefined;

  private constructor(args: readonly string[]) {
    // What qemu-io says comes on qemu's standard output; a line at a time, please.
    this.#child = start('stdbuf', ['-oL', 'qemu-system-x86_64', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.#child.stdout, this.#child.stderr])
      stream?.on('data', (chunk: Buffer) => (this.#said += chunk.toString()));
    this.#end = ended(this.#child);
    machines.push(this);
  }

  /** Starts qemu with a block's arguments; `meanwhile` runs when it was started and need not have opened its disks yet. */
  static async start(
    block: string,
    places: Places,
    more: readonly string[] = [],
    meanwhile: () => Promise<unknown> = async () => {},
  ): Promise<Emulator> {
    const given = await manual.arguments(block, places);
    const directory = String(places['/run/web1']);
    mkdirSync(directory, { recursive: true });
    const socket = path.join(directory, given.includes('-qmp') ? 'qmp.sock' : `${machines.length}.sock`);
    const monitor = given.includes('-qmp') ? [] : ['-qmp', `unix:${socket},server=on,wait=off`];
    const machine = ['-M', 'q35', '-m', '64', '-nodefaults', '-no-user-config', '-display', 'none'];
    const qemu = new Emulator([...machine, ...given, ...monitor, ...more]);
    await meanwhile();
    await expect.poll(() => existsSync(socket) || qemu.#child.exitCode !== null, { interval: 20 }).toBe(true);
    expect(qemu.#child.exitCode, qemu.#said).toBe(null);
    qemu.#monitor = await Monitor.connect(socket);
    return qemu;
  }

  get monitor(): Monitor {
    if (!this.#monitor) throw new Error('qemu has not answered yet');
    return this.#monitor;
  }

  /** Reads or writes on the disk by a command of qemu-io, as the guest would. @throws with what it said, when that is no success */
  async disk(command: string): Promise<void> {
    const from = this.#said.length;
    const line = { 'command-line': `qemu-io -d ${DEVICE} "${command}"` };
    const refused = await this.monitor.execute<string>('human-monitor-command', line);
    const result = /^(wrote|read|discard) (\d+)\/\2 bytes|failed/m;
    if (refused === '') await expect.poll(() => this.#said.slice(from), { interval: 20 }).toMatch(result);
    const said = refused + this.#said.slice(from);
    if (refused !== '' || /failed/.test(said)) throw new Error(`${command}: ${said}`);
  }

  async quit(): Promise<void> {
    await this.monitor.execute('quit');
    await this.#end;
  }

  async kill(): Promise<void> {
    this.#monitor?.close();
    killGroup(this.#child);
    await this.#end;
  }
}

/** Resolves when somebody has connected to a port where nobody listens else, and was cut off. */
function hangsUp(port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const server = net.createServer((socket) => {
      socket.on('error', () => {}).destroy();
      server.close(() => resolve());
    });
    server.once('error', reject).listen(port, '127.0.0.1');
  });
}

describe.runIf(tools)("qemu's command lines", () => {
  const directory = credentialsDirectory();
  const at = (name: string): string => path.join(directory.path, name);
  beforeAll(async () => {
    const authority = await Authority.create(directory.path, 'authority');
    await authority.client(at('client'), 'alice');
    await authority.server(at('server'), 1);
  });
  afterAll(() => directory.dispose());
  // Clients choose whether they use TLS, and the lines are with it and without.
  const nodes = useNodes({ settings: { nbd: { tls: 'selective', tls_directory: at('server') } } });
  // Before the nodes are stopped, whose clients they are.
  afterAll(async () => {
    for (const machine of machines.splice(0)) await machine.kill();
  });

  const placesFor = (volume: string): Places => ({
    ...placesOf(nodes.a),
    '/etc/pki/qemu': at('client'),
    'web-data': volume,
  });
  const running: { uri: string; qemu: Emulator }[] = [];

  it.each(['lines-drive-unix', 'lines-drive-tcp', 'lines-drive-colon', 'lines-blockdev-tcp', 'lines-blockdev-tls'])(
    'open a volume, write, read, and give back what is discarded: %s',
    async (block) => {
      const volume = `${block}-volume`;
      const uri = await nodes.a.create(volume, '32M');
      const qemu = await Emulator.start(block, placesFor(volume), ['-S']);
      running.push({ uri, qemu });
      await qemu.disk('write -P 1 0 12M');
      await qemu.disk('write -P 2 20M 4k');
      await qemu.disk('discard 4M 4M');
      await qemu.disk('read -P 2 20M 4k');
      await qemuRead(uri, 'read -P 1 0 4M', 'read -P 0 4M 4M', 'read -P 1 8M 4M', 'read -P 2 20M 4k');
      const hole = (await nbdmap(uri)).find(({ offset }) => offset === 4 * MiB);
      expect(hole).toMatchObject({ length: 4 * MiB, type: 3 });
    },
  );

  it('wait for a node that is away, while they run and when they start', async () => {
    const node = nodes.a;
    const early = await node.create('early-volume', '32M');
    await node.archipelago('stop', 'nbd', '-f');
    const waiting = running.map(({ qemu }) => qemu.disk('write -P 3 0 64k'));
    const came = await Emulator.start('lines-blockdev-tcp', placesFor('early-volume'), ['-S'], async () => {
      await hangsUp(node.port);
      await node.archipelago('start', 'nbd');
    });
    await Promise.all(waiting);
    await came.disk('write -P 3 0 64k');
    await qemuRead(early, 'read -P 3 0 64k');
    for (const { uri } of running) await qemuRead(uri, 'read -P 3 0 64k', 'read -P 1 64k 4032k', 'read -P 2 20M 4k');
  });

  it('take a machine from one node to the other', async () => {
    const { a, b } = nodes;
    const port = await freePort();
    await a.create('web-data', '64M');
    for (const node of [a, b]) await manual.shell('lines-migrate-open', node);
    const old = await Emulator.start('lines-drive-unix', placesOf(a));
    await old.disk('write -P 1 0 8M');
    const next = await Emulator.start('lines-migrate-incoming', { ...placesOf(b), 4444: port });
    const [migrate] = manual.commands('lines-migrate', { node2: '127.0.0.1', 4444: port });
    await old.monitor.execute(migrate.execute, migrate.arguments);
    const [query] = manual.commands('lines-migrate-status', {});
    const status = async (): Promise<string> => (await old.monitor.execute<{ status: string }>(query.execute)).status;
    await expect.poll(status, { timeout: 60_000 }).toMatch(/completed|failed/);
    expect(await status()).toBe('completed');
    await next.disk('read -P 1 0 8M');
    await next.disk('write -P 2 4M 8M');
    await old.quit();
    await manual.shell('lines-migrate-close', a);
    await manual.shell('lines-migrate-exclusive', b);
    expect(await nodes.store.maps.holder('web-data')).toBe(owners.b);
    await qemuRead(b.uri('web-data'), 'read -P 1 0 4M', 'read -P 2 4M 8M');
    await next.quit();
  });

  it('are all those of the page that need no guest', () => {
    expect(manual.unused().filter((name) => !name.startsWith('guest-'))).toEqual([]);
  });
});
