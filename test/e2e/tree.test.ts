/**
 * Byte compatibility, writing: a tree made by this node, with everything a volume can go through, is read by an independent reader while the
 * node is stopped. With whole copies only that is the one which also reads the original's trees: the original opens what this writes. A store
 * that may have partial objects (docs/formats.md) is read by one that was written from that page.
 */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { qemuRead, sha256 } from './harness/clients.js';
import { goldenReader, partialReader, unpackGolden } from './harness/golden.js';
import { BLOCK, ModelledVolumes, makeVolumes } from './harness/modelled-volumes.js';
import { useNode } from './harness/node.js';
import { partialFiles, partialObjects } from './harness/partial-objects.js';
import { programs } from './harness/requirements.js';
import { usuallyOnRados } from './harness/stores.js';

const tools = programs('qemu-io', 'nbdcopy', 'python3');

function reads(title: string, partialCopies: 'False' | 'auto'): void {
  const isPartial = partialCopies === 'auto';
  describe.runIf(tools && (!isPartial || partialObjects('a tree with partial objects')))(title, () => {
    const rig = useNode(usuallyOnRados('blocks') ? {} : { settings: { blockerb: { partial_copies: partialCopies } } });
    let volumes: ModelledVolumes;

    beforeAll(async () => {
      volumes = new ModelledVolumes(rig.node);
      await makeVolumes(volumes);
    });

    it('reads through NBD as the model has it', async () => {
      for (const [name, { sha256: hash, size }] of volumes.models) {
        expect({ name, ...(await sha256(rig.node.uri(name))) }).toEqual({ name, sha256: hash, length: size });
      }
    });

    it('lets a snapshot of a deleted volume live on', async () => {
      (await volumes.create('tree-parent', 2 * BLOCK)).write(0, 5000, 61);
      await volumes.apply('tree-parent');
      await volumes.snapshot('tree-parent', 'tree-orphan');
      await volumes.remove('tree-parent');
      await qemuRead(rig.node.uri('tree-orphan'), 'read -P 61 0 5000', `read -P 0 5000 ${2 * BLOCK - 5000}`);
    });

    it('finds nothing wrong with itself', async () => {
      for (const name of volumes.models.keys()) await rig.node.vlmc('check', name);
    });

    it('is read by the independent reader to the same bytes once the node is stopped', async () => {
      await rig.node.archipelago('stop', '-f');
      const list = path.join(rig.node.dir, 'SHA256');
      writeFileSync(list, volumes.list);
      const golden = await unpackGolden(rig.node.dir);
      const { maps, blocks } = rig.node.stores;
      for (const store of [maps, blocks]) {
        expect(await store.asDirectory(rig.node.dir)).toBe(path.join(rig.node.dir, store.part));
      }
      const { verdicts, partial } = await (isPartial ? partialReader : goldenReader)(golden, rig.node.dir, list);
      expect(verdicts.map((v) => v.name)).toEqual([...volumes.models.keys()]);
      expect(verdicts.filter((v) => v.verdict !== 'SAME').map((v) => v.line)).toEqual([]);
      const marked = partialFiles(path.join(rig.node.dir, 'blocks')).map((file) => path.basename(file).split('_')[0]);
      // Of a clone, a clone of that, and one that has all of its units and is the base of another. The first copy of all (tree-base) is whole: it
      // tells whether files can share their blocks here.
      const expected = ['tree-clone-1', 'tree-clone-2', 'tree-filled', 'tree-filled-clone'];
      expect(marked.toSorted()).toEqual(isPartial ? expected : []);
      expect(partial).toBe(marked.length);
      await rig.node.archipelago('start');
    });

    it('left no locks and no temporary files in the stores when it stopped', async () => {
      await rig.node.archipelago('stop', '-f');
      const { maps, blocks } = rig.node.stores;
      expect(await maps.held()).toEqual([]);
      const names = [...(await maps.objects()), ...(await blocks.objects())].map(({ name }) => name);
      // On RADOS the object of a lock outlives it, as with the original.
      const isLeft = (name: string): boolean => /_xy$|tmp/i.test(name) || (!maps.onRados && name.endsWith('_lock'));
      expect(names.filter(isLeft)).toEqual([]);
      await rig.node.archipelago('start');
    });
  });
}

reads('a tree of this node', 'False');
if (!usuallyOnRados('blocks')) reads('a tree of this node with partial objects', 'auto');
