/** What the cluster needs of the machine. */
import { spawnSync } from 'node:child_process';
import { programs, root } from '../e2e/harness/requirements.js';

/** Whether the cluster can be started here. A loud skip where it cannot. */
export function clusterTools(): boolean {
  const installed = programs('mmdebstrap', 'qemu-img', 'busybox', 'depmod', 'cpio', 'ssh-keygen');
  if (!installed || !root('a Ganeti cluster in namespaces')) return false;
  // Containers have root and may yet refuse these.
  const { status } = spawnSync('unshare', [
    '-m',
    '-u',
    '-i',
    '-n',
    '-p',
    '--fork',
    'mount',
    '-t',
    'tmpfs',
    'none',
    '/mnt',
  ]);
  if (status === 0) return true;
  console.warn('SKIPPED: a Ganeti cluster needs namespaces, which this machine does not give');
  return false;
}
