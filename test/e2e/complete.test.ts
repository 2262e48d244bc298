/**
 * The way back from partial objects (archipelago complete): a store that has them is made whole, and is then what the original knows: the reader
 * of its trees, which knows no partial objects, reads each volume of it, and the node goes on with it.
 */
import { existsSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { sha256 } from './harness/clients.js';
import { goldenReader, unpackGolden } from './harness/golden.js';
import { BLOCK, ModelledVolumes, makeVolumes } from './harness/modelled-volumes.js';
import { useNode } from './harness/node.js';
import { partialFiles, partialObjects } from './harness/partial-objects.js';
import { programs } from './harness/requirements.js';
import { usuallyOnRados } from './harness/stores.js';

interface Answer {
  readonly stores: readonly { directory: string; partial: number; completed: number; isWhole: boolean }[];
}

const tools = programs('qemu-io', 'nbdcopy', 'python3');

describe.runIf(tools && !usuallyOnRados('blocks') && partialObjects('a store that is made whole'))(
  'archipelago complete',
  () => {
    const rig = useNode({ store: 'files', settings: { blockerb: { partial_copies: 'auto' } } });
    let volumes: ModelledVolumes;
    const complete = async (...args: string[]): Promise<Answer> =>
      JSON.parse(await rig.node.archipelago('complete', ...args, '--json')) as Answer;

    beforeAll(async () => {
      volumes = new ModelledVolumes(rig.node);
      await makeVolumes(volumes);
    });

    it('is refused while the node runs, which tells what there is to do all the same', async () => {
      const { node } = rig;
      const refused = await node.tryArchipelago('complete');
      expect(refused).toMatchObject({ code: 255, stdout: '' });
      expect(refused.stderr).toContain(`a process has the store ${node.blocks} open`);
      const { stores } = await complete('--dry-run');
      expect(stores.find(({ directory }) => directory === node.blocks)).toMatchObject({ partial: 4, completed: 0 });
      expect(partialFiles(node.blocks)).toHaveLength(4);
    });

    it('makes what the independent reader of the original reads', async () => {
      const { node } = rig;
      await node.archipelago('stop', '-f');
      const { stores } = await complete();
      expect(stores.map(({ directory, completed, isWhole }) => [directory, completed, isWhole]).toSorted()).toEqual(
        [
          [node.blocks, 4, true],
          [node.maps, 0, true],
        ].toSorted(),
      );
      expect(partialFiles(node.blocks)).toEqual([]);
      for (const directory of ['.archipelago-bases', '.archipelago-ledgers'])
        expect(existsSync(path.join(node.blocks, directory))).toBe(false);
      const list = path.join(node.dir, 'SHA256');
      writeFileSync(list, volumes.list);
      const { verdicts } = await goldenReader(await unpackGolden(node.dir), node.dir, list);
      expect(verdicts.map(({ name }) => name)).toEqual([...volumes.models.keys()]);
      expect(verdicts.filter(({ verdict }) => verdict !== 'SAME').map(({ line }) => line)).toEqual([]);
      expect(await node.archipelago('complete')).toContain('Everything is whole.');
    });

    it('leaves volumes that the node serves with the same content, and copies blocks of as a whole', async () => {
      const { node } = rig;
      await node.archipelago('start');
      for (const [name, { sha256: hash, size }] of volumes.models)
        expect({ name, ...(await sha256(node.uri(name))) }).toEqual({ name, sha256: hash, length: size });
      await volumes.snapshot('tree-clone-1', 'tree-clone-late');
      volumes.model('tree-clone-1').write(4096, 4096, 71);
      await volumes.apply('tree-clone-1');
      await volumes.snapshot('tree-filled', 'tree-filled-late');
      volumes.model('tree-filled').write(BLOCK - 4096, 4096, 72);
      await volumes.apply('tree-filled');
      expect(partialFiles(node.blocks)).toEqual([]);
      for (const name of ['tree-clone-1', 'tree-clone-late', 'tree-filled', 'tree-filled-late'])
        expect((await sha256(node.uri(name))).sha256).toBe(volumes.model(name).sha256);
    });
  },
);
