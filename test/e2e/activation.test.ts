/** Sockets of systemd: a node that was given them serves them, through deaths and restarts of its endpoint, and leaves them alone. */
import type { ChildProcess } from 'node:child_process';
import { statSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { nbdinfo } from './harness/clients.js';
import { bin, freePort, TestNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { attempt, ended, killGroup, start } from './harness/run.js';

const MiB = 1 << 20;

/** Runs `archipelago` as a socket unit does, with these addresses for its sockets; it begins with the first client. */
function activate(addresses: readonly string[], options: readonly string[], ...args: string[]): ChildProcess {
  const listen = addresses.flatMap((address) => ['-l', address]);
  const command = [process.execPath, path.join(bin, 'archipelago.js'), ...args];
  return start('systemd-socket-activate', [...listen, '-E', 'PATH', ...options, ...command], { stdio: 'ignore' });
}

describe.runIf(programs('systemd-socket-activate', 'nbdinfo'))('sockets handed over', () => {
  let node: TestNode;
  let port: number;
  let file: string;

  beforeAll(async () => {
    node = await TestNode.prepare();
    port = await freePort();
    file = path.join(node.dir, 'handed-over.sock');
  });
  afterAll(async () => {
    await node.dispose();
  });

  it('are served by a node that their first client started', async () => {
    const unit = activate([file, `127.0.0.1:${port}`, `[::1]:${port}`], [], '-c', node.conf, 'start', '--foreground');
    const over = ended(unit);
    const uris = [
      `nbd+unix:///unit-volume?socket=${file}`,
      `nbd://127.0.0.1:${port}/unit-volume`,
      `nbd://[::1]:${port}/unit-volume`,
    ];
    try {
      await expect.poll(() => statSync(file, { throwIfNoEntry: false })?.isSocket() ?? false).toBe(true);
      // The first client starts the node; there is no volume yet.
      await expect.poll(async () => (await attempt('nbdinfo', [uris[0]])).stderr).toMatch(/unit-volume/);
      await node.create('unit-volume', 8 * MiB);
      for (const uri of uris) expect((await nbdinfo(uri))['export-size']).toBe(8 * MiB);

      const shown = JSON.parse(await node.archipelago('status', '--json')) as {
        roles: { name: string; status: { listening?: string[] } }[];
      };
      const { listening } = shown.roles.find(({ name }) => name === 'nbd')?.status ?? {};
      // They take the place of what the configuration says: nobody listens there.
      expect(listening).toEqual([file, `127.0.0.1:${port}`, `[::1]:${port}`]);

      process.kill(node.rolePid('nbd'), 'SIGKILL');
      for (const uri of uris) expect((await nbdinfo(uri))['export-size']).toBe(8 * MiB);
      await node.archipelago('restart', 'nbd', '-f');
      for (const uri of uris) expect((await nbdinfo(uri))['export-size']).toBe(8 * MiB);
    } finally {
      killGroup(unit, 'SIGTERM');
      await over;
    }
    expect(node.pids()).toEqual([]);
    expect(statSync(file).isSocket()).toBe(true);
  });

  it('are served by one command for a volume, which ends when nobody came for a while', async () => {
    await node.archipelago('start');
    const one = await freePort();
    const unit = activate([`127.0.0.1:${one}`], [], ...['-c', node.conf, 'nbd', '--exit-idle', '0.5', 'unit-volume']);
    const over = ended(unit);
    await expect.poll(async () => (await attempt('nbdinfo', [`nbd://127.0.0.1:${one}`])).code).toBe(0);
    expect(await over).toEqual({ code: 0, signal: null });
  });

  it('or one connection each is: Accept=yes, with a process for each client', async () => {
    const one = await freePort();
    const unit = activate([`127.0.0.1:${one}`], ['--accept', '--inetd'], '-c', node.conf, 'nbd', 'unit-volume');
    const over = ended(unit);
    try {
      for (let client = 0; client < 2; client++) {
        await expect.poll(async () => (await attempt('nbdinfo', [`nbd://127.0.0.1:${one}`])).code).toBe(0);
      }
    } finally {
      killGroup(unit, 'SIGTERM');
      await over;
    }
  });
});
