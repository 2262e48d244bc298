/** Every volume that the original wrote reads to its hash through the mapper, and reading changes no byte of the tree. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { decodeExtents } from '../../../src/requests/extents.js';
import { fileNode, hashVolume, readVolume, temporaryDirectory, writeVolume } from './support.js';

const archive = fileURLToPath(new URL('../../fixtures/golden/golden.tar.gz', import.meta.url));

function unpack(): string {
  const directory = temporaryDirectory();
  execFileSync('tar', ['-C', directory, '-xzf', archive]);
  return directory;
}

/** Path, size and hash of every file. */
function treeOf(root: string): string[] {
  return fs
    .readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath, entry.name))
    .map((file) => `${file} ${createHash('sha256').update(fs.readFileSync(file)).digest('hex')}`)
    .sort();
}

interface Line {
  name: string;
  size: number;
  hash: string;
  options: { assumeV0: boolean; v0Size: number };
}

function lines(file: string): Line[] {
  return fs
    .readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => {
      const [name, size, hash, v0, v0Size] = line.split(/\s+/);
      return { name, size: Number(size), hash, options: { assumeV0: v0 === 'v0', v0Size: Number(v0Size ?? -1) } };
    });
}

const reader = (root: string, tree: string, list: string): string =>
  execFileSync('python3', [path.join(root, 'golden_reader.py'), tree, list], { encoding: 'utf8' });

for (const [tree, list] of [
  ['main', 'SHA256'],
  ['direct', 'SHA256.direct'],
]) {
  it(`reads every volume of ${list} to its hash and changes nothing`, async () => {
    const root = unpack();
    const before = treeOf(root);
    const node = await fileNode(path.join(root, tree), tree === 'main' ? path.join(root, 'main/locks') : null);
    const all = lines(path.join(root, list));
    expect(all.length).toBeGreaterThan(1);
    for (const { name, size, hash, options } of all) {
      const info = await node.mapper.describe(name, options);
      expect(info.size, name).toBe(size);
      expect(await hashVolume(node, name, size, options), name).toBe(hash);
      const stat = await node.mapper.stat(name, options, true);
      expect(stat.blocks.damaged, name).toBe(0);
    }
    expect(treeOf(root)).toEqual(before);
  });
}

it('upgrades every v0 and v1 volume and keeps its content, for us and for the independent reader', async () => {
  const root = unpack();
  const node = await fileNode(path.join(root, 'main'), path.join(root, 'main/locks'));
  const old: string[] = [];
  for (const { name, size, hash, options } of lines(path.join(root, 'SHA256'))) {
    const { version } = await node.mapper.stat(name, options);
    if (version === 2) continue;
    old.push(name);
    await expect(node.mapper.mapWrite(name, 0, 1, 500, options)).rejects.toThrow(/run vlmc upgrade/);
    await node.mapper.upgrade(name, options);
    const stat = await node.mapper.stat(name);
    expect(stat).toMatchObject({ version: 2, size, readOnly: version === 0, lock: null });
    expect(await hashVolume(node, name, size)).toBe(hash);
    if (version !== 1) continue;
    await writeVolume(node, name, 1000, Buffer.from('written after the upgrade'));
    expect((await readVolume(node, name, 1000, 25)).toString()).toBe('written after the upgrade');
    await writeVolume(node, name, 1000, Buffer.alloc(25));
    await node.mapper.close(name);
  }
  expect(old.sort()).toEqual(
    ['e9', 'gold-v0flat', 'gold-v1map0', 'gold-v1old'].map((p) => old.find((n) => n.startsWith(p))),
  );
  expect(fs.existsSync(path.join(root, 'main/locks/gold-v1old_lock'))).toBe(false);
  const names = (await node.maps.list(null, 10_000)).names;
  expect(names).not.toContain('archip_gold-v1old');
});

it('lists the volumes of the tree with their sizes, deleted ones only when asked', async () => {
  const root = unpack();
  const node = await fileNode(path.join(root, 'main'), path.join(root, 'main/locks'));
  const collect = async (deleted: boolean) => {
    const volumes = [];
    for (let cursor: string | null = null; ; ) {
      const page = await node.mapper.list({ cursor, limit: 7, deleted });
      volumes.push(...page.volumes);
      cursor = page.cursor;
      if (cursor === null) return volumes;
    }
  };
  const expected = lines(path.join(root, 'SHA256')).filter((line) => line.name !== 'gold-v0flat');
  const found = await collect(false);
  expect(found.map((volume) => volume.name).sort()).toEqual(expected.map((line) => line.name).sort());
  for (const { name, size, options } of expected) {
    // A v0 map says only how many blocks it has.
    const listed = options.assumeV0 ? Math.ceil(size / 2 ** 22) * 2 ** 22 : size;
    expect(found.find((volume) => volume.name === name)).toMatchObject({ size: listed });
  }
  const all = await collect(true);
  expect(
    all
      .filter((volume) => volume.deleted)
      .map((volume) => volume.name)
      .sort(),
  ).toEqual(['gold-deleted', 'gold-rensrc']);
});

it('finds the snapshots that the original took, and where they differ', async () => {
  const root = unpack();
  const { mapper } = await fileNode(path.join(root, 'main'), path.join(root, 'main/locks'));
  const { volumes } = await mapper.list({ cursor: null, limit: 100, snapshotsOf: 'gold-base' });
  expect(volumes).toMatchObject(
    ['gold-snap1', 'gold-snap2'].map((name) => ({ name, guessed: true, created: expect.any(Number) })),
  );
  expect((await mapper.list({ cursor: null, limit: 100, snapshotsOf: 'gold-clone1' })).volumes).toEqual([]);
  const MiB = 1 << 20;
  const diff = (name: string, from: string) => mapper.mapStatus(name, { what: 'diff', from }, 0, 40 * MiB, 4096);
  // Between the two, blocks 0 and 7 were written.
  expect(decodeExtents(await diff('gold-snap2', 'gold-snap1'))).toEqual([
    { length: 4 * MiB, flags: 1 },
    { length: 24 * MiB, flags: 0 },
    { length: 4 * MiB, flags: 1 },
    { length: 8 * MiB, flags: 0 },
  ]);
  expect(decodeExtents(await diff('gold-base', 'gold-snap2'))).toEqual([{ length: 40 * MiB, flags: 0 }]);
});

it('writes trees that the independent reader reads: snapshots, clones, resized, renamed, deleted and made again', async () => {
  const root = unpack();
  const tree = temporaryDirectory();
  fs.mkdirSync(path.join(tree, 'maps'));
  fs.mkdirSync(path.join(tree, 'blocks'));
  const node = await fileNode(tree);
  const { mapper } = node;
  const MiB = 1 << 20;
  await mapper.create('base-vol', 13 * MiB + 777);
  await writeVolume(node, 'base-vol', 4 * MiB - 100, Buffer.alloc(5000, 'a'));
  await mapper.snapshot('base-vol', 'base-snap1');
  await writeVolume(node, 'base-vol', 4 * MiB - 50, Buffer.alloc(1000, 'b'));
  await writeVolume(node, 'base-vol', 13 * MiB, Buffer.alloc(777, 'c'));
  await mapper.snapshot('base-vol', 'base-snap2');
  await mapper.clone('clone-one', 'base-snap1', 0);
  await writeVolume(node, 'clone-one', 10, Buffer.alloc(20, 'd'));
  await mapper.snapshot('clone-one', 'clone-snap');
  await mapper.clone('clone-two', 'clone-snap', 30 * MiB);
  await writeVolume(node, 'clone-two', 29 * MiB, Buffer.alloc(4096, 'e'));
  await mapper.resize('clone-two', 5 * MiB + 1, true);
  await mapper.resize('clone-two', 22 * MiB, false);
  await writeVolume(node, 'clone-two', 21 * MiB, Buffer.alloc(4096, 'f'));
  await mapper.rename('clone-one', 'renamed-vol');
  await writeVolume(node, 'renamed-vol', 12 * MiB, Buffer.alloc(100, 'g'));
  await mapper.create('gone-vol', 8 * MiB);
  await writeVolume(node, 'gone-vol', 0, Buffer.alloc(4096, 'h'));
  await mapper.close('gone-vol');
  await mapper.remove('gone-vol');
  await mapper.create('gone-vol', 9 * MiB);
  await writeVolume(node, 'gone-vol', 4 * MiB, Buffer.alloc(4096, 'i'));
  await mapper.stop();

  const names = ['base-vol', 'base-snap1', 'base-snap2', 'clone-two', 'clone-snap', 'renamed-vol', 'gone-vol'];
  const list = path.join(root, 'list');
  const rows: string[] = [];
  for (const name of names) {
    const { size } = await mapper.describe(name);
    rows.push(`${name} ${size} ${await hashVolume(node, name, size)}`);
  }
  fs.writeFileSync(list, `${rows.join('\n')}\n`);
  const said = reader(root, tree, list).trim().split('\n');
  expect(said.length).toBe(names.length);
  for (const line of said) expect(line).toMatch(/^SAME /);
});
