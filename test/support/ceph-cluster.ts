/** The run's Ceph cluster (scripts/rigs/ceph.sh): where it is and how it is started. What tests use is ceph.ts. */
import path from 'node:path';
import { programs } from '../e2e/harness/requirements.js';
import { run } from '../e2e/harness/run.js';

/** The project's directory: the torture is compiled to another place. */
export const root = process.env.ARCHIPELAGO_TEST_ROOT ?? path.resolve(import.meta.dirname, '../..');

export const clusterScript = path.join(root, 'scripts/rigs/ceph.sh');

/** Environment variable with the directory of the run's cluster (ceph-setup.ts). */
export const CLUSTER_DIRECTORY = 'ARCHIPELAGO_TEST_CEPH_DIR';

/** Environment variable with the ceph.conf of a cluster of the script that runs already, to be used instead. */
const RUNNING_CLUSTER = 'ARCHIPELAGO_TEST_CEPH_CONF';

/** Room of the run's cluster, in bytes; a memstore takes as much memory as is used. A map of 16 TiB has half a GiB, an image that is copied one. */
const ROOM = 6 * 2 ** 30;

/** Whether Ceph is installed: a loud skip otherwise. @throws when it is not and CI=true */
export function hasCeph(): boolean {
  return programs('ceph-mon', 'ceph-osd', 'ceph', 'rados');
}

/** Runs the cluster script; resolves to the path of ceph.conf. @throws with all it said when it fails */
export async function clusterCommand(
  command: 'start' | 'stop' | 'kill-osd' | 'restart-osd',
  directory: string,
  ...args: readonly string[]
): Promise<string> {
  await run('bash', [clusterScript, command, directory, ...args]);
  return path.join(directory, 'ceph.conf');
}

/** Path of ceph.conf of this run's cluster, which runs when this resolves. */
export async function cephCluster(): Promise<string> {
  const running = process.env[RUNNING_CLUSTER];
  if (running) return running;
  const directory = process.env[CLUSTER_DIRECTORY];
  if (!directory) {
    throw new Error(`${CLUSTER_DIRECTORY} is not set: the tests were not started by this project's vitest.config.ts`);
  }
  return clusterCommand('start', directory, '--bytes', String(ROOM));
}
