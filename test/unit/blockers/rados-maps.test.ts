/**
 * Volumes on RADOS are objects with the names and the bytes that they have in files: those of the original are read, and what the mapper
 * makes of them is the same, object for object, in both.
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import type { Driver } from '../../../src/blockers/driver.js';
import { connect, type Pool } from '../../../src/rados/index.js';
import { hasCeph, useCeph } from '../../support/ceph.js';
import { DriverClient, failure, hashVolume, makeNode, type Node, readVolume, writeVolume } from '../mapper/support.js';
import { radosDriver } from './rados-support.js';
import { fileDriver, filesOf, listAll, read, temporaryDirectory } from './support.js';

const archive = fileURLToPath(new URL('../../fixtures/golden/golden.tar.gz', import.meta.url));
const MiB = 1 << 20;

/** Ids of volumes are random; here both stores get the same. */
const ids = vi.hoisted(() => ({ next: -1 }));
vi.mock('node:crypto', async (original) => {
  const crypto = await original<typeof import('node:crypto')>();
  const randomBytes = (length: number): Buffer =>
    ids.next < 0 ? crypto.randomBytes(length) : Buffer.alloc(length, ids.next++ % 256);
  return { ...crypto, default: { ...crypto, randomBytes }, randomBytes };
});

interface Golden {
  readonly name: string;
  readonly size: number;
  readonly hash: string;
  readonly options: { assumeV0: boolean; v0Size: number };
}

function volumesOf(file: string): Golden[] {
  const lines = fs.readFileSync(file, 'utf8').split('\n');
  return lines
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => {
      const [name, size, hash, v0, v0Size] = line.split(/\s+/);
      return { name, size: Number(size), hash, options: { assumeV0: v0 === 'v0', v0Size: Number(v0Size ?? -1) } };
    });
}

/** Everything the mapper does to volumes, once. */
async function work({ mapper }: Node, node: Node): Promise<void> {
  await mapper.create('fresh-volume', 20 * MiB);
  await writeVolume(node, 'fresh-volume', 3 * MiB, Buffer.alloc(2 * MiB, 0x5a));
  await mapper.snapshot('fresh-volume', 'fresh-snap');
  await writeVolume(node, 'fresh-volume', 5 * MiB - 100, Buffer.alloc(200, 0x77));
  await mapper.clone('fresh-clone', 'fresh-snap', 40 * MiB);
  await writeVolume(node, 'fresh-clone', 0, Buffer.alloc(512, 0x11));
  await writeVolume(node, 'fresh-clone', 30 * MiB, Buffer.alloc(512, 0x22));
  await mapper.close('fresh-clone');
  await mapper.rename('fresh-clone', 'renamed-clone');
  await mapper.close('fresh-volume');
  await mapper.resize('fresh-volume', 2000 * MiB, false);
  await mapper.upgrade('gold-v1old');
  await writeVolume(node, 'gold-base', 1000, Buffer.from('written on top of what the original wrote'));
  await mapper.snapshot('gold-base', 'gold-base-snap');
  await mapper.close('gold-base');
  await mapper.clone('gold-again', 'gold-snap1', 0);
  await writeVolume(node, 'gold-again', 0, Buffer.alloc(4096, 0x33));
  await mapper.close('gold-again');
  await mapper.remove('gold-again');
}

describe.runIf(hasCeph())('volumes on RADOS', () => {
  const ceph = useCeph();

  it('of the original are read, and all that is made of them is what it is in files', {
    timeout: 120_000,
  }, async () => {
    const directory = temporaryDirectory();
    execFileSync('tar', ['-C', directory, '-xzf', archive]);
    const root = path.join(directory, 'main');
    const cluster = await connect({ conf: ceph.conf, id: ceph.user });
    onTestFinished(() => cluster.close());
    const pools = new Map<string, Pool>();
    for (const pool of ['maps', 'blocks']) {
      const to = await cluster.pool(pool, ceph.namespace);
      pools.set(pool, to);
      for (const file of filesOf(path.join(root, pool))) {
        await to.operate(path.basename(file), [{ do: 'writeFull', data: fs.readFileSync(file) }]);
      }
    }
    const lockDir = path.join(directory, 'locks');
    fs.mkdirSync(lockDir);
    const uniqueStr = 'node1_1002';
    const inFiles = {
      maps: await fileDriver(path.join(root, 'maps'), { uniqueStr, lockDir }),
      blocks: await fileDriver(path.join(root, 'blocks'), { uniqueStr, lockDir }),
    };
    const inRados = {
      maps: await radosDriver(ceph, { uniqueStr, pool: 'maps' }),
      blocks: await radosDriver(ceph, { uniqueStr, pool: 'blocks' }),
    };
    const node = ({ maps, blocks }: { maps: Driver; blocks: Driver }) =>
      makeNode(new DriverClient(maps), new DriverClient(blocks));

    const rados = node(inRados);
    const golden = volumesOf(path.join(directory, 'SHA256'));
    expect(golden.length).toBeGreaterThan(5);
    for (const { name, size, hash, options } of golden) {
      expect((await rados.mapper.describe(name, options)).size, name).toBe(size);
      expect(await hashVolume(rados, name, size, options), name).toBe(hash);
    }

    vi.useFakeTimers({ toFake: ['Date'], now: new Date('2026-01-02T03:04:05Z') });
    onTestFinished(() => {
      vi.useRealTimers();
      ids.next = -1;
    });
    for (const one of [node(inFiles), rados]) {
      ids.next = 1;
      await work(one, one);
    }
    ids.next = -1;
    vi.useRealTimers();

    for (const store of ['maps', 'blocks'] as const) {
      const names = (await listAll(inFiles[store], 100)).sort();
      // The objects of locks stay when they are released, as the original's do.
      const stored = (await listAll(inRados[store], 100)).filter((name) => !name.endsWith('_lock')).sort();
      expect(stored).toEqual(names);
      for (const name of names) {
        const { size } = await inFiles[store].info(name);
        const bytes = await read(inFiles[store], name, 0, size);
        const there = await (pools.get(store) as Pool).readBytes(name, 0, 8 * MiB);
        expect(there.equals(bytes), `${store}: ${name}`).toBe(true);
      }
    }
    const content = await readVolume(rados, 'renamed-clone', 0, 8 * MiB);
    expect([content[0], content[512], content[3 * MiB], content[5 * MiB]]).toEqual([0x11, 0, 0x5a, 0]);
    await expect(rados.mapper.describe('gold-again')).rejects.toEqual(failure('ENOENT'));
  });
});
