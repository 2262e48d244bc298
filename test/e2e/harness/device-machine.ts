/**
 * A machine with a kernel and a node of its own, in which volumes are devices (scripts/rigs/guest/devices.sh): one boot, many scenes one after the
 * other, each a test that waits for what the machine says of it.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { bin } from './node.js';
import { run } from './run.js';
import { buildBoot, Machine } from './vm.js';

const rigs = path.resolve(import.meta.dirname, '../../../scripts/rigs');
/** What the scenes need of the kernel, in both; and what their disk needs in the emulated one. */
const MODULES = ['nbd', 'dm-mod', 'loop', 'unix_diag'];
const EMULATED = ['virtio_pci', 'virtio_blk', 'virtio-rng'];
/** Of one scene, and of the boot: emulated, on a host with much else to do, a process of Node takes half a minute to start. */
const SCENE_MS = 600_000;
const SHOWN = 30_000;

/** Which machine: `uml` has a kernel that is a program of this one, with one processor; `emulated` is qemu's, with two. */
export type MachineKind = 'uml' | 'emulated';

/**
 * The quicker kind that runs here. User-mode Linux 6.1 has no room for the registers of processors with AMX (Xeon of 2023 and later), which it
 * must set as a whole: its first process dies there (put_fp_registers).
 */
export function quickestMachine(): MachineKind {
  if (!/^flags\s*:.*\bamx_tile\b/m.test(readFileSync('/proc/cpuinfo', 'utf8'))) return 'uml';
  console.warn('User-mode Linux does not run on this processor (AMX): the machine is emulated, which takes longer');
  return 'emulated';
}

/** Scripts of the guest, and the scenes that each plays. */
export type Parts = Readonly<Record<string, readonly string[]>>;

/** Programs that a machine is made with, and run by. */
export function machineTools(kind: MachineKind): string[] {
  return ['busybox', 'depmod', 'cpio', 'mke2fs', ...(kind === 'emulated' ? ['qemu-system-x86_64'] : [])];
}

/** What the scenes run as well. */
export const SCENE_TOOLS = ['nbd-client', 'dmsetup', 'fio'] as const;

/**
 * Starts a machine.
 * @param guest which of scripts/rigs/guest it runs
 * @param modules of the kernel, beside what its disks need
 * @param images what its disks hold; they are only read
 */
export async function bootMachine(
  kind: MachineKind,
  guest: string,
  modules: readonly string[],
  commandLine: string,
  images: readonly string[],
): Promise<Machine> {
  // The nbd driver tells of each lost connection, in the middle of other lines.
  const words = `quiet loglevel=1 ${commandLine}`;
  if (kind === 'uml') {
    const boot = await buildBoot(guest, modules, [], 'uml-kernel.sh');
    const disks = images.map((image, i) => `ubd${i}r=${image}`);
    return new Machine(boot, words, disks, 'uml.sh');
  }
  const boot = await buildBoot(guest, [...EMULATED, ...modules]);
  const disks = images.flatMap((image, i) => [
    ...['-drive', `file=${image},if=none,id=disk${i},format=raw,readonly=on`],
    ...['-device', `virtio-blk-pci,drive=disk${i}`],
  ]);
  return new Machine(boot, words, ['-m', '2048', ...disks]);
}

/**
 * Defines the tests of a machine that plays these parts, in the present `describe`.
 * @param more words for the kernel's command line
 */
export function playInMachine(kind: MachineKind, parts: Parts, more = ''): void {
  let dir: string;
  let machine: Machine | undefined;
  const scenes = Object.values(parts).flat();
  let passed = 0;

  beforeAll(async () => {
    dir = mkdtempSync(path.join(os.tmpdir(), 'archipelago-devices-'));
    const image = path.join(dir, 'node.img');
    await run(path.join(rigs, 'node-image.sh'), [image, 'mke2fs', 'dmsetup', 'nbd-client', 'fio'], {
      timeout: 300_000,
      env: { ...process.env, ARCHIPELAGO_TEST_BIN: bin },
    });
    const commandLine = `PARTS=${Object.keys(parts).join(',')} ${more}`;
    machine = await bootMachine(kind, 'devices', MODULES, commandLine, [image]);
    await machine.expect(/^guest: the node runs/m, SCENE_MS);
  }, 1_300_000);

  afterAll(() => {
    machine?.kill();
    if (passed < scenes.length) console.log(`The end of the console:\n${machine?.console.slice(-SHOWN)}`);
    if (dir) rmSync(dir, { recursive: true, force: true });
  });

  it.each(scenes)(
    '%s',
    async (scene) => {
      // Whichever comes next: a scene that is not the expected one is told by its name.
      const [line, outcome] = (await machine?.expect(/^SCENE [^:]*: (.*)\n|^RIG-FAIL.*\n/m, SCENE_MS)) ?? [];
      console.log(line);
      expect(line).toMatch(`SCENE ${scene}: `);
      expect(outcome).toMatch(/^ok/);
      passed++;
    },
    SCENE_MS + 10_000,
  );

  it(
    'ends well',
    async () => {
      await machine?.expect(/^RIG-OK$/m, SCENE_MS);
      await machine?.off(60_000);
    },
    2 * SCENE_MS,
  );
}
