/** The kernel's driver where it is not there: what is said, and what is done about it. */
import fs from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { inWords, openDriver, requireRoot } from '../../../src/devices/module.js';
import { NbdDriver } from '../../../src/devices/netlink.js';
import { errnos, SystemError } from '../../../src/sys/errno.js';
import { temporaryDirectory } from '../nbd/support.js';
import { FakeSystem } from './fake-system.js';

let dir: string;
let system: FakeSystem;
beforeEach(() => {
  dir = temporaryDirectory();
  system = FakeSystem.in(dir);
  vi.spyOn(process, 'geteuid').mockReturnValue(0);
  vi.stubEnv('PATH', dir);
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
});

/** In the place of the machine's: it writes down what it was asked for, and ends so. */
function modprobe(words: string, status: number): void {
  const script = `#!/bin/sh\necho "$@" > ${dir}/asked\necho "${words}" >&2\nexit ${status}\n`;
  fs.writeFileSync(path.join(dir, 'modprobe'), script, { mode: 0o755 });
}
const driver = (outcome: () => NbdDriver): void => {
  vi.spyOn(NbdDriver, 'open').mockImplementation(async () => outcome());
};

describe('the driver', () => {
  it('is loaded where it is not there, and only there', async () => {
    const opened = Object.create(NbdDriver.prototype) as NbdDriver;
    driver(() => opened);
    modprobe('', 0);
    expect(await openDriver(system.roots)).toBe(opened);
    expect(fs.readFileSync(path.join(dir, 'asked'), 'utf8')).toBe('nbd\n');
    fs.rmSync(path.join(dir, 'asked'));
    system.write('sys', 'module/nbd/refcnt', '0');
    expect(await openDriver(system.roots)).toBe(opened);
    expect(fs.existsSync(path.join(dir, 'asked'))).toBe(false);
  });

  it('that cannot be loaded is named, with its package', async () => {
    modprobe('modprobe: FATAL: Module nbd not found', 1);
    await expect(openDriver(system.roots)).rejects.toMatchObject({
      code: 'ENOENT',
      message: expect.stringMatching(
        /^the kernel module nbd cannot be loaded \(modprobe: FATAL: Module nbd not found\); it comes with the package of the kernel \S+: on Debian linux-image, on Ubuntu linux-modules-extra$/,
      ) as string,
    });
  });

  it('is loaded by root', async () => {
    vi.spyOn(process, 'geteuid').mockReturnValue(1000);
    await expect(openDriver(system.roots)).rejects.toMatchObject({
      code: 'EPERM',
      message: 'only root may load the kernel module nbd; try sudo',
    });
    expect(() => requireRoot('do that')).toThrow('only root may do that; try sudo');
  });

  it('without netlink is refused with the way out; what else is the matter is told', async () => {
    system.write('sys', 'module/nbd/refcnt', '0');
    driver(() => {
      throw new SystemError(errnos.ENOENT, 'no such family');
    });
    await expect(openDriver(system.roots)).rejects.toMatchObject({
      code: 'EOPNOTSUPP',
      message:
        'the nbd driver of this kernel has no netlink interface (Linux 4.12 and later have it, in the first network namespace only); ' +
        'clients that speak NBD themselves, such as QEMU, need no device',
    });
    driver(() => {
      throw new SystemError(errnos.EPROTONOSUPPORT, 'cannot open a netlink socket');
    });
    await expect(openDriver(system.roots)).rejects.toThrow(
      /^the kernel cannot be asked for devices: cannot open a netlink socket \(dmesg may tell more\)$/,
    );
  });

  it('is not found by a kernel without it', async (context) => {
    if (fs.existsSync('/sys/module/nbd')) {
      console.error('SKIPPED: this kernel has the nbd driver');
      context.skip();
    }
    await expect(NbdDriver.open()).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('that refuses is put into words', () => {
    expect(inWords(new SystemError(errnos.EPERM, 'x'), 'it fails').message).toBe(
      'it fails: root has not the right CAP_SYS_ADMIN here (a container?)',
    );
  });
});
