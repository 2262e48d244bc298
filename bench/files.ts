/** The suite on files: this project's node and the peers that are installed. */
import { Archipelago, type NodeOptions } from './archipelago.js';
import { type Contender, hasProgram } from './contender.js';
import { fileCells, growthCells } from './file-cells.js';
import { Nbdkit, QemuQcow2, QemuRaw, QemuThreads } from './peers.js';
import type { Own, Suite } from './suite.js';

/**
 * @param diskSize bytes of every disk
 * @param growth whether curves over the depth and over the size of requests are measured too
 */
export function fileSuite(own: Own, diskSize: number, growth: boolean): Suite {
  const cells = fileCells(diskSize);
  return {
    name: 'files',
    title: 'NBD servers side by side',
    diskSize,
    cells: growth ? [...cells, ...growthCells] : cells,
    references: [],

    async contenders(dir) {
      const missing: string[] = [];
      const options: NodeOptions = { diskSize, node: own.node };
      const builds = own.builds.map((build) => new Archipelago(dir, { ...options, build }));
      const present: Contender[] = [new Archipelago(dir, options), ...builds];
      if (hasProgram('nbdkit')) present.push(new Nbdkit(dir, diskSize));
      else missing.push('nbdkit file (nbdkit is not installed)');
      if (hasProgram('qemu-nbd') && hasProgram('qemu-img')) {
        present.push(new QemuRaw(dir, diskSize), new QemuThreads(dir, diskSize));
        present.push(new QemuQcow2(dir, diskSize));
      } else {
        missing.push('qemu-nbd raw, qemu-nbd qcow2 (qemu-utils is not installed)');
      }
      return { present, missing };
    },

    async store() {
      return {};
    },

    async stop() {},
  };
}
