/**
 * The process with the clients' connections is killed with -9, again and again, under clients that reconnect: nbdkit's retry filter, qemu
 * with reconnect-delay, the kernel's device of nbd-client -persist. All of them go on, and read what they wrote. And restarted in order, which qemu
 * must not notice either.
 */
import path from 'node:path';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type TestNode, useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { attempt, ended, killGroup, start } from './harness/run.js';
import { repeated, whateverTheStore } from './harness/stores.js';
import { fioArguments, newest, successor } from './harness/verify-load.js';
import { type Boot, buildBoot, Machine } from './harness/vm.js';

/** The supervisor waits longer before each. */
const KILLS = repeated ? 2 : 3;

/** kill -9 of the process with the connections; resolves when there is another. */
async function killEndpoint(node: TestNode): Promise<void> {
  const pid = node.rolePid('nbd');
  process.kill(pid, 'SIGKILL');
  await expect.poll(() => successor(node, 'nbd', pid), { interval: 20 }).toBe(true);
}

describe.runIf(programs('fio', 'nbdkit', 'qemu-storage-daemon'))(
  'clients that reconnect when the endpoint is killed',
  () => {
    const rig = useNode();

    /** Runs fio with verification on an export in front of the node, and kills the endpoint under it. */
    async function verifies(volume: string, uri: string, said: () => string): Promise<void> {
      const { node } = rig;
      const fio = start('fio', fioArguments(uri), { cwd: node.dir, stdio: ['ignore', 'pipe', 'pipe'] });
      let output = '';
      for (const stream of [fio.stdout, fio.stderr])
        stream?.on('data', (chunk: Buffer) => (output += chunk.toString()));
      const end = ended(fio);
      const goesOn = async (): Promise<void> => {
        const since = await newest(node, volume);
        const on = async (): Promise<boolean> => fio.exitCode !== null || (await newest(node, volume)) > since;
        await expect.poll(on, { interval: 20, timeout: 60_000 }).toBe(true);
        expect(fio.exitCode, output + said()).toBe(null);
      };
      try {
        for (let i = 0; i < KILLS; i++) {
          await goesOn();
          await killEndpoint(node);
        }
        await goesOn();
        fio.kill('SIGINT');
        await end;
        expect(output + said()).toMatch(/err= 0/);
        expect(output + said()).not.toMatch(/verify:|Input\/output error|err= [1-9]/);
      } finally {
        killGroup(fio);
      }
      const check = await node.tryVlmc(['--json', 'check', volume]);
      expect((JSON.parse(check.stdout) as { errors: number }).errors, check.stdout).toBe(0);
    }

    /** Starts a server in front of the node that ends with the test. */
    async function inFront(
      program: string,
      args: readonly string[],
      socket: string,
      use: (said: () => string) => Promise<void>,
    ) {
      const child = start(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
      let said = '';
      for (const stream of [child.stdout, child.stderr])
        stream?.on('data', (chunk: Buffer) => (said += chunk.toString()));
      const end = ended(child);
      try {
        const listens = async (): Promise<boolean> => (await attempt('nbdinfo', ['--size', socket])).code === 0;
        await expect.poll(listens, { interval: 50 }).toBe(true);
        await use(() => said);
      } finally {
        killGroup(child);
        await end;
      }
    }

    it("is nbdkit's nbd plugin behind its retry filter: what fio writes is right", async () => {
      const { node } = rig;
      const uri = await node.create('retry-volume', '64M');
      const socket = path.join(node.dir, 'nbdkit.sock');
      const retry = ['retries=100', 'retry-delay=1', 'retry-exponential=no'];
      const front = `nbd+unix:///?socket=${socket}`;
      await inFront('nbdkit', ['-f', '-U', socket, '--filter=retry', 'nbd', `uri=${uri}`, ...retry], front, (said) =>
        verifies('retry-volume', front, said),
      );
    });

    it('is qemu with reconnect-delay: what fio writes is right', async () => {
      const { node } = rig;
      await node.create('qemu-volume', '64M');
      const socket = path.join(node.dir, 'qsd.sock');
      const front = `nbd+unix:///exported?socket=${socket}`;
      const server = `server.type=unix,server.path=${node.socket},export=qemu-volume`;
      const args = [
        ...['--blockdev', `driver=nbd,node-name=disk,${server},reconnect-delay=60`],
        ...['--nbd-server', `addr.type=unix,addr.path=${socket}`],
        ...['--export', 'type=nbd,id=out,node-name=disk,name=exported,writable=on'],
      ];
      await inFront('qemu-storage-daemon', args, front, (said) => verifies('qemu-volume', front, said));
    });

    it('is qemu with reconnect-delay when the endpoint is restarted in order: no request fails', async () => {
      const { node } = rig;
      await node.create('busy-volume', '64M');
      const server = `file.server.type=unix,file.server.path=${node.socket},file.export=busy-volume`;
      // Flushes take a while: requests come when others are still in flight and the end has begun.
      const flushes = ['--flush-interval=8', '--no-drain'];
      const disk = `driver=raw,cache.direct=on,file.driver=nbd,${server},file.reconnect-delay=60`;
      const what = ['bench', '-w', '-t', 'none', '-c', '100000000', '-d', '8', '-s', '4096', ...flushes];
      const bench = start('qemu-img', [...what, '--image-opts', disk], { stdio: ['ignore', 'pipe', 'pipe'] });
      let said = '';
      for (const stream of [bench.stdout, bench.stderr])
        stream?.on('data', (chunk: Buffer) => (said += chunk.toString()));
      const end = ended(bench);
      try {
        for (let i = 0; i <= 2 * KILLS; i++) {
          if (i > 0) await node.archipelago('restart', 'nbd', '-f');
          const since = await newest(node, 'busy-volume');
          const on = async (): Promise<boolean> =>
            bench.exitCode !== null || (await newest(node, 'busy-volume')) > since;
          await expect.poll(on, { interval: 20, timeout: 60_000 }).toBe(true);
          expect(bench.exitCode, said).toBe(null);
        }
      } finally {
        killGroup(bench);
        await end;
      }
    });
  },
);

const kernelTools = programs('qemu-system-x86_64', 'nbd-client', 'busybox', 'depmod', 'cpio');

whateverTheStore(describe.runIf(kernelTools))('the kernel nbd device of nbd-client -persist', () => {
  const rig = useNode();
  let boot: Boot;
  let machine: Machine | undefined;
  afterEach(() => machine?.kill());

  beforeAll(async () => {
    boot = await buildBoot('nbd-persist', ['virtio_pci', 'virtio_net', 'virtio-rng', 'nbd'], ['nbd-client']);
    await rig.node.create('persist-volume', '64M');
  });

  it('is there again each time the endpoint is killed, and reads what was written', async () => {
    const { node } = rig;
    const parameters = `quiet rig.port=${node.port} rig.export=persist-volume rig.kills=${KILLS}`;
    machine = new Machine(boot, parameters, ['-netdev', 'user,id=n', '-device', 'virtio-net-pci,netdev=n,romfile=']);
    for (let i = 1; i <= KILLS; i++) {
      await machine.expect(new RegExp(`^RIG-KILL ${i}$`, 'm'), 200_000);
      await killEndpoint(node);
    }
    const [, verdict] = await machine.expect(/^(RIG-OK|RIG-FAIL.*)$/m, 200_000);
    expect(verdict, machine.console).toBe('RIG-OK');
    await machine.off(30_000);
    const check = await node.tryVlmc(['--json', 'check', '--all']);
    expect((JSON.parse(check.stdout) as { errors: number }).errors, check.stdout).toBe(0);
    expect(Number(/^RIG-BLOCKS (\d+)$/m.exec(machine.console)?.[1])).toBe(15 * (KILLS + 1));
  });
});
