/**
 * Volumes as devices of a real kernel: a machine runs a node of its own and makes devices of its volumes (scripts/rigs/guest/devices-scenes.mjs).
 * One boot, many scenes one after the other; here each is looked for in what the machine said.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bin } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { run } from './harness/run.js';
import { buildBoot, Machine } from './harness/vm.js';

const tools = programs('qemu-system-x86_64', 'nbd-client', 'mke2fs', 'dmsetup', 'busybox', 'depmod', 'cpio');
const rigs = path.resolve(import.meta.dirname, '../../scripts/rigs');

const scenes = [
  'attach',
  'attach again',
  'a file system',
  'a new size while it is mounted',
  'who else uses it',
  'several connections',
  'the node killed under load',
  'the node stopped and started under load, without a keeper',
  'several connections are all back',
  'read-only, and a size of sectors',
  'detach',
  'twenty at once, from two processes',
  'a table that is lost',
  'a device that somebody else ended',
  'by force while it is open',
  'detach while the node is away',
  'no error was seen',
  // devices-vlmc.mjs: what the commands print, and refuse.
  'vlmc keeper',
  'vlmc map',
  'vlmc showmapped',
  'vlmc resize',
  'vlmc refusals',
  'vlmc unmap',
  'vlmc a snapshot, several connections, and its own socket',
  'vlmc a table',
  'vlmc a node that does not run',
  'vlmc keeper stopped',
];

describe.runIf(tools)('volumes as devices of the kernel', () => {
  let dir: string;
  let machine: Machine | undefined;
  let said = '';

  beforeAll(async () => {
    dir = mkdtempSync(path.join(os.tmpdir(), 'archipelago-devices-'));
    const image = path.join(dir, 'node.img');
    await run(path.join(rigs, 'node-image.sh'), [image, 'mke2fs', 'dmsetup', 'nbd-client'], {
      timeout: 300_000,
      env: { ...process.env, ARCHIPELAGO_TEST_BIN: bin },
    });
    const modules = ['virtio_pci', 'virtio_blk', 'virtio-rng', 'nbd', 'dm-mod', 'loop', 'unix_diag'];
    const boot = await buildBoot('devices', modules);
    const drive = [
      '-drive',
      `file=${image},if=none,id=node,format=raw,readonly=on`,
      '-device',
      'virtio-blk-pci,drive=node',
    ];
    // The driver tells of each lost connection, in the middle of other lines.
    machine = new Machine(boot, 'quiet loglevel=1', drive);
    await machine.expect(/^RIG-(OK|FAIL.*)$/m, 900_000);
    said = machine.console;
    console.log(said.replace(/^(?!SCENE|guest:).*\n/gm, ''));
    await machine.off(60_000);
  }, 1_300_000);

  afterAll(() => {
    machine?.kill();
    if (dir) rmSync(dir, { recursive: true, force: true });
  });

  it.each(scenes)('%s', (scene) => {
    const [, outcome] = new RegExp(`^SCENE ${scene}: (.*)$`, 'm').exec(said) ?? [undefined, 'not played'];
    expect(outcome, said).toMatch(/^ok/);
  });

  it('play no scene that is not looked for', () => {
    expect([...said.matchAll(/^SCENE ([^:]*):/gm)].map(([, scene]) => scene)).toEqual(scenes);
  });
});
