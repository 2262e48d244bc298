/**
 * Ganeti's own node code with disks as devices of the kernel: a machine runs a node, the provider and Ganeti's code, and a disk lives there as in
 * ganeti.test.ts, in kernelspace access.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bootMachine, machineTools, quickestMachine } from './harness/device-machine.js';
import { bin } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { run } from './harness/run.js';
import type { Machine } from './harness/vm.js';

const rigs = path.resolve(import.meta.dirname, '../../scripts/rigs');
/** Of one step, and of all, in ms: emulated, on a host with much else to do, a process of Node takes half a minute to start. */
const STEP = 600_000;
const ALL = 3_600_000;
const MiB = 1 << 20;
const DISK = '11111111-2222-4333-8444-555555555555.ext.disk0';

interface Answer {
  readonly attached?: boolean;
  readonly path?: string;
  readonly uris?: string[];
  readonly id?: string;
  readonly error?: string;
}

const kind = quickestMachine();

describe.runIf(programs(...machineTools(kind), 'python3'))("a disk of Ganeti as the kernel's device", () => {
  let machine: Machine | undefined;
  const directory = mkdtempSync(path.join(os.tmpdir(), 'archipelago-ganeti-'));
  const image = path.join(directory, 'node');
  let ganeti: string;
  beforeAll(async () => {
    await run(path.join(rigs, 'node-image.sh'), [image], {
      timeout: 300_000,
      env: { ...process.env, ARCHIPELAGO_TEST_BIN: bin },
    });
    ganeti = (await run(path.join(rigs, 'ganeti-image.sh'), [], { timeout: 300_000 })).stdout.trim();
  }, 900_000);
  afterAll(() => {
    machine?.kill();
    rmSync(directory, { recursive: true, force: true });
  });

  it(
    'lives there as from userspace, and each device is gone when its disk is detached',
    async () => {
      const began = performance.now();
      const vm = await bootMachine(kind, 'ganeti-kernel', ['nbd', 'unix_diag'], '', [image, ganeti]);
      machine = vm;
      const step = async (name: string): Promise<Answer> => {
        const [, answer, failed] = await vm.expect(new RegExp(`^STEP ${name}: (.*)\n|^(RIG-FAIL.*)\n`, 'm'), STEP);
        if (failed !== undefined) throw new Error(vm.console.slice(-4000));
        return JSON.parse(answer) as Answer;
      };
      const seen = async (name: string): Promise<string> =>
        (await vm.expect(new RegExp(`^SEEN ${name}: ?(.*)\n`, 'm'), STEP))[1].trim();
      const attached = (device: string, disk: string): Answer => ({
        attached: true,
        path: device,
        uris: [`kvm:nbd:unix:/run/archipelago/nbd.sock:exportname=${disk}`, ''],
      });

      expect(await step('create')).toEqual(attached('/dev/nbd0', DISK));
      expect(await seen('size')).toBe(String(64 * MiB));
      expect(await step('again')).toEqual(attached('/dev/nbd0', DISK));
      expect(await step('open')).toEqual({});
      expect(await step('grow')).toEqual({});
      expect(await seen('grown')).toBe(String(96 * MiB));
      expect(await step('snapshot')).toEqual({ id: `${DISK}.snap` });
      expect(await step('attached')).toEqual(attached('/dev/nbd1', `${DISK}.snap`));
      expect(await seen('devices')).toBe('nbd0 nbd1');
      expect(await seen('snapshot')).toBe('as it was');
      expect(await step('dropped')).toEqual({});
      expect((await step('refused')).error).toMatch(
        new RegExp(`archipelago detach ${DISK}: .*/dev/nbd0.* is in use: .*open in process \\d+`),
      );
      expect(await step('detach')).toEqual({});
      expect(await seen('left')).toBe('');
      expect(await step('back')).toEqual(attached('/dev/nbd0', DISK));
      expect(await seen('data')).toBe('as it was');
      expect(await step('remove')).toEqual({});
      expect(await seen('end')).toBe('');
      await vm.expect(/^RIG-OK$/m, STEP);
      await vm.off(STEP);
      console.log(`the machine ran for ${((performance.now() - began) / 1000).toFixed(0)} s`);
    },
    ALL,
  );
});
