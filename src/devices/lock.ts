/** The lock of the table of devices: held for as long as the kernel is asked, never while a server is. A process that dies lets go. */
import fs from 'node:fs';
import path from 'node:path';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import * as libc from '../sys/libc.js';

const FILE = 'devices.lock';
const POLL_MS = 5;
/** The kernel may take its time with a device whose server takes nothing. */
const PATIENCE_MS = 60_000;

/**
 * Runs `work` while no other process runs any under the same lock.
 * @throws SystemError ETIMEDOUT when another holds on for a minute; EACCES and the like
 */
export async function locked<T>(runDir: string, work: () => Promise<T>): Promise<T> {
  const file = path.join(runDir, FILE);
  const { O_RDWR, O_CREAT, O_NOFOLLOW } = fs.constants;
  let fd: number;
  try {
    // The directory belongs to the node's user, and this process may be root.
    fd = fs.openSync(file, O_RDWR | O_CREAT | O_NOFOLLOW, 0o600);
  } catch (error) {
    throw new SystemError(errnoOf(error), `cannot lock the table of devices: ${messageOf(error)}`);
  }
  try {
    const deadline = performance.now() + PATIENCE_MS;
    while (libc.flock(fd, libc.LOCK_EX | libc.LOCK_NB) < 0) {
      const code = libc.errno();
      if (code !== errnos.EAGAIN && code !== errnos.EINTR) throw new SystemError(code, `cannot lock ${file}`);
      if (performance.now() > deadline) {
        throw new SystemError(
          errnos.ETIMEDOUT,
          `another process has held ${file} for ${PATIENCE_MS / 1000} s: it waits for the kernel, whose log (dmesg) may tell why`,
        );
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    return await work();
  } finally {
    fs.closeSync(fd);
  }
}
