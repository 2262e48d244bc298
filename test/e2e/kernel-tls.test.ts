/**
 * The kernel's nbd device over TLS, in a machine of its own: the kernel knows no TLS, nbd-client gives it one end of a socket pair and
 * encrypts what comes out of the other. Written, flushed, read back, detached; the host then finds the same bytes.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { Authority, credentialsDirectory } from './harness/certificates.js';
import { useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { run } from './harness/run.js';
import { type Boot, buildBoot, Machine } from './harness/vm.js';

const tools = programs('qemu-system-x86_64', 'nbd-client', 'busybox', 'depmod', 'cpio', 'tar', 'certtool', 'nbdcopy');
const MiB = 1 << 20;
const SIZE = 32 * MiB;
/** Where the guest writes: past the page cache, and through it at offsets that are no multiple of anything. */
const DIRECT = { offset: 4 * MiB, length: 12 * MiB };
const BUFFERED = { offset: 6000 * 4093, length: 800 * 4093 };

describe.runIf(tools)('the kernel nbd device over TLS', () => {
  const directory = credentialsDirectory();
  const at = (name: string): string => path.join(directory.path, name);
  let client: string;
  beforeAll(async () => {
    const authority = await Authority.create(directory.path, 'authority');
    await authority.server(at('server'), 1);
    client = await authority.client(at('client'), 'alice');
  });
  const rig = useNode(() => ({ settings: { nbd: { tls: 'required', tls_directory: at('server') } } }));
  let boot: Boot;
  let machine: Machine | undefined;
  afterEach(() => machine?.kill());
  afterAll(() => directory.dispose());

  beforeAll(async () => {
    boot = await buildBoot('nbd-tls', ['virtio_pci', 'virtio_net', 'virtio_blk', 'virtio-rng', 'nbd'], ['nbd-client']);
  });

  it('is refused in plaintext; with a certificate it is written, flushed, read back and detached', async () => {
    const { node } = rig;
    await node.vlmc('create', 'kernel-volume', '--size', '32M');
    const archive = at('client.tar');
    await run('tar', ['-cf', archive, '-C', client, '.']);
    machine = new Machine(boot, `quiet rig.port=${node.port} rig.export=kernel-volume`, [
      ...['-netdev', 'user,id=n', '-device', 'virtio-net-pci,netdev=n,romfile='],
      ...['-drive', `if=none,id=pki,format=raw,readonly=on,file=${archive}`, '-device', 'virtio-blk-pci,drive=pki'],
    ]);
    const [, verdict] = await machine.expect(/^(RIG-OK|RIG-FAIL.*)$/m, 200_000);
    expect(verdict, machine.console).toBe('RIG-OK');
    await machine.off(30_000);
    const said = machine.console;
    const report = (what: string): string | undefined => new RegExp(`^${what} (.*)$`, 'm').exec(said)?.[1];
    expect(report('RIG-PLAINTEXT')).toBe('refused');
    expect(report('RIG-SIZE')).toBe(String(SIZE));

    const image = at('image');
    await run('nbdcopy', [`nbds://127.0.0.1:${node.port}/kernel-volume?tls-certificates=${client}`, image]);
    const content = readFileSync(image);
    const hash = (offset = 0, length = SIZE): string =>
      createHash('sha256')
        .update(content.subarray(offset, offset + length))
        .digest('hex');
    expect(hash(DIRECT.offset, DIRECT.length)).toBe(report('RIG-DIRECT'));
    expect(hash(BUFFERED.offset, BUFFERED.length)).toBe(report('RIG-BUFFERED'));
    expect(hash()).toBe(report('RIG-DEVICE'));
  });
});
