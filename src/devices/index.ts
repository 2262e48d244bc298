/**
 * Volumes as block devices of the kernel: /dev/nbdN, connected to the node's NBD endpoint by generic netlink. Whoever attaches one is root;
 * the node's processes are not. What outlives the command is the kernel's device, the table in RUN_DIR and the keeper (keeper.ts), which
 * connects devices again after the node was restarted.
 */
import { silent } from '../nbd/log.js';
import { attach } from './attach.js';
import { type Context, isNamed } from './context.js';
import { detach } from './detach.js';
import { type KeepOptions, keep } from './keep.js';
import { keeperPid } from './keeper-process.js';
import { reconnectAll } from './reconnect.js';
import { resize } from './resize.js';
import { kernelDevices } from './sysfs.js';
import { readTableOrNone, reconcile } from './table.js';
import { describe } from './trouble.js';
import { type AttachOptions, DEFAULT_TIMEOUT, type Device, type DevicesOptions, SYSTEM_ROOTS } from './types.js';

export { ensureKeeper, type KeeperOptions, keeperPid } from './keeper-process.js';
export { devicePath, kernelDevice } from './sysfs.js';
export { readTable } from './table.js';
export {
  type AttachOptions,
  DEFAULT_CONNECTIONS,
  type Device,
  type DevicesOptions,
  type EndpointAddress,
  MAX_CONNECTIONS,
} from './types.js';
export { type Use, usesOf } from './usage.js';

/** The devices of one node. */
export class Devices {
  readonly #context: Context;

  constructor(options: DevicesOptions) {
    const { timeout = DEFAULT_TIMEOUT, log = silent, roots = SYSTEM_ROOTS } = options;
    this.#context = { ...options, timeout, log, roots };
  }

  /**
   * Makes a volume a device. One that has a device with these options already is that device.
   * @throws SystemError EEXIST it has one with other options; ENOENT no such export, or no nbd module; EPERM not root; EINVAL its size is no
   *   multiple of 512; ECONNREFUSED, ENOENT, ETIMEDOUT the endpoint does not answer
   */
  attach(options: AttachOptions): Promise<Device> {
    return attach(this.#context, options);
  }

  /**
   * Writes what is cached, and ends a device. Resolves when the kernel has let go of it.
   * @param volumeOrPath the volume, or /dev/nbdN
   * @returns the device as it was; its `trouble` tells what could not be done
   * @throws SystemError ENOENT there is none; EBUSY it is in use, by whom (force: open descriptors are no reason, and the device goes when
   *   they are closed), or requests wait for a node that is away (force: they fail)
   */
  detach(volumeOrPath: string, options: { readonly force?: boolean } = {}): Promise<Device> {
    return detach(this.#context, volumeOrPath, options.force === true);
  }

  /** All devices of the node, as the kernel has them. Needs no rights and no lock, and changes nothing. @throws SystemError EIO */
  async list(): Promise<Device[]> {
    const { runDir, segment, roots } = this.#context;
    const kernel = kernelDevices(roots);
    const { entries } = reconcile(readTableOrNone(runDir, kernel), kernel, segment, Date.now(), true);
    return describe(
      this.#context,
      entries.filter(({ state }) => state !== 'attaching'),
      keeperPid(runDir),
    );
  }

  /** The device of a volume, or the one that has a path; null: there is none. */
  async find(volumeOrPath: string): Promise<Device | null> {
    const devices = await this.list();
    return devices.find((device) => isNamed(device, volumeOrPath)) ?? null;
  }

  /**
   * Tells the kernel the size that a volume has now, in bytes; a rest that is no sector is left out.
   * @returns null when the volume has no device
   */
  resize(volume: string, size: number): Promise<Device | null> {
    return resize(this.#context, volume, size);
  }

  /** Connects what is lost again, once. @throws SystemError the endpoint does not answer */
  reconnect(): Promise<void> {
    return reconnectAll(this.#context);
  }

  /** Keeps devices connected, and at the size of their volumes, until the signal aborts. @throws SystemError EPERM, ENOENT */
  keep(signal: AbortSignal, options: KeepOptions = {}): Promise<void> {
    return keep(this.#context, signal, options);
  }
}
