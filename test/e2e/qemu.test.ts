/** qemu's block layer as the client: qemu-img info, convert, compare and map; qemu-io patterns within and across blocks. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { nbdmap, qemuIo, qemuRead, sha256, tryQemuIo } from './harness/clients.js';
import { Model } from './harness/model.js';
import { useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { attempt, ended, killGroup, run, start } from './harness/run.js';

const MiB = 1 << 20;
const BLOCK = 4 * MiB;

interface QemuExtent {
  start: number;
  length: number;
  zero: boolean;
  data: boolean;
}

describe.runIf(programs('qemu-img', 'qemu-io', 'qemu-storage-daemon', 'nbdcopy', 'nbdinfo'))('qemu', () => {
  const rig = useNode();

  it('reads back what it wrote: in a block, across blocks, at the end, of every odd size', async () => {
    const size = 40 * MiB;
    const uri = await rig.node.create('io-volume', size);
    const model = new Model(size)
      .write(0, 512, 1)
      .write(1024, 1536, 2)
      .write(BLOCK - 4096, 8192, 3)
      .write(2 * BLOCK + 1, 4093, 4)
      .write(3 * BLOCK - 7, BLOCK + 14, 5)
      .write(size - 65536, 65536, 6)
      .write(size - 1, 1, 7);
    await model.apply(uri);
    expect(await sha256(uri)).toEqual({ sha256: model.sha256, length: size });
  });

  it('makes zeros of whole and of partial blocks by discard and by write-zeroes', async () => {
    const size = 24 * MiB;
    const uri = await rig.node.create('zero-volume', size);
    const model = new Model(size)
      .write(0, size, 9)
      .zero(0, BLOCK, 'discard')
      .zero(BLOCK + 4096, 65536, 'discard')
      .zero(2 * BLOCK + 100, 3000, 'write -z')
      .zero(3 * BLOCK - 512, BLOCK + 1024, 'write -z')
      .write(3 * BLOCK + 512, 1024, 10);
    await model.apply(uri);
    expect((await sha256(uri)).sha256).toBe(model.sha256);
  });

  it('refuses a request past the end and goes on with the next', async () => {
    const uri = await rig.node.create('edge-volume', 8 * MiB);
    const outcome = await tryQemuIo(uri, `read ${8 * MiB - 512} 1024`);
    expect(outcome.code).not.toBe(0);
    await qemuIo(uri, `write -P 5 ${8 * MiB - 512} 512`, `read -P 5 ${8 * MiB - 512} 512`);
  });

  it('refuses writes to a snapshot', async () => {
    await rig.node.create('parent-volume', 8 * MiB);
    await qemuIo(rig.node.uri('parent-volume'), 'write -P 1 0 4k');
    await rig.node.vlmc('snapshot', 'parent-volume', 'parent-snapshot');
    const outcome = await tryQemuIo(rig.node.uri('parent-snapshot'), 'write -P 2 0 4k');
    expect(outcome.code).not.toBe(0);
    expect(outcome.stderr + outcome.stdout).toMatch(/read-only|permitted|permission/i);
    await qemuRead(rig.node.uri('parent-snapshot'), 'read -P 1 0 4k', `read -P 0 4k ${8 * MiB - 4096}`);
  });

  it('converts a qcow2 image into a volume, and the two compare equal', async () => {
    const source = path.join(rig.node.dir, 'source.qcow2');
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', source, '200M']);
    await run('qemu-io', ['-c', 'write -P 17 1M 50M', '-c', 'write -P 18 150M 3000k', source]);
    const uri = await rig.node.create('image-volume', '200M');
    await run('qemu-img', ['convert', '-n', '-m', '8', '-W', '-O', 'raw', source, uri]);
    await run('qemu-img', ['compare', source, uri]);

    await qemuIo(uri, 'write -P 19 100M 1');
    expect((await attempt('qemu-img', ['compare', source, uri])).code).toBe(1);
  });

  it('converts a volume back to qcow2 with its holes left out', async () => {
    const target = path.join(rig.node.dir, 'target.qcow2');
    const uri = rig.node.uri('image-volume');
    await run('qemu-img', ['convert', '-O', 'qcow2', uri, target]);
    await run('qemu-img', ['compare', target, uri]);
    const info = JSON.parse((await run('qemu-img', ['info', '--output=json', target])).stdout) as Record<
      string,
      number
    >;
    expect(info['actual-size']).toBeLessThan(64 * MiB);
  });

  it('shows size and extents', async () => {
    const uri = rig.node.uri('image-volume');
    const info = JSON.parse((await run('qemu-img', ['info', '--output=json', uri])).stdout) as Record<string, number>;
    expect(info['virtual-size']).toBe(200 * MiB);
    const { stdout } = await run('qemu-img', ['map', '-f', 'raw', '--output=json', uri]);
    const extents = JSON.parse(stdout) as QemuExtent[];
    const dataAt = (offset: number): boolean | undefined =>
      extents.find((e) => e.start <= offset && offset < e.start + e.length)?.data;
    expect(extents.reduce((sum, e) => sum + e.length, 0)).toBe(200 * MiB);
    expect([dataAt(10 * MiB), dataAt(80 * MiB), dataAt(151 * MiB)]).toEqual([true, false, true]);
  });

  it('takes the colon syntax of qemu as well', async () => {
    const outcome = await run('qemu-img', ['info', `nbd:unix:${rig.node.socket}:exportname=image-volume`]);
    expect(outcome.stdout).toMatch(/200 MiB/);
  });

  it.each(['writeback', 'writethrough', 'none', 'directsync', 'unsafe'])(
    'reads and writes by cache mode %s',
    async (mode) => {
      const uri = await rig.node.create(`mode-${mode}-volume`, 16 * MiB);
      const commands = [
        'write -P 1 1000 3M',
        `write -z -u ${BLOCK} ${BLOCK}`,
        'write -P 2 6M 4k',
        'discard 8M 4M',
        'aio_write -P 3 12M 1M',
        'aio_flush',
        'read -P 1 1000 3M',
        'read -P 2 6M 4k',
        'read -P 0 8M 4M',
        'read -P 3 12M 1M',
      ];
      const options = ['-f', 'raw', '-t', mode, '-d', 'unmap'];
      await run('qemu-io', [...options, ...commands.flatMap((command) => ['-c', command]), uri]);
      await qemuRead(
        uri,
        'read -P 1 1000 3M',
        `read -P 0 ${BLOCK} 2M`,
        'read -P 2 6M 4k',
        'read -P 0 8M 4M',
        'read -P 3 12M 1M',
      );
    },
  );

  it('takes writes at depth 64 with flushes in between, and reads at any offset', async () => {
    const uri = await rig.node.create('bench-volume', 64 * MiB);
    const bench = ['bench', '-f', 'raw', '-c', '3000', '-d', '64'];
    await run('qemu-img', [...bench, '-w', '-s', '20k', '--pattern=165', '--flush-interval=250', uri]);
    await qemuRead(uri, 'read -P 165 0 58M');
    await run('qemu-img', [...bench, '-s', '4k', '-S', '20001', '-o', '513', uri]);
  });

  it('gives the same bytes and extents through a storage daemon that exports it again', async () => {
    const source = path.join(rig.node.dir, 'daemon-source.qcow2');
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', source, '64M']);
    await run('qemu-io', ['-c', 'write -P 31 1M 9M', '-c', 'write -P 32 33M 5M', source]);
    const uri = await rig.node.create('daemon-volume', 64 * MiB);
    const [socket, pidfile] = ['daemon.sock', 'daemon.pid'].map((name) => path.join(rig.node.dir, name));
    const node = `driver=nbd,node-name=volume,server.type=unix,server.path=${rig.node.socket},export=daemon-volume,discard=unmap`;
    const daemon = start('qemu-storage-daemon', [
      ...['--blockdev', node, '--nbd-server', `addr.type=unix,addr.path=${socket}`],
      ...['--export', 'type=nbd,id=again,node-name=volume,writable=on,name=again', '--pidfile', pidfile],
    ]);
    const end = ended(daemon);
    try {
      await expect.poll(() => existsSync(pidfile)).toBe(true);
      const again = `nbd+unix:///again?socket=${socket}`;
      await run('qemu-img', ['convert', '-n', '-W', '-O', 'raw', source, again]);
      expect(await nbdmap(again)).toEqual(await nbdmap(uri));
      expect(await sha256(again)).toEqual(await sha256(uri));
      await run('qemu-img', ['compare', source, uri]);
    } finally {
      killGroup(daemon, 'SIGTERM');
      await end;
    }
  });
});
