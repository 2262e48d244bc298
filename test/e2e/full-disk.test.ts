/**
 * A store that cannot take any more, on small file systems of their own: a full disk is ENOSPC to the client and nothing else, a
 * read-only directory fails writes and not reads, and both are over once the cause is.
 */
import { rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { qemuIo, sha256, tryQemuIo } from './harness/clients.js';
import { Model } from './harness/model.js';
import { TestNode, useNode } from './harness/node.js';
import { programs, root } from './harness/requirements.js';
import { describeOutcome, run } from './harness/run.js';
import { useSmallDisk } from './harness/small-disk.js';

const MiB = 1 << 20;
const usable = programs('qemu-io', 'nbdcopy') && root('mounting a small tmpfs');

describe.runIf(usable)('a full disk', () => {
  const disk = useSmallDisk('size=64m');
  const rig = useNode(() => ({ maps: disk.store('maps'), blocks: disk.store('blocks') }));
  const model = new Model(256 * MiB);

  it('is ENOSPC to the client, and what was written before stays', async () => {
    const uri = await rig.node.create('full-volume', 256 * MiB);
    await model
      .write(0, 8 * MiB, 1)
      .write(100 * MiB, 5000, 2)
      .apply(uri);
    writeFileSync(path.join(disk.path, 'ballast'), Buffer.alloc(40 * MiB));
    const outcome = await tryQemuIo(uri, 'write -P 3 128M 64M');
    expect(outcome.code, describeOutcome(outcome)).not.toBe(0);
    expect(outcome.stdout + outcome.stderr).toMatch(/No space left/);
    await qemuIo(uri, 'read -P 1 0 8M', 'read -P 2 100M 5000', 'write -P 4 1M 64k', 'read -P 4 1M 64k');
    await model.write(1 * MiB, 65536, 4).apply(uri);
  });

  it('makes first writes, snapshots and new volumes fail without harm', async () => {
    const uri = rig.node.uri('full-volume');
    // Fills what is left, so that not even a directory fits.
    await run('sh', ['-c', `cat /dev/zero > ${disk.path}/rest; true`]);
    const write = await tryQemuIo(uri, 'write -P 5 200M 4k');
    expect(write.stdout + write.stderr, describeOutcome(write)).toMatch(/No space left/);
    for (const args of [
      ['snapshot', 'full-volume', 'full-snapshot'],
      ['create', 'other-volume', '--size', '1G'],
    ]) {
      const outcome = await rig.node.tryVlmc(args);
      expect(outcome.code, describeOutcome(outcome)).toBe(255);
      expect(outcome.stderr).toMatch(/space/i);
    }
    await qemuIo(uri, 'read -P 1 2M 6M', 'read -P 4 1M 64k', 'read -P 0 200M 4k');
  });

  it('is over once there is space again, without a restart', async () => {
    for (const file of ['ballast', 'rest']) rmSync(path.join(disk.path, file));
    const uri = rig.node.uri('full-volume');
    await model
      .write(128 * MiB, 16 * MiB, 6)
      .write(200 * MiB, 4096, 7)
      .apply(uri);
    await rig.node.vlmc('snapshot', 'full-volume', 'full-snapshot');
    // The failed write may have left part of itself where nothing was promised; the rest must be as the model says.
    await qemuIo(uri, 'discard 144M 48M', 'flush');
    expect((await sha256(uri)).sha256).toBe(model.sha256);
    await rig.node.vlmc('check', 'full-volume');
  });
});

describe.runIf(usable)('a read-only store', () => {
  const disk = useSmallDisk('size=64m');
  const stores = (): { maps: string; blocks: string } => ({
    maps: disk.store('maps'),
    blocks: disk.store('blocks'),
  });

  it('serves reads, refuses writes with an error, and is writable again after a restart', async () => {
    const writable = await TestNode.start({ ...stores(), hostname: 'samehost' });
    const model = new Model(16 * MiB).write(4 * MiB, 4 * MiB, 9);
    await writable.create('still-volume', 16 * MiB);
    await model.apply(writable.uri('still-volume'));
    await writable.vlmc('snapshot', 'still-volume', 'still-snapshot');
    await writable.dispose();

    await run('mount', ['-o', 'remount,ro', disk.path]);
    const readOnly = await TestNode.start({ ...stores(), hostname: 'samehost' });
    try {
      for (const name of ['still-snapshot', 'still-volume']) {
        expect((await sha256(readOnly.uri(name))).sha256).toBe(model.sha256);
      }
      const write = await tryQemuIo(readOnly.uri('still-volume'), 'write -P 1 4M 4k');
      expect(write.code, describeOutcome(write)).not.toBe(0);
      const snapshot = await readOnly.tryVlmc(['snapshot', 'still-volume', 'more-snapshot']);
      expect(snapshot.code, describeOutcome(snapshot)).toBe(255);
      expect(snapshot.stderr).toMatch(/read-only/i);
    } finally {
      await readOnly.dispose();
      await run('mount', ['-o', 'remount,rw', disk.path]);
    }

    const again = await TestNode.start({ ...stores(), hostname: 'samehost' });
    await model.write(0, 4096, 10).apply(again.uri('still-volume'));
    expect((await sha256(again.uri('still-volume'))).sha256).toBe(model.sha256);
    await again.dispose();
  });
});
