/**
 * A file system on a volume: through the kernel's nbd device in a machine of its own (the host's kernel may have no nbd), and through
 * nbdfuse without any kernel driver. Made, filled, checked by e2fsck, read back; again from a clone.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { sha256 } from './harness/clients.js';
import { useNode } from './harness/node.js';
import { device, programs } from './harness/requirements.js';
import { attempt, ended, killGroup, run, start } from './harness/run.js';
import { whateverTheStore } from './harness/stores.js';
import { type Boot, buildBoot, Machine } from './harness/vm.js';

const kernelTools = programs(
  'qemu-system-x86_64',
  'nbd-client',
  'mke2fs',
  'e2fsck',
  'busybox',
  'depmod',
  'cpio',
  'nbdcopy',
);

describe.runIf(kernelTools)('ext4 on the kernel nbd device', () => {
  const rig = useNode();
  let boot: Boot;
  let machine: Machine | undefined;
  /** Checksum of the checksums of what was filled in. */
  let sums: string;
  afterEach(() => machine?.kill());

  beforeAll(async () => {
    boot = await buildBoot(
      'nbd-ext4',
      ['virtio_pci', 'virtio_net', 'virtio-rng', 'nbd'],
      ['nbd-client', 'mke2fs', 'e2fsck'],
    );
    await rig.node.create('kernel-volume', '300M');
  });

  /** Boots the guest on a volume, which it is given once for each phase; resolves to what it reported. */
  async function guest(volume: string, ...phases: `${'fill' | 'verify'}/${'netlink' | 'ioctl'}`[]): Promise<string> {
    const parameters = `quiet rig.port=${rig.node.port} rig.export=${volume} rig.phases=${phases.join(',')}`;
    machine = new Machine(boot, parameters, ['-netdev', 'user,id=n', '-device', 'virtio-net-pci,netdev=n,romfile=']);
    const [, verdict] = await machine.expect(/^(RIG-OK|RIG-FAIL.*)$/m, 200_000);
    expect(verdict, machine.console).toBe('RIG-OK');
    await machine.off(30_000);
    return machine.console;
  }
  const report = (text: string, what: string): string | undefined => new RegExp(`^${what} (.*)$`, 'm').exec(text)?.[1];

  it('is made, filled, trimmed, checked and read back, through netlink', async () => {
    const said = await guest('kernel-volume', 'fill/netlink');
    sums = `RIG-SUMS ${report(said, 'RIG-SUMS')}`;
    expect(report(said, 'RIG-SIZE')).toBe(String(300 << 20));
    expect(report(said, 'RIG-QUEUE')).toMatch(/write_cache=write-back fua=1 discard=[1-9]/);
  });

  // The kernel's two ways to a socket. What they write and read is the same to a store.
  whateverTheStore(it)(
    'is whole in a clone, by the old ioctl interface, and made anew there without a trace in its parent',
    async () => {
      await rig.node.vlmc('snapshot', 'kernel-volume', 'kernel-snapshot');
      await rig.node.vlmc('create', 'kernel-clone', '--snap', 'kernel-snapshot');
      const before = await sha256(rig.node.uri('kernel-snapshot'));
      const said = await guest('kernel-clone', 'verify/ioctl', 'fill/netlink');
      expect(said.match(/^RIG-FILES 71$/gm)).toHaveLength(2);
      const [whole, anew] = said.match(/^RIG-SUMS .*$/gm) ?? [];
      expect(whole).toBe(sums);
      expect(anew).not.toBe(sums);
      for (const name of ['kernel-snapshot', 'kernel-volume']) expect(await sha256(rig.node.uri(name))).toEqual(before);
    },
  );
});

const fuseTools = programs('nbdfuse', 'fusermount3', 'mke2fs', 'e2fsck', 'debugfs') && device('/dev/fuse', 'nbdfuse');

describe.runIf(fuseTools)('ext4 through nbdfuse', () => {
  const rig = useNode();

  it('is made from a directory, checked, and its files come back', async () => {
    const { node } = rig;
    const source = path.join(node.dir, 'source');
    mkdirSync(path.join(source, 'deep', 'er'), { recursive: true });
    const content = new Map([
      ['plain', Buffer.alloc(100_001, 'plain text\n')],
      ['deep/binary', Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * i) & 0xff))],
      ['deep/er/empty', Buffer.alloc(0)],
      ['deep/er/large', Buffer.alloc(9 << 20, 'a line that crosses blocks\n')],
    ]);
    for (const [name, data] of content) writeFileSync(path.join(source, name), data);

    const uri = await node.create('fuse-volume', '64M');
    const mount = path.join(node.dir, 'mount');
    mkdirSync(mount);
    const pidfile = path.join(node.dir, 'nbdfuse.pid');
    const disk = path.join(mount, 'disk');
    const fuse = start('nbdfuse', ['-P', pidfile, disk, uri], { stdio: 'ignore' });
    const over = ended(fuse);
    try {
      await mounted(mount, over);
      await run('mke2fs', ['-q', '-t', 'ext4', '-F', '-d', source, disk]);
      await run('e2fsck', ['-fn', disk]);
      for (const [name, data] of content) {
        const out = path.join(node.dir, 'out');
        await run('debugfs', ['-R', `dump /${name} ${out}`, disk]);
        expect(readFileSync(out).equals(data), name).toBe(true);
      }
    } finally {
      await attempt('fusermount3', ['-u', mount]);
      // It flushes, and goes when nothing is mounted any more. One that was never mounted has nothing to go for.
      const timer = setTimeout(() => killGroup(fuse), 60_000);
      await over;
      clearTimeout(timer);
    }

    // Once more, from the bytes a client reads after the fuse process is gone.
    const image = path.join(node.dir, 'image');
    await run('nbdcopy', [uri, image]);
    await run('e2fsck', ['-fn', image]);
  });
});

/** Resolves when something is mounted on `directory`; the kernel tells by an event on mountinfo, polled in short turns. */
async function mounted(directory: string, over: Promise<unknown>): Promise<void> {
  let gone = false;
  void over.then(() => {
    gone = true;
  });
  while (!readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${directory} `)) {
    if (gone) throw new Error('nbdfuse ended before it mounted anything');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
