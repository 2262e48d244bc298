/** The suite on RADOS: a Ceph cluster of its own, this project's node on it, and Ceph's own ways to the same objects. */
import { appendFileSync, copyFileSync } from 'node:fs';
import path from 'node:path';
import { Archipelago, type NodeOptions } from './archipelago.js';
import type { Client } from './contender.js';
import { type Contender, firstLine, hasProgram } from './contender.js';
import { touch } from './fio.js';
import { run } from './process.js';
import { LARGE_BLOCKS, RADOS_DISK_SIZE, radosCells } from './rados-cells.js';
import { type CephOptions, FioRbd, QemuRbd, RadosBench } from './rbd.js';
import type { Own, Suite } from './suite.js';

/** Room of the OSD: all disks, what they are clones of, and what `rados bench` makes; a memstore takes only what is used. */
const OSD_BYTES = 8 * 2 ** 30;
const script = path.resolve(import.meta.dirname, '../../scripts/rigs/ceph.sh');

/** @param objectStore what the OSD keeps objects in: memstore measures the software alone */
export function radosSuite(own: Own, objectStore: 'memstore' | 'bluestore'): Suite {
  let cluster: string | null = null;
  return {
    name: 'rados',
    title: 'NBD on RADOS side by side',
    diskSize: RADOS_DISK_SIZE,
    cells: radosCells,
    references: ['qemu-rbd', 'fio-rbd', 'rados-bench'],

    async contenders(dir) {
      const missing: string[] = [];
      cluster = path.join(dir, 'ceph');
      // A memstore that keeps an object as one list of pieces takes longer with each small write into it; with pages it does not.
      const store = objectStore === 'bluestore' ? ['--bluestore'] : ['--set', 'memstore page set = true'];
      const pools = ['--pools', 'maps blocks rbd bench'];
      await run('bash', [script, 'start', cluster, '--bytes', String(OSD_BYTES), ...pools, ...store]);
      const conf = path.join(dir, 'ceph.conf');
      copyFileSync(path.join(cluster, 'ceph.conf'), conf);
      // What is measured is the way to the OSD: no librbd answers from its own memory.
      appendFileSync(conf, '\n[client]\nrbd cache = false\n');
      // fio's rbd engine has no option for it.
      process.env.CEPH_CONF = conf;
      // Clones of snapshots that are not protected.
      await run('ceph', ['-c', conf, 'osd', 'set-require-min-compat-client', 'mimic']);

      const allocate = (client: Client, size: number): Promise<void> => touch(client, size, LARGE_BLOCKS);
      const ceph: CephOptions = { conf, diskSize: RADOS_DISK_SIZE, allocate };
      const rados = (pool: string): string[] => [
        'type = rados_blocker',
        `pool = ${pool}`,
        `conf = ${conf}`,
        'cephx_id = archipelago',
      ];
      const blockers = { blockerb: rados('blocks'), blockerm: rados('maps') };
      const options: NodeOptions = { diskSize: RADOS_DISK_SIZE, node: own.node, blockers, allocate };
      const builds = own.builds.map((build) => new Archipelago(dir, { ...options, build }));
      const present: Contender[] = [new Archipelago(dir, options), ...builds];
      if (hasProgram('qemu-nbd') && hasProgram('rbd')) present.push(new QemuRbd(dir, ceph));
      else missing.push('qemu-nbd rbd: (qemu-utils, qemu-block-extra or ceph-common is not installed)');
      if ((await run('fio', ['--enghelp'])).split(/\s+/).includes('rbd')) present.push(new FioRbd(ceph));
      else missing.push("librbd in fio (this fio is built without its engine 'rbd')");
      present.push(new RadosBench(ceph));
      return { present, missing };
    },

    async store() {
      return { cluster: `${firstLine(await run('ceph', ['--version']))}, 1 OSD, ${objectStore}, 1 copy` };
    },

    async stop() {
      if (cluster) await run('bash', [script, 'stop', cluster, '--wipe']);
    },
  };
}
