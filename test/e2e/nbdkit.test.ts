/**
 * nbdkit's nbd plugin in front of a node, as a client that does what ordinary ones do not: it compares instead of writing, cuts and
 * merges requests, delays them, loses some and asks again, reconnects. Whatever it does, the bytes stay right.
 */
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  nbdinfo,
  nbdmap,
  nbdsh,
  proxyArguments,
  qemuIo,
  sha256,
  throughNbdkit,
  tryThroughNbdkit,
} from './harness/clients.js';
import { writeImage } from './harness/image.js';
import { useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { ended, killGroup, run, start } from './harness/run.js';
import { repeated, whateverTheStore } from './harness/stores.js';
import { vlmcDone } from './harness/vlmc-here.js';

const MiB = 1 << 20;
const BLOCK = 4 * MiB;
const SIZE = 96 * MiB;

describe.runIf(programs('nbdkit', 'nbdinfo', 'nbdcopy', 'nbdsh', 'qemu-io', 'fio'))('behind nbdkit', () => {
  const rig = useNode();
  let image: string;
  let imageHash: string;

  beforeAll(async () => {
    image = path.join(rig.node.dir, 'image.raw');
    imageHash = await writeImage(
      image,
      SIZE,
      { offset: 0, length: 3 * MiB, seed: 1 },
      { offset: 2 * BLOCK - 512, length: 2 * BLOCK + 1024, seed: 2 },
      { offset: 50 * MiB + 4096, length: 20 * MiB, seed: 3 },
      { offset: SIZE - 100_000, length: 100_000, seed: 4 },
    );
  });

  /** A new volume that holds the image. */
  async function imageVolume(name: string): Promise<string> {
    const uri = await rig.node.create(name, SIZE);
    await run('nbdcopy', ['--flush', image, uri]);
    return uri;
  }

  /** fio's random writes, verified by checksum, on `$uri`. */
  const fio = (seed: number, ...more: string[]): string =>
    [
      `fio --name=verify --ioengine=nbd --uri="$uri" --rw=randwrite --randseed=${seed} --verify=crc32c --verify_fatal=1`,
      '--do_verify=1 --verify_backlog=256 --verify_state_save=0 --size=32m --iodepth=16 --output-format=terse',
      ...more,
    ].join(' ');

  whateverTheStore(it)('shows the same size, abilities and map as without it', async () => {
    const uri = await imageVolume('plain-volume');
    const { stdout } = await throughNbdkit(uri, { filters: [] }, 'nbdinfo --json "$uri"; nbdinfo --map "$uri"');
    const end = stdout.indexOf('\n}\n') + 3;
    const [seen] = (JSON.parse(stdout.slice(0, end)) as { exports: object[] }).exports;
    const direct = await nbdinfo(uri);
    for (const key of ['export-size', 'is_read_only', 'can_flush', 'can_fua', 'can_zero', 'can_fast_zero'] as const) {
      expect(seen, key).toHaveProperty(key, direct[key]);
    }
    for (const key of ['can_trim', 'can_multi_conn', 'can_cache', 'is_rotational'] as const) {
      expect(seen, key).toHaveProperty(key, direct[key]);
    }
    const rows = stdout.slice(end).trim().split('\n');
    const total = rows.reduce((sum, row) => sum + Number(row.trim().split(/\s+/)[1]), 0);
    expect(total).toBe(SIZE);
    expect(rows.length).toBe((await nbdmap(uri)).length);
  });

  it('holds what was written, says checkwrite, and one changed byte is found', async () => {
    const uri = await imageVolume('check-volume');
    const ways = ['--connections=4 --requests=32', '', '--request-size=65536', '--synchronous'];
    for (const options of ways.slice(0, repeated ? 1 : ways.length)) {
      await throughNbdkit(uri, { filters: ['checkwrite'] }, `nbdcopy ${options} ${image} "$uri"`);
    }
    await throughNbdkit(uri, { filters: ['checkwrite'] }, `qemu-img convert -n -f raw -O raw ${image} "$uri"`);
    await qemuIo(uri, `write -P 1 ${60 * MiB + 17} 1`);
    const changed = await tryThroughNbdkit(uri, { filters: ['checkwrite'] }, `nbdcopy ${image} "$uri"`);
    expect(changed.code).not.toBe(0);
    expect(changed.stderr).toMatch(/Input\/output error/);
  });

  whateverTheStore(it)('copies to itself behind checkwrite without a difference', async () => {
    const uri = rig.node.uri('plain-volume');
    await throughNbdkit(uri, { filters: ['checkwrite'] }, 'nbdcopy "$uri" "$uri"');
  });

  it('holds the image whatever sizes requests are cut to', async () => {
    const cuts = [
      ['minblock=1', 'maxdata=7K', 'maxlen=123K'],
      ['minblock=4096', 'maxdata=64K', 'maxlen=1M'],
      ['minblock=64K', 'maxdata=64K', 'maxlen=64K'],
    ];
    for (const [index, parameters] of cuts.slice(0, repeated ? 1 : cuts.length).entries()) {
      const uri = await rig.node.create(`cut-volume-${index}`, SIZE);
      await throughNbdkit(uri, { filters: ['blocksize'], parameters }, `nbdcopy --flush ${image} "$uri"`);
      expect(await sha256(uri)).toEqual({ sha256: imageHash, length: SIZE });
    }
  });

  it('verifies random writes of any alignment that the filter reads, changes and writes back', async () => {
    const uri = await rig.node.create('merge-volume', 32 * MiB);
    const parameters = ['minblock=16K', 'maxdata=32K'];
    await throughNbdkit(uri, { filters: ['blocksize'], parameters }, fio(21, '--bsrange=512-48k', '--blockalign=512'));
  });

  whateverTheStore(it)('passes a client that keeps to the block sizes, and refuses one that does not', async () => {
    const uri = await imageVolume('policy-volume');
    const proxy = {
      filters: ['blocksize-policy'],
      parameters: [
        'blocksize-error-policy=error',
        'blocksize-minimum=4096',
        'blocksize-preferred=64K',
        'blocksize-maximum=1M',
      ],
    };
    const target = await rig.node.create('policy-target', SIZE);
    await throughNbdkit(target, proxy, `nbdcopy --request-size=1048576 --flush ${image} "$uri"`);
    expect((await sha256(target)).sha256).toBe(imageHash);
    const small = await tryThroughNbdkit(uri, proxy, nbdsh('h.set_strict_mode(0); h.pread(512, 0)'));
    expect(small.code).not.toBe(0);
    expect(small.stderr).toMatch(/Invalid argument/);
    await throughNbdkit(uri, proxy, nbdsh('h.pread(4096, 4096)'));
  });

  whateverTheStore(it)('answers right when requests are delayed by chance and overtake each other', async () => {
    const uri = await rig.node.create('delay-volume', 32 * MiB);
    const parameters = ['delay-read=1ms', 'delay-write=2ms', 'delay-zero=3ms', 'delay-trim=1ms', 'delay-extents=2ms'];
    const filters = ['delay'];
    await throughNbdkit(uri, { filters, parameters }, fio(22, '--bsrange=4k-128k', '--blockalign=4096'));
  });

  it('loses no write to injected errors that are asked for again', async () => {
    const uri = await rig.node.create('error-volume', SIZE);
    const proxy = {
      // The outer one repeats what the inner one refuses.
      filters: ['retry-request', 'error'],
      parameters: ['retry-request-retries=20', 'retry-request-delay=1', 'error=EIO', 'error-rate=5%'],
    };
    await throughNbdkit(uri, proxy, `nbdcopy --flush --requests=8 --connections=2 ${image} "$uri"`);
    expect((await sha256(uri)).sha256).toBe(imageHash);
    const back = path.join(rig.node.dir, 'error-back.raw');
    await throughNbdkit(uri, proxy, `nbdcopy "$uri" ${back}`);
    await run('cmp', [image, back]);
  });

  whateverTheStore(it)('goes on after injected errors that reach the client, with the volume as it was', async () => {
    const uri = rig.node.uri('error-volume');
    const proxy = { filters: ['error'], parameters: ['error=ENOSPC', 'error-pwrite-rate=100%'] };
    const outcome = await tryThroughNbdkit(uri, proxy, 'qemu-io -f raw -c "write -P 1 0 64k" "$uri"');
    expect(outcome.stdout + outcome.stderr).toMatch(/No space left/);
    expect((await sha256(uri)).sha256).toBe(imageHash);
  });

  whateverTheStore(it)('counts as many bytes at the server as the client moved', async () => {
    const uri = await rig.node.create('stats-volume', 32 * MiB);
    const statsfile = path.join(rig.node.dir, 'stats.txt');
    const io =
      'qemu-io -f raw -t none -c "write -P 1 0 8M" -c "write -z 8M 4M" -c "discard 16M 4M" -c "read 0 6M" -c flush';
    await throughNbdkit(uri, { filters: ['stats'], parameters: [`statsfile=${statsfile}`] }, `${io} "$uri"`);
    const stats = await readFile(statsfile, 'utf8');
    expect(stats).toMatch(/write: \d+ ops, [\d.]+ s, 8\.00 MiB/);
    expect(stats).toMatch(/zero: \d+ ops, [\d.]+ s, 4\.00 MiB/);
    expect(stats).toMatch(/trim: \d+ ops, [\d.]+ s, 4\.00 MiB/);
    expect(stats).toMatch(/read: \d+ ops, [\d.]+ s, 6\.00 MiB/);
    await qemuIo(uri, 'read -P 1 0 8M', 'read -P 0 8M 24M');
  });

  whateverTheStore(it)('is not written to behind a copy-on-write layer, whatever is written to the layer', async () => {
    const uri = rig.node.uri('error-volume');
    const io = 'qemu-io -f raw -c "write -P 5 0 20M" -c "discard 48M 32M" -c "read -P 5 1M 19M" -c "read -P 0 48M 32M"';
    await throughNbdkit(uri, { filters: ['cow'] }, `${io} "$uri"`);
    expect((await sha256(uri)).sha256).toBe(imageHash);
  });

  it('shows every connection what was flushed on another', async () => {
    const uri = await rig.node.create('multi-volume', 32 * MiB);
    for (const mode of repeated ? ['plugin'] : ['plugin', 'emulate', 'disable']) {
      const proxy = { filters: ['multi-conn'], parameters: [`multi-conn-mode=${mode}`] };
      await throughNbdkit(
        uri,
        proxy,
        `nbdcopy --connections=4 --flush "$uri" "$uri" && ${fio(23, '--bs=16k', '--fsync=32')}`,
      );
    }
  });

  whateverTheStore(it)('is a disk with a file system that the ext2 filter reads a file of', async () => {
    const tree = path.join(rig.node.dir, 'tree');
    const disk = path.join(rig.node.dir, 'ext4.raw');
    await run('mkdir', [tree]);
    const text = 'a file in a file system in a volume\n'.repeat(50_000);
    await writeFile(path.join(tree, 'hello.txt'), text);
    await run('mke2fs', ['-q', '-t', 'ext4', '-d', tree, disk, '64M']);
    const uri = await rig.node.create('ext4-volume', 64 * MiB);
    await run('nbdcopy', [disk, uri]);
    const proxy = { filters: ['ext2'], parameters: ['ext2file=/hello.txt'], options: ['-r'] };
    const { stdout } = await throughNbdkit(uri, proxy, 'nbdcopy "$uri" -');
    expect(stdout).toBe(text);
  });

  whateverTheStore(it)('is refused by name through the plugin as it is without', async () => {
    const outcome = await tryThroughNbdkit(rig.node.uri('no-such-volume'), { filters: [] }, 'nbdinfo "$uri"');
    expect(outcome.code).not.toBe(0);
    expect(outcome.stderr).toMatch(/no-such-volume/);
  });

  describe('that reconnects', () => {
    /** Slow enough that there is a middle, which is seen by the objects that appear. */
    const proxy = {
      filters: ['retry', 'delay'],
      parameters: ['delay-write=40ms', 'retry-delay=1', 'retries=60', 'retry-exponential=no', 'retry=60'],
    };

    /** Copies the image to a volume behind the retry filter, and does something to the node in the middle. */
    async function copyThrough(name: string, disturb: () => Promise<unknown>): Promise<void> {
      const uri = await rig.node.create(name, SIZE);
      const objects = async (): Promise<number> => (await rig.node.stores.blocks.objects()).length;
      const before = await objects();
      const copy = `nbdcopy --requests=4 --connections=1 --flush ${image} "$uri"`;
      const child = start('nbdkit', proxyArguments(uri, proxy, copy), { stdio: ['ignore', 'ignore', 'pipe'] });
      let said = '';
      child.stderr?.on('data', (chunk: Buffer) => {
        said += chunk.toString();
      });
      const end = ended(child);
      try {
        await expect.poll(objects).toBeGreaterThan(before + 2);
        expect(child.exitCode).toBeNull();
        await disturb();
        const { code } = await end;
        expect({ code, said: code === 0 ? '' : said }).toEqual({ code: 0, said: '' });
      } finally {
        killGroup(child);
      }
      expect(await sha256(uri)).toEqual({ sha256: imageHash, length: SIZE });
    }

    it('copies all of an image while its connections are cut again and again', async () => {
      const name = 'cut-connections';
      const opened = (): number => rig.node.logs(Number.POSITIVE_INFINITY).split(`opened ${name}`).length - 1;
      // The first command of a kind loads what it is made of, which may take as long as the copy, too.
      await rig.node.create('cut-before', BLOCK);
      await vlmcDone(rig.node.conf, 'map', 'cut-before');
      await vlmcDone(rig.node.conf, 'unmap', '-f', 'cut-before');
      await copyThrough(name, async () => {
        for (let round = 0; round < 3; round++) {
          const before = opened();
          // A process for each would take as long as the whole copy where there is much else to do.
          await vlmcDone(rig.node.conf, 'map', name);
          await vlmcDone(rig.node.conf, 'unmap', '-f', name);
          await expect.poll(opened).toBeGreaterThan(before);
        }
      });
    });

    it('copies all of an image while the node is restarted', async () => {
      await copyThrough('cut-restart', () => rig.node.archipelago('restart', '-f'));
    });

    it('copies all of an image while the endpoint is killed', async () => {
      await copyThrough('cut-killed', async () => {
        const pid = rig.node.rolePid('nbd');
        process.kill(pid, 'SIGKILL');
        await expect.poll(() => rig.node.rolePid('nbd')).not.toBe(pid);
      });
    });
  });
});
