/**
 * An operating system lives on volumes: a Debian image is imported, snapshotted, cloned twice; one clone boots to a shell, is written
 * to and shut down; the other, and the snapshot, still are the image.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { useNode } from './harness/node.js';
import { programs, root } from './harness/requirements.js';
import { attempt, run } from './harness/run.js';
import { repeated, whateverTheStore } from './harness/stores.js';
import { type Boot, buildBoot, buildDebianImage, Machine } from './harness/vm.js';

const tools = programs(
  'qemu-system-x86_64',
  'qemu-img',
  'nbdcopy',
  'mmdebstrap',
  'mke2fs',
  'debugfs',
  'busybox',
  'depmod',
  'cpio',
);
const PROMPT = /root@archipelago-guest:~# $/;

describe.runIf(tools && root('building a Debian image'))('a Debian system on volumes', () => {
  const rig = useNode();
  let boot: Boot;
  let image: string;
  let machine: Machine | undefined;
  afterEach(() => machine?.kill());

  beforeAll(async () => {
    boot = await buildBoot('boot-root', ['virtio_pci', 'virtio_blk', 'virtio-rng']);
    image = await buildDebianImage();
  }, 900_000);

  it('is imported, snapshotted and cloned twice', async () => {
    const { node } = rig;
    const uri = await node.create('debian-base', '2G');
    await run('qemu-img', ['convert', '-n', '-m', '8', '-W', '-f', 'raw', '-O', 'raw', image, uri]);
    await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, uri]);
    await node.vlmc('snapshot', 'debian-base', 'debian-snapshot');
    await node.vlmc('create', 'debian-one', '--snap', 'debian-snapshot');
    await node.vlmc('create', 'debian-two', '--snap', 'debian-snapshot');
  });

  // The guest sees a disk, whatever is below; a guest that writes and moves, on either store, is in migration-qemu.
  whateverTheStore(it)(
    'boots from a clone to a shell prompt, runs commands, writes a file and powers off',
    async () => {
      const drive = `if=none,id=disk,format=raw,cache=none,discard=unmap,file=${rig.node.uri('debian-one')}`;
      machine = new Machine(boot, 'quiet systemd.show_status=0', [
        '-drive',
        drive,
        '-device',
        'virtio-blk-pci,drive=disk',
      ]);
      await machine.expect(PROMPT, 240_000);
      machine.type('echo answer=$((6 * 7)) system=$(. /etc/os-release; echo $ID-$VERSION_ID)');
      await machine.expect(/answer=42 system=debian-12/, 60_000);
      await machine.expect(PROMPT, 60_000);
      // Programs of the image, read through the clone, against the checksums that their packages came with.
      machine.type(
        'cd / && md5sum --quiet -c /var/lib/dpkg/info/{coreutils,bash,libc6:amd64}.md5sums; echo verified=$?; cd',
      );
      await machine.expect(/verified=0/, 120_000);
      machine.type('head -c 3000000 /dev/zero | tr "\\0" x >/root/written; sync; echo done=$((1 + 2))');
      await machine.expect(/done=3/, 60_000);
      machine.type('systemctl poweroff --no-wall');
      await machine.off(90_000);
    },
  );

  whateverTheStore(it)('left a clean file system with that file in the clone', async () => {
    const copy = path.join(rig.node.dir, 'clone.img');
    await run('nbdcopy', [rig.node.uri('debian-one'), copy]);
    await run('e2fsck', ['-fn', copy]);
    const out = path.join(rig.node.dir, 'written');
    await run('debugfs', ['-R', `dump /root/written ${out}`, copy]);
    expect(readFileSync(out).equals(Buffer.alloc(3_000_000, 'x'))).toBe(true);
  });

  it('left the other clone, the snapshot and the base as they were', async () => {
    const { node } = rig;
    for (const name of ['debian-two', 'debian-snapshot', 'debian-base']) {
      await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', node.uri(name), image]);
    }
    const outcome = await attempt('qemu-img', [
      'compare',
      '-q',
      '-f',
      'raw',
      '-F',
      'raw',
      node.uri('debian-one'),
      image,
    ]);
    // Only who boots writes.
    expect(outcome.code).toBe(repeated ? 0 : 1);
  });
});
