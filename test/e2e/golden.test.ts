/**
 * Byte compatibility, reading: every volume that the original system wrote reads through NBD to the hash that the original itself
 * gave, also volumes that another host has locked, and reading changes no file of the store.
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { hasCeph } from '../support/ceph.js';
import { nbdinfo, nbdlist, sha256 } from './harness/clients.js';
import { fingerprintTree, type GoldenVolume, readList, unpackGolden } from './harness/golden.js';
import { useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';
import { differences, fingerprint, type Tree } from './harness/tree.js';

const work = mkdtempSync(path.join(os.tmpdir(), 'archipelago-golden-'));
const golden = await unpackGolden(work);
afterAll(() => rmSync(work, { recursive: true, force: true }));

/** Lock files come and go with opened volumes; everything else must stay as it is. */
const withoutLocks = (tree: Map<string, string>): [string, string][] =>
  [...tree].filter(([name, what]) => !name.endsWith('_lock') && what !== 'directory');

function readsEverything(
  title: string,
  tree: string,
  list: string,
  settings: { lockDir?: string; direct: string },
): void {
  describe.runIf(programs('nbdcopy', 'nbdinfo'))(title, () => {
    const root = path.join(golden, tree);
    const rig = useNode({
      maps: path.join(root, 'maps'),
      blocks: path.join(root, 'blocks'),
      lockDir: settings.lockDir,
      hostname: 'reader',
      settings: { blockerb: { direct: settings.direct }, blockerm: { direct: settings.direct } },
    });
    const volumes: GoldenVolume[] = readList(path.join(golden, list));
    let before: Map<string, string>;
    beforeAll(() => {
      before = fingerprintTree(root);
    });

    it.each(volumes)('reads $name as the original did', async ({ name, size, sha256: expected, mapOptions }) => {
      let uri = rig.node.uri(name);
      if (mapOptions.length > 0) uri = (await rig.node.vlmc('map', name, ...mapOptions)).trim();
      expect(await sha256(uri)).toEqual({ sha256: expected, length: size });
      if (mapOptions.length > 0) await rig.node.vlmc('unmap', name);
    });

    it('changed no file of the store by reading', async () => {
      await rig.node.archipelago('stop', '-f');
      expect(withoutLocks(fingerprintTree(root))).toEqual(withoutLocks(before));
      await rig.node.archipelago('start');
    });

    it('removed none of the locks that others hold', () => {
      const others = [...before].filter(([name, what]) => name.endsWith('_lock') && what !== 'directory');
      expect(others.length).toBeGreaterThan(0);
      const after = fingerprintTree(root);
      expect(others.filter(([name, what]) => after.get(name) !== what)).toEqual([]);
    });
  });
}

const lockDir = path.join(golden, 'main', 'locks');
readsEverything('the tree written without direct I/O', 'main', 'SHA256', { lockDir, direct: 'False' });
readsEverything('the tree written with direct I/O', 'direct', 'SHA256.direct', { direct: 'False' });
readsEverything('the same tree read with direct I/O', 'direct', 'SHA256.direct', { direct: 'True' });

describe.runIf(programs('nbdcopy', 'nbdinfo') && hasCeph())('the objects of the first tree on RADOS', () => {
  const rig = useNode({ store: 'rados', hostname: 'reader' });
  const locked = readdirSync(lockDir).filter((name) => name.endsWith('_lock'));
  let before: Tree;
  beforeAll(async () => {
    const { maps, blocks } = rig.node.stores;
    await maps.load(path.join(golden, 'main', 'maps'));
    await blocks.load(path.join(golden, 'main', 'blocks'));
    for (const name of locked) expect(await maps.lockAs('', name.replace(/_lock$/, ''))).toBe(true);
    before = await fingerprint([maps, blocks]);
  });

  it.each(readList(path.join(golden, 'SHA256')))('reads $name as the original did', async (volume) => {
    let uri = rig.node.uri(volume.name);
    if (volume.mapOptions.length > 0) uri = (await rig.node.vlmc('map', volume.name, ...volume.mapOptions)).trim();
    expect(await sha256(uri)).toEqual({ sha256: volume.sha256, length: volume.size });
  });

  it('changed no object by reading, and no lock of others', async () => {
    const { maps, blocks } = rig.node.stores;
    await rig.node.archipelago('stop', '-f');
    const after = await fingerprint([maps, blocks]);
    const theirs = (change: string): boolean =>
      !/_lock:/.test(change) || locked.some((name) => change.includes(`/${name}:`));
    expect(differences(before, after).filter(theirs)).toEqual([]);
    expect((await maps.held()).map((name) => `${name}_lock`).toSorted()).toEqual(locked.toSorted());
    await rig.node.archipelago('start');
  });
});

describe.runIf(programs('nbdcopy', 'nbdinfo'))('what the original deleted', () => {
  const rig = useNode({
    maps: path.join(golden, 'main', 'maps'),
    blocks: path.join(golden, 'main', 'blocks'),
    lockDir,
    hostname: 'reader',
  });

  it.each(['gold-deleted', 'gold-rensrc'])('%s is no volume any more', async (name) => {
    await expect(nbdinfo(rig.node.uri(name))).rejects.toThrow();
    expect((await rig.node.tryVlmc(['info', name])).code).toBe(255);
  });

  it('is not listed, what lives is', async () => {
    const listed = (await rig.node.vlmc('list')).trim().split('\n').toSorted();
    const living = readList(path.join(golden, 'SHA256')).map((volume) => volume.name);
    // A version 0 map has no header that would tell it from other files; the original lists those named by a hash.
    expect(listed).toEqual(living.filter((name) => name !== 'gold-v0flat').toSorted());
    const exported = (await nbdlist(`nbd+unix:///?socket=${rig.node.socket}`)).map((e) => e['export-name']);
    expect(exported).toEqual(expect.arrayContaining(['gold-base', 'gold-v1map0', 'gold-v1old']));
    expect(exported).not.toContain('gold-deleted');
  });
});
