/** The kernel's nbd driver: loaded when it is not there, and refusals in words. */
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { errnoOf, errnos, messageOf, SystemError } from '../sys/errno.js';
import { NbdDriver } from './netlink.js';
import type { SystemRoots } from './types.js';

const MODPROBE_MS = 20_000;
/** root's, in the case that PATH is a user's. */
const PATH = '/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin';

/** @throws SystemError EPERM for who is not root, ENOENT without the module, EOPNOTSUPP without netlink; each with the way out */
export async function openDriver(roots: SystemRoots): Promise<NbdDriver> {
  if (!fs.existsSync(path.join(roots.sys, 'module', 'nbd'))) await loadModule();
  try {
    return await NbdDriver.open();
  } catch (error) {
    if (errnoOf(error) !== errnos.ENOENT) throw inWords(error, 'the kernel cannot be asked for devices');
    throw new SystemError(
      errnos.EOPNOTSUPP,
      'the nbd driver of this kernel has no netlink interface (Linux 4.12 and later have it, in the first network namespace only); ' +
        'clients that speak NBD themselves, such as QEMU, need no device',
      { cause: error },
    );
  }
}

function loadModule(): Promise<void> {
  requireRoot('load the kernel module nbd');
  return new Promise((resolve, reject) => {
    const env = { ...process.env, PATH: `${process.env.PATH ?? ''}:${PATH}` };
    execFile('modprobe', ['nbd'], { env, timeout: MODPROBE_MS }, (error, _stdout, stderr) => {
      if (error === null) resolve();
      else reject(noModule(stderr.trim() || messageOf(error), error));
    });
  });
}

const noModule = (why: string, cause: unknown): SystemError =>
  new SystemError(
    errnos.ENOENT,
    `the kernel module nbd cannot be loaded (${why}); it comes with the package of the kernel ${os.release()}: on Debian linux-image, ` +
      'on Ubuntu linux-modules-extra',
    { cause },
  );

/** @throws SystemError EPERM */
export function requireRoot(what: string): void {
  if (process.geteuid?.() === 0) return;
  throw new SystemError(errnos.EPERM, `only root may ${what}; try sudo`);
}

/** The kernel's refusal with what was asked for. */
export function inWords(error: unknown, what: string): SystemError {
  const errno = errnoOf(error);
  const why = errno === errnos.EPERM ? 'root has not the right CAP_SYS_ADMIN here (a container?)' : messageOf(error);
  return new SystemError(errno, `${what}: ${why}${errno === errnos.EPERM ? '' : ' (dmesg may tell more)'}`, {
    cause: error,
  });
}
