/**
 * Live migration for real: a guest that writes and compares moves from a qemu on one node to a qemu on the other and back, while its disk
 * stays where it is. `npm run migrate -- --guest-moves N` moves it more often.
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { sha256 } from './harness/clients.js';
import type { TestNode } from './harness/node.js';
import { owners, useNodes } from './harness/nodes.js';
import { Monitor } from './harness/qmp.js';
import { programs } from './harness/requirements.js';
import { repeated } from './harness/stores.js';
import { type Boot, buildBoot, Machine } from './harness/vm.js';

const tools = programs('qemu-system-x86_64', 'nbdcopy', 'busybox', 'depmod', 'cpio');
const MOVES = Number(process.env.ARCHIPELAGO_TEST_GUEST_MOVES ?? (repeated ? 1 : 2));
const VOLUME = 'guest-disk';

describe.runIf(tools)('a qemu guest', () => {
  const rig = useNodes();
  let boot: Boot;
  let directory: string;
  const machines: Machine[] = [];
  const monitors: Monitor[] = [];
  afterEach(() => {
    for (const monitor of monitors.splice(0)) monitor.close();
    for (const machine of machines.splice(0)) machine.kill();
    rmSync(directory, { recursive: true, force: true });
  });
  beforeAll(async () => {
    directory = mkdtempSync(path.join(os.tmpdir(), 'archipelago-guest-'));
    boot = await buildBoot('migrate', ['virtio_pci', 'virtio_blk', 'virtio-rng']);
  });

  /** Starts a qemu with the guest's disk on a node; all but the first wait for the guest to come. */
  const start = async (node: TestNode, number: number): Promise<{ machine: Machine; monitor: Monitor }> => {
    const at = (name: string): string => path.join(directory, `${name}-${number}`);
    const args = [
      ...['-drive', `if=none,id=disk,format=raw,cache=none,discard=unmap,file=${node.uri(VOLUME)}`],
      ...['-device', 'virtio-blk-pci,drive=disk', '-qmp', `unix:${at('monitor')},server=on,wait=off`],
      ...(number === 0 ? [] : ['-incoming', `unix:${at('incoming')}`]),
    ];
    const machine = new Machine(boot, 'quiet', args, 'qemu.sh', path.join(directory, 'memory'));
    machines.push(machine);
    await expect.poll(() => existsSync(at('monitor'))).toBe(true);
    const monitor = await Monitor.connect(at('monitor'));
    monitors.push(monitor);
    return { machine, monitor };
  };

  it(`moves ${MOVES} times between two nodes while it writes, and every byte is right`, async () => {
    await rig.a.create(VOLUME, '64M');
    for (const node of [rig.a, rig.b]) await node.vlmc('open', VOLUME, '--shared');
    const sides = [
      { node: rig.a, owner: owners.a },
      { node: rig.b, owner: owners.b },
    ];
    let guest = await start(rig.a, 0);
    await guest.machine.expect(/^RIG-TICK .*$/m, 120_000);
    const pauses: number[] = [];
    for (let move = 1; move <= MOVES; move++) {
      for (let i = 0; i < 4; i++) await guest.machine.expect(/^RIG-TICK .*$/m, 60_000);
      const { node, owner } = sides[move % 2];
      const next = await start(node, move);
      pauses.push(await guest.monitor.migrate(`unix:${path.join(directory, `incoming-${move}`)}`, next.monitor));
      await guest.monitor.execute('quit');
      await guest.machine.off(30_000);
      expect(guest.machine.console).not.toContain('RIG-FAIL');
      guest = next;
      for (let i = 0; i < 4; i++) await guest.machine.expect(/^RIG-TICK .*$/m, 60_000);
      expect(await rig.store.maps.holder(VOLUME)).toBe(owner);
    }
    console.log(`the guest stood still for ${pauses.join(', ')} ms`);
    guest.machine.type('stop');
    await guest.machine.expect(/^RIG-OK$/m, 120_000);
    await guest.machine.off(30_000);
    const said = guest.machine.console;
    const hash = /^RIG-DEVICE (.*)$/m.exec(said)?.[1];
    console.log(`${/^RIG-SLOTS (.*)$/m.exec(said)?.[1]} places of 64 KiB were compared at the end`);
    for (const { node } of sides) expect((await sha256(node.uri(VOLUME))).sha256).toBe(hash);
    for (const { node } of sides) await node.vlmc('close', VOLUME);
    expect(await rig.store.maps.holder(VOLUME)).toBeUndefined();
    await rig.a.vlmc('check', VOLUME);
  });
});
