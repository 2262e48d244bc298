/**
 * Devices of the kernel (/dev/nbdN) that volumes have on this machine. Looking is reading files, which is all that most calls need; attaching and
 * detaching is what `vlmc map` and `vlmc unmap` do, which need more than a call that must be quick loads.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Config } from '../../config/types.js';
import { identifierOf } from '../../devices/identifier.js';
import { devicePath, kernelDevice, kernelDevices } from '../../devices/sysfs.js';
import { type Entry, isSame, readTable } from '../../devices/table.js';
import { SYSTEM_ROOTS, type SystemRoots } from '../../devices/types.js';
import { errnos, messageOf, SystemError } from '../../sys/errno.js';

/** Runs vlmc with these arguments and resolves to what it printed. @throws SystemError with what it said */
export type RunVlmc = (config: Config, args: readonly string[]) => Promise<string>;

export interface KernelOptions {
  readonly roots?: SystemRoots;
  readonly vlmc?: RunVlmc;
  /** How long a device that is in use is waited for, in ms: who looks at new disks (udev) has them open for a moment. */
  readonly busyMs?: number;
}

const BUSY_MS = 5000;
const LOOK_MS = 200;

export class Kernel {
  readonly #config: Config;
  readonly #roots: SystemRoots;
  readonly #vlmc: RunVlmc;
  readonly #busyMs: number;

  constructor(config: Config, { roots = SYSTEM_ROOTS, vlmc = runVlmc, busyMs = BUSY_MS }: KernelOptions = {}) {
    this.#config = config;
    this.#roots = roots;
    this.#vlmc = vlmc;
    this.#busyMs = busyMs;
  }

  /** The path of the volume's device, which it gets if it has none. */
  async attach(volume: string): Promise<string> {
    return this.#find(volume) ?? (await this.#vlmc(this.#config, ['map', '--endpoint', 'kernel', '--', volume])).trim();
  }

  /** Takes the volume's device away, if it has one. @throws SystemError when it is in use, naming who */
  async detach(volume: string): Promise<void> {
    const end = performance.now() + this.#busyMs;
    while (this.#isThere(volume)) {
      try {
        await this.#vlmc(this.#config, ['unmap', '--', volume]);
        return;
      } catch (error) {
        if (performance.now() >= end) throw error;
      }
      await sleep(LOOK_MS);
    }
  }

  /** Makes the volume's device, if it has one, as large as the volume is now. @param size of the volume in bytes */
  async resize(volume: string, size: number): Promise<void> {
    if (this.#isThere(volume)) await this.#vlmc(this.#config, ['resize', '--size', `${size}B`, '--', volume]);
  }

  /** The device that the table has and the kernel confirms; null where anything has to be put right first. */
  #find(volume: string): string | null {
    const entry = this.#entries(volume).find(({ state }) => state === 'attached');
    return entry === undefined ? null : devicePath(entry.index, this.#roots);
  }

  /** Is there a device, in the table or not? */
  #isThere(volume: string): boolean {
    if (this.#entries(volume).length > 0) return true;
    const identifier = identifierOf(this.#config.xseg.name, volume);
    return kernelDevices(this.#roots).some(({ backend }) => backend === identifier);
  }

  /** What the table has of the volume, without what is gone, or somebody else's now. */
  #entries(volume: string): Entry[] {
    return readTable(this.#config.runDir).filter((entry) => {
      const device = entry.volume === volume ? kernelDevice(entry.index, this.#roots) : null;
      return device !== null && isSame(entry, device);
    });
  }
}

/** Longer than whatever it waits for. */
const VLMC_MS = 280_000;
const MOST_OUTPUT = 1 << 20;

const runVlmc: RunVlmc = async (config, args) => {
  const [{ execFile }, { promisify }] = await Promise.all([import('node:child_process'), import('node:util')]);
  const program = fileURLToPath(new URL('../vlmc.js', import.meta.url));
  const where = config.path === null ? [] : ['--config', config.path];
  try {
    const options = { timeout: VLMC_MS, maxBuffer: MOST_OUTPUT };
    return (await promisify(execFile)(process.execPath, [program, ...where, ...args], options)).stdout;
  } catch (error) {
    const said = String((error as { stderr?: unknown }).stderr ?? '').trim();
    throw new SystemError(errnos.EIO, said === '' ? messageOf(error) : said, { cause: error });
  }
};
