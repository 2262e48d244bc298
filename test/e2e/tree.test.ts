/**
 * Byte compatibility, writing: a tree made by this node, with everything a volume can go through, is read by the independent reader
 * that also reads the original's trees, while the node is stopped.
 */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { qemuRead, sha256 } from './harness/clients.js';
import { goldenReader, unpackGolden } from './harness/golden.js';
import { Model } from './harness/model.js';
import { bytes, useNode } from './harness/node.js';
import { programs } from './harness/requirements.js';

const MiB = 1 << 20;
const BLOCK = 4 * MiB;

describe.runIf(programs('qemu-io', 'nbdcopy', 'python3'))('a tree of this node', () => {
  const rig = useNode();
  const models = new Map<string, Model>();

  const model = (name: string): Model => {
    const found = models.get(name);
    if (!found) throw new Error(`no model of ${name}`);
    return found;
  };
  const create = async (name: string, size: number): Promise<Model> => {
    await rig.node.create(name, size);
    models.set(name, new Model(size));
    return model(name);
  };
  const snapshot = async (name: string, snap: string): Promise<void> => {
    await rig.node.vlmc('snapshot', name, snap);
    models.set(snap, model(name).copy());
  };
  const clone = async (snap: string, name: string, size = model(snap).size): Promise<Model> => {
    await rig.node.vlmc('create', name, '--snap', snap, '--size', bytes(size));
    models.set(name, model(snap).copy(size));
    return model(name);
  };
  const resize = async (name: string, size: number): Promise<Model> => {
    await rig.node.vlmc('resize', name, '--size', bytes(size), '--force');
    return model(name).resize(size);
  };

  beforeAll(async () => {
    const { node } = rig;
    const base = await create('tree-base', 10 * BLOCK);
    await base
      .write(0, BLOCK, 1)
      .write(BLOCK + 512, 1536, 2)
      .write(3 * BLOCK - 4096, 8192, 3)
      .write(10 * BLOCK - 65536, 65536, 4)
      .apply(node.uri('tree-base'));
    await snapshot('tree-base', 'tree-snap-1');
    await base
      .write(8192, 4096, 5)
      .write(7 * BLOCK, 4096, 6)
      .apply(node.uri('tree-base'));
    await snapshot('tree-base', 'tree-snap-2');
    await base
      .zero(0, BLOCK, 'discard')
      .write(2 * BLOCK, 100, 7)
      .apply(node.uri('tree-base'));

    const first = await clone('tree-snap-1', 'tree-clone-1');
    await first
      .write(BLOCK, 4096, 11)
      .write(6 * BLOCK + 77, 512, 12)
      .apply(node.uri('tree-clone-1'));
    await snapshot('tree-clone-1', 'tree-clone-snap');
    const second = await clone('tree-clone-snap', 'tree-clone-2', 13 * BLOCK);
    await second
      .write(0, 512, 13)
      .write(12 * BLOCK + 1, 4096, 14)
      .apply(node.uri('tree-clone-2'));

    const sized = await create('tree-resized', 6 * BLOCK);
    await sized.write(0, 6 * BLOCK, 21).apply(node.uri('tree-resized'));
    (await resize('tree-resized', 2 * BLOCK + 512 * 3)).write(100, 100, 22);
    await model('tree-resized').apply(node.uri('tree-resized'));
    (await resize('tree-resized', 9 * BLOCK)).write(2 * BLOCK + 2 * MiB, 512, 23).write(8 * BLOCK, 512, 24);
    await model('tree-resized').apply(node.uri('tree-resized'));
    await resize('tree-resized', 11 * BLOCK);
    await model('tree-resized').write(4096, 4096, 25).apply(node.uri('tree-resized'));

    const moved = await create('tree-before', 3 * BLOCK);
    await moved.write(BLOCK - 100, 200, 31).apply(node.uri('tree-before'));
    await node.vlmc('rename', 'tree-before', 'tree-after');
    models.delete('tree-before');
    models.set('tree-after', moved);
    await moved
      .write(2 * BLOCK, 4096, 32)
      .write(0, 10, 33)
      .apply(node.uri('tree-after'));

    const gone = await create('tree-again', 4 * BLOCK);
    await gone.write(0, 4 * BLOCK, 41).apply(node.uri('tree-again'));
    await node.vlmc('remove', 'tree-again');
    const again = await create('tree-again', 5 * BLOCK);
    await again.write(BLOCK, 1000, 42).apply(node.uri('tree-again'));

    await create('tree-removed', 2 * BLOCK);
    await node.vlmc('remove', 'tree-removed');
    models.delete('tree-removed');
    await create('tree-blank', 4 * BLOCK);
    await create('tree-odd', 2 * BLOCK + 512);
    await model('tree-odd')
      .write(2 * BLOCK, 512, 51)
      .apply(node.uri('tree-odd'));
  });

  it('reads through NBD as the model has it', async () => {
    for (const [name, { sha256: hash, size }] of models) {
      expect({ name, ...(await sha256(rig.node.uri(name))) }).toEqual({ name, sha256: hash, length: size });
    }
  });

  it('lets a snapshot of a deleted volume live on', async () => {
    const model = (await create('tree-parent', 2 * BLOCK)).write(0, 5000, 61);
    await model.apply(rig.node.uri('tree-parent'));
    await snapshot('tree-parent', 'tree-orphan');
    await rig.node.vlmc('remove', 'tree-parent');
    models.delete('tree-parent');
    await qemuRead(rig.node.uri('tree-orphan'), 'read -P 61 0 5000', `read -P 0 5000 ${2 * BLOCK - 5000}`);
  });

  it('finds nothing wrong with itself', async () => {
    for (const name of models.keys()) await rig.node.vlmc('check', name);
  });

  it('is read by the independent reader to the same bytes once the node is stopped', async () => {
    await rig.node.archipelago('stop', '-f');
    const list = path.join(rig.node.dir, 'SHA256');
    writeFileSync(list, [...models].map(([name, m]) => `${name} ${m.size} ${m.sha256}\n`).join(''));
    const golden = await unpackGolden(rig.node.dir);
    const { maps, blocks } = rig.node.stores;
    for (const store of [maps, blocks]) {
      expect(await store.asDirectory(rig.node.dir)).toBe(path.join(rig.node.dir, store.part));
    }
    const verdicts = await goldenReader(golden, rig.node.dir, list);
    expect(verdicts.map((v) => v.name)).toEqual([...models.keys()]);
    expect(verdicts.filter((v) => v.verdict !== 'SAME').map((v) => v.line)).toEqual([]);
    await rig.node.archipelago('start');
  });

  it('left no locks and no temporary files in the stores when it stopped', async () => {
    await rig.node.archipelago('stop', '-f');
    const { maps, blocks } = rig.node.stores;
    expect(await maps.held()).toEqual([]);
    const names = [...(await maps.objects()), ...(await blocks.objects())].map(({ name }) => name);
    // On RADOS the object of a lock outlives it, as with the original.
    expect(names.filter((name) => /_xy$|tmp/i.test(name) || (!maps.onRados && name.endsWith('_lock')))).toEqual([]);
    await rig.node.archipelago('start');
  });
});
