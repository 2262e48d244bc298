/** What each cell has to reach: the ratio of this project's median to the reference's. No I/O. */

export interface Target {
  /** At least so many times the reference. */
  readonly ratio: number;
  /** The contender it is measured against; the best peer of the cell when absent. */
  readonly to?: string;
  /** At most so many times the reference's 99th percentile of latency. */
  readonly p99?: number;
}

const atLeast = (ratio: number): Target => ({ ratio });
/** With clones only those compare who have them: a first write that copies, beside qcow2's, which has to be no worse at its worst either. */
const copyUp: Target = { ratio: 2, to: 'qemu-qcow2', p99: 1 };

/** By cell; every other cell is to be no slower than the best peer. */
const TARGETS: Readonly<Record<string, Target>> = {
  r4k1: atLeast(1.8),
  r4k32: atLeast(1.5),
  w4k1: atLeast(1.4),
  w4k32: atLeast(1.2),
  r512k8: atLeast(1.3),
  w512k8: atLeast(1.05),
  clone4k8: copyUp,
  clone4k8f: copyUp,
  copyup1: copyUp,
  copyup1f: copyUp,
};

/** The target of a cell of the suite on files. */
export const fileTarget = (cell: string): Target => TARGETS[cell] ?? atLeast(1);

/** On RADOS: what RBD does through the same protocol. */
export const radosTarget = (): Target => ({ ratio: 1, to: 'qemu-rbd' });
