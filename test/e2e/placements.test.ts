/** The same behaviour whatever process a role lives in: one process, the default, one process per role. */
import { describe, expect, it } from 'vitest';
import { nbdmap, qemuIo, qemuRead, sha256 } from './harness/clients.js';
import { Model } from './harness/model.js';
import { bytes, useNode } from './harness/node.js';
import { type Placement, placements } from './harness/placements.js';
import { programs } from './harness/requirements.js';
import { ended, run, start } from './harness/run.js';
import { repeated } from './harness/stores.js';
import { newest } from './harness/verify-load.js';

const MiB = 1 << 20;
const BLOCK = 4 * MiB;
/** All other files run in the default. */
const covered = (Object.keys(placements) as Placement[]).filter((placement) => !repeated || placement !== 'default');
/** Volume under load, and how often it is snapshotted meanwhile. */
const LOADED = repeated ? 16 : 32;
const SNAPSHOTS = repeated ? 3 : 5;
/** First writes to fresh blocks while the mapper dies, in MiB. */
const FRESH = repeated ? 64 : 192;

describe.runIf(programs('qemu-io', 'nbdcopy', 'nbdinfo', 'fio'))('placement', () => {
  describe.each(covered)('%s', (placement) => {
    const rig = useNode({ placement });

    it('runs the processes it says, and status tells so', async () => {
      const roles = ['blockerb', 'blockerm', 'mapperd', 'vlmcd', 'nbd'];
      const processes = new Set(roles.map((role) => rig.node.rolePid(role)));
      const wanted = placements[placement]?.split(' ').length ?? 2;
      expect(processes.size).toBe(wanted);
      const status = await rig.node.tryArchipelago('status');
      expect(status.code).toBe(0);
      for (const role of roles) expect(status.stdout).toMatch(new RegExp(`^${role}\\s.*running`, 'm'));
    });

    it('keeps a volume, its snapshots, clones and sizes straight', async () => {
      const { node } = rig;
      const base = new Model(5 * BLOCK).write(0, BLOCK + 4096, 1).write(3 * BLOCK + 10, 1000, 2);
      await node.create('place-base', base.size);
      await base.apply(node.uri('place-base'));
      await node.vlmc('snapshot', 'place-base', 'place-snap');
      const snap = base.copy();
      await base.write(100, 5000, 3).zero(BLOCK, BLOCK, 'discard').apply(node.uri('place-base'));
      await node.vlmc('create', 'place-clone', '--snap', 'place-snap', '--size', bytes(7 * BLOCK));
      const clone = snap
        .copy(7 * BLOCK)
        .write(BLOCK - 50, 100, 4)
        .write(6 * BLOCK, 512, 5);
      await clone.apply(node.uri('place-clone'));
      await node.vlmc('resize', 'place-clone', '--size', bytes(2 * BLOCK), '--force');
      await node.vlmc('resize', 'place-clone', '--size', bytes(4 * BLOCK));
      clone.resize(2 * BLOCK).resize(4 * BLOCK);
      await node.vlmc('rename', 'place-clone', 'place-renamed');

      for (const [name, model] of Object.entries({ 'place-base': base, 'place-snap': snap, 'place-renamed': clone })) {
        expect({ name, ...(await sha256(node.tcpUri(name))) }).toEqual({
          name,
          sha256: model.sha256,
          length: model.size,
        });
      }
      expect((await nbdmap(node.uri('place-base'))).map((e) => e.type)).toEqual([0, 3, 0, 3]);
      expect((await node.vlmc('list')).trim().split('\n').toSorted()).toEqual([
        'place-base',
        'place-renamed',
        'place-snap',
      ]);
    });

    it('takes a snapshot under load that is one moment of every block', async () => {
      const { node } = rig;
      const uri = await node.create('load-volume', LOADED * MiB);
      await qemuIo(uri, `write -P 1 0 ${LOADED}M`);
      const filled = await newest(node, 'load-volume');
      const writer = start('fio', [
        ...['--name=load', '--ioengine=nbd', `--uri=${uri}`, '--rw=randwrite', '--bs=4k', '--iodepth=16'],
        // Never the same bytes again: each moment has its own.
        ...[`--size=${LOADED}m`, '--time_based', '--runtime=60', '--refill_buffers=1', '--output=/dev/null'],
      ]);
      const over = ended(writer);
      await until(async () => (await newest(node, 'load-volume')) > filled);
      for (let i = 0; i < SNAPSHOTS; i++) await node.vlmc('snapshot', 'load-volume', `load-snap-${i}`);
      writer.kill('SIGINT');
      await over;
      const hashes = new Set<string>();
      for (let i = 0; i < SNAPSHOTS; i++) {
        // Twice the same: a snapshot does not change while its volume is written.
        const { sha256: hash } = await sha256(node.uri(`load-snap-${i}`));
        expect((await sha256(node.uri(`load-snap-${i}`))).sha256).toBe(hash);
        hashes.add(hash);
      }
      expect(hashes.size).toBeGreaterThan(1);
    });

    it('stops and starts again with everything there', async () => {
      const { node } = rig;
      const before = await sha256(node.uri('place-base'));
      await node.archipelago('stop', '-f');
      expect(node.leftovers()).toEqual([]);
      expect(await node.stores.maps.held()).toEqual([]);
      expect((await node.tryArchipelago('status')).code).not.toBe(0);
      await node.archipelago('start');
      expect(await sha256(node.uri('place-base'))).toEqual(before);
      await qemuRead(node.uri('place-snap'), 'read -P 1 0 4M');
    });
  });

  describe('default', () => {
    const rig = useNode({ placement: 'default' });

    it('keeps its clients when the mapper and the blocker of maps are killed, and has them back', async () => {
      const { node } = rig;
      const uri = await node.create('kill-volume', 256 * MiB);
      const front = node.rolePid('nbd');
      const back = node.rolePid('mapperd');
      expect(back).not.toBe(front);
      // First writes to fresh blocks all along: every one of them needs the mapper.
      const load = run(
        'fio',
        [
          ...['--name=kill', '--ioengine=nbd', `--uri=${uri}`, '--rw=randwrite', '--bsrange=4k-64k', '--iodepth=8'],
          ...[
            '--size=256m',
            `--io_size=${FRESH}m`,
            '--rate=48m',
            '--verify=crc32c',
            '--do_verify=1',
            '--verify_fatal=1',
          ],
        ],
        { cwd: node.dir },
      );
      await until(async () => (await nbdmap(uri)).some((extent) => extent.type === 0));
      process.kill(back, 'SIGKILL');
      await load;
      expect(node.rolePid('nbd')).toBe(front);
      expect(node.rolePid('mapperd')).not.toBe(back);
      await node.vlmc('snapshot', 'kill-volume', 'kill-snapshot');
      await node.vlmc('check', 'kill-volume');
    });
  });
});

/** Resolves when `condition` holds: looked at again as soon as the last look has ended. */
async function until(condition: () => Promise<boolean>): Promise<void> {
  while (!(await condition()));
}
